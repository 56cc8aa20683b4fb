"""A variant and a model -> the model in the variant's form, in a folder that keeps what was made.

Each peer has an environment of its own, made with pip. What does not install or convert is not here, and the table says
why. Our own packages come from `qeffbuild build`, which knows whether they are up to date.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

from benchmarks.peers.models import DEMO
from benchmarks.peers.variants import CONTEXTS, PREFILL, Variant

HERE = Path(__file__).parent
# What pip is asked for. Those that convert models want torch, too, which is taken from ours, and stays as it is.
PACKAGES = {
    "llama.cpp": ("llama-cpp-python", "gguf"),
    "onnxruntime-genai": ("onnxruntime-genai",),
    "openvino": ("optimum-intel", "openvino", "nncf", "torch=={torch}"),
    "optimum-onnx": ("optimum-onnx", "torch=={torch}"),
}
SEES_OURS = {"onnxruntime-genai", "openvino", "optimum-onnx"}
UNWANTED = {"openvino": ("torchvision",)}  # built for cards, it does not go with a torch for processors


class NotHere(Exception):
    """A peer that cannot be measured, and why."""


def called(*command: object, what: str, environment: dict[str, str] | None = None) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()
        raise NotHere(f"{what}: {next((line for line in said if line.startswith('error')), said[-1])[:120]}")
    return done.stdout


def python_of(engine: str, folder: Path) -> Path:
    """The engine's own interpreter; its environment is made the first time."""
    if engine not in PACKAGES:
        return Path(sys.executable)
    home = folder / "env" / engine
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        called(sys.executable, "-m", "venv", home, what="venv")
        if engine in SEES_OURS:
            paths = [sysconfig.get_path("purelib"), *(path for path in sys.path if path.endswith("site-packages"))]
            site = next((home / "lib").glob("python3*")) / "site-packages"
            (site / "ours.pth").write_text("\n".join(dict.fromkeys(paths)) + "\n")
        wanted = [each.format(torch=version("torch").partition("+")[0]) for each in PACKAGES[engine]]
        called(python, "-m", "pip", "install", "-q", *wanted, what="pip")
        if engine in UNWANTED:
            called(python, "-m", "pip", "uninstall", "-q", "-y", *UNWANTED[engine], what="pip")
        (home / "ready").touch()
    return python


def prepared(variant: Variant, source: Path, folder: Path) -> Path:
    """The model in the variant's form; made the first time."""
    if variant.engine == "transformers":
        return source
    if variant.is_ours:
        return _built(variant, source, folder)
    made = folder / "models" / f"{source.name}.{variant.name.replace(' ', '-')}"
    if not (made / "ready").exists():
        made.mkdir(parents=True, exist_ok=True)
        _convert(variant, source, made, python_of(variant.engine, folder))
        (made / "ready").touch()
    return next(made.glob("*.gguf"), made)


def _built(variant: Variant, source: Path, folder: Path) -> Path:
    """A package in a cache of its own below the folder; at once where nothing has changed."""
    shape = (
        f"specialization.prefill_seq_len={PREFILL}",
        f"specialization.ctx_len={CONTEXTS.get(source.name, 1152)}",
    )
    which = ("model=demo",) if source == DEMO else ("model=hf", f"model.path={source}")
    asked = ("--allow-outside", *which, *shape, *variant.words)
    cache = {"QEFFBUILD_CACHE": str(folder / "cache")}
    said = called(sys.executable, "-m", "qeffbuild", "build", *asked, what="build", environment=cache)
    return Path(said.strip().splitlines()[-1])


def _convert(variant: Variant, source: Path, made: Path, python: Path) -> None:
    if variant.engine == "llama.cpp":
        called(python, HERE / "gguf_file.py", source, made / "model.gguf", *variant.words, what="conversion")
    elif variant.engine in ("openvino", "optimum-onnx"):
        called(python, HERE / "optimum_model.py", variant.engine, source, made, *variant.words, what="conversion")
    else:
        build = ("-m", "onnxruntime_genai.models.builder", "-i", source, "-o", made, "-p", *variant.words, "-e", "cpu")
        called(python, *build, "-c", made / "cache", what="model builder")
