"""What a plan foretells is what a build does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from still_world import Still

from qeffbuild.executor import execute
from qeffbuild.plan import Plan, Step
from qeffbuild.plan.keys import deep_keys
from qeffbuild.report.forecast import NOT_NEEDED, forecast
from qeffbuild.store import Store

COPY = """
def run(work):
    text = "".join(sorted((folder / "text").read_text() for folder in work.inputs.values()))
    (work.out / "text").write_text(text[:3] + work.params.get("more", ""))
"""


def steps(first: str = "abc", second: str = "") -> Plan:
    one = Step(name="one", action="forecast_copy", params={"more": first}, reads={"more": "model.first"})
    two = Step(name="two", action="forecast_copy", params={"more": second}, inputs={"text": "one"})
    three = Step(name="three", action="forecast_copy", inputs={"text": "two"})
    return Plan((one, two, three), ("three",))


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Plan], dict[str, str]]:
    """Build a plan; the result of each step."""
    (tmp_path / "forecast_copy.py").write_text(COPY)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(plan: Plan) -> dict[str, str]:
        store = Store(tmp_path / "cache")
        outcomes = execute(plan, deep_keys(plan, Still()), store, world=Still(), in_process=("forecast_copy",))
        store.close()
        return {outcome.step.name: outcome.result for outcome in outcomes}

    return run


def statuses(plan: Plan, root: Path) -> dict[str, str]:
    return {step.step.name: step.status for step in forecast(plan, deep_keys(plan, Still()), Store(root))}


def test_nothing_is_there_before_the_first_build_and_nothing_is_created(tmp_path: Path) -> None:
    found = forecast(steps(), deep_keys(steps(), Still()), Store(tmp_path / "cache"))

    assert [(step.status, step.because, step.estimate) for step in found] == [("build", ("never built",), None)] * 3
    assert not (tmp_path / "cache").exists()


def test_what_was_built_is_a_hit_and_says_what_it_cost(build: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    build(steps())

    found = forecast(steps(), deep_keys(steps(), Still()), Store(tmp_path / "cache"))

    assert {step.status for step in found} == {"hit"}
    assert all(step.estimate is not None for step in found)


def test_behind_a_changed_input_a_step_may_find_the_same_bytes(
    build: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    build(steps("abc"))

    foretold = statuses(steps("abcd"), tmp_path / "cache")
    done = build(steps("abcd"))

    assert foretold == {"one": "build", "two": "unknown", "three": "unknown"}
    assert done == {"one": "built", "two": "built", "three": "cutoff"}


def test_a_damaged_result_is_foretold_as_built_anew_and_left_as_it_is(
    build: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    build(steps())
    digest = deep_keys(steps(), Still())["three"].digest
    text = Store(tmp_path / "cache").entry_path(digest) / "out" / "text"
    text.chmod(0o644)
    text.write_text("xyz")

    assert statuses(steps(), tmp_path / "cache")["three"] == "build"
    assert text.read_text() == "xyz"


def test_what_nobody_needs_is_not_built_for_its_own_sake(build: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    build(steps())
    store = Store(tmp_path / "cache")
    keys = deep_keys(steps(), Still())
    store.entry_path(keys["two"].digest).rename(tmp_path / "gone")

    two = next(step for step in forecast(steps(), keys, store) if step.step.name == "two")

    assert (two.status, two.because) == ("hit", (NOT_NEEDED,))
