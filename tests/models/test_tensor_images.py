"""Processors that transformers has for torchvision alone run without it."""

from __future__ import annotations

import sys

import pytest
import torch

from qeffbuild.models import tensor_images
from qeffbuild.models.images import blank


@pytest.mark.parametrize("name", ["Llama4ImageProcessor", "Cohere2VisionImageProcessor", "Lfm2VlImageProcessor"])
def test_a_processor_without_a_pillow_form_cuts_an_image(name):
    made = tensor_images.class_named(name)()(images=blank((48, 64)), return_tensors="pt")

    pixels = made["pixel_values"].float()
    assert pixels.isfinite().all()
    assert pixels.std() > 0
    assert not any(module.startswith("torchvision.") for module in sys.modules)


def test_one_with_a_pillow_form_is_taken_in_it():
    assert tensor_images.class_named("CLIPImageProcessor").__name__ == "CLIPImageProcessorPil"


def test_edges_go_where_they_are_asked_for():
    image = torch.arange(12.0).reshape(1, 3, 4)

    padded = tensor_images.pad(image, [1, 2, 3, 4], fill=9)

    assert padded.shape == (1, 9, 8)
    torch.testing.assert_close(tensor_images.crop(padded, 2, 1, 3, 4), image)
    assert padded.sum() == image.sum() + 9 * (72 - 12)


def test_a_smaller_image_is_a_mean_of_all_its_points():
    image = torch.randint(0, 255, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    small = tensor_images.resize(image, (4, 4))

    # Triangles over eight points each way: the middle of the image has all of them.
    weights = torch.tensor([1, 3, 5, 7, 7, 5, 3, 1]) / 32
    wanted = (weights[:, None] * weights[None] * image[:, 2:10, 2:10]).sum((-1, -2))
    assert small.dtype == torch.uint8
    assert (small[:, 1, 1] - wanted).abs().max() <= 1
