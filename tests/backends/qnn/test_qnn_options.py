"""What is refused for QNN at the door: the other target's options, chips that do not exist, shapes no binary has."""

from __future__ import annotations

import pytest

from qeffbuild.backends.qnn.htp.chips import ARCHITECTURE
from qeffbuild.errors import QeffBuildError

AIC = "backend.target=aic"


def plan_names(plan_of, *words: str) -> list[str]:
    return [step.name for step in plan_of("backend=qnn", *words, goal="package")][3:]


@pytest.mark.parametrize(("soc", "arch"), ARCHITECTURE.items())
def test_a_chip_and_its_architecture_go_together(spec_of, soc, arch):
    assert (
        spec_of("backend=qnn", f"backend.soc_model={soc}", f"backend.htp_arch={arch}").backend.options.htp_arch == arch
    )


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["backend.soc_model=61"], "backend.option", "backend.soc_model: 61 is no chip known here"),
        (["backend.htp_arch=75"], "backend.option", "htp_arch: 75, but soc_model 60 has architecture 73"),
        (["backend.vtcm_mb=0"], "spec.range", "backend.vtcm_mb"),
        (["backend.mos=1"], "backend.option", "backend.mos: an option of target=aic, but target is htp"),
        ([AIC, "backend.vtcm_mb=4"], "backend.option", "backend.vtcm_mb: an option of target=htp"),
        ([AIC, "backend.num_cores=17"], "spec.range", "backend.num_cores"),
        ([AIC, "backend.kv_cache_prefix=a-b"], "backend.option", "more than letters and digits"),
        ([AIC, "backend.config=''"], "backend.option", "backend.config: it is empty"),
        (["backend.target=gpu"], "spec.choice", "backend.target"),
        (["backend.precision=a16w8", "quantization=int4"], "spec.conflict", "a16w8 quantizes"),
        (["backend.precision=a16w8", "model=llama"], "spec.missing", "backend.calibration_file"),
        (["backend.calibration_file=x.txt"], "spec.conflict", "backend.calibration_file"),
        (["backend.dlc=true", "quantization=int4"], "spec.conflict", "backend.dlc"),
        (["quantization=int4", "quantization.block_size=64"], "spec.conflict", "quantization.block_size"),
        (["quantization=int4", "quantization.budget=0.1"], "spec.conflict", "quantization.budget"),
        (["quantization.kv_cache=int8"], "spec.conflict", "quantization.kv_cache"),
        (["specialization.prefill_only=true"], "spec.conflict", "specialization.prefill_only"),
        (["quantization.mxint8_kv_cache=true"], "spec.conflict", "quantization.mxint8_kv_cache"),
        (["specialization.kv_cache_batch_size=8"], "spec.conflict", "kv_cache_batch_size"),
        (["model.dtype=float16"], "spec.conflict", "model.dtype"),
        (["transforms.include_sampler=true"], "spec.conflict", "transforms"),
        ([AIC, "device_group.devices=[0,1]", "device_group.mdp_num_partitions=2"], "spec.conflict", "stages"),
        ([AIC, "quantization=int8"], "spec.conflict", "int8"),
        ([AIC, "specialization.comp_ctx_lengths_decode=[512]"], "spec.conflict", "ctx_len"),
        (["backend.soc_modell=60"], "override.unknown", "soc_modell"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_is_refused_before_anything_runs(spec_of, words, kind, said):
    with pytest.raises(QeffBuildError) as caught:
        spec_of("backend=qnn", *words)

    assert (caught.value.kind, caught.value.exit_code) == (kind, 2)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["lower", "compile[prefill]", "compile[decode]", "package"]),
        (["specialization.prefill_seq_len=1"], ["lower", "compile[decode]", "package"]),
        (["backend.weight_sharing=true"], ["lower", "compile", "package"]),
        (["quantization=int4"], ["quantize", "lower", "compile[prefill]", "compile[decode]", "package"]),
        (["backend.precision=a16w8"], ["lower", "calibrate", "compile[prefill]", "compile[decode]", "package"]),
        ([AIC], ["lower", "render", "compile", "package"]),
    ],
    ids=lambda value: " ".join(value) or "plain" if isinstance(value, list) else None,
)
def test_the_steps_are_those_of_the_target(plan_of, words, names):
    assert plan_names(plan_of, "gate=none", *words) == names


def test_each_compile_is_in_a_process_of_its_own(plan_of):
    steps = plan_of("backend=qnn", goal="package")

    assert [step.name for step in steps if step.isolated] == ["compile[prefill]", "compile[decode]", "package"]


def test_a_longer_prefill_leaves_the_decode_graph_alone(plan_of):
    short, long = (plan_of("backend=qnn", f"specialization.prefill_seq_len={n}", goal="package") for n in (8, 16))

    changed = [a.name for a, b in zip(short, long, strict=True) if a.as_json() != b.as_json()]
    assert changed == ["compile[prefill]", "package"]
