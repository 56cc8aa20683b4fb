"""A two-layer decoder twice: as a PyTorch module without a cache, and as the neutral graph that stands for it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from qeffbuild.graph.emit import Emitter
from qeffbuild.signature import IoSignature, State, Tensor

LAYERS, HEADS, KV_HEADS, WIDTH, VOCAB, CONTEXT = 2, 4, 2, 8, 50, 16
HIDDEN = HEADS * WIDTH


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN)
        self.q, self.o = nn.Linear(HIDDEN, HIDDEN, bias=False), nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.k = nn.Linear(HIDDEN, KV_HEADS * WIDTH, bias=False)
        self.v = nn.Linear(HIDDEN, KV_HEADS * WIDTH, bias=False)
        self.up, self.down = nn.Linear(HIDDEN, 64, bias=False), nn.Linear(64, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens, normed = x.shape[0], self.norm(x)
        q = self.q(normed).view(tokens, HEADS, WIDTH).transpose(0, 1)
        k, v = (linear(normed).view(tokens, KV_HEADS, WIDTH).transpose(0, 1) for linear in (self.k, self.v))
        k, v = (side.repeat_interleave(HEADS // KV_HEADS, 0) for side in (k, v))
        read = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(read.transpose(0, 1).reshape(tokens, HIDDEN))
        return x + self.down(nn.functional.gelu(self.up(x)))


class SmallDecoder(nn.Module):
    """One row of token ids -> the logits of each."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.wte, self.wpe = nn.Embedding(VOCAB, HIDDEN), nn.Embedding(CONTEXT, HIDDEN)
        self.layers = nn.ModuleList([Layer() for _ in range(LAYERS)])
        self.head = nn.Linear(HIDDEN, VOCAB, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(len(ids)))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """The next `count` tokens."""
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(count):
                ids.append(int(self(torch.tensor(ids))[-1].argmax()))
        return ids[len(prompt) :]


def neutral_graph(decoder: SmallDecoder) -> tuple[ir.Model, IoSignature]:
    """What an export gives: opset 20, symbolic cache and attention, logits where `logits_index` says."""
    signature = _signature()
    graph = ir.Graph(
        [_value(t.name, t.dtype, t.axes) for t in (*signature.inputs, *signature.states)],
        [],
        nodes=[],
        opset_imports={"": 20, "qeffbuild": 1},
        name="decoder",
    )
    values = {value.name: value for value in graph.inputs}
    weights = {name: _weight(graph, name, parameter) for name, parameter in decoder.named_parameters()}
    anchor = ir.node("Identity", [values["input_ids"]])
    graph.append(anchor)
    emit = Emitter(graph, "n")
    positions = values["position_ids"]

    mask = _mask(emit, positions, values["past_key.0"])
    x = emit("Add", emit("Gather", weights["wte.weight"], values["input_ids"]), _rows(emit, weights, positions))
    written: list[ir.Value] = []
    for number in range(LAYERS):
        x = _layer(emit, x, number, values, weights, mask, written)
    chosen = emit("Expand", emit("Unsqueeze", values["logits_index"], [2]), [1, 1, HIDDEN])
    logits = emit("MatMul", emit("GatherElements", x, chosen, axis=1), _turned(emit, weights["head.weight"]))
    emit.place(anchor)
    graph.remove(anchor, safe=True)
    _name_outputs(graph, signature, [logits, *written])
    return ir.Model(graph, ir_version=10), signature


def _layer(
    emit: Emitter,
    x: ir.Value,
    number: int,
    values: dict[str | None, ir.Value],
    weights: dict[str, ir.Value],
    mask: ir.Value,
    written: list[ir.Value],
) -> ir.Value:
    own = f"layers.{number}."
    normed = emit("LayerNormalization", x, weights[f"{own}norm.weight"], weights[f"{own}norm.bias"], epsilon=1e-5)
    q = _heads(emit, emit("MatMul", normed, _turned(emit, weights[f"{own}q.weight"])), HEADS, "seq_len")
    caches = []
    for side, kind in (("k", "key"), ("v", "value")):
        new = _heads(emit, emit("MatMul", normed, _turned(emit, weights[f"{own}{side}.weight"])), KV_HEADS, "seq_len")
        past = values[f"past_{kind}.{number}"]
        cache = emit("CtxScatter", past, values["position_ids"], new, domain="qeffbuild")
        cache.shape, cache.type = past.shape, past.type
        caches.append(cache)
    written += caches
    scale = {"scale": WIDTH**-0.5, "softcap": 0.0}
    read = emit("Attention", q, *caches, mask, domain="qeffbuild", **scale)
    read.shape, read.type = ir.Shape(["batch_size", "seq_len", HEADS, WIDTH]), ir.TensorType(ir.DataType.FLOAT)
    x = emit("Add", x, emit("MatMul", emit("Reshape", read, [0, 0, HIDDEN]), _turned(emit, weights[f"{own}o.weight"])))
    wide = emit("MatMul", x, _turned(emit, weights[f"{own}up.weight"]))
    wide.type = ir.TensorType(ir.DataType.FLOAT)
    return emit("Add", x, emit("MatMul", emit("Gelu", wide), _turned(emit, weights[f"{own}down.weight"])))


def _heads(emit: Emitter, x: ir.Value, heads: int, tokens: str) -> ir.Value:
    made = emit("Transpose", emit("Reshape", x, [0, 0, heads, WIDTH]), perm=[0, 2, 1, 3])
    made.shape, made.type = ir.Shape(["batch_size", heads, tokens, WIDTH]), ir.TensorType(ir.DataType.FLOAT)
    return made


def _turned(emit: Emitter, weight: ir.Value) -> ir.Value:
    return emit("Transpose", weight, perm=[1, 0])


def _rows(emit: Emitter, weights: dict[str, ir.Value], positions: ir.Value) -> ir.Value:
    return emit("Gather", weights["wpe.weight"], emit("Max", positions, 0))


def _mask(emit: Emitter, positions: ir.Value, cache: ir.Value) -> ir.Value:
    """[B, 1, S, C]: slot c is seen from position p if c <= p. As a trace may, it asks a state for both sizes."""
    sizes = emit("Shape", cache)
    slots = emit("Range", 0, emit("Gather", sizes, 2), 1)
    causal = emit("LessOrEqual", emit("Unsqueeze", slots, [0, 1, 2]), emit("Unsqueeze", positions, [1, 3]))
    rows = emit("Concat", emit("Unsqueeze", emit("Gather", sizes, 0), [0]), [1, 1, 1], axis=0)
    return emit("Expand", causal, rows)


def _weight(graph: ir.Graph, name: str, parameter: nn.Parameter) -> ir.Value:
    array = parameter.detach().numpy()
    value = _value(name, "float32", array.shape)
    value.const_value = ir.tensor(np.ascontiguousarray(array), name=name)
    graph.initializers.add(value)
    return value


def _value(name: str, dtype: str, axes: tuple[int | str, ...]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(axes), type=ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype))))


def _name_outputs(graph: ir.Graph, signature: IoSignature, made: list[ir.Value]) -> None:
    said = [*((t.name, t.axes) for t in signature.outputs), *((s.output, s.axes) for s in signature.states)]
    for value, (name, axes) in zip(made, said, strict=True):
        value.name, value.shape, value.type = name, ir.Shape(axes), ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.append(value)


def _signature() -> IoSignature:
    pairs = [(number, kind) for number in range(LAYERS) for kind in ("key", "value")]
    axes = ("batch_size", KV_HEADS, "ctx_len", WIDTH)
    return IoSignature(
        graph="decoder",
        inputs=(
            Tensor(name="input_ids", dtype="int64", axes=("batch_size", "seq_len")),
            Tensor(name="position_ids", dtype="int64", axes=("batch_size", "seq_len")),
            Tensor(name="logits_index", dtype="int64", axes=("batch_size", "num_logits")),
        ),
        outputs=(Tensor(name="logits", dtype="float32", axes=("batch_size", "num_logits", VOCAB)),),
        states=tuple(
            State(
                name=f"past_{kind}.{number}",
                output=f"past_{kind}.{number}_RetainedState",
                dtype="float32",
                axes=axes,
                layer=number,
                kind=kind,
            )
            for number, kind in pairs
        ),
    )
