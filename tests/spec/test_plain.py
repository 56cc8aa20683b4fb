"""A spec as JSON and back."""

from __future__ import annotations

import json

import pytest

from qeffbuild.spec.load import from_config
from qeffbuild.spec.plain import plain


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["recipe=gpt2_notebook"],
        ["recipe=llama_speculative", "decoding=sample", 'prompts=["a","b"]', "decoding.max_new_tokens=3"],
        ["recipe=llama_x4", "backend.extra_args=['-a=b']"],
    ],
)
def test_a_spec_survives_json(spec_of, words):
    spec = spec_of(*words)

    assert from_config(json.loads(json.dumps(plain(spec), allow_nan=False))) == spec


def test_the_packaged_model_is_named_without_a_path_of_this_machine(spec_of):
    assert plain(spec_of("model=demo"))["model"]["path"] == "package:models/demo"
