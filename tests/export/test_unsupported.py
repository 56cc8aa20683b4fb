"""What cannot be exported says which construct stopped it, and where."""

from __future__ import annotations

import pytest

from qeffbuild.errors import ModelError
from qeffbuild.export import export


def facts(**config):
    return {"schema": 1, "config": config, "tensors": {}}


def test_an_unknown_model_type_is_named(tmp_path):
    with pytest.raises(ModelError) as raised:
        export(facts(model_type="gpt9"), tmp_path)

    assert raised.value.kind == "model.unsupported"
    assert raised.value.message == "model_type 'gpt9' is not known to the installed transformers"


def test_code_that_branches_on_values_is_named_with_file_and_line(tmp_path):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 256}

    with pytest.raises(ModelError) as raised:
        export(facts(model_type="llama", rope_parameters=rope, max_position_embeddings=64, **sizes), tmp_path)

    assert raised.value.kind == "model.unsupported"
    assert "modeling_llama.py:" in raised.value.message
