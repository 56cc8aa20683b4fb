"""One small model of each kind, exported below a folder -> the digest of every file, as JSON on stdout."""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "vision"))

import small_models

from qeffbuild.actions import export, fetch
from qeffbuild.executor.work import Work

TINY = {"text": "llama", "encoder-decoder": "t5", "embedding": "bert"}
VISION = "llava"
ASKED = {
    "dtype": "float32", "trust_remote_code": False, "pooling": "auto", "normalize": None, "kv_offload": True,
    "img_size": [28, 40], "max_num_images": 1,
}  # fmt: skip
READ = {"scale": "full", "task": "auto", "pooling": "auto", "allow_pickle": False, "trust_remote_code": False}


def digests(root: Path) -> dict[str, dict[str, str]]:
    """Of graphs, signatures and reports, kind by kind."""
    return {kind: _exported(kind, root / kind) for kind in (*TINY, "vision")}


def _exported(kind: str, root: Path) -> dict[str, str]:
    fetched, out = root / "fetched", root / "out"
    fetched.mkdir(parents=True)
    out.mkdir()
    tiny = {"scale": "tiny", "model_type": TINY.get(kind), "task": "auto", "seed": 0}
    leaves = {}
    if kind == "vision":
        (root / "model").mkdir()
        leaves = {"model": small_models.write(root / "model", VISION)}
    origin = READ if kind == "vision" else tiny
    fetch.run(Work(name="fetch", params=origin, inputs={}, leaves=leaves, out=fetched))
    export.run(Work(name="export", params=ASKED, inputs={"model": fetched}, leaves=leaves, out=out))
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(digests(Path(sys.argv[1]))) + "\n")
