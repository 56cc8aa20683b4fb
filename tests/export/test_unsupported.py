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
