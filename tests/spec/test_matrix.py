"""The table of what goes with what says the truth: what works loads, what is refused is refused for its reason."""

from __future__ import annotations

import pytest

from qeffbuild.spec import matrix
from qeffbuild.spec.compose import compose
from qeffbuild.spec.load import from_config


def _loaded(combination: matrix.Combination):
    composed = compose(["model=gpt2", *combination.overrides])
    return from_config(composed.values, origins=composed.origins)


def test_every_combination_that_works_is_a_spec_of_that_combination():
    works = [*matrix.combinations("tokens"), *matrix.combinations("documents")]

    assert len(works) > 10
    for combination in works:
        assert combination in tuple(matrix.of_spec(_loaded(combination)))


@pytest.mark.parametrize(
    "combination", [point for point in matrix.combinations() if matrix.verdict(point).gives is None], ids=" ".join
)
def test_every_other_combination_is_refused_with_the_tables_reason(refusal, combination):
    error = refusal("model=gpt2", *combination.overrides)
    asked = (matrix.verdict(point) for point in matrix.combinations() if point.backend == combination.backend)

    assert error.kind == "spec.conflict"
    assert error.message.partition(": ")[2] in {verdict.refused for verdict in asked}


def test_the_remedy_of_a_refusal_is_a_word_that_composes():
    changes = {matrix.verdict(point).change for point in matrix.combinations()} - {""}

    for change in changes:
        compose(["model=gpt2", change])


def test_a_spec_that_does_two_things_at_once_is_two_combinations(spec_of):
    spec = spec_of("backend=qaic", "quantization=mxfp6", "specialization=tlm", "decoding=sample")

    assert {point.decoding for point in matrix.of_spec(spec)} == {"sampled", "speculative"}


@pytest.mark.parametrize("passing", matrix.passings(), ids=" ".join)
def test_a_pass_is_refused_exactly_where_the_table_says_so(refusal, spec_of, passing):
    said = matrix.refusal(passing)
    words = ("model=gpt2", *passing.overrides)

    if said is None:
        assert passing in tuple(matrix.passes_of(spec_of(*words)))
        return
    error = refusal(*words)
    assert error.kind == "spec.conflict"
    if passing.task == "causal-lm":  # else the task may be refused before
        assert error.message.partition(": ")[2] == said.refused


def test_what_leaves_a_pass_out_composes():
    for passing in matrix.passings():
        if said := matrix.refusal(passing):
            compose(["model=gpt2", said.change])


def test_every_row_decides_something():
    deciding = {matrix.verdict(point) for point in matrix.combinations()}

    assert len(deciding) == len(matrix._table()["rows"])
