"""A lock file holds a build to what it was made of and what it gave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qeffbuild import api
from qeffbuild.api.locking import NAME, name_of
from qeffbuild.errors import QeffBuildError
from qeffbuild.spec.types import BuildSpec

WORDS = ["model=llama", "model.scale=tiny", "backend=qaic", "cache.root=somewhere"]


@pytest.fixture(scope="module")
def built(spec_of: Callable[..., BuildSpec]) -> api.Built:
    return api.build(spec_of("model=llama", "model.scale=tiny", "backend=qaic"), "export")


@pytest.fixture
def locked(built: api.Built, tmp_path: Path) -> Path:
    api.write_lock(tmp_path, WORDS, built)
    return tmp_path


def edit(folder: Path, part: str, name: str, value: str | None) -> None:
    said = json.loads((folder / NAME).read_text())
    table = said["builds"][name_of(WORDS)][part]
    table.pop(name) if value is None else table.update({name: value})
    (folder / NAME).write_text(json.dumps(said))


def refusal(folder: Path, built: api.Built) -> QeffBuildError:
    with pytest.raises(QeffBuildError) as refused:
        api.build_together([built.spec], "export", lock=api.read_lock(folder, WORDS))
    return refused.value


def test_where_something_is_built_does_not_choose_the_entry() -> None:
    assert name_of(["model=gpt2", "out=x", "launch.jobs=2"]) == name_of(["cache.root=y", "model=gpt2"]) == "model=gpt2"


def test_the_same_build_passes_its_lock(locked: Path, built: api.Built) -> None:
    together = api.build_together([built.spec], "export", lock=api.read_lock(locked, WORDS))

    assert together.builds[0].error is None


@pytest.mark.parametrize(
    ("part", "name", "value", "said"),
    [
        ("inputs", "tool torch", "0.1", "tool torch: 2"),
        ("inputs", "plan", "0" * 64, "plan: "),
        ("inputs", "tool torch", None, "says absent"),
        ("inputs", "model", "f" * 64, "model: absent"),
        ("outputs", "graph.onnx", "0" * 64, "graph.onnx: "),
        ("outputs", "extra.onnx", "0" * 64, "extra.onnx: absent"),
    ],
)
def test_any_difference_is_named(
    locked: Path, built: api.Built, part: str, name: str, value: str | None, said: str
) -> None:
    edit(locked, part, name, value)

    error = refusal(locked, built)

    assert (error.kind, error.exit_code) == ("lock.differs", 6)
    assert said in str(error)


def test_words_that_were_never_locked_are_refused(locked: Path) -> None:
    with pytest.raises(QeffBuildError, match=r"not in qeffbuild\.lock") as refused:
        api.read_lock(locked, ["model=gpt2"])
    assert refused.value.kind == "lock.absent"


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 2}', '{"schema": 1, "builds": {"model=x": 1}}'])
def test_a_damaged_lock_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)

    with pytest.raises(QeffBuildError) as refused:
        api.read_lock(tmp_path, ["model=x"])
    assert (refused.value.kind, refused.value.exit_code) == ("lock.unreadable", 2)


def test_an_entry_leaves_the_others_as_they_are(locked: Path, built: api.Built) -> None:
    api.write_lock(locked, ["model=gpt2"], built)

    assert set(json.loads((locked / NAME).read_text())["builds"]) == {name_of(WORDS), "model=gpt2"}


def test_what_was_locked_is_a_root_of_the_cache(locked: Path, built: api.Built) -> None:
    gone = api.cache_gc(built.store, max_size=0, older_s=None, keep_roots=True, dry_run=True)["removed"]

    assert built.goal.record.key not in gone
    assert not {*built.goal.record.inputs} & {*gone}
