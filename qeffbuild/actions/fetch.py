"""A model folder -> model.json (sizes and digests of its files) and facts.json; for scale=tiny, the model itself.

Of a model that sees, processor.zip holds what its processor is made of; code.zip holds the Python that one brings and
is trusted with.

Weights stay where they are. Three kinds are written here, into `model/`: tiny random ones, and pickles and GGUF files
as safetensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from qeffbuild.errors import VerificationError
from qeffbuild.executor.work import Work
from qeffbuild.models import DEMO, listing, read_facts
from qeffbuild.models.code import CODE, pack_code
from qeffbuild.models.files import gguf_of
from qeffbuild.models.processor import PACKED, pack
from qeffbuild.models.tasks import IMAGE_TEXT

_PIECE = 4 << 20


def run(work: Work) -> None:
    trust_remote_code = work.params.get("trust_remote_code", False)
    folder = _folder(work)
    asked = {name: work.params.get(name, "auto") for name in ("task", "pooling")}
    facts = read_facts(folder, **asked, trust_remote_code=trust_remote_code)
    files = digests(folder, listing(folder, trust_remote_code=trust_remote_code), work.progress)
    said = {"schema": 1, "files": files}
    (work.out / "model.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n", "utf-8")
    facts.save(work.out / "facts.json")
    if facts.config.get("auto_map") and any(name.endswith(".py") for name in files):
        pack_code(folder, tuple(files), work.out / CODE)
    if facts.task == IMAGE_TEXT:
        pack(folder, tuple(files), work.out / PACKED)


def _folder(work: Work) -> Path:
    """The folder that the facts are about: the leaf, or the one that we write."""
    own = work.out / "model"
    if work.params["scale"] == "tiny":
        from qeffbuild.models.tiny import write_tiny

        work.progress(0.0, f"making a tiny {work.params['model_type']}")
        own.mkdir()
        write_tiny(
            own,
            work.params["model_type"],
            task=work.params.get("task", "auto"),
            seed=work.params["seed"],
            tokenizer=DEMO,
        )
        return own
    leaf = work.leaves["model"]
    if (file := gguf_of(leaf)) is not None:
        from qeffbuild.models.gguf import convert_gguf

        convert_gguf(leaf, file, own, work.progress)
        return own
    allow_pickle, trust_remote_code = work.params["allow_pickle"], work.params["trust_remote_code"]
    if read_facts(leaf, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code).tensors:
        return leaf
    from qeffbuild.models.pickles import convert

    convert(leaf, own, work.progress)
    return own


def digests(
    folder: Path, names: tuple[str, ...], progress: Callable[[float, str], None]
) -> dict[str, dict[str, str | int]]:
    """Size and sha256 of each file, read in pieces."""
    total, done = sum((folder / name).stat().st_size for name in names) or 1, 0
    found: dict[str, dict[str, str | int]] = {}
    for name in names:

        def read_so_far(size: int, name: str = name, before: int = done) -> None:
            progress((before + size) / total, f"reading {name}")

        digest, size = _digest(folder / name, read_so_far)
        found[name] = {"sha256": digest, "size": size}
        done += size
    return found


def _digest(path: Path, read_so_far: Callable[[int], None]) -> tuple[str, int]:
    """sha256 and size; a file of the hub's cache must have the digest that it is filed under."""
    promised, size = path.stat().st_size, 0
    sha256 = hashlib.sha256()
    git = hashlib.sha1(b"blob %d\0" % promised, usedforsecurity=False)  # how git names small files
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            sha256.update(piece)
            git.update(piece)
            size += len(piece)
            read_so_far(size)
    if size != promised:
        raise VerificationError("verify.model", f"{path.name}: {size} bytes were read of {promised}", where=str(path))
    blob = path.resolve()
    if blob.parent.name == "blobs" and blob.name not in (sha256.hexdigest(), git.hexdigest()):
        hint = f"delete it, so that it is fetched again: {blob}"
        raise VerificationError("verify.model", f"{path.name}: not the bytes that the hub promised", hint=hint)
    return sha256.hexdigest(), size
