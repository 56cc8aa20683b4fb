"""Pictures that are made larger or smaller within a graph, which opset 17 has no filters for."""

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


@pytest.mark.parametrize("after", [(7, 20), (24, 5), (16, 12)], ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("filters", [False, True], ids=["plain", "with a filter"])
def test_a_picture_gets_the_size_and_the_pixels_that_pytorch_gives_it(
    mode: str, after: tuple[int, int], filters: bool
) -> None:
    how = {"cubic_coeff_a": -0.5 if filters else -0.75, "exclude_outside": int(filters)} if mode == "cubic" else {}
    model = resizing(
        (16, 12), after, mode=mode, antialias=int(filters), coordinate_transformation_mode="pytorch_half_pixel", **how
    )
    picture = torch.randn(1, 3, 16, 12, generator=torch.manual_seed(0))

    to_opset17(model)

    name = {"linear": "bilinear", "cubic": "bicubic"}[mode]
    expected = torch.nn.functional.interpolate(picture, size=after, mode=name, antialias=filters)
    np.testing.assert_allclose(run(model, picture), expected.numpy(), atol=1e-5)


def test_a_filter_that_is_not_pytorchs_is_named() -> None:
    model = resizing((16, 12), (8, 6), mode="linear", antialias=1, coordinate_transformation_mode="align_corners")

    with pytest.raises(ModelError, match="attribute antialias is unknown"):
        to_opset17(model)
