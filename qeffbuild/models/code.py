"""Python that a model folder brings along, for who trusts it: packed by `fetch`, unpacked where its classes are made.

The classes come by transformers' own door for such code, which copies the files into its cache of modules under their
digest before it imports them.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qeffbuild.errors import ModelError

CODE = "code.zip"


def pack_code(folder: Path, names: Sequence[str], out: Path) -> None:
    """The Python files among `names` in one archive, the same bytes for the same files."""
    with zipfile.ZipFile(out, "w") as archive:
        for name in sorted(names):
            if name.endswith(".py"):
                archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes())


@contextmanager
def unpacked_code(archive: Path, room: Path) -> Iterator[Path | None]:
    """The folder of an archive that `pack_code` wrote, for as long as the block lasts; None where there is none."""
    if not archive.is_file():
        yield None
        return
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(room)
    try:
        yield room
    finally:
        shutil.rmtree(room)


def own_class(config: Mapping[str, Any], auto: str, code: Path) -> Any:
    """The class that the model's own code has for one of transformers' Auto classes; None where it names none."""
    table = config.get("auto_map")
    named = table.get(auto) if isinstance(table, Mapping) else None
    if not isinstance(named, str):
        return None
    if "--" in named:
        found = f"config.json: auto_map: {named!r:.120} is code of another repository"
        raise ModelError(
            "model.code", found, hint="copy its files beside the model, and name them without the repository"
        )
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    try:
        return get_class_from_dynamic_module(named, str(code), local_files_only=True)
    except Exception as problem:
        first = " ".join(str(problem).split())
        raise ModelError("model.code", f"{named.partition('.')[0]}.py: cannot be imported: {first:.200}") from problem
