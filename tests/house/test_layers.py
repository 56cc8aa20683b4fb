"""The rules of the house that a reader relies on, kept by machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import qeffbuild

PACKAGE = Path(qeffbuild.__file__).parent

# A room may import the rooms before it, never those behind it.
ORDER = [
    "errors", "paths", "signature", "graphs", "spec", "plan", "store", "executor", "rendering", "package", "models",
    "export", "architectures", "graph", "transforms", "calibration", "quantizers", "gate", "cloud_ai_100", "actions", "backends",
    "runtime", "report", "world", "api", "compat", "cli", "cloud",
]  # fmt: skip
SHELVES = {"architectures", "quantizers", "actions", "backends"}  # plug-ins on one shelf never import each other
HEAVY = {
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnx_ir",
    "hydra",
    "omegaconf",
    "yaml",
    "numpy",
    "rich",
}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """The parts behind `qeffbuild.` of each import of ours, wherever it stands in the file."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("qeffbuild."):
                yield tuple(name.split(".")[1:])


def test_every_room_is_in_the_order() -> None:
    rooms = {room_of(path) for path in sources()} - {"__init__", "__main__"}

    assert rooms <= set(ORDER)


def test_rooms_import_only_what_comes_before_them() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {'.'.join(used)}"
        for path in sources()
        if (room := room_of(path)) in ORDER
        for used in imported(ast.parse(path.read_text()))
        if used[0] in ORDER and ORDER.index(used[0]) > ORDER.index(room)
    ]

    assert wrong == []


def test_no_file_imports_itself_by_way_of_others() -> None:
    """Imports for types and those inside of functions count, too."""
    files = {path.relative_to(PACKAGE).with_suffix("").parts: path for path in sources() if path.stem != "__init__"}
    graph = {
        me: {used[:end] for used in imported(ast.parse(path.read_text())) for end in range(1, len(used) + 1)}
        & files.keys()
        for me, path in files.items()
    }

    assert list(TopologicalSorter(graph).static_order())


def test_plug_ins_of_one_shelf_do_not_import_each_other() -> None:
    wrong = []
    for path in sources():
        parts = path.relative_to(PACKAGE).parts
        if parts[0] not in SHELVES or parts[1] == "__init__.py":
            continue
        me = parts[1].removesuffix(".py")
        for used in imported(ast.parse(path.read_text())):
            is_plug_in = len(used) > 1 and (PACKAGE / used[0] / used[1]).with_suffix(".py").exists()
            is_folder = len(used) > 1 and (PACKAGE / used[0] / used[1]).is_dir()
            if used[0] == parts[0] and (is_plug_in or is_folder) and used[1] != me:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {'.'.join(used)}")

    assert wrong == []


@pytest.mark.parametrize(
    "module",
    [
        "errors", "paths", "signature", "spec.types", "spec.load", "plan", "plan.keys", "plan.explain", "plan.merge",
        "store", "executor", "backends.onnxruntime.options", "backends.onnxruntime.plan", "backends.qaic.options",
        "backends.qaic.plan", "world", "api", "compat", "cli", "cloud",
    ],
)  # fmt: skip
def test_the_planning_half_imports_nothing_heavy(module: str) -> None:
    program = f"import sys, qeffbuild.{module}; print(*sorted({HEAVY!r} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []


LIBRARIES = {("plan/gates.py", "onnxruntime")}  # a tool of the same name, which gates run graphs of any backend with


def test_a_backend_is_named_only_in_its_own_room() -> None:
    backends = [path.name for path in (PACKAGE / "backends").iterdir() if (path / "options.py").exists()]
    wrong = []
    for path in sources():
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        for name in backends:
            if (str(path.relative_to(PACKAGE)), name) in LIBRARIES:
                continue
            if PACKAGE / "backends" / name not in path.parents and name in strings:
                wrong.append(f"{path.relative_to(PACKAGE)} says {name}")

    assert wrong == []


FORBIDDEN_CALLS = {"eval", "exec", "yaml.load", "hydra.utils.instantiate", "instantiate", "extractall"}


def test_no_input_can_become_code() -> None:
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                if {"pickle", "marshal", "shelve"} & set(names):
                    wrong.append(f"{path.name}:{node.lineno} imports a pickle")
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in FORBIDDEN_CALLS:
                    wrong.append(f"{path.name}:{node.lineno} calls {called}")
                for keyword in node.keywords:
                    said = (keyword.arg, getattr(keyword.value, "value", None))
                    if said in {("shell", True), ("trust_remote_code", True)}:
                        wrong.append(f"{path.name}:{node.lineno} says {said[0]}=True")

    assert wrong == []


def test_every_file_opens_with_one_sentence() -> None:
    wrong = []
    for path in sources():
        opening = ast.get_docstring(ast.parse(path.read_text()))
        if path.read_text().strip() and not opening and path.name != "__init__.py":
            wrong.append(str(path.relative_to(PACKAGE)))

    assert wrong == []


def test_no_function_is_longer_than_a_screen_or_two() -> None:
    long = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno > 70
    ]

    assert long == []


def test_the_dependency_floors_are_kept() -> None:
    text = (PACKAGE.parent / "pyproject.toml").read_text()
    for floor in ("onnx>=1.21", "torch>=2.10", "transformers>=5.3", "jinja2>=3.1.6", "hydra-core>=1.3.8"):
        assert f'"{floor}"' in text
    pinned = (PACKAGE.parent / "constraints.txt").read_text()
    assert re.search(r"^torch==2\.13\.0$", pinned, re.MULTILINE)
