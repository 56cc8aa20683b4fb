from __future__ import annotations

import sys

import pytest

from qeffbuild.errors import AbsentError, LimitError, StepError
from qeffbuild.executor.command import run_command


def test_output_is_passed_on_as_it_comes(capsys):
    last = run_command(["sh", "-c", "echo one; echo two >&2"])

    assert last == ("one", "two")
    assert capsys.readouterr().out == "$ sh -c 'echo one; echo two >&2'\none\ntwo\n"


def test_a_failure_says_the_last_line_and_how_to_repeat_it():
    with pytest.raises(StepError) as failed:
        run_command(["sh", "-c", "echo line one; echo 'bad option'; exit 3"])

    assert failed.value.kind == "step.command"
    assert failed.value.message == "sh exited with 3: bad option"
    assert failed.value.hint == "repeat: sh -c 'echo line one; echo '\"'\"'bad option'\"'\"'; exit 3'"


def test_a_command_that_dies_of_a_signal_says_so():
    with pytest.raises(StepError) as failed:
        run_command(["sh", "-c", "kill -9 $$"])

    assert failed.value.message == "sh was killed by signal 9: it said nothing"


def test_a_missing_program_is_absent():
    with pytest.raises(AbsentError) as failed:
        run_command(["no-such-compiler"])

    assert (failed.value.kind, failed.value.exit_code) == ("command.absent", 3)


def test_a_command_and_its_children_are_ended_when_the_time_is_up():
    with pytest.raises(LimitError) as failed:
        run_command(["sh", "-c", "sleep 60 & sleep 60"], timeout_s=0.3)

    assert failed.value.kind == "limit.time"


def test_no_shell_reads_the_words(capsys):
    run_command([sys.executable, "-c", "import sys; print(sys.argv[1])", "$(id); *"])

    assert capsys.readouterr().out.endswith("\n$(id); *\n")


def test_given_environment_is_added_to_ours(capsys):
    run_command(["sh", "-c", "echo $EXTRA $HOME"], env={"EXTRA": "more"})

    assert capsys.readouterr().out.splitlines()[-1].startswith("more /")
