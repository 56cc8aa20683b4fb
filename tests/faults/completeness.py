"""What must change the keys of the small pipeline, and what must not: name -> how to change it.

Each change is made to a finished build in a fresh folder; a change of an input must make a step run, any other change
must leave all as it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lab import Lab


@dataclass
class Change:
    """A run that differs from the one before: other words, other environment, another folder, other files."""

    words: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    edit: Callable[[Path], Path | None] = lambda work: None  # gives the new folder if it moved


def _flip(name: str, at: int) -> Callable[[Path], None]:
    def edit(work: Path) -> None:
        path = work / name
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        before = path.stat()
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # even when the time stamp is forged

    return edit


def _append(name: str, text: str) -> Callable[[Path], None]:
    def edit(work: Path) -> None:
        with open(work / name, "a") as file:
            file.write(text)

    return edit


INPUTS: dict[str, Change] = {
    **{f"bit {at} of the source": Change(edit=_flip("source", at)) for at in range(10)},
    "a longer source": Change(edit=_append("source", "x")),
    "an empty source": Change(edit=lambda work: (work / "source").write_text("") and None),
    **{
        f"twist {twist!r}": Change(words=["--twist", twist])
        for twist in ("right", "LEFT", "left ", "", "0", "lef", "é")
    },
    **{f"blocks {blocks}": Change(words=["--blocks", str(blocks)]) for blocks in (1, 7, 9, 16, 80)},
    **{f"saw {version}": Change(environment={"VERSION_saw": version}) for version in ("1.1", "1.0.0", "2", "")},
    **{f"paper {version}": Change(environment={"VERSION_paper": version}) for version in ("1.1", "1.0.0", "2", "")},
    **{f"SHAPE_MODE={mode!r}": Change(environment={"SHAPE_MODE": mode}) for mode in ("fast", "", "0", "none")},
    **{
        f"a comment in {name}": Change(edit=_append(f"pipeline/fault_actions/{name}", "# changed\n"))
        for name in ("__init__.py", "cut.py", "shape.py", "wrap.py")
    },
    **{
        f"a byte of {name}": Change(edit=_flip(f"pipeline/fault_actions/{name}", 4))  # inside the docstring
        for name in ("__init__.py", "cut.py", "shape.py", "wrap.py")
    },
}


def _move(work: Path) -> Path:
    moved = work.with_name(work.name + "-moved")
    work.rename(moved)
    return moved


def _copy(work: Path) -> Path:
    copied = work.with_name(work.name + "-copied")
    shutil.copytree(work, copied)
    return copied


def _move_cache(work: Path) -> None:
    (work / ".cache").rename(work / "other-cache")


def _touch(work: Path) -> None:
    os.utime(work / "source")


def _rewrite(work: Path) -> None:
    text = (work / "source").read_bytes()
    (work / "source").unlink()
    (work / "source").write_bytes(text)


def _rename_source(work: Path) -> None:
    (work / "source").rename(work / "renamed")
    (work / "source").symlink_to("renamed")


def _drop_index(work: Path) -> None:
    for path in (work / ".cache/v1").glob("index.sqlite*"):
        path.unlink()


def _add_neighbours(work: Path) -> None:
    (work / "pipeline" / "fault_actions" / "other.py").write_text('"""Not used."""\n')
    (work / "README").write_text("hello")


OTHERS: dict[str, Change] = {
    "nothing": Change(),
    "the folder moved": Change(edit=_move),
    "the folder copied": Change(edit=_copy),
    "the cache moved": Change(words=["--cache", "other-cache"], edit=_move_cache),
    "the cache named by an absolute path": Change(words=["--cache", "{work}/.cache"]),
    "another name for the product": Change(words=["--product", "elsewhere"]),
    "a new time stamp": Change(edit=_touch),
    "the same bytes in a new file": Change(edit=_rewrite),
    "the source behind a link": Change(edit=_rename_source),
    "the index deleted": Change(edit=_drop_index),
    "unrelated files": Change(edit=_add_neighbours),
    "more jobs": Change(words=["--jobs", "3"]),
    "stricter verification": Change(words=["--verify", "always"]),
    "a memory limit": Change(words=["--memory-mb", "4000"]),
    "another order of words": Change(words=["--jobs", "1", "--blocks", "8", "--twist", "left"]),
    **{
        f"{name}={value}": Change(environment={name: value})
        for name, value in {
            "USER": "someone",
            "HOME": "/nowhere",
            "HOSTNAME": "elsewhere",
            "LC_ALL": "C.UTF-8",
            "LANG": "tr_TR.UTF-8",
            "TZ": "Asia/Tokyo",
            "PYTHONHASHSEED": "42",
            "COLUMNS": "20",
            "TMPDIR": "/tmp",
            "UNRELATED": "1",
            "VERSION_hammer": "9",
        }.items()
    },
}


def ran_after(lab: Lab, change: Change) -> int:
    """How many steps run when a finished build is repeated with the change; the product may be anywhere."""
    with lab.copy(built=True) as work:
        before = lab.ran(work)
        place = change.edit(work) or work
        words = [word.replace("{work}", str(place)) for word in change.words]
        ended = lab.run(place, after=words, **change.environment)
        assert ended.code == 0, ended.said
        count = sum((lab.ran(place) - before).values())
        if place != work:
            shutil.rmtree(place, ignore_errors=True)
        return count
