"""What the embedded backend refuses, and what of a spec reaches which of its steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from plain import plain

from qeffbuild import backends
from qeffbuild.backends.onnxruntime.options import Options, check
from qeffbuild.backends.onnxruntime.plan import steps
from qeffbuild.errors import AbsentError, SpecError
from qeffbuild.spec.types import BackendSpec, BuildSpec, ModelSpec, QuantizationSpec

SPEC = plain("onnxruntime", model=ModelSpec(path="model"))


def with_said(group: str, **said: Any) -> BuildSpec:
    if group == "options":
        return replace(SPEC, backend=BackendSpec(name="onnxruntime", options=Options(**said)))
    if group == "spec":
        return replace(SPEC, **said)
    return replace(SPEC, **{group: replace(getattr(SPEC, group), **said)})


def test_a_plain_spec_passes() -> None:
    check(SPEC)
    check(with_said("quantization", method="int4", bits=4, block_size=64, symmetric=False))
    check(with_said("specialization", full_batch_size=4, kv_cache_batch_size=4))


@pytest.mark.parametrize(
    ("group", "said", "key"),
    [
        ("device_group", {"devices": (0, 1)}, "device_group"),
        ("device_group", {"mdp_num_partitions": 2}, "device_group"),
        ("quantization", {"mxfp6_matmul": True}, "quantization.mxfp6_matmul"),
        ("quantization", {"mxint8_kv_cache": True}, "quantization.mxint8_kv_cache"),
        ("quantization", {"method": "int8", "bits": 4}, "quantization.bits"),
        ("quantization", {"method": "int8", "block_size": 48}, "quantization.block_size"),
        ("quantization", {"method": "int8", "attention_block_size": 48}, "quantization.attention_block_size"),
        ("quantization", {"method": "int8", "query_block_size": 48}, "quantization.query_block_size"),
        ("quantization", {"method": "int8", "down_block_size": 48}, "quantization.down_block_size"),
        ("quantization", {"method": "int8", "head_block_size": 48}, "quantization.head_block_size"),
        ("quantization", {"method": "fp8", "down_block_size": 32}, "quantization.down_block_size"),
        ("quantization", {"method": "int4", "attention_bits": 6}, "quantization.attention_bits"),
        ("quantization", {"method": "fp8", "attention_bits": 8}, "quantization.attention_bits"),
        ("options", {"embedding_bits": 6}, "backend.embedding_bits"),
        ("specialization", {"comp_ctx_lengths_prefill": (64,)}, "specialization.comp_ctx_lengths_prefill"),
        ("specialization", {"comp_ctx_lengths_decode": (64,)}, "specialization.comp_ctx_lengths_decode"),
        ("specialization", {"prefill_only": True}, "specialization.prefill_only"),
        ("specialization", {"kv_cache_batch_size": 8}, "specialization.kv_cache_batch_size"),
    ],
)
def test_what_it_cannot_do_is_refused_by_its_key(group: str, said: dict[str, Any], key: str) -> None:
    with pytest.raises(SpecError) as refused:
        check(with_said(group, **said))

    assert refused.value.kind == "spec.conflict"
    assert refused.value.message.startswith(f"{key}: ")
    assert refused.value.hint


def test_steps_are_lower_and_package_with_quantize_before_them_when_asked() -> None:
    assert [step.name for step in steps(SPEC, "export")] == ["lower", "package"]

    quantized = steps(with_said("quantization", method="int8"), "export")
    assert [(step.name, step.inputs["graph"]) for step in quantized] == [
        ("quantize", "export"),
        ("lower", "quantize"),
        ("package", "lower"),
    ]


def test_a_graph_in_a_narrow_dtype_is_widened_before_anything_else_reads_it() -> None:
    narrow = replace(with_said("quantization", method="int8"), model=replace(SPEC.model, dtype="bfloat16"))

    made = [(step.name, step.inputs["graph"]) for step in steps(narrow, "export")]

    assert made == [("widen", "export"), ("quantize", "widen"), ("lower", "quantize"), ("package", "lower")]
    assert steps(narrow, "export")[-1].inputs["exported"] == "export"


def test_the_fast_profile_adds_a_form_for_prompts_to_quantized_packages_and_takes_larger_blocks() -> None:
    fast = with_said("options", profile="fast")
    quantized = replace(fast, quantization=replace(fast.quantization, method="int4"))

    assert [step.name for step in steps(fast, "export")] == ["lower", "package"]
    made = {step.name: step for step in steps(quantized, "export")}
    assert list(made) == ["quantize", "lower", "quantize[prefill]", "lower[prefill]", "package"]
    words = ("block_size", "attention_bits", "attention_block_size", "down_block_size")
    assert [made["quantize"].params.get(word) for word in words] == [256, 8, None, None]
    assert made["package"].inputs["prefill"] == "lower[prefill]"
    said = replace(quantized, quantization=replace(quantized.quantization, block_size=32))
    assert steps(said, "export")[0].params["block_size"] == 32


def test_what_values_go_through_and_what_narrows_is_finer_where_no_text_makes_up_for_large_blocks() -> None:
    fast = with_said("options", profile="fast")
    quantized = replace(fast, quantization=QuantizationSpec(method="int8"))

    made = {step.name: step.params for step in steps(quantized, "export")}

    words = ("block_size", "attention_block_size", "down_block_size", "head_block_size")
    assert [made["quantize"][word] for word in words] == [64, 16, 16, 128]
    assert "attention_bits" not in made["quantize"]
    assert made["quantize[prefill]"]["values"] == "finer"


@pytest.mark.parametrize(
    ("said", "forms"),
    [
        ({}, (32, 16)),
        ({"block_size": 128}, (128, None)),
        ({"attention_block_size": 64}, (32, 64)),
        ({"method": "gptq"}, (128, None)),
    ],
)
def test_accuracy_means_small_blocks_unless_something_is_said_of_them(
    said: dict[str, Any], forms: tuple[int, int | None]
) -> None:
    words = {"method": "int8", "bits": 8, **said}

    params = steps(with_said("quantization", **words), "export")[0].params

    assert (params["block_size"], params.get("attention_block_size")) == forms


def test_small_packages_have_small_tables_and_who_asks_has_what_was_asked() -> None:
    small = replace(with_said("options", profile="small"), quantization=QuantizationSpec(method="int8"))

    def bits(spec: BuildSpec) -> Any:
        return {step.name: step for step in steps(spec, "export")}["lower"].params.get("embedding_bits")

    assert bits(small) == 8
    assert bits(with_said("options", profile="small")) is None
    assert bits(replace(small, backend=BackendSpec(name="onnxruntime", options=Options(embedding_bits=4)))) == 4


def test_the_form_for_prompts_is_simple_where_decoding_loses_more() -> None:
    fast = with_said("options", profile="fast")

    made = {step.name: step for step in steps(replace(fast, quantization=QuantizationSpec(method="gptq")), "export")}

    assert made["quantize[prefill]"].params["values"] == "plain"


def test_weights_are_stored_a_second_time_only_when_asked() -> None:
    (_, plain), (_, packed) = steps(SPEC, "export"), steps(with_said("options", prepacked=True), "export")

    assert "prepack" not in plain.params
    assert packed.params["prepack"].endswith(".prepack")
    assert "onnxruntime" in packed.tools


@pytest.mark.parametrize(("method", "bits", "block_size"), [("gptq", None, 256), ("gptq", 8, 128), ("hqq", None, 256)])
def test_blocks_are_largest_where_a_text_makes_up_for_it(method: str, bits: int | None, block_size: int) -> None:
    fast = with_said("options", profile="fast")
    quantized = replace(fast, quantization=QuantizationSpec(method=method, bits=bits))

    made = {step.name: step for step in steps(quantized, "export")}

    assert made["quantize"].params["block_size"] == block_size


def test_an_int8_cache_is_written_by_both_forms() -> None:
    fast = with_said("options", profile="fast")
    quantized = replace(fast, quantization=QuantizationSpec(method="int8", kv_cache="int8"))

    made = {step.name: step for step in steps(quantized, "export")}

    assert made["lower"].inputs == {"graph": "quantize"}
    assert made["lower[prefill]"].inputs == {"graph": "quantize[prefill]", "kv_scales": "quantize"}


def test_the_small_profile_only_takes_larger_blocks() -> None:
    small = with_said("options", profile="small")
    quantized = replace(small, quantization=replace(small.quantization, method="int4"))

    assert steps(quantized, "export")[0].params["block_size"] == 128
    assert len(steps(quantized, "export")) == 3


@pytest.mark.parametrize(
    ("group", "said", "reached"),
    [
        ("specialization", {"ctx_len": 256}, ["package"]),
        ("specialization", {"batch_size": 4}, ["package"]),
        ("model", {"allow_nonfinite": True}, ["package"]),
        ("quantization", {"block_size": 64}, ["quantize", "package"]),
        ("quantization", {"keep": ("lm_head*",)}, ["quantize", "package"]),
        ("options", {"threads": 4}, []),
        ("options", {"attention": "portable"}, ["lower"]),
        ("options", {"recurrence": "token_by_token"}, ["lower"]),
        ("decoding", {"temperature": 1.0}, []),
        ("launch", {"jobs": 4}, []),
    ],
    ids=str,
)
def test_a_changed_value_reaches_only_the_steps_that_read_it(
    group: str, said: dict[str, Any], reached: list[str]
) -> None:
    def quantized(spec: BuildSpec) -> BuildSpec:
        return replace(spec, quantization=replace(spec.quantization, method="int4"))

    before, after = (steps(quantized(spec), "export") for spec in (SPEC, with_said(group, **said)))

    changed = [one.name for one, two in zip(before, after, strict=True) if one.as_json() != two.as_json()]
    assert changed == reached


def test_every_param_says_which_words_of_the_user_it_comes_from() -> None:
    for step in steps(with_said("quantization", method="int8"), "export"):
        assert set(step.params) - set(step.reads) <= {"session"}


def test_a_tiny_model_has_no_folder_to_read() -> None:
    tiny = replace(SPEC, model=ModelSpec(scale="tiny", model_type="gpt2"))

    assert [step.leaves for step in steps(tiny, "export")] == [(), ()]


def test_backends_are_found_by_name() -> None:
    assert "onnxruntime" in backends.names()
    assert backends.room("onnxruntime", "options").Options is Options


def test_an_unknown_backend_is_refused_with_a_suggestion() -> None:
    with pytest.raises(AbsentError) as refused:
        backends.room("onnxruntme", "plan")

    assert refused.value.kind == "backend.absent"
    assert refused.value.hint == "did you mean backend=onnxruntime?"
