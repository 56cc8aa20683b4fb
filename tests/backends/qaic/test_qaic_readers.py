"""Models that read a text whole, for a compiler that has fixed lengths and no loops."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from qeffbuild.cloud_ai_100.lower_reader import refuse_free_lengths
from qeffbuild.errors import ModelError
from qeffbuild.graph.files import DOMAIN
from qeffbuild.signature import IoSignature, Tensor

IDS = Tensor(name="input_ids", dtype="int64", axes=("batch_size", "seq_len"))
MASK = Tensor(name="attention_mask", dtype="int64", axes=("batch_size", "seq_len"))
FRAMES = Tensor(name="input_features", dtype="float32", axes=("batch_size", "seq_len", 80))


def _graph(*nodes: ir.Node) -> ir.Graph:
    return ir.Graph([], [], nodes=nodes, name="encoder")


def _read(*inputs: Tensor) -> IoSignature:
    return IoSignature(graph="encoder", inputs=inputs, outputs=(), states=(), held=())


@pytest.mark.parametrize(
    ("inputs", "nodes", "says"),
    [
        ((IDS,), (), "is padded"),
        ((FRAMES,), (), "frames of sound"),
        ((IDS, MASK), (ir.node("Token", [ir.Value(name="whole")], domain=DOMAIN),), "by a loop"),
    ],
)
def test_what_has_no_compiled_form_is_refused_with_a_backend_that_has_one(
    inputs: tuple[Tensor, ...], nodes: tuple[ir.Node, ...], says: str
) -> None:
    with pytest.raises(ModelError) as caught:
        refuse_free_lengths(_graph(*nodes), _read(*inputs))

    assert says in caught.value.message
    assert caught.value.hint == "build it for backend=onnxruntime"


def test_a_text_with_a_mask_is_not_refused() -> None:
    refuse_free_lengths(_graph(), _read(IDS, MASK))
