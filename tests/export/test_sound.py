"""What an encoder hears is found by trying it; no family is named."""

from __future__ import annotations

from functools import partial

import pytest
from torch import nn

from qeffbuild.export.layers import stack_of
from qeffbuild.export.skeleton import small_model
from qeffbuild.export.sound import sound_of
from qeffbuild.models.classes import model_from
from qeffbuild.models.tasks import SPEECH
from qeffbuild.models.tiny import tiny_config

FORMS = {
    "whisper": ("input_features", ("batch_size", 80, 3000)),  # as many frames as it has positions for
    "moonshine": ("input_values", ("batch_size", "seq_len")),
    "speech_to_text": ("input_features", ("batch_size", "seq_len", 80)),
}


@pytest.mark.parametrize("model_type", FORMS)
def test_an_encoder_tells_the_form_of_its_sound(model_type: str) -> None:
    model = small_model(tiny_config(model_type, 256, 2, task=SPEECH), partial(model_from, task=SPEECH))

    sound = sound_of(model)

    assert (sound.name, sound.axes) == FORMS[model_type]


def test_convolutions_that_a_sound_enters_by_are_no_stack_of_layers() -> None:
    entering = nn.ModuleList(nn.Sequential(nn.Conv1d(4, 4, 3, stride=2), nn.GELU()) for _ in range(5))
    between = nn.ModuleList([nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Conv2d(1, 1, 3), nn.ReLU()])
    layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Conv1d(4, 4, 3)) for _ in range(3))

    path, stack = stack_of(nn.ModuleDict({"entering": entering, "between": between, "layers": layers}), "")

    assert (path, stack) == ("layers", layers)
