from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import pytest

from qeffbuild.errors import ModelError, StepError
from qeffbuild.plan.types import Leaf, Plan


def test_a_build_runs_each_step_after_what_it_reads(workshop, results):
    step = workshop.step

    outcomes = workshop.build(step("fetch", say="model"), step("export", "fetch"), step("package", "export", "fetch"))

    assert results(outcomes) == {"fetch": "built", "export": "built", "package": "built"}
    assert workshop.ran() == ["fetch", "export", "package"]
    assert "model" in (outcomes["package"].out / "said").read_text()
    assert [outcome.because for outcome in outcomes.values()] == [("never built",)] * 3


def test_a_second_build_runs_nothing_and_looks_at_the_goal_alone(workshop, results):
    steps = [workshop.step("fetch"), workshop.step("export", "fetch")]
    first = workshop.build(*steps)
    workshop.ran()
    shutil.rmtree(first["fetch"].entry.path)

    second = workshop.build(*steps)

    assert results(second) == {"fetch": "hit", "export": "hit"}
    assert workshop.ran() == []
    assert second["fetch"].because == ("not looked at: what reads it is up to date",)
    assert second["export"].out == first["export"].out


def test_a_changed_parameter_rebuilds_what_reads_it_and_says_why(workshop, results):
    fetch, compile_ = workshop.step("fetch"), workshop.step("compile", "fetch", reads={"say": "backend.mos"}, say="1")
    workshop.build(fetch, compile_)
    workshop.ran()

    outcomes = workshop.build(fetch, replace(compile_, params={**compile_.params, "say": "2"}))

    assert results(outcomes) == {"fetch": "hit", "compile": "built"}
    assert outcomes["compile"].because == ("backend.mos 1 -> 2",)
    assert workshop.ran() == ["compile"]


def test_an_input_rebuilt_to_the_same_bytes_ends_the_rebuild(workshop, results):
    fetch, export = workshop.step("fetch"), workshop.step("export", "fetch")
    package = workshop.step("package", "export")
    workshop.build(fetch, export, package)
    workshop.ran()
    again = replace(fetch, version=2)

    outcomes = workshop.build(again, export, package)

    assert results(outcomes) == {"fetch": "built", "export": "cutoff", "package": "cutoff"}
    assert workshop.ran() == ["fetch"]
    assert results(workshop.build(again, export, package)) == {"fetch": "hit", "export": "hit", "package": "hit"}


def test_a_step_reads_only_the_files_that_it_names(workshop, results):
    fetch = workshop.step("fetch", params={"note": "first"})
    export = workshop.step("export", "fetch", narrow={"fetch": ("said",)})
    wide = workshop.step("wide", "fetch")
    workshop.build(fetch, export, wide, goals=("export", "wide"))

    changed = replace(fetch, params={**fetch.params, "note": "second"})
    outcomes = workshop.build(changed, export, wide, goals=("export", "wide"))

    assert results(outcomes) == {"fetch": "built", "export": "cutoff", "wide": "built"}


def test_a_failure_is_an_outcome_and_what_needs_it_is_skipped(workshop, results):
    outcomes = workshop.build(
        workshop.step("fetch"),
        workshop.step("export", "fetch", do=("print('half way')", "raise RuntimeError('no such layer')")),
        workshop.step("package", "export"),
    )

    assert results(outcomes) == {"fetch": "built", "export": "failed", "package": "skipped"}
    error = outcomes["export"].error
    assert isinstance(error, StepError)
    assert (error.kind, error.message) == ("step.failed", "export: RuntimeError: no such layer")
    assert error.where == str(outcomes["export"].log)
    log = outcomes["export"].log.read_text()
    assert "half way" in log
    assert "Traceback" in log
    assert outcomes["package"].because == ("export failed",)


def test_a_failed_step_is_run_again_and_leaves_nothing_behind(workshop, results):
    steps = (workshop.step("fetch"), workshop.step("export", "fetch", do=("raise RuntimeError",)))
    workshop.build(*steps)

    assert results(workshop.build(*steps)) == {"fetch": "hit", "export": "failed"}
    assert workshop.ran() == ["fetch", "export", "export"]
    assert list((workshop.store.home / "staging").iterdir()) == []


def test_an_error_of_ours_keeps_its_class_and_kind(workshop):
    raising = "raise ModelError('model.weights', 'tensor missing', where='model.safetensors', hint='fetch again')"
    do = (f"from qeffbuild.errors import ModelError; {raising}",)

    error = workshop.build(workshop.step("check", do=do))["check"].error

    assert type(error) is ModelError
    assert error.as_json() == {
        "kind": "model.weights",
        "message": "tensor missing",
        "where": "model.safetensors",
        "hint": "fetch again",
    }


def test_a_full_disk_under_an_action_is_trouble_of_the_store(workshop):
    error = workshop.build(workshop.step("export", do=("raise OSError(28, 'No space left on device')",)))[
        "export"
    ].error

    assert (error.kind, error.exit_code) == ("cache.full", 5)


def test_after_a_failure_independent_steps_run_only_on_request(workshop, results):
    bad, good = workshop.step("bad", do=("raise RuntimeError",)), workshop.step("good")
    goals = ("bad", "good")

    assert results(workshop.build(bad, good, goals=goals)) == {"bad": "failed", "good": "skipped"}
    assert results(workshop.build(bad, good, goals=goals, keep_going=True)) == {"bad": "failed", "good": "built"}


def test_a_step_that_comes_first_is_not_read(workshop, results):
    check = workshop.step("check", say="1")
    export = workshop.step("export", after=("check",))
    first = workshop.build(check, export)

    stricter = workshop.step("check", say="2", do=("raise RuntimeError",))
    second = workshop.build(stricter, export)

    assert workshop.ran() == ["check", "export", "check"]
    assert second["export"].key == first["export"].key
    assert results(second) == {"check": "failed", "export": "hit"}


def test_a_step_whose_check_failed_does_not_run(workshop, results):
    outcomes = workshop.build(
        workshop.step("check", do=("raise RuntimeError",)), workshop.step("export", after=("check",))
    )

    assert results(outcomes) == {"check": "failed", "export": "skipped"}


@pytest.mark.parametrize("change", ["write_text('two and more')", "unlink()"])
def test_a_leaf_that_changed_while_it_was_read_discards_the_result(workshop, change):
    source = workshop.folder / "source"
    source.write_text("one")
    do = (f"work.leaves['source'].read_text(); pathlib.Path({str(source)!r}).{change}; work.leaves.clear()",)
    leaf = Leaf(name="source", path=str(source))

    outcome = workshop.build(workshop.step("fetch", do=do, leaves=(leaf,)))["fetch"]

    assert (outcome.result, outcome.error.kind) == ("failed", "step.changed")
    assert workshop.store.find(outcome.key.digest) is None


def test_a_reference_that_is_no_path_is_located_in_the_worker(workshop, monkeypatch):
    (workshop.folder / "source").write_text("weights")
    leaf = Leaf(name="source", path=f"hub:{workshop.folder / 'source'}")
    monkeypatch.setattr(workshop.world, "leaf", lambda leaf: "0")

    outcome = workshop.build(workshop.step("fetch", leaves=(leaf,)), locate="small_action:locate")["fetch"]

    assert outcome.error is None
    assert "weights" in (outcome.out / "said").read_text()


def test_a_damaged_input_is_built_again(workshop, results):
    fetch, export = workshop.step("fetch"), workshop.step("export", "fetch")
    first = workshop.build(fetch, export)
    said = first["fetch"].out / "said"
    said.chmod(0o644)
    said.write_text("x")

    second = workshop.build(fetch, workshop.step("export", "fetch", say="other"))

    assert results(second) == {"fetch": "built", "export": "built"}
    assert second["fetch"].because == ("its result was damaged",)
    assert len(workshop.said) == 1


def test_a_sweep_runs_a_shared_step_once_and_the_others_in_spite_of_failures(workshop):
    def plan(say: str, do: tuple[str, ...] = ()) -> Plan:
        steps = (
            workshop.step("fetch"),
            workshop.step("export", "fetch"),
            workshop.step("compile", "export", say=say, do=do),
        )
        return Plan(steps, ("compile",))

    outcomes = workshop.sweep(plan("1"), plan("2", do=("raise RuntimeError",)), plan("3"))

    assert sorted(workshop.ran()) == ["compile", "compile", "compile", "export", "fetch"]
    assert [(outcome.step.name, outcome.result, outcome.variants) for outcome in outcomes] == [
        ("fetch", "built", (0, 1, 2)),
        ("export", "built", (0, 1, 2)),
        ("compile", "built", (0,)),
        ("compile", "failed", (1,)),
        ("compile", "built", (2,)),
    ]


def test_one_variants_failed_check_does_not_keep_another_from_what_they_share(workshop):
    def plan(say: str, do: tuple[str, ...] = ()) -> Plan:
        return Plan((workshop.step("check", say=say, do=do), workshop.step("export", after=("check",))), ("export",))

    outcomes = workshop.sweep(plan("bad", do=("raise RuntimeError",)), plan("good"))

    assert [(outcome.step.name, outcome.result) for outcome in outcomes] == [
        ("check", "failed"),
        ("export", "built"),
        ("check", "built"),
    ]


def test_light_actions_run_without_a_worker_and_log_all_the_same(workshop, results):
    steps = (workshop.step("fetch", do=("print('from', 'inside')",)), workshop.step("export", "fetch"))

    outcomes = workshop.build(*steps, in_process={"small_action"})

    assert results(outcomes) == {"fetch": "built", "export": "built"}
    assert {int(line.split()[1]) for line in workshop.lines()} == {os.getpid()}
    assert outcomes["fetch"].log.read_text() == "from inside\n"
    assert (
        workshop.build(workshop.step("bad", do=("raise RuntimeError('x')",)), in_process={"small_action"})[
            "bad"
        ].error.message
        == "bad: RuntimeError: x"
    )


def test_steps_run_side_by_side_when_there_are_jobs_enough(workshop, results):
    """Each waits for a sign of the other: alone, neither could end."""
    mine, yours = workshop.folder / "mine", workshop.folder / "yours"
    wait = "while not pathlib.Path({!r}).exists(): time.sleep(0.01)"
    left = workshop.step("left", do=(f"pathlib.Path({str(mine)!r}).touch()", wait.format(str(yours))))
    right = workshop.step("right", do=(f"pathlib.Path({str(yours)!r}).touch()", wait.format(str(mine))))

    outcomes = workshop.build(left, right, goals=("left", "right"), jobs=2, timeout_s=30)

    assert results(outcomes) == {"left": "built", "right": "built"}


def test_the_reporter_hears_of_every_step(workshop):
    workshop.build(workshop.step("fetch"), workshop.step("export", "fetch", do=("work.progress(1.0, 'layers')",)))
    workshop.build(workshop.step("fetch"), workshop.step("export", "fetch", reads={"say": "word"}, say="new"))

    assert workshop.heard.lines == [
        "fetch starts: never built",
        "fetch built",
        "export starts: never built",
        "export built",
        "fetch hit",
        'export starts: do ["work.progress(1.0, \'layers\')"] -> [], word "" -> new',
        "export built",
    ]
    assert workshop.heard.fractions == [("export", 1.0, "layers")]


def test_an_outcome_is_json(workshop):
    said = workshop.build(workshop.step("fetch"))["fetch"].as_json()

    assert json.loads(json.dumps(said)) == said
    assert said.keys() == {"name", "result", "because", "seconds", "peak_rss_mb", "log"}


@pytest.mark.parametrize("word", ["seconds", "peak_rss_mb"])
def test_what_a_step_cost_is_recorded(workshop, word):
    outcome = workshop.build(workshop.step("fetch"))["fetch"]

    assert getattr(outcome.entry.record, word) > 0
    assert getattr(outcome, word) == getattr(outcome.entry.record, word)
