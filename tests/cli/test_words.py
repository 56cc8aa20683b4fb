"""Words without = are verbs, as in make; everything else is a flag or an override."""

from __future__ import annotations

import pytest

from qeffbuild.cli.verbs import VERBS
from qeffbuild.cli.words import Call, parse
from qeffbuild.errors import QeffBuildError


def refusal(line: str) -> QeffBuildError:
    with pytest.raises(QeffBuildError) as refused:
        parse(line.split())
    return refused.value


def test_no_words_at_all_let_the_demo_speak() -> None:
    assert parse([]).calls == (Call("run"),)
    assert parse([]).overrides == ("recipe=demo",)
    assert parse(["build"]).overrides == ()


def test_no_verb_means_run() -> None:
    assert parse([]).calls == (Call("run"),)
    assert parse(["model=gpt2"]).calls == (Call("run"),)


def test_verbs_overrides_and_flags_may_come_in_any_order() -> None:
    one = parse(["plan", "build", "model=gpt2", "--json"])
    other = parse(["--json", "plan", "model=gpt2", "build"])

    assert one == other
    assert one.calls == (Call("plan"), Call("build"))
    assert one.overrides == ("model=gpt2",)


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("why", Call("why")),
        ("why export model=gpt2", Call("why", ("export",))),
        ("why compile[decode]", Call("why", ("compile[decode]",))),
        ("diff a=1 b=2 c=3", Call("diff", ("a=1", "b=2"))),
        ("cache du", Call("cache", ("du",))),
        ("verify plan", Call("verify", ("plan",))),
        ("graph dot", Call("graph", ("dot",))),
    ],
)
def test_a_verb_takes_the_bare_words_that_belong_to_it(line: str, call: Call) -> None:
    assert parse(line.split()).calls == (call,)


def test_additions_and_deletions_are_overrides() -> None:
    assert parse(["build", "~adapters", "+a.b=1"]).overrides == ("~adapters", "+a.b=1")


def test_flags_that_stand_for_overrides_become_them() -> None:
    assert parse(["build", "-j", "3", "--keep-going"]).overrides == ("launch.jobs=3", "launch.keep_going=true")


def test_a_flag_takes_its_value_behind_a_space_or_an_equals_sign() -> None:
    assert parse(["build", "--to", "export"]).goal == parse(["build", "--to=export"]).goal == "export"


@pytest.mark.parametrize(
    ("line", "kind", "hint"),
    [
        ("biuld", "verb.unknown", "did you mean build?"),
        ("ctx_len", "verb.unknown", "ctx_len=VALUE"),
        ("build --jsn", "flag.unknown", "did you mean --json?"),
        ("build --to", "flag.value", "--to GOAL"),
        ("build --to moon", "flag.value", "export"),
        ("build --jobs many", "flag.value", "--jobs 2"),
        ("build --json=yes", "flag.value", "--json alone"),
        ("run --to export", "flag.verb", "plan build"),
        ("diff a=1", "verb.operand", "diff"),
        ("cache", "verb.operand", "cache ls"),
        ("doctor -m", "sweep.verb", "plan build"),
        ("build --config-dir=/etc", "override.path", "./conf"),
        ("build -cn ../x", "override.path", "./conf"),
        ("--experimental-rerun x", "override.path", "./conf"),
    ],
)
def test_a_word_that_means_nothing_is_refused_with_the_next_move(line: str, kind: str, hint: str) -> None:
    error = refusal(line)

    assert (error.kind, error.exit_code) == (kind, 2)
    assert error.hint is not None
    assert hint in error.hint


def test_every_example_of_the_help_can_be_said() -> None:
    import shlex

    for verb in VERBS.values():
        for example in verb.examples:
            if "$(" not in example:
                assert parse(shlex.split(example)[1:]).calls[0].verb == verb.name
