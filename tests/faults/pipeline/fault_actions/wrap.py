"""Shape and cut -> the product, a folder with a manifest."""

from __future__ import annotations

import json
from hashlib import sha256

import fault_actions
from qeffbuild.executor.work import Work


def run(work: Work) -> None:
    parts = {
        "shape.bin": (work.inputs["shape"] / "shape.bin").read_bytes(),
        "notes/facts.txt": (work.inputs["cut"] / "notes" / "facts.txt").read_bytes(),
    }
    fault_actions.note("wrap")
    for name, data in parts.items():
        target = work.out / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
    manifest = {name: sha256(data).hexdigest() for name, data in parts.items()}
    (work.out / "manifest.json").write_text(json.dumps(manifest, sort_keys=True))
