"""The answer to a build or plan with nothing to do, given again for as long as all that it depended on is as it was.

Reading a specification and keying its plan loads some forty modules; this file needs five. What it checks is what the
long way would find: the stamps of every file that composition, keys and the model's door have read, the versions and
variables in the keys, and the bytes of the entries that were looked up. Whatever differs, the long way is taken.
"""

from __future__ import annotations

import hashlib
import os
import sys

from qeffbuild.cli.composed import RACY_NS, Kept
from qeffbuild.cli.places import cache_root
from qeffbuild.report.installed import distributions

TYPE_CHECKING = False  # typing's own would load typing
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from qeffbuild.api import UpToDate

    Stamp = list[Any]

ALWAYS_HASHED = 64 << 20  # bytes; as the store has it: larger files are trusted by their stamps
WHAT = "answer"
KEPT = ("build", "plan")  # the verbs whose answers are


def recall(words: list[str]) -> int | None:
    """Print the kept answer and return its exit code, 0; None where there is none that still holds."""
    is_build = "build" in words
    if not (is_build or "plan" in words) or "--check" in words or "--debug" in words:
        return None
    kept = Kept(cache_root(words))
    said = kept.load(WHAT, _question(words))
    if said is None or not _holds(said):
        return None
    for entry in said["entries"] if is_build else ():
        os.utime(f"{entry['path']}/record.json")  # in use, the collector shall know
    sys.stderr.write(said["told"])
    sys.stdout.write(said["shown"])
    return 0


def remember(words: list[str], seen: UpToDate, variables: Iterable[str], shown: str, told: str) -> None:
    """Keep the answer, unless something was read that stamps do not show."""
    if not all(map(_is_plain, seen.specs)):
        return
    files = [_stamp(path) for path in sorted(seen.world.files)]
    if any(seen.at_ns - max(stamp[2:], default=0) < RACY_NS for stamp in files):
        return
    said = {
        "shown": shown,
        "told": told,
        "roots": [str(entry.path.parents[2]) for entry in seen.entries[:1]],
        "files": files,
        "tools": {name: distributions().get(name) for name in sorted(seen.world.tools)},
        "environment": {name: os.environ.get(name) for name in sorted({*seen.world.variables, *variables})},
        "entries": [
            {
                "path": str(entry.path),
                "record": _digest(f"{entry.path}/record.json"),
                "files": [[_stamp(f"{entry.out}/{name}"), file.sha256] for name, file in entry.record.files.items()],
            }
            for entry in seen.entries
        ],
    }
    Kept(cache_root(words)).keep(WHAT, _question(words), said)


def _question(words: list[str]) -> list[str]:
    """What an answer depends on besides files: the words, from where they were said, and who reads it."""
    width = str(os.get_terminal_size(1).columns) if os.isatty(1) else ""
    looks = [width, str(os.isatty(2)), *(os.environ.get(name, "") for name in ("NO_COLOR", "TERM", "COLUMNS"))]
    places = [os.environ.get(name, "") for name in ("QEFFBUILD_CACHE", "QEFF_HOME", "XDG_CACHE_HOME", "HOME")]
    return [os.getcwd(), *looks, *places, *words]


def _is_plain(spec: Any) -> bool:
    """Nothing is copied out, every byte need not be read, and the model is one whose files we can stamp."""
    is_movable = spec.model.id is not None and len(spec.model.revision or "") != 40
    return spec.out is None and spec.cache.verify == "auto" and not is_movable


def _holds(said: dict[str, Any]) -> bool:
    if any(_stamp(stamp[0]) != stamp for stamp in said["files"]):
        return False
    if any(distributions().get(name) != version for name, version in said["tools"].items()):
        return False
    return all(_is_private(root) for root in said["roots"]) and all(_is_whole(entry) for entry in said["entries"])


def _is_private(home: str) -> bool:
    """As the store has it: nobody else may write into it."""
    for folder in (home, os.path.dirname(home)):
        try:
            seen = os.stat(folder)
        except OSError:
            return False
        if seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
            return False
    return True


def _is_whole(entry: dict[str, Any]) -> bool:
    try:
        if _digest(f"{entry['path']}/record.json") != entry["record"] or _names(entry) != _listed(entry):
            return False
        return all(_is_same(stamp, digest) for stamp, digest in entry["files"])
    except OSError:
        return False


def _is_same(stamp: Stamp, digest: str) -> bool:
    path, size = stamp[0], stamp[1]
    if size > ALWAYS_HASHED:
        return _stamp(path) == stamp
    return os.lstat(path).st_size == size and _digest(path) == digest


def _names(entry: dict[str, Any]) -> set[str]:
    """Every file that lies in the entry's folder now."""
    return {f"{folder}/{name}" for folder, _, names in os.walk(f"{entry['path']}/out") for name in names}


def _listed(entry: dict[str, Any]) -> set[str]:
    return {stamp[0] for stamp, _ in entry["files"]}


def _stamp(path: str) -> Stamp:
    """A folder's stamp changes when a name in it comes or goes; what is absent has none."""
    try:
        seen = os.stat(path)
    except OSError:
        return [path]
    return [path, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns]


def _digest(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
