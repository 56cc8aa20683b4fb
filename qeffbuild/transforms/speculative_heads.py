"""Heads that guess further ahead: hidden states go through residual projections, and all of them through the one head.

A head is a row of blocks, y + silu(y weight^T + bias), each as wide as the model; their file has them under
`HEAD.BLOCK.linear.weight` and `.bias`, perhaps below `projections.`. Logits [batch, tokens, 1 + heads, words] begin
with the model's own. Known as turbo heads, and (with a head of words each) from Medusa.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from safetensors import SafetensorError
from safetensors.numpy import load_file

from qeffbuild.errors import ModelError
from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.products import head_of, matrix_shape
from qeffbuild.transforms.subject import Subject

LEAF = "speculative_heads"
_NAME = re.compile(r"(?:projections\.)?(\d+)\.(\d+)\.linear\.(weight|bias)\Z")

Block = dict[str, np.ndarray]


def apply(subject: Subject, said: Mapping[str, Any]) -> None:
    heads = _read(subject.leaves[LEAF])
    node = head_of(subject.graph, "logits")
    hidden, weight = (None, None) if node is None else node.inputs[:2]
    sizes = None if weight is None else matrix_shape(weight)
    if node is None or node.op_type != "MatMul" or hidden is None or sizes is None:
        raise ModelError(
            "onnx.unsupported",
            "transforms.speculative_heads: no product with a weight makes the logits of this model",
            hint="leave it out",
        )
    _check_width(heads, sizes[0])
    emit = Emitter(subject.graph, "head")
    found = [hidden, *(_projected(subject, emit, hidden, number, blocks) for number, blocks in enumerate(heads))]
    stacked = emit("Concat", *(emit("Unsqueeze", value, [2]) for value in found), axis=2)
    stacked.shape, stacked.type = ir.Shape(("batch_size", "num_logits", len(found), sizes[0])), hidden.type
    emit.place(node)
    node.replace_input_with(0, stacked)
    _describe(subject, node, len(found))
    subject.report |= {"heads": len(heads), "blocks": [len(blocks) for blocks in heads]}


def _read(path: Path) -> list[list[Block]]:
    """The blocks of each head, both in order."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as problem:
        raise _misfit(f"{problem}") from problem
    found: dict[int, dict[int, Block]] = {}
    for name, array in tensors.items():
        said = _NAME.match(name)
        if said is None:
            raise _misfit(f"tensor {name} is of no block of a head")
        found.setdefault(int(said[1]), {}).setdefault(int(said[2]), {})[said[3]] = array.astype(np.float32)
    heads = [[blocks[number] for number in sorted(blocks)] for _, blocks in sorted(found.items())]
    if not heads or any("weight" not in block for blocks in heads for block in blocks):
        raise _misfit("there is no head in it, or a block without a weight")
    return heads


def _check_width(heads: list[list[Block]], width: int) -> None:
    for number, blocks in enumerate(heads):
        for block in blocks:
            if block["weight"].shape != (width, width) or block.get("bias", np.empty(width)).shape != (width,):
                raise _misfit(f"head {number} is {list(block['weight'].shape)}, the model is {width} wide")


def _projected(subject: Subject, emit: Emitter, hidden: ir.Value, number: int, blocks: list[Block]) -> ir.Value:
    kind = (hidden.dtype or ir.DataType.FLOAT).numpy()
    for place, block in enumerate(blocks):
        name = f"{LEAF}.{number}.{place}"
        inner = emit("MatMul", hidden, subject.store(f"{name}.weight", block["weight"].T.astype(kind)))
        if "bias" in block:
            inner = emit("Add", inner, subject.store(f"{name}.bias", block["bias"].astype(kind)))
        hidden = emit("Add", hidden, emit("Mul", inner, emit("Sigmoid", inner)))
    return hidden


def _describe(subject: Subject, node: ir.Node, count: int) -> None:
    """Shapes from the head to the logits, and the signature's, with the new axis."""
    waiting = list(node.outputs)
    while waiting:
        value = waiting.pop()
        if value.shape is not None and len(value.shape) == 3:
            value.shape = ir.Shape([*list(value.shape)[:2], count, *list(value.shape)[2:]])
            waiting += [out for user, _ in value.uses() for out in user.outputs]
    outputs = []
    for tensor in subject.signature.outputs:
        axes = (*tensor.axes[:2], count, *tensor.axes[2:]) if tensor.name == "logits" else tensor.axes
        outputs.append(replace(tensor, axes=axes))
    subject.signature = replace(subject.signature, outputs=tuple(outputs))


def _misfit(found: str) -> ModelError:
    hint = "a file of blocks, HEAD.BLOCK.linear.weight and .bias, made for this model"
    return ModelError("model.weights", f"transforms.speculative_heads: {found:.200}", hint=hint)
