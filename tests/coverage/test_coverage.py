"""The whole table of docs/architectures.md, type by type; `make coverage` writes it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "architectures.md"


def passing() -> list[str]:
    table = PAGE.read_text("utf-8").partition("## Pass")[2].partition("## ")[0]
    return re.findall(r"^\| ([\w-]+) \| (?!mechanism)", table, re.M)


@pytest.mark.long
@pytest.mark.parametrize("model_type", passing())
def test_what_the_page_says_to_pass_passes(model_type, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(HERE), *sys.path])
    from check import check

    said = check(model_type, tmp_path)

    assert said.holds(), said.reason or said.errors


def test_the_page_of_the_other_tasks_tells_of_every_type(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(HERE), *sys.path])
    from run_tasks import entries

    page = PAGE.with_name("task_architectures.md").read_text("utf-8")
    sections = dict(part.split("\n", 1) for part in page.split("\n## ")[1:])

    told = {
        (task, name)
        for task, text in sections.items()
        for name in [
            *re.findall(r"^\| ([\w-]+) \|", text, re.M),
            *re.findall(r"[\w-]+", text.partition("Not run yet:")[2]),
        ]
    }
    assert set(entries()) <= told


def test_the_page_tells_of_every_type():
    from qeffbuild.models.tasks import CAUSAL, classes

    told = re.findall(r"^\| ([\w-]+) \|", PAGE.read_text("utf-8"), re.M)

    assert sorted(set(told) - {"type"}) == sorted(classes(CAUSAL))
