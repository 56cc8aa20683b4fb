"""The table of docs/cloud_ai_100.md: which sets of shapes each mode has, and how a pipeline splits its layers."""

from __future__ import annotations

from typing import Any

import pytest

from qeffbuild.backends.qaic.documents import custom_io_yaml, specializations_json, state_precision
from qeffbuild.backends.qaic.pipeline import layers_per_stage, split_into_stages
from qeffbuild.cloud_ai_100.specializations import specializations
from qeffbuild.signature import IoSignature, State
from qeffbuild.spec.types import SpecializationSpec

SIZES = {"prefill_seq_len": 32, "ctx_len": 128}


def table(continuous: bool = False, **shapes: Any) -> list[tuple[str, dict[str, int]]]:
    said = specializations(SpecializationSpec(**SIZES | shapes), continuous=continuous)
    return [(entry.name, dict(entry.symbols)) for entry in said]


@pytest.mark.parametrize(
    ("shapes", "continuous", "expected"),
    [
        pytest.param(
            {"batch_size": 2},
            False,
            [
                ("Prefill", {"batch_size": 2, "seq_len": 32, "ctx_len": 128}),
                ("Decode", {"batch_size": 2, "seq_len": 1, "ctx_len": 128}),
            ],
            id="plain",
        ),
        pytest.param(
            {"prefill_seq_len": 1},
            False,
            [("Prefill", {"batch_size": 1, "seq_len": 1, "ctx_len": 128})],
            id="one token at a time",
        ),
        pytest.param(
            {"prefill_seq_len": 1, "prefill_only": False},
            False,
            [("Decode", {"batch_size": 1, "seq_len": 1, "ctx_len": 128})],
            id="decode, one token at a time",
        ),
        pytest.param(
            {"prefill_seq_len": 1, "full_batch_size": 4},
            True,
            [
                (
                    "Prefill",
                    {"batch_size": 4, "seq_len": 1, "ctx_len": 128, "full_batch_size": 4, "full_batch_exec_size": 4},
                )
            ],
            id="continuous, one token at a time",
        ),
        pytest.param(
            {"prefill_seq_len": 1, "full_batch_size": 4, "prefill_only": True},
            True,
            [
                (
                    "Prefill",
                    {"batch_size": 4, "seq_len": 1, "ctx_len": 128, "full_batch_size": 4, "full_batch_exec_size": 4},
                )
            ],
            id="continuous prefill only, one token at a time",
        ),
        pytest.param(
            {"full_batch_size": 2, "kv_cache_batch_size": 8},
            True,
            [
                (
                    "Prefill",
                    {"batch_size": 1, "seq_len": 32, "ctx_len": 128, "full_batch_size": 8, "full_batch_exec_size": 1},
                ),
                ("Decode", {"batch_size": 2, "seq_len": 1, "ctx_len": 128, "full_batch_size": 8}),
            ],
            id="more slots than rows",
        ),
        pytest.param(
            {"prefill_only": True},
            False,
            [("Prefill", {"batch_size": 1, "seq_len": 32, "ctx_len": 128})],
            id="prefill only",
        ),
        pytest.param(
            {"prefill_only": False},
            False,
            [("Decode", {"batch_size": 1, "seq_len": 1, "ctx_len": 128})],
            id="decode only",
        ),
        pytest.param(
            {"full_batch_size": 2, "num_speculative_tokens": (5, 3, 3)},
            True,
            [
                (
                    "Prefill",
                    {"batch_size": 1, "seq_len": 32, "ctx_len": 128, "full_batch_size": 2, "full_batch_exec_size": 1}
                    | {"num_logits_to_keep": 1},
                ),
                (
                    "Decode_0",
                    {"batch_size": 2, "seq_len": 4, "ctx_len": 128, "full_batch_size": 2, "num_logits_to_keep": 4},
                ),
                (
                    "Decode_1",
                    {"batch_size": 2, "seq_len": 6, "ctx_len": 128, "full_batch_size": 2, "num_logits_to_keep": 6},
                ),
            ],
            id="a target in continuous batching",
        ),
        pytest.param(
            {"logits_to_keep": 3},
            False,
            [
                ("Prefill", {"batch_size": 1, "seq_len": 32, "ctx_len": 128, "num_logits_to_keep": 3}),
                ("Decode", {"batch_size": 1, "seq_len": 1, "ctx_len": 128, "num_logits_to_keep": 1}),
            ],
            id="logits of the last tokens of a prompt",
        ),
        pytest.param(
            {"logits_to_keep": 0, "num_speculative_tokens": (3,)},
            False,
            [
                ("Prefill", {"batch_size": 1, "seq_len": 32, "ctx_len": 128, "num_logits_to_keep": 32}),
                ("Decode", {"batch_size": 1, "seq_len": 4, "ctx_len": 128, "num_logits_to_keep": 4}),
            ],
            id="all logits of a prompt, and drafts",
        ),
        pytest.param(
            {"comp_ctx_lengths_prefill": (64,), "comp_ctx_lengths_decode": (96, 128)},
            False,
            [
                ("Prefill", {"batch_size": 1, "seq_len": 32, "ctx_len": 128, "comp_ctx_lengths": 64}),
                ("Decode_0", {"batch_size": 1, "seq_len": 1, "ctx_len": 128, "comp_ctx_lengths": 96}),
                ("Decode_1", {"batch_size": 1, "seq_len": 1, "ctx_len": 128, "comp_ctx_lengths": 128}),
            ],
            id="compute context lengths",
        ),
    ],
)
def test_each_mode_has_its_sets(
    shapes: dict[str, Any], continuous: bool, expected: list[tuple[str, dict[str, int]]]
) -> None:
    assert table(continuous, **shapes) == expected


def test_the_flat_form_is_the_same_without_names() -> None:
    entries = specializations(SpecializationSpec(**SIZES, prefill_only=True), continuous=False)

    assert specializations_json(entries, "flat") == (
        '{\n    "specializations":[\n        {\n            "batch_size":"1",\n            "ctx_len":"128",\n'
        '            "seq_len":"32"\n        }\n    ]\n}'
    )


@pytest.mark.parametrize(
    ("dtype", "mxint8", "precision"),
    [
        ("float32", False, "float16"),
        ("float16", False, "float16"),
        ("float32", True, "mxint8"),
        ("bfloat16", True, "mxint8"),
        ("bfloat16", False, None),
    ],
)
def test_the_precision_of_the_cache(dtype: Any, mxint8: bool, precision: str | None) -> None:
    assert state_precision(dtype, mxint8=mxint8) == precision


def test_a_name_with_odd_characters_is_quoted_in_yaml() -> None:
    state = State(name='a: "b"\n', output="c #d", dtype="float32", axes=(1,), layer=0, kind="key")
    signature = IoSignature(graph="decoder", inputs=(), outputs=(), states=(state,))

    text = custom_io_yaml(signature, "float16")

    assert text == (' - IOName: "a: \\"b\\"\\n"\n   Precision: float16\n\n - IOName: "c #d"\n   Precision: float16\n\n')


@pytest.mark.parametrize(
    ("layers", "stages", "expected"),
    [
        (8, 2, [4, 4]),
        (7, 2, [4, 3]),
        (32, 3, [11, 11, 10]),
        (10, 3, [3, 4, 3]),
        (11, 3, [4, 4, 3]),
        (13, 5, [2, 3, 3, 3, 2]),
        (14, 5, [3, 3, 3, 3, 2]),
        (11, 5, [2, 2, 3, 2, 2]),
        (5, 1, [5]),
    ],
)
def test_layers_left_over_go_to_the_middle_then_to_the_first_stage(
    layers: int, stages: int, expected: list[int]
) -> None:
    assert layers_per_stage(layers, stages) == expected


def test_the_last_stage_never_gets_a_layer_left_over() -> None:
    for stages in range(2, 9):
        for layers in range(stages, 40):
            sizes = layers_per_stage(layers, stages)
            assert (sum(sizes), sizes[-1]) == (layers, layers // stages)


def test_a_node_without_a_layer_goes_with_the_one_before_it() -> None:
    nodes = [("embed", None), ("a", 0), ("b", None), ("c", 1), ("head", None)]

    first, second = split_into_stages(nodes, stages=2, devices=2)

    assert (first.name, first.devices, first.nodes) == ("Partition0", (0,), ("embed", "a", "b"))
    assert (second.name, second.devices, second.nodes) == ("Partition1", (1,), ("c", "head"))


def test_stages_that_were_allowed_to_be_uneven_may_have_no_layer_and_devices_no_stage() -> None:
    stages = split_into_stages([("a", 0), ("b", 1), ("head", None)], stages=3, devices=4)

    assert [(stage.devices, stage.nodes) for stage in stages] == [((0,), ("a",)), ((1,), ("b", "head")), ((2,), ())]
