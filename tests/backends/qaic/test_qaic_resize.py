"""Pictures that are made larger or smaller within a graph: opset 17 has no filters."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from qeffbuild.cloud_ai_100.opset17 import to_opset17
from qeffbuild.errors import ModelError


def resizing(before: tuple[int, int], after: tuple[int, int], **how: int | float | str) -> ir.Model:
    """A graph of nothing but one Resize of a later opset."""
    picture = ir.Value(name="picture", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 3, *before]))
    sizes = ir.Value(name="sizes", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([4]))
    sizes.const_value = ir.tensor(np.array([1, 3, *after]), name="sizes")
    node = ir.Node("", "Resize", [picture, None, None, sizes], attributes=ir.convenience.convert_attributes(how))
    made = node.outputs[0]
    made.name, made.type, made.shape = "made", picture.type, ir.Shape([1, 3, *after])
    graph = ir.Graph([picture], [made], nodes=[node], initializers=[sizes], opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model, picture: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    (made,) = session.run(None, {"picture": picture.numpy()})
    return made


def test_without_a_filter_a_picture_gets_the_pixels_that_pytorch_gives_it() -> None:
    model = resizing((16, 12), (7, 20), mode="linear", antialias=0, coordinate_transformation_mode="half_pixel")
    picture = torch.randn(1, 3, 16, 12, generator=torch.manual_seed(0))

    to_opset17(model)

    expected = torch.nn.functional.interpolate(picture, size=(7, 20), mode="bilinear")
    np.testing.assert_allclose(run(model, picture), expected.numpy(), atol=1e-5)


def test_a_filter_is_named_as_what_the_compiler_does_not_know() -> None:
    model = resizing((16, 12), (8, 6), mode="linear", antialias=1, coordinate_transformation_mode="half_pixel")

    with pytest.raises(ModelError, match="attribute antialias is unknown"):
        to_opset17(model)
