from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from plain import plain

from qeffbuild.api.specs import bounded
from qeffbuild.errors import SpecError
from qeffbuild.models import DEMO, Facts, fit, read_facts
from qeffbuild.models.fit import fit_values
from qeffbuild.models.weights import Tensor
from qeffbuild.spec.types import ModelSpec, SpecializationSpec

WORDS = {"num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 64}
LLAMA = Facts(config={"model_type": "llama", **WORDS}, generation_config=None, task="causal-lm", tensors={})


def refused(facts: Facts = LLAMA, **values: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        ask(facts, **values)
    return caught.value


def ask(facts: Facts = LLAMA, **values: Any) -> None:
    usual: dict[str, Any] = {"ctx_len": 64, "num_devices": 1, "mdp_num_partitions": 1, "kv_head_replication": 1}
    fit_values(facts, **{**usual, "allow_extended_context": False, **values})


def test_a_context_beyond_the_models_positions_names_both_ends() -> None:
    problem = refused(ctx_len=65)

    assert problem.kind == "spec.range"
    assert "1 to 64" in problem.message
    assert problem.hint is not None
    assert "model.allow_extended_context=true" in problem.hint


def test_a_context_that_nobody_chose_ends_where_the_models_positions_do() -> None:
    said = plain("onnxruntime", model=ModelSpec(path="somewhere"), specialization=SpecializationSpec(ctx_len=128))

    usual = bounded(replace(said, is_ctx_len_asked=False), LLAMA.max_position_embeddings)

    assert (usual.specialization.ctx_len, usual.specialization.prefill_seq_len) == (64, 32)
    assert bounded(said, LLAMA.max_position_embeddings) is said  # and is refused


def test_a_longer_context_may_be_allowed() -> None:
    ask(ctx_len=65, allow_extended_context=True)


def test_a_table_of_positions_has_no_rows_beyond_its_end_whatever_is_allowed() -> None:
    problem = refused(read_facts(DEMO), ctx_len=513, allow_extended_context=True)

    assert problem.kind == "spec.range"
    assert "1 to 512" in problem.message


@pytest.mark.parametrize(
    ("model_type", "padding", "rows", "longest"),
    [
        ("roberta", 1, 514, 512),
        ("data2vec-text", 1, 514, 512),
        ("bert", 1, 514, 514),
        ("opt", 1, 516, 514),
        ("trocr", None, 516, 514),
    ],
)
def test_positions_that_begin_behind_padding_leave_that_many_less(
    model_type: str, padding: int | None, rows: int, longest: int
) -> None:
    rows_of_8 = Tensor(file="m", offset=0, nbytes=rows * 32, dtype="float32", shape=(rows, 8))
    table = {"roberta.embeddings.position_embeddings.weight": rows_of_8}
    config = {"model_type": model_type, "max_position_embeddings": 514, "pad_token_id": padding}
    facts = Facts(config=config, generation_config=None, task="causal-lm", tensors=table)

    ask(facts, ctx_len=longest)
    assert f"1 to {longest}" in refused(facts, ctx_len=longest + 1).message


def test_devices_that_do_not_divide_the_kv_heads_are_told_which_do() -> None:
    problem = refused(num_devices=3)

    assert (problem.kind, problem.hint) == ("spec.divides", "use 1, 2 or 4 devices")


def test_repeated_kv_heads_make_room_for_more_devices() -> None:
    problem = refused(num_devices=8)

    assert problem.hint is not None
    assert "model.kv_head_replication=2" in problem.hint
    ask(num_devices=8, kv_head_replication=2)


def test_kv_heads_repeated_beyond_the_attention_heads_are_refused() -> None:
    problem = refused(kv_head_replication=3)

    assert (problem.kind, problem.hint) == ("spec.divides", "use 1, 2 or 4")


def test_stages_share_the_devices_and_each_holds_a_layer() -> None:
    ask(num_devices=6, mdp_num_partitions=3)

    problem = refused(num_devices=5, mdp_num_partitions=5)
    assert (problem.kind, problem.exit_code) == ("spec.range", 2)
    assert "1 to 4" in problem.message


def test_facts_that_a_model_does_not_say_refuse_nothing() -> None:
    unsaid = Facts(config={"model_type": "llama"}, generation_config=None, task="causal-lm", tensors={})

    ask(unsaid, ctx_len=1 << 20, num_devices=3, mdp_num_partitions=3)


def test_a_whole_spec_is_held_against_the_facts() -> None:
    spec = plain("onnxruntime", model=ModelSpec(path=str(DEMO)), specialization=SpecializationSpec(ctx_len=1024))

    with pytest.raises(SpecError) as caught:
        fit(spec, read_facts(DEMO))

    assert caught.value.kind == "spec.range"
