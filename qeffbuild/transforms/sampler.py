"""The next token is chosen in the graph: logits become next_tokens, and whoever runs it sends settings per row.

In this order: a guide's bitmask, repetition and presence penalties, then the largest logit where the temperature is 0;
else temperature, top-k (0 or less: all), top-p, min-p, and a draw by the Gumbel trick from the random numbers that come
in. Only the `max_top_k_ids` likeliest tokens can be drawn. Axes: B rows, L logits of each, V words, M candidates.

Two buffers of words are retained, one for prompt and answer (repetition), one for the answer alone (presence). A run
of more tokens than logits is a prefill and notes its own tokens; any other notes `last_accepted_output_tokens`, where
negative ones count for nothing. A row that is at position 0 begins anew; a row without a token stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.fold import remove_unread
from qeffbuild.signature import Axis, State, Tensor
from qeffbuild.transforms.subject import Subject

LOWEST = np.array(-65504, np.float32)  # the smallest of float16: an infinity less would be NaN there
REPETITION, PRESENCE = "past_repetition_penalty_buffer", "past_presence_penalty_buffer"
ROWS = "batch_size"

_DTYPES = {
    "int64": ir.DataType.INT64,
    "int32": ir.DataType.INT32,
    "float32": ir.DataType.FLOAT,
    "bool": ir.DataType.BOOL,
}


def apply(subject: Subject, said: Mapping[str, Any]) -> None:
    (logits,) = subject.signature.outputs
    words = logits.axes[-1]
    assert isinstance(words, int)
    most = min(said["max_top_k_ids"], words)
    sampler = _Sampler(subject, words, most)
    seen, answered = sampler.note_tokens()
    scores = sampler.penalise(seen, answered, guided=said["include_guided_decoding"])
    tokens, shares = sampler.choose(scores)
    outputs = [Tensor(name="next_tokens", dtype="int64", axes=(*logits.axes[:-1], 1))]
    values = [tokens]
    if said["return_pdfs"]:
        outputs.insert(0, Tensor(name="probs", dtype="float32", axes=logits.axes))
        values.insert(0, shares)
    sampler.finish(outputs, values)
    subject.report |= {"candidates": most}


class _Sampler:
    """One graph that gets further inputs, nodes behind its logits, and other outputs."""

    def __init__(self, subject: Subject, words: int, most: int) -> None:
        self.subject, self.words, self.most = subject, words, most
        self.emit = Emitter(subject.graph, "sampler")
        self.values = {value.name: value for value in (*subject.graph.inputs, *subject.graph.outputs)}
        self.inputs: list[Tensor] = []
        self.states: list[State] = []

    def note_tokens(self) -> tuple[ir.Value, ir.Value]:
        """The buffers as they are after this run: words of prompt and answer, words of the answer."""
        emit, tokens, positions = self.emit, self.values["input_ids"], self.values["position_ids"]
        accepted = self._input("last_accepted_output_tokens", "int64", ROWS, "seq_len")
        width, kept = (emit("Shape", self.values[name], start=1, end=2) for name in ("input_ids", "logits_index"))
        is_prefill = emit("Greater", width, kept)
        begins = emit("ReduceMax", emit("Cast", emit("Equal", positions, 0), to=ir.DataType.INT64), [1], keepdims=1)
        is_idle = emit("Less", emit("ReduceMax", positions, [1], keepdims=1), 0)
        prompt = emit("Where", emit("Less", positions, 0), -1, tokens)
        fed = emit("Where", is_idle, -1, accepted)
        noted = {REPETITION: emit("Where", is_prefill, prompt, fed), PRESENCE: emit("Where", is_prefill, -1, fed)}
        goes_on = emit("Equal", begins, 0)
        made = [self._marked(name, goes_on, which) for name, which in noted.items()]
        return made[0], made[1]

    def _marked(self, name: str, goes_on: ir.Value, tokens: ir.Value) -> ir.Value:
        """Tokens below 0 are marked in a column behind the last word, which is cut off again."""
        emit, words = self.emit, self.words
        axes = (ROWS, words)
        before = self._value(name, "bool", axes)
        kept = emit("And", before, goes_on)
        spare = emit("Expand", np.array(False), emit("Concat", emit("Shape", tokens, start=0, end=1), [1], axis=0))
        target = emit("Where", emit("Less", tokens, 0), words, tokens)
        ones = emit("Expand", np.array(True), emit("Shape", tokens))
        wide = emit("ScatterElements", emit("Concat", kept, spare, axis=1), target, ones, axis=1)
        after = emit("Slice", wide, [0], [words], [1])
        after.name, after.shape, after.type = f"{name}_RetainedState", ir.Shape(axes), before.type
        self.subject.graph.outputs.append(after)
        self.states.append(
            State(
                name=name, output=f"{name}_RetainedState", dtype="bool", axes=axes, layer=0, kind="buffer",
                positional=False,
            )
        )  # fmt: skip
        return after

    def penalise(self, seen: ir.Value, answered: ir.Value, *, guided: bool) -> ir.Value:
        emit, scores = self.emit, self.values["logits"]
        repetition = self._setting("repetition_penalties")
        harder = emit("Where", emit("Less", scores, np.array(0, np.float32)),
                      emit("Mul", scores, repetition), emit("Div", scores, repetition))  # fmt: skip
        if guided:
            allowed = self._input("token_bitmasks", "bool", ROWS, self.words)
        scores = emit("Where", emit("Unsqueeze", seen, [1]), harder, scores)
        counted = emit("Cast", emit("Unsqueeze", answered, [1]), to=ir.DataType.FLOAT)
        scores = emit("Sub", scores, emit("Mul", counted, self._setting("presence_penalties")))
        return emit("Where", emit("Unsqueeze", allowed, [1]), scores, LOWEST) if guided else scores

    def choose(self, scores: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Tokens [B, L, 1], and the shares [B, L, V] by which they were drawn."""
        emit = self.emit
        temperature = self._setting("temperatures")
        is_greedy = emit("Equal", temperature, np.array(0, np.float32))
        best = emit("ArgMax", scores, axis=-1, keepdims=1)
        largest, words = emit.several("TopK", 2, scores, [self.most], axis=-1, largest=1, sorted=1)
        kept = self._kept(largest, emit("Where", is_greedy, np.array(1, np.float32), temperature))
        random = self._input("random_numbers", "float32", ROWS, self.most)
        inside = emit("Clip", random, np.array(1e-7, np.float32), np.array(1 - 1e-7, np.float32))
        gumbel = emit("Neg", emit("Log", emit("Neg", emit("Log", inside))))
        place = emit("ArgMax", emit("Add", kept, emit("Unsqueeze", gumbel, [1])), axis=-1, keepdims=1)
        tokens = emit("Where", is_greedy, best, emit("GatherElements", words, place, axis=-1))
        nothing = emit("Expand", np.array(0, np.float32), emit("Shape", scores))
        shares = emit("ScatterElements", nothing, words, emit("Softmax", kept, axis=-1), axis=-1)
        certain = emit("Cast", emit("Equal", best, np.arange(self.words)), to=ir.DataType.FLOAT)
        return tokens, emit("Where", is_greedy, certain, shares)

    def _kept(self, largest: ir.Value, temperature: ir.Value) -> ir.Value:
        """Logits over the temperature, the largest first; those that may not be drawn are at the lowest."""
        emit, one = self.emit, np.array(1, np.float32)
        first = emit("Slice", largest, [0], [1], [2])
        scaled = emit("Div", emit("Sub", largest, first), temperature)
        asked = self._setting("top_ks", "int32")
        count = emit("Cast", emit("Where", emit("Greater", asked, np.array(0, np.int32)), asked,
                                  np.array(self.most, np.int32)), to=ir.DataType.INT64)  # fmt: skip
        in_k = emit("Less", np.arange(self.most), count)
        shares = emit("Softmax", emit("Where", in_k, scaled, LOWEST), axis=-1)
        top_p, min_p = self._setting("top_ps"), self._setting("min_ps")
        before = emit("CumSum", shares, 2, exclusive=1)
        in_p = emit("Or", emit("Less", before, top_p), emit("GreaterOrEqual", top_p, one))
        in_p = emit("Or", in_p, np.arange(self.most) == 0)
        likeliest = emit("Slice", shares, [0], [1], [2])
        in_m = emit("GreaterOrEqual", shares, emit("Mul", likeliest, min_p))
        return emit("Where", emit("And", emit("And", in_k, in_p), in_m), scaled, LOWEST)

    def finish(self, outputs: list[Tensor], values: list[ir.Value]) -> None:
        graph, signature = self.subject.graph, self.subject.signature
        old = self.values["logits"]
        for tensor, value in zip(outputs, values, strict=True):
            value.name, value.shape = tensor.name, ir.Shape(tensor.axes)
            value.type = ir.TensorType(_DTYPES[tensor.dtype])
        graph.extend(self.emit.waiting())
        graph.outputs[:] = [*values, *(value for value in graph.outputs if value is not old)]
        old.name = "sampler.logits"
        remove_unread(graph)
        self.subject.signature = signature.with_outputs(tuple(outputs)).with_inputs(
            (*signature.inputs, *self.inputs)
        ).with_states((*signature.states, *self.states))  # fmt: skip

    def _setting(self, name: str, dtype: str = "float32") -> ir.Value:
        """One number per row, [B, 1, 1]."""
        return self.emit("Unsqueeze", self._input(name, dtype, ROWS, 1), [2])

    def _input(self, name: str, dtype: str, *axes: Axis) -> ir.Value:
        self.inputs.append(Tensor(name=name, dtype=dtype, axes=axes))
        return self._value(name, dtype, axes)

    def _value(self, name: str, dtype: str, axes: tuple[Axis, ...]) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape(axes), type=ir.TensorType(_DTYPES[dtype]))
        self.subject.graph.inputs.append(value)
        return value
