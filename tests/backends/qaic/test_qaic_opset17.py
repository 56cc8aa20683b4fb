"""Operators of later opsets, written out in opset 17: the numbers are PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from qeffbuild.cloud_ai_100.opset17 import to_opset17
from qeffbuild.errors import ModelError

PICTURE = (1, 3, 16, 12)


def one_node(
    operator: str, *constants: np.ndarray | None, shape: Sequence[int] = PICTURE, **how: int | float | str
) -> ir.Model:
    """A graph of nothing but one node of a later opset, on an input x and constants."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(PICTURE))
    held = [None if value is None else ir.Value(name=f"held_{at}") for at, value in enumerate(constants)]
    for value, constant in zip(held, constants, strict=True):
        if value is not None and constant is not None:
            value.const_value = ir.tensor(constant, name=value.name)
    node = ir.Node("", operator, [x, *held], attributes=ir.convenience.convert_attributes(how))
    made = node.outputs[0]
    made.name, made.type, made.shape = "made", x.type, ir.Shape(shape)
    initializers = [value for value in held if value is not None]
    graph = ir.Graph([x], [made], nodes=[node], initializers=initializers, opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def resizing(size: tuple[int, int], **how: int | float | str) -> ir.Model:
    shape = (*PICTURE[:2], *size)
    return one_node("Resize", None, None, np.array(shape), shape=shape, mode="linear", **how)


def run(model: ir.Model, x: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    (made,) = session.run(None, {"x": x.numpy()})
    return made


@pytest.mark.parametrize(("operator", "function"), [("Mish", F.mish), ("Gelu", F.gelu), ("Swish", F.silu)])
def test_an_activation_is_written_out(operator: str, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model, x = one_node(operator), torch.randn(PICTURE, generator=torch.manual_seed(0)) * 3

    to_opset17(model)

    assert model.opset_imports[""] == 17
    np.testing.assert_allclose(run(model, x), function(x).numpy(), atol=1e-5)


def test_without_a_filter_a_picture_gets_the_pixels_that_pytorch_gives_it() -> None:
    model = resizing((7, 20), antialias=0, coordinate_transformation_mode="half_pixel")
    picture = torch.randn(PICTURE, generator=torch.manual_seed(0))

    to_opset17(model)

    expected = F.interpolate(picture, size=(7, 20), mode="bilinear")
    np.testing.assert_allclose(run(model, picture), expected.numpy(), atol=1e-5)


def test_a_filter_is_named_as_what_the_compiler_does_not_know() -> None:
    model = resizing((8, 6), antialias=1, coordinate_transformation_mode="half_pixel")

    with pytest.raises(ModelError, match="attribute antialias is unknown"):
        to_opset17(model)
