"""Operators of PyTorch that have a translation of our own say in ONNX what they say in PyTorch."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from qeffbuild.export.translations import TRANSLATIONS


class Resized(torch.nn.Module):
    def __init__(self, size: tuple[int, int], mode: str, *, antialias: bool) -> None:
        super().__init__()
        self.size, self.mode, self.antialias = size, mode, antialias

    def forward(self, picture):
        return torch.nn.functional.interpolate(picture, self.size, mode=self.mode, antialias=self.antialias)


@pytest.mark.parametrize("antialias", [False, True], ids=["plain", "with a filter"])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(7, 20), (24, 5)], ids=["flat", "tall"])
def test_a_picture_changes_its_size_by_products_alone(size: tuple[int, int], mode: str, antialias: bool) -> None:
    picture = torch.randn(1, 3, 16, 12, generator=torch.manual_seed(0))
    resized = Resized(size, mode, antialias=antialias)
    program = torch.export.export(resized, (picture,))

    made = torch.onnx.export(program, custom_translation_table=TRANSLATIONS, dynamo=True, verbose=False).model_proto

    (found,) = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"picture": picture.numpy()})
    np.testing.assert_allclose(found, resized(picture).numpy(), atol=1e-5)
    assert {node.op_type for node in made.graph.node} <= {"MatMul", "Reshape", "CastLike", "Cast", "Constant"}
