"""Values of the wrong type, out of bounds, or at odds with one another, by their kind and the key that is named."""

from __future__ import annotations

import pytest

from qeffbuild.errors import SpecError
from qeffbuild.spec.load import from_config


@pytest.mark.parametrize(
    ("words", "kind", "key"),
    [
        ("specialization.ctx_len=-1", "spec.range", "specialization.ctx_len"),
        ("specialization.ctx_len=0", "spec.range", "specialization.ctx_len"),
        ("specialization.ctx_len=1e12", "spec.range", "specialization.ctx_len"),
        ("specialization.ctx_len=1000000000000", "spec.range", "specialization.ctx_len"),
        ("specialization.ctx_len=32.5", "spec.type", "specialization.ctx_len"),
        ("specialization.ctx_len=abc", "spec.type", "specialization.ctx_len"),
        ("specialization.ctx_len=null", "spec.type", "specialization.ctx_len"),
        ("specialization.ctx_len=nan", "spec.type", "specialization.ctx_len"),
        ("specialization.ctx_len=inf", "spec.type", "specialization.ctx_len"),
        ("specialization.ctx_len=true", "spec.type", "specialization.ctx_len"),
        ("specialization.ctx_len=1e2", "spec.type", "specialization.ctx_len"),
        ("specialization.ctx_len=[64]", "spec.type", "specialization.ctx_len"),
        ("model=gpt2 specialization.ctx_len=2048", "spec.range", "specialization.ctx_len"),
        ("specialization.prefill_seq_len=-8", "spec.range", "specialization.prefill_seq_len"),
        ("specialization.prefill_seq_len=0", "spec.range", "specialization.prefill_seq_len"),
        ("specialization.prefill_seq_len=256", "spec.conflict", "specialization.prefill_seq_len"),
        ("specialization.batch_size=0", "spec.range", "specialization.batch_size"),
        ("specialization.batch_size=-1", "spec.range", "specialization.batch_size"),
        ("specialization.full_batch_size=0", "spec.range", "specialization.full_batch_size"),
        (
            "specialization.batch_size=2 specialization.full_batch_size=4 specialization.continuous_batching=false",
            "spec.conflict",
            "specialization.full_batch_size",
        ),
        (
            "specialization.batch_size=2 specialization.full_batch_size=4",
            "spec.conflict",
            "specialization.batch_size",
        ),
        ("specialization.continuous_batching=true", "spec.missing", "specialization.full_batch_size"),
        (
            "specialization=cb specialization.kv_cache_batch_size=2",
            "spec.conflict",
            "specialization.kv_cache_batch_size",
        ),
        ("device_group.num_devices=0", "spec.range", "device_group.num_devices"),
        ("device_group.num_devices=-2", "spec.range", "device_group.num_devices"),
        ("device_group.devices=[]", "spec.empty", "device_group.devices"),
        ("device_group.devices=[0,0]", "device.duplicate", "device_group.devices"),
        ("device_group.devices=[0,-1]", "spec.range", "device_group.devices"),
        ("device_group.mdp_num_partitions=2", "spec.conflict", "device_group.mdp_num_partitions"),
        ("backend=qaic model=llama device_group.devices=[0,1,2]", "spec.divides", "device_group.devices"),
        ("backend=qaic backend.num_cores=0", "spec.range", "backend.num_cores"),
        ("backend=qaic backend.num_cores=10000", "spec.range", "backend.num_cores"),
        (
            "backend=qaic model.num_hidden_layers=2 device_group=x4 device_group.mdp_num_partitions=4",
            "spec.range",
            "device_group.mdp_num_partitions",
        ),
        ("specialization.num_speculative_tokens=-1", "spec.range", "specialization.num_speculative_tokens"),
        (
            "specialization.num_speculative_tokens=3 specialization.prefill_only=true",
            "spec.conflict",
            "specialization.num_speculative_tokens",
        ),
        ("specialization.logits_to_keep=-1", "spec.range", "specialization.logits_to_keep"),
        ("specialization.logits_to_keep=33", "spec.conflict", "specialization.logits_to_keep"),
        ("backend=qnn specialization.logits_to_keep=2", "spec.conflict", "specialization.logits_to_keep"),
        (
            "model=minilm model.task=embedding specialization.logits_to_keep=0",
            "spec.conflict",
            "specialization.logits_to_keep",
        ),
        ("backend=qaic model=llama backend.io_encrypt=", "backend.option", "backend.io_encrypt: it is empty"),
        ("backend=qaic model=llama backend.io_encrypt='a\n-m=b'", "backend.option", "backend.io_encrypt: character 2"),
        (
            "backend=qaic specialization.logits_to_keep=2 specialization.prefill_only=false",
            "spec.conflict",
            "specialization.logits_to_keep",
        ),
        (
            "backend=qaic transforms.include_sampler=true specialization.logits_to_keep=0",
            "spec.conflict",
            "specialization.logits_to_keep",
        ),
        ("backend=qaic specialization.num_speculative_tokens=[2,2]", "spec.duplicate", "specialization.num_speculat"),
        (
            "backend=qaic specialization.num_speculative_tokens=200",
            "spec.conflict",
            "specialization.num_speculative_tokens",
        ),
        (
            "backend=qaic specialization.comp_ctx_lengths_prefill=[64,64]",
            "spec.duplicate",
            "specialization.comp_ctx_lengths_prefill",
        ),
        (
            "backend=qaic specialization.comp_ctx_lengths_decode=[64,256]",
            "spec.conflict",
            "specialization.comp_ctx_lengths_decode",
        ),
        (
            "backend=qaic specialization.prefill_only=true specialization.comp_ctx_lengths_decode=[64]",
            "spec.conflict",
            "specialization.comp_ctx_lengths_decode",
        ),
        ("quantization=mxfp6", "spec.conflict", "quantization.mxfp6_matmul"),
        ("quantization=fp9", "override.choice", "quantization"),
        ("quantization.method=fp9", "spec.choice", "quantization.method"),
        ("quantization.method=int88", "spec.choice", "quantization.method"),
        ("quantization.bits=8", "spec.conflict", "quantization.bits"),
        ("backend=qaic quantization=int8", "spec.conflict", "quantization.method"),
        ("device_group=x2", "spec.conflict", "device_group.devices"),
        ("model.task=caual-lm", "spec.choice", "model.task"),
        ("model.trust_remote_code=no", "spec.type", "model.trust_remote_code"),
        ("model.trust_remote_code=1", "spec.type", "model.trust_remote_code"),
        ("model.name=12", "spec.type", "model.name"),
        ("decoding.temperature=hot", "spec.type", "decoding.temperature"),
        ("decoding.temperature=true", "spec.type", "decoding.temperature"),
        ("decoding.top_p=1.5", "spec.range", "decoding.top_p"),
        ("runs=0", "spec.range", "runs"),
        ("prompts=hello", "spec.type", "prompts"),
        ("prompts=[1]", "spec.type", "prompts"),
        ('prompts=["a"] prompts_file=b', "spec.conflict", "prompts_file"),
        ("adapters={poems:1}", "spec.type", "adapters.poems"),
        ("model=gpt2 model.path=here", "spec.conflict", "model.id"),
        ("model=hf", "spec.missing", "model.path"),
        ("model=hf model.scale=tiny", "spec.missing", "model.model_type"),
        ("model=hf model.id=../../etc", "model.name", "model.id"),
        ("model=hf model.id=/etc/passwd", "model.name", "model.id"),
        ("model=hf model.id=a/b model.revision=../x", "model.revision", "model.revision"),
        (
            "model=hf model.id=a/b model.revision=main model.trust_remote_code=true",
            "model.revision",
            "model.revision",
        ),
        ("model.path=package:../../etc", "path.outside", "model.path"),
        ("model.path=???", "spec.missing", "model.path"),
        ("~backend", "spec.missing", "backend.name"),
        ("~model", "spec.missing", "model.path"),
    ],
)
def test_a_bad_value_is_refused_by_its_key(refusal, words, kind, key):
    error = refusal(*words.split(" "))

    assert (error.kind, error.exit_code) == (kind, 2)
    assert error.message.startswith(key)
    assert error.where is not None or kind in ("spec.missing", "path.outside")


def test_a_context_beyond_the_model_names_the_bound_and_the_way_past_it(refusal):
    error = refusal("model=gpt2", "specialization.ctx_len=2048")

    assert error.message == "specialization.ctx_len: 2048 is out of range, which is 1 to 1,024"
    assert error.where == "command line"
    assert error.hint == "that is model.max_position_embeddings; model.allow_extended_context=true goes beyond it"


def test_a_context_beyond_the_model_can_be_allowed(spec_of):
    spec = spec_of("model=gpt2", "specialization.ctx_len=2048", "model.allow_extended_context=true")

    assert spec.specialization.ctx_len == 2048


def test_devices_that_do_not_divide_the_heads_are_told_which_do(refusal):
    error = refusal("backend=qaic", "model=llama", "device_group.devices=[0,1,2]")

    assert error.message == "device_group.devices: 3 devices do not divide 8 KV heads (model.num_key_value_heads=8)"
    assert error.hint == "use 1, 2, 4, 8 devices, or repeat the heads: model.kv_head_replication=3"


def test_repeated_heads_divide_over_more_devices(spec_of):
    spec = spec_of("backend=qaic", "model=llama", "device_group.devices=[0,1,2]", "model.kv_head_replication=3")

    assert spec.device_group.size == 3


@pytest.mark.parametrize(
    ("words", "kind"),
    [("launch=ray", "launch.absent"), ("launch=slurm", "launch.absent")],
)
def test_what_is_not_here_yet_is_absent_rather_than_wrong(refusal, words, kind):
    error = refusal(words)

    assert (error.kind, error.exit_code) == (kind, 3)
    assert error.where.startswith(f"conf/{words.replace('=', '/')}.yaml:")


def test_all_missing_values_are_named_at_once(refusal):
    error = refusal("model=mine", files={"model/mine.yaml": "path: ???\nmodel_type: ???\n"})

    assert error.kind == "spec.missing"
    assert "model.path" in str(error)
    assert "model.model_type" in str(error)


def test_one_value_stands_for_a_list_of_one_where_that_is_usual(spec_of):
    spec = spec_of("backend=qaic", "specialization.num_speculative_tokens=3")

    assert spec.specialization.num_speculative_tokens == (3,)


def test_a_whole_number_is_a_number(spec_of):
    assert spec_of("decoding.temperature=1").decoding.temperature == 1.0


def test_a_prompt_may_hold_what_a_name_may_not(spec_of, refusal):
    said = "שלום \u200f first line\nsecond line"

    assert spec_of(f'prompts=["{said}"]').prompts == (said,)
    assert refusal(f'out="{said}"').kind == "spec.text"


def test_an_unknown_key_is_refused_wherever_values_come_from():
    with pytest.raises(SpecError) as caught:
        from_config({"backend": {"name": "onnxruntime", "thread": 2}, "model": {"path": "here"}})

    assert str(caught.value) == (
        "error[spec.unknown]: backend.thread: no such key\nhint: did you mean backend.threads?"
    )
