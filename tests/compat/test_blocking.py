"""Words of qaic_config about attention -> keys of transforms."""

from __future__ import annotations

from typing import Any

import pytest

from qeffbuild.compat.translate import translate_call

SIZES = {"num_kv_blocks": 4, "num_q_blocks": 2, "head_block_size": 8}


@pytest.mark.parametrize(
    ("said", "values", "notes"),
    [
        (
            {"enable_blocking": True, "blocking_mode": "qkv", **SIZES},
            {"blocking_mode": "qkv", "num_kv_blocks": 4, "num_q_blocks": 2},
            ["head_block_size: left out: nothing is cut into blocks along this axis"],
        ),
        ({"enable_blocking": True}, {"blocking_mode": "hqkv"}, []),
        ({"enable_blocking": True, "blocking_mode": "auto", "skip_kv": False}, {"blocking_mode": "hqkv", "skip_kv": False}, []),
        (
            {"blocking_mode": "kv"},
            {},
            ["blocking_mode: left out: nothing is cut into blocks along this axis"],
        ),
        ({"mla_absorption": {"cache_compressed": True, "absorption": True, "online": False}}, {"mla_absorption": True}, []),
        ({"mla_absorption": {"cache_compressed": True, "absorption": False}}, {}, []),
    ],
)  # fmt: skip
def test_blocks_and_absorption_are_carried_over(said: dict[str, Any], values: dict[str, Any], notes: list[str]) -> None:
    made = translate_call({"from_pretrained": {"model_name": "org/model", "qaic_config": said}}, {})

    assert {key: value for key, value in made.values.items() if key.startswith("transforms.")} == {
        f"transforms.{name}": value for name, value in values.items()
    }
    assert made.notes == notes
