from __future__ import annotations

import io

from qeffbuild.executor.reporter import PlainLines, last_lines


def test_plain_lines_say_why_a_step_runs_and_how_it_failed(workshop):
    said = io.StringIO()
    workshop.heard = PlainLines(said)
    bad = workshop.step("export", "fetch", do=("print('layer 1'); raise RuntimeError('no layer 2')",))

    workshop.build(workshop.step("fetch"), bad, workshop.step("package", "export"))

    lines = said.getvalue().splitlines()
    assert lines[0] == "fetch: never built"
    assert lines[1].startswith("fetch: built in ")
    assert lines[2] == "export: never built"
    assert "export | RuntimeError: no layer 2" in lines
    assert lines[-2:] == ["export: failed", "package: skipped: export failed"]


def test_what_is_up_to_date_is_not_worth_a_line(workshop):
    workshop.build(workshop.step("fetch"))
    said = io.StringIO()
    workshop.heard = PlainLines(said)

    workshop.build(workshop.step("fetch"))

    assert said.getvalue() == ""


def test_a_listener_that_is_gone_does_not_stop_a_build(workshop, results):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    workshop.heard = PlainLines(Gone())

    assert results(workshop.build(workshop.step("fetch"))) == {"fetch": "built"}


def test_the_end_of_a_log_is_its_last_lines(tmp_path):
    (tmp_path / "log").write_text("".join(f"line {n}\n" for n in range(100_000)))

    assert last_lines(tmp_path / "log", 2) == ["line 99998", "line 99999"]
    assert last_lines(tmp_path / "missing") == []
