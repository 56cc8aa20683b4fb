"""The parts of a decoder that become the device's own: its logits, its cache, its attention; each in its place."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qeffbuild.cloud_ai_100.cache_ops import DOMAIN, NOWHERE
from qeffbuild.cloud_ai_100.carried import is_carried
from qeffbuild.cloud_ai_100.form import Form, unsupported
from qeffbuild.cloud_ai_100.rings import is_ring, is_whole, rings
from qeffbuild.graph.emit import Emitter, replace_value
from qeffbuild.graph.ops import ATTENTION, SCATTER, attention, given, symbolic
from qeffbuild.signature import Axis, IoSignature


class Rewriting:
    """One graph being rewritten: the values that all layers share are made once."""

    def __init__(self, graph: ir.Graph, signature: IoSignature, form: Form) -> None:
        self.graph = graph
        self.signature = signature
        self.form = form
        self.emit = Emitter(graph, "device")
        self.inputs = {value.name: value for value in graph.inputs}
        self.first = graph[0]
        self.positions = self.inputs["position_ids"]
        if self.positions.shape is not None and len(self.positions.shape) == 3:  # first the place in the text
            self.positions = self.emit("Gather", self.positions, 0, axis=0)
        self.batch_index: ir.Value | None = None
        if form.continuous_batching:
            self.batch_index = self._new_input("batch_index", ("batch_size", 1))
        if form.comp_ctx_lengths:
            self.comp_ctx_lengths = self._new_input("comp_ctx_lengths", ("comp_ctx_lengths",))
        if form.num_logits_to_keep:
            self.num_logits_to_keep = self._new_input("num_logits_to_keep", ("num_logits_to_keep", 1))

    def _new_input(self, name: str, axes: tuple[Axis, ...]) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape(axes), type=ir.TensorType(ir.DataType.INT64))
        self.inputs[name] = value
        self.graph.inputs.append(value)
        return value

    def choose_logits(self) -> None:
        """The rows that the head reads end at the largest position; how many they are, an input's length says."""
        emit, asked = self.emit, self.inputs["logits_index"]
        # The device compares positions as int32.
        positions = emit("Cast", self.positions, to=int(ir.DataType.INT32))
        index = emit("ArgMax", positions, axis=1, keepdims=1)
        if self.form.num_logits_to_keep:
            kept = emit("Shape", self.num_logits_to_keep, start=0, end=1)
            start = emit("Max", emit("Sub", emit("Add", index, 1), kept), 0)
            index = emit("Add", start, emit("Range", 0, emit("Squeeze", kept), 1))
        emit.place(self.first)
        asked.replace_all_uses_with(index)
        self.graph.inputs.remove(asked)

    def rewrite_cache(self) -> None:
        """Writes by CtxScatter, reads by CtxGather, in their forms with a slot per row where rows come and go."""
        if not any(is_whole(state) for state in self.signature.states):
            return  # nothing but states that every token replaces
        by_output = {state.output: state for state in self.signature.states}
        scatters = symbolic(self.graph, SCATTER)
        whole = next(self.inputs[state.name] for state in self.signature.states if is_whole(state))
        ring = next((self.inputs[state.name] for state in self.signature.states if is_ring(state)), None)
        if self.form.continuous_batching or self.form.comp_ctx_lengths or ring is not None:
            self._hide_cache_from_shapes(whole)
        indices, is_unwritten, length = self._context(whole)
        if ring is not None:
            shared = rings(self.emit, ring, self.positions, length)
            self.emit.place(self.first)
        targets: dict[ir.Value, ir.Value] = {}
        for node in scatters:
            cache, positions, updates = given(node)
            state = by_output.get(node.outputs[0].name or "")
            if state is None:
                raise unsupported(f"{node.outputs[0].name} is written like a state but is none")
            if updates.dtype != cache.dtype:
                updates = self.emit("CastLike", updates, cache)
            if is_ring(state):
                written = self._written(cache, shared.targets, updates)
                read = shared.read(self.emit, cache, updates, self.batch_index)
            else:
                if positions not in targets:
                    targets[positions] = self._targets(positions)
                written = self._written(cache, targets[positions], updates)
                read = self._read(written, indices, length)
            if state.kind != "key":  # 0 times whatever memory held is not 0 when it held NaN
                zero = self.emit("CastLike", np.array(0, np.float32), written)
                read = self.emit("Where", is_unwritten, zero, read)
            self._replace(node, written, read)
            self.emit.place(node)

    def choose_rows(self) -> None:
        """States that are replaced whole are read and written in the slots of this run's rows, if those come and go."""
        outputs = {value.name: value for value in self.graph.outputs}
        for state in self.signature.states:
            if not is_carried(state) or self.batch_index is None:
                continue
            whole, made = self.inputs[state.name], outputs[state.output]
            slots = self.emit("Squeeze", self.batch_index, [1])
            rows = self.emit("Gather", whole, slots, axis=0)
            rows.shape, rows.type = whole.shape, whole.type
            whole.replace_all_uses_with(rows)
            maker = rows.producer()
            assert maker is not None
            maker.replace_input_with(0, whole)
            self.emit.place(self.graph[0])
            kept = self.emit("ScatterND", whole, self.batch_index, made)
            kept.shape, kept.type = whole.shape, whole.type
            self.graph.outputs[list(self.graph.outputs).index(made)] = kept
            kept.name, made.name = made.name, f"{made.name}.rows"
            self.graph.extend(self.emit.waiting())

    def rewrite_attention(self) -> None:
        for node in symbolic(self.graph, ATTENTION):
            q, k, v, mask = given(node)
            if self.form.comp_ctx_lengths:
                mask = self.emit("Slice", mask, [0], self.emit("Shape", self.comp_ctx_lengths), [3])
            replace_value(self.graph, node.outputs[0], attention(self.emit, q, k, v, mask, node))
            self.emit.place(node)

    def _hide_cache_from_shapes(self, whole: ir.Value) -> None:
        """Where the trace asked a state for its sizes: rows are those of this run, the context is what it computes."""
        words = self.inputs.get("inputs_embeds", self.inputs.get("input_ids"))
        context = self.emit("Shape", whole, start=2, end=3)
        if self.form.comp_ctx_lengths:
            context = self.emit("Shape", self.comp_ctx_lengths)
        asking = list(self.graph)
        self.emit.place(self.first)
        names = {state.name for state in self.signature.states if state.positional}
        for node in asking:
            if node.op_type != "Shape" or node.domain or (value := node.inputs[0]) is None or value.name not in names:
                continue
            sizes = [self.emit("Shape", value, start=axis, end=axis + 1) for axis in range(4)]
            if self.form.continuous_batching:
                sizes[0] = self.emit("Shape", words, start=0, end=1)
            sizes[2] = context
            start = node.attributes["start"].as_int() if "start" in node.attributes else 0
            end = node.attributes["end"].as_int() if "end" in node.attributes else len(sizes)
            chosen = sizes[start:end]
            made = self.emit("Concat", *chosen, axis=0) if len(chosen) != 1 else self.emit("Identity", chosen[0])
            replace_value(self.graph, node.outputs[0], made)
            self.emit.place(node)

    def _context(self, cache: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Which slots each row reads [B, 1, L], which of them it has not written yet, and L."""
        emit = self.emit
        if self.form.comp_ctx_lengths:
            length = emit("Shape", self.comp_ctx_lengths)
        else:
            length = emit("Shape", cache, start=2, end=3)
        slots = emit("Unsqueeze", emit("Range", 0, emit("Squeeze", length), 1), [0, 1])
        newest = emit("ReduceMax", self.positions, axes=[1], keepdims=1)
        is_unwritten = emit("Greater", slots, emit("Unsqueeze", newest, [2]))
        indices = emit("Where", is_unwritten, 0, slots)
        hidden = emit("Unsqueeze", is_unwritten, [3])
        emit.place(self.first)
        return indices, hidden, length

    def _targets(self, positions: ir.Value) -> ir.Value:
        """Where tokens are written; padding (-1) goes nowhere. Passed on as it is, it would count from the end, and
        at a full context fight with the last token for its slot.
        """
        return self.emit("Where", self.emit("Less", positions, 0), np.array(NOWHERE, np.int64), positions)

    def _written(self, cache: ir.Value, targets: ir.Value, updates: ir.Value) -> ir.Value:
        if self.batch_index is not None:
            return self.emit("CtxScatterCB", cache, self.batch_index, targets, updates, domain=DOMAIN)
        return self.emit("CtxScatter", cache, targets, updates, domain=DOMAIN)

    def _read(self, written: ir.Value, indices: ir.Value, length: ir.Value) -> ir.Value:
        if self.batch_index is not None:
            return self.emit("CtxGatherCB", written, self.batch_index, indices, length, domain=DOMAIN)
        return self.emit("CtxGather", written, indices, length, domain=DOMAIN)

    def _replace(self, node: ir.Node, written: ir.Value, read: ir.Value) -> None:
        """The output of the graph is what was written; everybody else reads through the gather."""
        old = node.outputs[0]
        read.type = old.type
        read.shape = ir.Shape(("batch_size", *list(old.shape or ())[1:2], None, *list(old.shape or ())[3:]))
        written.type, written.shape = old.type, old.shape
        self.graph.outputs[list(self.graph.outputs).index(old)] = written
        old.replace_all_uses_with(read)
        written.name, old.name = old.name, f"{old.name}.neutral"
