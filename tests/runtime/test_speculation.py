"""Drafts change how many runs an answer takes, never the answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "transforms"))

import chain

from qeffbuild.errors import RunError
from qeffbuild.runtime.engine import Engine
from qeffbuild.runtime.request import Request
from qeffbuild.runtime.scheduler import Answer
from qeffbuild.runtime.speculation import DraftModel, PromptLookup
from qeffbuild.spec.types import DecodingSpec

PROMPTS = [[3, 1, 4, 1, 5, 9, 3, 1], [27, 18], [11, 12, 13, 11, 12], [8, 8, 8, 8], [5]]
SHAPES = {"batch_size": 2, "prefill_seq_len": 4, "ctx_len": 40, "num_speculative_tokens": [2, 4]}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model without and with speculation, the latter also with rows that come and go; a stranger."""
    root = tmp_path_factory.mktemp("speculation")
    fetch, export = chain.exported("llama", root / "llama")
    shapes = {
        "plain": {**SHAPES, "num_speculative_tokens": []},
        "target": SHAPES,
        "continuous": {**SHAPES, "batch_size": 1, "full_batch_size": 3},
    }
    made = {name: chain.packaged(fetch, export, root / name, specialization=said) for name, said in shapes.items()}
    stranger, graph = chain.exported("gpt2", root / "gpt2")
    return {**made, "stranger": chain.packaged(stranger, graph, root / "stranger", specialization=shapes["plain"])}


def run(package: Path, **said: Any) -> tuple[list[list[int]], Any]:
    decoding = DecodingSpec(**{"max_new_tokens": 14, "ignore_eos": True, **said})
    made = Engine.open(package, threads=1).generate(PROMPTS, decoding)
    return [list(output.token_ids) for output in made.outputs], made.metrics


HOW = {
    "greedy": {},
    "drawn": {"temperature": 0.8, "top_k": 20, "seed": 3},
    "penalised": {"repetition_penalty": 1.5, "presence_penalty": 1.0},
    "to the end of the context": {"max_new_tokens": None},
}


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_a_draft_changes_no_answer(how: str, packages: dict[str, Path]) -> None:
    expected, metrics = run(packages["plain"], **HOW[how])
    assert (metrics.draft_acceptance, metrics.tokens_per_target_run) == (None, None)

    for target in ("target", "continuous"):
        for draft in (None, str(packages["stranger"]), str(packages["plain"])):
            answers, _ = run(packages[target], draft=draft, **HOW[how])
            assert answers == expected, (target, draft)


@pytest.mark.slow
def test_a_draft_that_is_always_right_saves_most_runs(packages: dict[str, Path]) -> None:
    _, itself = run(packages["target"], draft=str(packages["plain"]))
    _, stranger = run(packages["target"], draft=str(packages["stranger"]))

    assert itself.draft_acceptance == 1.0
    # 13 tokens after the first: runs of 5, 5 and 3.
    assert itself.tokens_per_target_run == pytest.approx(13 / 3)
    assert stranger.draft_acceptance < 0.5
    assert 1.0 <= stranger.tokens_per_target_run < 2.0


@pytest.mark.slow
def test_an_answer_ends_at_the_end_of_text_inside_a_draft(packages: dict[str, Path]) -> None:
    answers, _ = run(packages["plain"])
    engine = Engine.open(packages["target"], threads=1)
    eos = answers[0][5]
    engine.limits = type(engine.limits)(**{
        **{name: getattr(engine.limits, name) for name in engine.limits.__dataclass_fields__},
        "eos_token_ids": frozenset({eos}),
    })  # fmt: skip

    decoding = DecodingSpec(max_new_tokens=14, draft=str(packages["plain"]))
    (output,) = engine.generate([PROMPTS[0]], decoding).outputs

    assert output.finish == "eos"
    assert list(output.token_ids) == answers[0][: answers[0].index(eos) + 1]


@pytest.mark.slow
def test_what_cannot_draft_is_refused(packages: dict[str, Path]) -> None:
    with pytest.raises(RunError) as caught:
        run(packages["plain"], draft=str(packages["stranger"]))

    assert caught.value.kind == "run.speculation"
    assert caught.value.hint == "build it with specialization.num_speculative_tokens=4"


@pytest.fixture(scope="module")
def carrying(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model whose states are replaced whole by every run, without and with speculation."""
    root = tmp_path_factory.mktemp("carrying")
    fetch, export = chain.exported("mamba", root / "mamba")
    shapes = {"plain": {**SHAPES, "num_speculative_tokens": []}, "target": SHAPES}
    return {name: chain.packaged(fetch, export, root / name, specialization=said) for name, said in shapes.items()}


@pytest.mark.slow
def test_a_state_that_is_replaced_whole_is_taken_back_where_a_draft_was_wrong(
    carrying: dict[str, Path], packages: dict[str, Path]
) -> None:
    expected, _ = run(carrying["plain"])

    itself, right = run(carrying["target"], draft=str(carrying["plain"]))
    stranger, wrong = run(carrying["target"], draft=str(packages["stranger"]))

    assert itself == stranger == expected
    assert right.tokens_per_target_run == pytest.approx(13 / 3)
    # What was right of a draft is fed once more, which is a run as well.
    assert wrong.draft_acceptance < 0.5
    assert wrong.tokens_per_target_run < 1.0


@pytest.mark.slow
def test_a_draft_model_goes_back_to_what_its_target_has_chosen(carrying: dict[str, Path]) -> None:
    limits = Engine.open(carrying["target"], threads=1).limits
    model, text = DraftModel.open(carrying["plain"], limits, threads=1), [3, 1, 4, 1, 5, 9, 3]

    for chosen in ([7, 20], [21], [30, 31, 32, 33, 34], [1]):
        drafts = model.propose([answer(*text)], [3])
        text = [*text, *drafts[0][:1], *chosen]
        alone = DraftModel.open(carrying["plain"], limits, threads=1)
        assert model.propose([answer(*text)], [3]) == alone.propose([answer(*text)], [3])
    # Another text in the same slot begins anew.
    alone = DraftModel.open(carrying["plain"], limits, threads=1)
    assert model.propose([answer(4, 4, 2)], [3]) == alone.propose([answer(4, 4, 2)], [3])


def answer(*token_ids: int) -> Answer:
    request = Request(id=0, token_ids=token_ids, decoding=DecodingSpec())
    return Answer(request, 0, list(token_ids), 99)


@pytest.mark.parametrize(
    ("text", "most", "drafted"),
    [
        ((1, 2, 3, 4, 9, 1, 2), 3, [3, 4, 9]),  # what followed the same two tokens
        ((1, 2, 3, 7, 2, 5, 1, 2), 2, [3, 7]),  # the longer end decides: not what followed the last 2
        ((7, 7, 7, 7), 3, [7, 7, 7]),  # what repeats itself goes on so
        ((1, 2, 1, 2, 1, 2), 5, [1, 2, 1, 2, 1]),
        ((1, 2, 3), 3, []),
        ((5,), 3, []),
        ((1, 2, 1), 0, []),
    ],
)
def test_what_followed_before_is_proposed(text: tuple[int, ...], most: int, drafted: list[int]) -> None:
    assert PromptLookup(3).propose([answer(*text)], [most]) == [drafted]


def test_a_text_that_grows_is_read_on() -> None:
    lookup, grown = PromptLookup(2), answer(1, 2, 3)
    lookup.propose([grown], [2])

    grown.token_ids += [1, 2]

    assert lookup.propose([grown], [2]) == [[3, 1]]
