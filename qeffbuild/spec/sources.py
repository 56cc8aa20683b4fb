"""Configuration folders, the nearest first -> the checked documents of choices, and which files shadow which."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from qeffbuild.errors import PathError, SpecError
from qeffbuild.spec.documents import Document, read
from qeffbuild.spec.text import is_choice, nearest, shown


class Sources:
    """What the folders hold. A file is read once; `read` lists the documents in the order in which they were read."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self.read: dict[str, Document] = {}
        for folder in self.folders:
            if not folder.is_dir():
                raise PathError(
                    "path.absent", f"no configuration folder {shown(str(folder))}", hint="create it, or name another"
                )

    def find(self, name: str) -> Path | None:
        """The file of `model/gpt2`, in the nearest folder that has one."""
        files = (folder / f"{name}.yaml" for folder in self.folders)
        return next((file for file in files if file.is_file()), None)

    def is_group(self, name: str) -> bool:
        return any((folder / name).is_dir() for folder in self.folders)

    def choices(self, group: str) -> list[str]:
        """The names of the choices of `group`, sorted; each once, whichever folder it is in."""
        found = {file.stem for folder in self.folders for file in (folder / group).glob("*.yaml")}
        return sorted(name for name in found if is_choice(name))

    def document(self, name: str) -> Document | None:
        if name not in self.read:
            path = self.find(name)
            if path is None:
                return None
            self.read[name] = _checked(path, self._label(path), path.stat().st_mtime_ns, path.stat().st_size)
        return self.read[name]

    def is_packaged(self, document: Document) -> bool:
        """Whether the file is our own: the last folder is."""
        return document.path.is_relative_to(self.folders[-1])

    def shadowed(self) -> tuple[tuple[Path, Path], ...]:
        """Of the files read, those that hide one of the same name in a later folder."""
        pairs = []
        for name, document in self.read.items():
            later = (folder / f"{name}.yaml" for folder in self.folders)
            pairs += [(document.path, file) for file in later if file != document.path and file.is_file()]
        return tuple(pairs)

    def refuse_choice(self, group: str, name: object, where: str | None) -> None:
        """Raise unless `name` is a choice of `group`."""
        if isinstance(name, str) and not is_choice(name):
            hint = f"a choice is the name of a file in conf/{group}/; choices: {', '.join(self.choices(group))}"
            raise PathError(
                "override.path", f"{group}: {shown(name)} is not a name inside the group", where=where, hint=hint
            )
        if isinstance(name, str) and self.find(f"{group}/{name}"):
            return
        close = nearest(name, self.choices(group)) if isinstance(name, str) else None
        listed = f"choices: {', '.join(self.choices(group))}"
        hint = f"did you mean {group}={close}? {listed}" if close else listed
        raise SpecError("override.choice", f"{group}: no choice is called {shown(name)}", where=where, hint=hint)

    def _label(self, path: Path) -> str:
        """How messages name a file: `conf/model/gpt2.yaml`."""
        folder = next(folder for folder in self.folders if path.is_relative_to(folder))
        own = folder == self.folders[-1] or folder.parent == Path.cwd()
        return f"{folder.name}/{path.relative_to(folder)}" if own else str(path)


@lru_cache(maxsize=1024)
def _checked(path: Path, label: str, mtime_ns: int, size: int) -> Document:
    """Sweeps read the same files again and again; a file that changed has another time or size."""
    return read(path, label)
