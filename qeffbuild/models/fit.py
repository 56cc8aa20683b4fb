"""What a build asks for, against what the model has: a SpecError for what cannot fit."""

from __future__ import annotations

from collections.abc import Sequence

from qeffbuild.errors import SpecError
from qeffbuild.models.config import number
from qeffbuild.models.facts import Facts
from qeffbuild.models.tasks import CTC, GENERATING
from qeffbuild.spec.types import BuildSpec

_INTEGERS = frozenset({"awq", "gptq", "packed"})  # forms whose integers a compiled graph keeps; others become floats


def fit(spec: BuildSpec, facts: Facts) -> None:
    """Refuse a context, devices or pipeline stages that the model does not have room for."""
    held = {encoded.format for encoded in facts.encodings.values()} & _INTEGERS
    if spec.quantization.mxfp6_matmul and held:
        method = facts.config["quantization_config"]["quant_method"]
        raise SpecError(
            "spec.conflict",
            f"quantization.mxfp6_matmul: the checkpoint is quantized already ({method})",
            hint="leave it out, or use the unquantized checkpoint",
        )
    group = spec.device_group
    fit_values(
        facts,
        ctx_len=spec.specialization.ctx_len,
        seq_len=spec.specialization.seq_len,
        num_devices=1 if group.allow_uneven else group.size,
        mdp_num_partitions=1 if group.allow_uneven else group.mdp_num_partitions,
        kv_head_replication=spec.model.kv_head_replication,
        allow_extended_context=spec.model.allow_extended_context,
    )


def fit_values(
    facts: Facts,
    *,
    ctx_len: int,
    seq_len: Sequence[int] = (),
    num_devices: int,
    mdp_num_partitions: int,
    kv_head_replication: int,
    allow_extended_context: bool,
) -> None:
    """The same for values, as a step's parameters say them."""
    if seq_len and facts.task != CTC:  # sound has no positions that are counted in samples
        _fit_length(facts, "seq_len", max(seq_len), allow_extended_context)
    if facts.task in GENERATING or (facts.task != CTC and not seq_len):
        _fit_length(facts, "ctx_len", ctx_len, allow_extended_context)
    _fit_stages(facts, mdp_num_partitions)
    _fit_replication(facts, kv_head_replication)
    # Pipeline stages share the devices among them; heads are cut over the devices of one stage.
    _fit_devices(facts, num_devices, max(1, num_devices // mdp_num_partitions), kv_head_replication)


def _fit_length(facts: Facts, key: str, length: int, allow_extended_context: bool) -> None:
    highest = facts.max_position_embeddings
    if highest is None or length <= highest:
        return
    found = f"specialization.{key} is {length}; expected 1 to {highest}, the model's max_position_embeddings"
    if highest < (number(facts.config, "max_position_embeddings") or 0):
        found += " without those that padding takes"
    shorter = f"specialization.{key}={highest if key == 'ctx_len' else [highest]}"
    if facts.has_position_table:
        raise SpecError("spec.range", found, hint=f"{shorter}: the model has no positions beyond that")
    if not allow_extended_context:
        hint = f"{shorter}, or to go beyond what the model learned: model.allow_extended_context=true"
        raise SpecError("spec.range", found, hint=hint)


def _fit_stages(facts: Facts, stages: int) -> None:
    layers = facts.num_hidden_layers
    if layers is not None and stages > layers:
        found = f"device_group.mdp_num_partitions is {stages}; expected 1 to {layers}, the model's num_hidden_layers"
        raise SpecError("spec.range", found, hint="a stage holds one layer at least")


def _fit_replication(facts: Facts, replication: int) -> None:
    """Repeated KV heads must still divide the attention heads among them."""
    heads, kv_heads = facts.num_attention_heads, facts.num_key_value_heads
    if replication == 1 or not heads or not kv_heads or heads % (kv_heads * replication) == 0:
        return
    found = f"model.kv_head_replication is {replication}: {kv_heads} KV heads become {kv_heads * replication}"
    allowed = _words(_divisors(heads // kv_heads))
    raise SpecError("spec.divides", f"{found}, which do not divide {heads} attention heads", hint=f"use {allowed}")


def _fit_devices(facts: Facts, devices: int, slices: int, replication: int) -> None:
    heads, kv_heads = facts.num_attention_heads, facts.num_key_value_heads
    if not kv_heads or kv_heads * replication % slices == 0:
        return
    stages = devices // slices
    allowed = [count * stages for count in _divisors(kv_heads * replication)]
    hint = f"use {_words(allowed)} devices"
    factors = _divisors(heads // kv_heads) if heads else []
    if enough := [factor for factor in factors if kv_heads * factor % slices == 0]:
        hint += f", or replicate the heads: model.kv_head_replication={enough[0]}"
    repeated = f" x {replication}" if replication > 1 else ""
    over = f" in {stages} stages" if stages > 1 else ""
    has = f"the model's num_key_value_heads is {kv_heads}{repeated}"
    found = f"device_group.devices: {devices} devices{over}, but {has}"
    raise SpecError("spec.divides", found, hint=hint)


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def _words(numbers: list[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last
