"""The page of errors lists every kind that the program can end in, each once, with the exit code that it has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from qeffbuild import errors

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"\| `([a-z.]+)` \| [^|]+ \| (\d+) \| [^|]+ \|")
KIND = re.compile(r"[a-z]+\.[a-z]+")
RAISES = re.compile(r"error|refuse|fault", re.IGNORECASE)  # how whatever makes an error is called
WITHOUT_AREA = {"internal", "interrupted"}


def listed() -> list[tuple[str, int]]:
    return [(kind, int(code)) for kind, code in ROW.findall((ROOT / "docs" / "errors.md").read_text("utf-8"))]


def raised() -> Iterator[tuple[str, str]]:
    """Each kind in the source, with the name of what makes the error."""
    for file in sorted((ROOT / "qeffbuild").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                maker = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if RAISES.search(maker):
                    yield from ((kind, maker) for kind in kinds_in(node.args[0]))


def kinds_in(argument: ast.expr) -> Iterator[str]:
    for node in ast.walk(argument):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and KIND.fullmatch(node.value):
            yield node.value


def test_every_kind_is_listed_once() -> None:
    kinds = [kind for kind, _ in listed()]

    assert sorted(kinds) == sorted({kind for kind, _ in raised()} | WITHOUT_AREA)
    assert len(kinds) > 80


def test_every_kind_has_the_exit_code_of_its_class() -> None:
    codes = dict(listed())
    classes = {(kind, maker): getattr(errors, maker) for kind, maker in raised() if hasattr(errors, maker)}

    assert {at: cls.exit_code for at, cls in classes.items()} == {(kind, maker): codes[kind] for kind, maker in classes}
    assert (codes["internal"], codes["interrupted"]) == (1, errors.Interrupted.exit_code)


def test_the_list_is_sorted() -> None:
    kinds = [kind for kind, _ in listed() if kind not in WITHOUT_AREA]

    assert kinds == sorted(kinds)
