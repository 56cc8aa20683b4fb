"""A store entry's record <-> the bytes of `record.json`, which carry their own checksum."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

from qeffbuild.plan.keys import Preimage, canonical

SCHEMA = 1
_HEAD = b'{"sha256":"'
_MIDDLE = b'","said":'
_TAIL = b"}\n"


class File(NamedTuple):
    """One output file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is kept of a finished step. `inputs` are the deep keys of the entries it read, for roots and provenance."""

    key: str
    shallow: str
    name: str
    preimage: Preimage
    files: Mapping[str, File]
    inputs: tuple[str, ...] = ()
    leaf_files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # leaf -> file -> digest, to explain
    seconds: float = 0.0
    peak_rss_mb: int = 0

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())

    def content(self, names: Iterable[str] | None = None) -> str:
        """The digest of all files, or of the named ones (one that is missing counts as missing)."""
        chosen = self.files if names is None else names
        said = {name: self.files[name].sha256 if name in self.files else None for name in chosen}
        return sha256(canonical(said)).hexdigest()


class Damaged(Exception):
    """These bytes are not what was written."""


def seal(said: Mapping[str, Any]) -> bytes:
    """JSON with the checksum of its own text in front."""
    body = canonical(said)
    return _HEAD + sha256(body).hexdigest().encode() + _MIDDLE + body + _TAIL


def unseal(data: bytes) -> dict[str, Any]:
    """The inverse of `seal`; raises Damaged unless every byte is as written."""
    start = len(_HEAD) + 64 + len(_MIDDLE)
    body = data[start : -len(_TAIL)]
    if data != _HEAD + sha256(body).hexdigest().encode() + _MIDDLE + body + _TAIL:
        raise Damaged("checksum differs")
    said = json.loads(body)
    if said.get("schema") != SCHEMA:
        raise Damaged(f"schema {said.get('schema')}")
    return said


def encode(record: Record) -> bytes:
    return seal(
        {
            "schema": SCHEMA,
            "key": record.key,
            "shallow": record.shallow,
            "name": record.name,
            "preimage": record.preimage,
            "files": {name: [file.size, file.sha256] for name, file in record.files.items()},
            "inputs": record.inputs,
            "leaf_files": record.leaf_files,
            "seconds": float(record.seconds),
            "peak_rss_mb": record.peak_rss_mb,
        }
    )


def decode(data: bytes) -> Record:
    said = unseal(data)
    try:
        return Record(
            key=said["key"],
            shallow=said["shallow"],
            name=said["name"],
            preimage=said["preimage"],
            files={name: File(size=size, sha256=digest) for name, (size, digest) in said["files"].items()},
            inputs=tuple(said["inputs"]),
            leaf_files=said["leaf_files"],
            seconds=said["seconds"],
            peak_rss_mb=said["peak_rss_mb"],
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise Damaged("fields are missing") from problem
