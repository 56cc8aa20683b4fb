"""What is refused at the door, with which kind, and what the hint proposes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from plain import plain

from qeffbuild.backends.qaic.options import MANAGED, check
from qeffbuild.cloud_ai_100.context_lengths import fitting_lengths
from qeffbuild.errors import QeffBuildError
from qeffbuild.spec.types import BackendSpec, BuildSpec

PLAIN = plain("qaic")


def spec(**parts: Any) -> BuildSpec:
    """The plain spec with some fields of its parts changed: `spec(options={...}, specialization={...})`."""
    options = replace(PLAIN.backend.options, **parts.pop("options", {}))
    changed = {name: replace(getattr(PLAIN, name), **fields) for name, fields in parts.items()}
    return replace(PLAIN, backend=BackendSpec(name="qaic", options=options), **changed)


def refused(asked: BuildSpec) -> QeffBuildError:
    with pytest.raises(QeffBuildError) as caught:
        check(asked)
    assert caught.value.exit_code == 2
    return caught.value


def test_the_defaults_pass() -> None:
    check(PLAIN)


@pytest.mark.parametrize(
    ("parts", "kind", "key"),
    [
        ({"options": {"num_cores": 17}}, "spec.range", "backend.num_cores"),
        ({"quantization": {"method": "int8"}}, "spec.conflict", "quantization.method"),
        ({"model": {"dtype": "bfloat16"}}, "spec.conflict", "model.dtype"),
        ({"specialization": {"kv_cache_batch_size": 8}}, "spec.conflict", "specialization.kv_cache_batch_size"),
        ({"specialization": {"continuous_batching": True}}, "spec.missing", "specialization.full_batch_size"),
        (
            {"specialization": {"full_batch_size": 4, "kv_cache_batch_size": 2}},
            "spec.conflict",
            "specialization.kv_cache_batch_size",
        ),
        ({"specialization": {"full_batch_size": 4, "batch_size": 2}}, "spec.conflict", "specialization.batch_size"),
        (
            {"device_group": {"num_devices": 4, "mdp_num_partitions": 3}},
            "spec.divides",
            "device_group.mdp_num_partitions",
        ),
        (
            {"device_group": {"num_devices": 4, "mdp_num_partitions": 4}, "model": {"num_hidden_layers": 2}},
            "spec.range",
            "device_group.mdp_num_partitions",
        ),
        (
            {
                "device_group": {"num_devices": 2, "mdp_num_partitions": 2},
                "options": {"mdp_load_partition_config": "a.json"},
            },
            "spec.conflict",
            "backend.mdp_load_partition_config",
        ),
        ({"options": {"mdp_strategy": "intersection"}}, "spec.conflict", "backend.mdp_strategy"),
        (
            {"device_group": {"num_devices": 2, "mdp_num_partitions": 2}, "options": {"mdp_strategy": "intersection"}},
            "spec.missing",
            "backend.mdp_strategy",
        ),
        ({"options": {"mdp_compiler_dump_path": "a.json"}}, "spec.conflict", "backend.mdp_compiler_dump_path"),
        (
            {"specialization": {"num_speculative_tokens": (3,), "prefill_only": True}},
            "spec.conflict",
            "specialization.num_speculative_tokens",
        ),
        (
            {"specialization": {"num_speculative_tokens": (3,), "prefill_seq_len": 1}},
            "spec.conflict",
            "specialization.num_speculative_tokens",
        ),
        (
            {"specialization": {"num_speculative_tokens": (200,)}},
            "spec.range",
            "specialization.num_speculative_tokens",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_key(parts: dict[str, Any], kind: str, key: str) -> None:
    error = refused(spec(**parts))

    assert (error.kind, error.message.partition(":")[0]) == (kind, key)
    assert error.hint


def test_bfloat16_is_taken_by_the_cards_that_have_it() -> None:
    check(spec(model={"dtype": "bfloat16"}, options={"aic_hw_version": "ai200"}))
    check(spec(model={"dtype": "bfloat16"}, options={"aic_hw_version": "probe"}))  # and looked at again when found


@pytest.mark.parametrize(
    "argument",
    [
        *(
            "-m=other.onnx",
            "-aic-binary-dir=/tmp/x",
            "-aic_binary_dir=x",
            "-AIC-Binary-Dir=x",
            "-custom-io-list-file=x",
        ),
        *("-mos=2", "-retained-state", "-stats-level=9", "-compile-only", "-M=x"),
    ],
)
def test_what_we_write_ourselves_may_not_be_said_again(argument: str) -> None:
    error = refused(spec(options={"extra_args": (argument,)}))

    assert error.kind == "backend.option"
    assert "written by us" in error.message


@pytest.mark.parametrize(
    "argument",
    [
        *(
            "-x=a\n-m=b",
            "-x=a\0b",
            "-x\r",
            "--m=b",
            " -m=b",
            "\t-m=b",
            "m=b",
            "model.onnx",
            "@response",
            "-",
            "",
            "-x=",
        ),
        *("-=b", "-1x", "−m=b", "-x y", "-x=\u202egnp", "-m\u200b=b"),
    ],
)
def test_an_argument_of_an_odd_form_is_refused(argument: str) -> None:
    assert refused(spec(options={"extra_args": (argument,)})).kind == "backend.option"


def test_an_argument_is_said_once() -> None:
    assert "twice" in refused(spec(options={"extra_args": ("-new-flag=1", "-new_flag=2")})).message


def test_flags_that_we_do_not_know_pass_one_by_one() -> None:
    check(spec(options={"extra_args": ("-time-passes", "-io-crc=true", "-ddr-stats")}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kv_cache_prefix", "a.b"),
        ("kv_cache_prefix", "ü"),
        ("mdp_dump_partition_config", "../out.json"),
        ("mdp_dump_partition_config", "-x"),
    ],
)
def test_texts_that_could_mean_something_else_are_refused(name: str, value: str) -> None:
    assert refused(spec(options={name: value})).kind == "backend.option"


def test_every_option_that_is_a_word_of_the_compiler_is_managed() -> None:
    from qeffbuild.backends.qaic.command import PASSED_THROUGH

    assert {name.replace("_", "-") for name in PASSED_THROUGH} <= MANAGED


LENGTHS = {"ctx_len": 4096, "prefill_seq_len": 128}


@pytest.mark.parametrize(
    ("prefill", "decode", "fits"),
    [
        ((512, 1024), (1024, 2048), ((992, 4064), (1024, 2048, 4096))),  # as it was recorded
        ((2048, 4064), (2000, 4096, 4096), ((2048, 4064), (2000, 4096))),
        ((4064,), (512, 4096), ((4064,), (1024, 4096))),
        ((3000, 2000, 4064), (4096,), ((2000, 3000, 4064), (4096,))),
    ],
)
def test_context_lengths_that_do_not_fit_are_refused_with_those_that_do(
    prefill: tuple[int, ...], decode: tuple[int, ...], fits: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    shapes = {**LENGTHS, "comp_ctx_lengths_prefill": prefill, "comp_ctx_lengths_decode": decode}

    error = refused(spec(specialization=shapes))

    assert error.kind == "spec.conflict"
    assert error.hint == f"these fit: comp_ctx_lengths_prefill={list(fits[0])} comp_ctx_lengths_decode={list(fits[1])}"


@pytest.mark.parametrize(
    ("prefill", "decode"),
    [((992, 4064), (1024, 2048, 4096)), ((1024, 4064), (2048, 4096)), ((4064,), (4096,))],
)
def test_context_lengths_that_fit_pass(prefill: tuple[int, ...], decode: tuple[int, ...]) -> None:
    check(spec(specialization={**LENGTHS, "comp_ctx_lengths_prefill": prefill, "comp_ctx_lengths_decode": decode}))


def test_the_lengths_of_a_hint_pass() -> None:
    for prefill in ((100,), (1024,), (512, 1500), (4096,), (992, 1024), (1024, 2048, 3072, 4096)):
        for decode in ((1024,), (2048, 3072), (4096,), (100, 200)):
            shapes = replace(
                PLAIN.specialization, **LENGTHS, comp_ctx_lengths_prefill=prefill, comp_ctx_lengths_decode=decode
            )
            first, second = fitting_lengths(shapes)
            check(
                replace(
                    PLAIN,
                    specialization=replace(shapes, comp_ctx_lengths_prefill=first, comp_ctx_lengths_decode=second),
                )
            )


@pytest.mark.parametrize(
    ("shapes", "kind"),
    [
        ({"comp_ctx_lengths_decode": (1024, 4096), **LENGTHS}, "spec.missing"),
        ({"comp_ctx_lengths_prefill": (128,), "comp_ctx_lengths_decode": (128,)}, "spec.conflict"),
        (
            {**LENGTHS, "comp_ctx_lengths_prefill": (4096,), "comp_ctx_lengths_decode": (4096,), "prefill_only": True},
            "spec.conflict",
        ),
        (
            {**LENGTHS, "comp_ctx_lengths_prefill": (2048,), "comp_ctx_lengths_decode": (4096,), "prefill_seq_len": 1},
            "spec.conflict",
        ),
    ],
)
def test_context_lengths_are_for_the_phases_that_there_are(shapes: dict[str, Any], kind: str) -> None:
    assert refused(spec(specialization=shapes)).kind == kind


def test_planning_needs_nothing_heavy() -> None:
    program = (
        "import sys, qeffbuild.backends.qaic.plan, qeffbuild.backends.qaic.options\n"
        "heavy = {'torch', 'onnx', 'onnx_ir', 'numpy', 'yaml', 'jinja2', 'omegaconf'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
