"""Every command in the documentation runs, and prints what the page says that it prints.

A page's ```console blocks are run in order in one folder. `$ ` begins a command; the lines below it must appear in its
output in that order. A number stands for any number, `...` for any text, and a block marked `exit=N` must end so.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])

# Run by other means: the suite itself, what it is part of, and what takes minutes.
ELSEWHERE = re.compile(
    r"make (test|check|quick|long|faults|bench|setup|coverage|clean|docs|golden|format)\b|git clone|cd qeffbuild|pip install|pre-commit|python benchmarks/"
)


@dataclass(frozen=True, slots=True)
class Command:
    words: str
    output: tuple[str, ...]
    exit_code: int


def commands(page: Path) -> list[Command]:
    found = []
    for info, block in re.findall(r"^```console([^\n]*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        code = int(match.group(1)) if (match := re.search(r"exit=(\d+)", info)) else 0
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            words, *output = part.rstrip().split("\n")
            while words.endswith("\\") and output:
                words = words[:-1] + output.pop(0)
            found.append(Command(words, tuple(line for line in output if line.strip()), code))
    return found


NUMBER = r"\d[\d,]*(?:\.\d+)?"
SECONDS = r"(?<=\s)m?s(?=\s|,|$)"


def as_pattern(line: str) -> re.Pattern[str]:
    """The line with every number free, seconds in any unit, every run of spaces free, and `...` for anything."""
    out = []
    for part in re.split(rf"(\.\.\.|{NUMBER}|{SECONDS}|\s+)", line.strip()):
        if re.fullmatch(NUMBER, part):
            out.append(NUMBER)
        elif part in ("s", "ms"):
            out.append("m?s")
        elif part.isspace():
            out.append(r"\s+")
        else:
            out.append(".*" if part == "..." else re.escape(part))
    return re.compile("".join(out))


def missing(expected: tuple[str, ...], printed: str) -> list[str]:
    """The expected lines that do not appear, in their order, in what was printed."""
    lines = iter(printed.splitlines())
    return [line for line in expected if not any(as_pattern(line).search(seen.strip()) for seen in lines)]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_print_what_it_says(page: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "120"}
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # a make that runs this test is not the reader's
        environment.pop(name, None)
    environment["QEFFBUILD_CACHE"] = str(tmp_path / "cache")  # a page tells one story, from an empty cache on
    project = tmp_path / "project"
    project.mkdir()
    for command in commands(page):
        if ELSEWHERE.search(command.words):
            continue
        where = ROOT if command.words.startswith("make ") else project
        done = subprocess.run(
            ["bash", "-c", f"exec 2>&1; {command.words}"],
            cwd=where,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=600,
        )
        said = done.stdout
        assert done.returncode == command.exit_code, f"$ {command.words}\n{said}"
        assert missing(command.output, said) == [], f"$ {command.words}\n{said}"


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.name} -> {target}")

    assert broken == []
