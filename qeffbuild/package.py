"""The deliverable: a folder that runs without the store, and the manifest that says what is in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from qeffbuild.errors import VerificationError
from qeffbuild.signature import IoSignature

MANIFEST = "manifest.json"
PROVENANCE = "provenance.json"
TOKENIZER = "tokenizer"
KV_SCALES = "kv_scales.json"  # of a cache in int8, where it was calibrated: calibration/kv.py
GATE = "gate.json"  # of one graph: actions/gate.py
ADAPTERS = "adapters"  # a folder, where adapters are inputs; beside it, in the folders of steps, its table
SCHEMA = 1

_REQUIRED = ("backend", "task", "graphs", "specialization", "model", "quantization", "tokenizer", "files", "digest")
_CHUNK = 1 << 20
_OF_GATE = ("at_most", "limits", "prompts", "skipped")  # what differs from machine to machine stays behind


@dataclass(frozen=True, slots=True)
class Package:
    """A package on disk. What `open` returned has every member at its size; `verify` compares their bytes too."""

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path, *, verify: bool = False) -> Package:
        package = cls(Path(path), _read_manifest(Path(path)))
        package._check_sizes()
        if verify:
            package.verify()
        return package

    @property
    def backend(self) -> str:
        return self.manifest["backend"]

    @property
    def model(self) -> Mapping[str, Any]:
        return self.manifest["model"]

    @property
    def specialization(self) -> Mapping[str, Any]:
        return self.manifest["specialization"]

    @property
    def tokenizer(self) -> Path | None:
        folder = self.manifest["tokenizer"]
        return None if folder is None else self.path / folder

    @property
    def task(self) -> str:
        return self.manifest["task"]

    @property
    def graphs(self) -> tuple[str, ...]:
        """The names of the graphs, sorted."""
        return tuple(sorted(self.manifest["graphs"]))

    def graph(self, name: str = "decoder") -> Path:
        """The file of one graph; its weights lie beside it."""
        return self.path / self.manifest["graphs"][name]["file"]

    def signature(self, name: str = "decoder") -> IoSignature:
        return IoSignature.from_json(self.manifest["graphs"][name]["signature"])

    @property
    def choices(self) -> Mapping[str, Any]:
        """What was chosen to build it: dotted keys with values, `???` where a place of that machine was named."""
        said = json.loads((self.path / PROVENANCE).read_bytes()) if PROVENANCE in self.manifest["files"] else {}
        chosen = said.get("predicate", {}).get("buildDefinition", {}).get("externalParameters", {}).get("choices")
        if not isinstance(chosen, dict) or "backend" not in chosen:
            raise _damaged(self.path, PROVENANCE, "it does not say by which choices the package was made")
        return chosen

    @property
    def digests(self) -> dict[str, str]:
        """The sha256 of every file, the manifest's own among them."""
        files = {rel: recorded["sha256"] for rel, recorded in self.manifest["files"].items()}
        return {**files, MANIFEST: digest_of(self.path / MANIFEST)}

    def verify(self) -> None:
        """Compares every byte with the manifest, and the manifest with the provenance; also refuses strangers."""
        for rel, recorded in self.manifest["files"].items():
            if digest_of(self.path / rel) != recorded["sha256"]:
                raise _damaged(self.path, rel, "its bytes are not those that the manifest lists")
        for rel in members(self.path):
            if rel not in self.manifest["files"]:
                raise _damaged(self.path, rel, "the manifest does not list it")
        self._check_provenance()

    def _check_sizes(self) -> None:
        for rel, recorded in self.manifest["files"].items():
            try:
                found = os.lstat(self.path / rel)
            except OSError as cause:
                raise _damaged(self.path, rel, "missing") from cause
            if not stat.S_ISREG(found.st_mode):
                raise _damaged(self.path, rel, "not a regular file")
            if found.st_size != recorded["size"]:
                raise _damaged(self.path, rel, f"{found.st_size} bytes, but the manifest says {recorded['size']}")

    def _check_provenance(self) -> None:
        if PROVENANCE not in self.manifest["files"]:
            return
        statement = json.loads((self.path / PROVENANCE).read_bytes())
        for subject in statement["subject"]:
            recorded = self.manifest["files"].get(subject["name"])
            if recorded is None or recorded["sha256"] != subject["digest"]["sha256"]:
                raise _damaged(self.path, subject["name"], "provenance and manifest speak of different bytes")


def write_manifest(folder: Path, facts: Mapping[str, Any], known: Mapping[str, str] | None = None) -> Package:
    """Lists and hashes the members of `folder` beside `facts`. `known` holds digests that were taken while writing."""
    known = known or {}
    files = {
        rel: {"sha256": known.get(rel) or digest_of(folder / rel), "size": (folder / rel).stat().st_size}
        for rel in members(folder)
    }
    manifest: dict[str, Any] = {"schema": SCHEMA, **facts, "files": files}
    manifest["digest"] = _self_digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return Package(folder, manifest)


def bring_adapters(source: Path, out: Path) -> dict[str, Any] | None:
    """Copies the adapters that a step left, if it did; what the manifest says of them."""
    table = source / f"{ADAPTERS}.json"
    if not table.is_file():
        return None
    if (source / ADAPTERS).is_dir():
        shutil.copytree(source / ADAPTERS, out / ADAPTERS, copy_function=shutil.copyfile)
    said = json.loads(table.read_text())
    return {"form": said["form"], "names": said["names"]}


def gates(inputs: Mapping[str, Path]) -> dict[str, Any]:
    """What the gates among a step's inputs found, for the manifest; nothing where there was none."""
    found = [json.loads((folder / GATE).read_text()) for folder in inputs.values() if (folder / GATE).is_file()]
    said = {gate["edge"]: {key: gate[key] for key in _OF_GATE if key in gate} for gate in found}
    return {"gate": said} if said else {}


def write_provenance(
    folder: Path, params: Mapping[str, Any], fetched: Mapping[str, Any], known: Mapping[str, str] | None = None
) -> None:
    """An in-toto statement with a SLSA v1 predicate: what was made, from what, by which words. No time, no place."""
    known = known or {}
    made = {rel: known.get(rel) or digest_of(folder / rel) for rel in members(folder)}
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "https://slsa.dev/provenance/v1",
        "subject": [{"name": rel, "digest": {"sha256": made[rel]}} for rel in sorted(made)],
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:qeffbuild:package:v1",
                "externalParameters": dict(params),
                "resolvedDependencies": [
                    {"name": rel, "digest": {"sha256": fetched[rel]["sha256"]}} for rel in sorted(fetched)
                ],
            },
            "runDetails": {"builder": {"id": "urn:qeffbuild:local"}},
        },
    }
    (folder / PROVENANCE).write_text(json.dumps(statement, indent=1, sort_keys=True) + "\n")


def members(folder: Path) -> Iterator[str]:
    """Every file of a package but its manifest, as sorted relative names."""
    names = (
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
    )
    return (name for name in sorted(names) if name != MANIFEST)


def digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except OSError as cause:
        raise _damaged(path, MANIFEST, "missing: this is no package") from cause
    except ValueError as cause:
        raise _damaged(path, MANIFEST, "not JSON") from cause
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise _damaged(path, MANIFEST, f"not of schema {SCHEMA}")
    if missing := [key for key in _REQUIRED if key not in manifest]:
        raise _damaged(path, MANIFEST, f"lacks {', '.join(missing)}")
    if manifest["digest"] != _self_digest(manifest):
        raise _damaged(path, MANIFEST, "changed since it was written")
    # The digest is no secret: whoever forges a manifest can forge it too, so names are still checked.
    for rel in [*manifest["files"], *(graph["file"] for graph in manifest["graphs"].values()), manifest["tokenizer"]]:
        if rel is not None and (PurePosixPath(rel).is_absolute() or ".." in PurePosixPath(rel).parts):
            raise _damaged(path, rel, "leaves the package")
    return manifest


def _self_digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _damaged(path: Path, rel: str, problem: str) -> VerificationError:
    return VerificationError(
        "verify.package", f"{rel}: {problem}", where=str(path), hint="build the package again, or copy it again whole"
    )
