"""An engine answers every prompt as the model alone would, whatever runs beside it and ran before it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qeffbuild.errors import RunError
from qeffbuild.runtime.engine import Engine
from qeffbuild.runtime.rules import Rules
from qeffbuild.spec.types import DecodingSpec


def prompts_of(*lengths: int) -> list[list[int]]:
    random = np.random.default_rng(sum(lengths))
    return [random.integers(0, 60, length).tolist() for length in lengths]


def answers(engine: Engine, prompts: list[list[int]], **decoding) -> list[list[int]]:
    return [list(output.token_ids) for output in engine.generate(prompts, DecodingSpec(**decoding)).outputs]


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 9, 26])
def test_a_prompt_of_any_number_of_chunks_is_answered_as_without_a_cache(toy, length):
    engine, model, session = toy(prefill_seq_len=4)
    (prompt,) = prompts_of(length)

    assert answers(engine, [prompt], max_new_tokens=6) == [model.greedy(prompt, 6)]
    assert session.shapes == [(1, 4)] * -(-length // 4) + [(1, 1)] * 5


@pytest.mark.parametrize("is_continuous", [False, True])
@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8])
def test_every_prompt_of_a_ragged_batch_gets_its_own_answer(toy, slots, is_continuous):
    engine, model, _ = toy(slots=slots, is_continuous=is_continuous)
    prompts = prompts_of(3, 17, 1, 8, 4, 9, 12)

    assert answers(engine, prompts, max_new_tokens=7) == [model.greedy(prompt, 7) for prompt in prompts]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=9),
    slots=st.integers(1, 4),
    width=st.integers(1, 9),
    is_continuous=st.booleans(),
    eos=st.sets(st.integers(0, 63), max_size=12),
)
def test_no_schedule_changes_an_answer(toy, lengths, slots, width, is_continuous, eos):
    engine, model, _ = toy(slots=slots, prefill_seq_len=width, is_continuous=is_continuous, eos=eos)
    prompts = prompts_of(*lengths)

    assert answers(engine, prompts) == [until(eos, model.greedy(prompt, 32 - len(prompt))) for prompt in prompts]


def until(eos: set[int], token_ids: list[int]) -> list[int]:
    """The tokens up to and with the first end of text."""
    ends = [place for place, token_id in enumerate(token_ids) if token_id in eos]
    return token_ids[: ends[0] + 1] if ends else token_ids


def test_generation_ends_at_any_eos_token_or_at_a_length_and_says_which(toy):
    prompt = prompts_of(6)[0]
    _, model, _ = toy()
    expected = model.greedy(prompt, 26)
    end = next(place for place in range(5, 26) if expected[place] not in expected[:place])
    engine, _, _ = toy(eos=[expected[end], 63])

    stopped = engine.generate([prompt], DecodingSpec()).outputs[0]
    limited = engine.generate([prompt], DecodingSpec(max_new_tokens=3)).outputs[0]
    ignored = engine.generate([prompt], DecodingSpec(ignore_eos=True)).outputs[0]

    assert (list(stopped.token_ids), stopped.finish) == (expected[: end + 1], "eos")
    assert (list(limited.token_ids), limited.finish) == (expected[:3], "length")
    assert (list(ignored.token_ids), ignored.finish) == (expected, "length")


def test_a_model_says_first_last_and_never_what_it_is_told(toy):
    long, short = prompts_of(6, 1)
    _, model, _ = toy()
    never = model.greedy(long, 1)[0]
    engine, _, _ = toy(slots=2, rules=Rules(eos=(), never=(never,), forced_first=7, forced_last=0))

    of_long, of_short = answers(engine, [long, short], max_new_tokens=4)

    assert (len(of_long), of_long[-1], never in of_long) == (4, 0, False)
    assert (len(of_short), of_short[0], of_short[-1]) == (4, 7, 0)  # the second token of a text is the forced one


def test_an_answer_may_fill_the_context_to_its_last_slot(toy):
    engine, model, _ = toy(ctx_len=16)
    prompts = prompts_of(15, 9)

    found = engine.generate(prompts, DecodingSpec(max_new_tokens=100)).outputs

    assert [list(output.token_ids) for output in found] == [model.greedy(prompts[0], 1), model.greedy(prompts[1], 7)]
    assert [output.finish for output in found] == ["length", "length"]


@pytest.mark.parametrize("is_continuous", [False, True])
def test_a_later_call_sees_nothing_of_an_earlier_one(toy, is_continuous):
    engine, model, _ = toy(slots=2, is_continuous=is_continuous)
    long, short = prompts_of(25, 2)

    first = answers(engine, [long, long, short])
    second = answers(engine, [short, long], max_new_tokens=5)

    assert first[2] == model.greedy(short, 30)
    assert second == [model.greedy(short, 5), model.greedy(long, 5)]


def test_continuous_batching_fills_a_free_slot_while_the_other_row_goes_on(toy):
    prompts = prompts_of(31, 20, 20, 31)  # in a context of 32: 1, 12, 12 and 1 tokens to say

    decodes = []
    for is_continuous in (False, True):
        engine, _, session = toy(slots=2, is_continuous=is_continuous)
        answers(engine, prompts)
        decodes.append(session.shapes.count((2, 1)))

    assert decodes == [11 + 11, 11]


def test_a_sampled_answer_depends_on_its_prompt_and_seed_alone(toy):
    prompts = prompts_of(5, 9, 2, 14)
    sampling = {"temperature": 1.2, "top_p": 0.9, "repetition_penalty": 1.3, "seed": 7, "max_new_tokens": 9}

    alone = [answers(toy()[0], [prompt], **sampling)[0] for prompt in prompts]
    together = answers(toy(slots=3, is_continuous=True)[0], prompts, **sampling)
    reseeded = answers(toy(slots=4)[0], prompts, **{**sampling, "seed": 8})

    assert together == alone
    assert reseeded != alone


def test_events_come_token_by_token_and_add_up_to_the_outputs(toy):
    engine, _, _ = toy(slots=2, is_continuous=True)

    stream = engine.stream(["hello there", "ab", "c"], DecodingSpec(max_new_tokens=4))
    events = list(stream)
    outputs = stream.result().outputs

    for place, output in enumerate(outputs):
        mine = [event for event in events if event.request == place]
        assert tuple(event.token_id for event in mine) == output.token_ids
        assert "".join(event.text for event in mine) == output.text
        assert [event.finish for event in mine] == [None, None, None, "length"]
    assert [output.prompt for output in outputs] == ["hello there", "ab", "c"]
    assert engine.generate("ab", DecodingSpec(max_new_tokens=4)).outputs == outputs[1:2]


def test_a_stream_that_another_has_overtaken_stops_with_an_error(toy):
    engine, model, _ = toy()
    abandoned = engine.stream([[1, 2, 3]], DecodingSpec())
    next(iter(abandoned))

    assert answers(engine, [[4, 5]], max_new_tokens=3) == [model.greedy([4, 5], 3)]
    with pytest.raises(RunError) as error:
        next(iter(abandoned))
    assert error.value.kind == "run.stream"


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([], "there is no prompt"),
        ([[1], []], "prompt 2 is empty"),
        (["", "a"], "prompt 1 is empty"),
        ([[1] * 32], "prompt 1 has 32 tokens, but ctx_len is 32 and holds prompt and answer"),
        ([[1], [2, 64]], "prompt 2: token id 64 is outside the vocabulary of 64"),
        ([[-1]], "prompt 1: token id -1 is outside the vocabulary of 64"),
    ],
)
def test_a_prompt_that_cannot_be_run_is_refused_before_anything_runs(toy, prompts, said):
    engine, _, session = toy()

    with pytest.raises(RunError) as error:
        engine.generate(prompts, DecodingSpec())

    assert (error.value.kind, error.value.message) == ("run.prompt", said)
    assert error.value.hint
    assert session.shapes == []


def test_logits_that_are_no_numbers_are_an_error_not_a_token(toy):
    engine, model, _ = toy()
    model.head[:, 5] = np.nan

    with pytest.raises(RunError) as error:
        engine.generate([[1, 2]], DecodingSpec())

    assert error.value.kind == "run.logits"
