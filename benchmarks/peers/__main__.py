"""This project's packages and other engines, side by side: `python -m benchmarks.peers FOLDER`.

Same weights, same prompts, one process for each engine, all of them loaded at once and asked in turn, so that a busy
machine slows them alike. Speeds are medians over rounds, on the CPU clock (all threads) and the wall clock. Accuracy is
measured beside them: KL of each engine's distributions from PyTorch's in float32, over tokens that are fed to all.

FOLDER keeps environments (each peer has one of its own, made with `pip`) and converted models. A peer that does not
install or convert is left out, and the table says why.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.peers.models import DEMO, NAMES, make

HERE = Path(__file__).parent
PREFILL = 256
CONTEXTS = {"demo": 512, "gpt2-124m": 1024}  # all others 1,152


@dataclass(frozen=True, slots=True)
class Variant:
    """One engine with one form of the weights. `words` are its own: overrides, or a name that it has for a form."""

    name: str
    engine: str
    words: tuple[str, ...]
    models: tuple[str, ...] = NAMES


VARIANTS = (
    Variant("transformers fp32", "transformers", ()),
    Variant("qeffbuild fp32", "qeffbuild", ()),
    Variant("qeffbuild int8 fast", "qeffbuild", ("quantization=int8", "backend.profile=fast")),
    Variant("qeffbuild int4 fast", "qeffbuild", ("quantization=int4", "backend.profile=fast")),
    Variant("qeffbuild int4", "qeffbuild", ("quantization=int4",)),
    Variant("llama.cpp q8_0", "llama.cpp", ("q8_0",)),
    Variant("llama.cpp q4_0", "llama.cpp", ("q4_0",)),
    Variant("OpenVINO int8", "openvino", ("int8",)),
    Variant("OpenVINO int4", "openvino", ("int4",)),
    Variant("optimum-onnx fp32", "optimum-onnx", ()),
    Variant("onnxruntime-genai int8", "onnxruntime-genai", ("int8",), ("llama-160m", "llama-1.1b")),
    Variant("onnxruntime-genai int4", "onnxruntime-genai", ("int4",), ("llama-160m", "llama-1.1b")),
)
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


def called(*command: object, what: str) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()
        raise NotHere(f"{what}: {next((line for line in said if line.startswith('error')), said[-1])[:120]}")


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
    made = folder / "models" / f"{source.name}.{variant.name.replace(' ', '-')}"
    if (made / "ready").exists():
        return next(made.glob("*.gguf"), made / "package" if (made / "package").exists() else made)
    made.mkdir(parents=True, exist_ok=True)
    python = python_of(variant.engine, folder)
    if variant.engine == "qeffbuild":
        context = CONTEXTS.get(source.name, 1152)
        shape = (f"specialization.prefill_seq_len={PREFILL}", f"specialization.ctx_len={context}")
        which = ("model=demo",) if source == DEMO else ("model=hf", f"model.path={source}")
        asked = ("--allow-outside", *which, *shape, *variant.words, f"out={made / 'package'}")
        called(python, "-m", "qeffbuild", "build", *asked, what="build")
    elif variant.engine == "llama.cpp":
        called(python, HERE / "gguf_file.py", source, made / "model.gguf", *variant.words, what="conversion")
    elif variant.engine in ("openvino", "optimum-onnx"):
        called(python, HERE / "optimum_model.py", variant.engine, source, made, *variant.words, what="conversion")
    else:
        build = ("-m", "onnxruntime_genai.models.builder", "-i", source, "-o", made, "-p", *variant.words, "-e", "cpu")
        called(python, *build, what="model builder")
    (made / "ready").touch()
    return prepared(variant, source, folder)


class Running:
    """An engine in its process, ready for requests."""

    def __init__(self, variant: Variant, model: Path, folder: Path, threads: int) -> None:
        self.variant = variant
        command = [str(python_of(variant.engine, folder)), str(HERE / "worker.py"), variant.engine, str(model)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self.log = (folder / f"{variant.name.replace(' ', '-')}.log").open("w")
        self.process = subprocess.Popen(
            [*command, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env=environment,
        )  # fmt: skip
        self.loaded = self.answer()

    def ask(self, **asked: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
        except OSError as cause:
            raise NotHere("it ended") from cause
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            said = Path(self.log.name).read_text().strip().splitlines()
            raise NotHere(said[-1][:120] if said else "it ended without a word")
        return json.loads(line)

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.log.close()


def measure(model: str, folder: Path, words: argparse.Namespace) -> dict[str, Any]:
    source = make(model, folder / "models")
    random = np.random.default_rng(5)
    running, absent = [], {}
    for variant in VARIANTS:
        if model not in variant.models or (words.only and not any(each in variant.name for each in words.only)):
            continue
        try:
            running.append(Running(variant, prepared(variant, source, folder), folder, words.threads))
        except (NotHere, StopIteration) as why:
            absent[variant.name] = str(why)
    lengths = [length for length in words.prompts if source != DEMO or length <= 256]
    prompts = {length: random.integers(3, 2000, length).tolist() for length in lengths}
    rows: dict[str, Any] = {each.variant.name: {**each.loaded, "prompts": {}} for each in running}
    for length, prompt in prompts.items():
        answers: dict[str, list[dict[str, Any]]] = {each.variant.name: [] for each in running}
        for lap in range(words.rounds + 1):
            for each in running:
                answers[each.variant.name].append(each.ask(prompt=prompt, tokens=words.tokens if lap else 1))
        for name, said in answers.items():
            counted = said[1:]
            rows[name]["prompts"][length] = {key: median(one[key] for one in counted) for key in counted[0]}
            rows[name]["peak_mb"] = counted[-1]["peak_mb"]
    score(running, random.integers(3, 2000, 64 + words.scored).tolist(), folder, rows)
    for each in running:
        each.end()
    return {"model": model, "threads": words.threads, "rounds": words.rounds, "variants": rows, "absent": absent}


def score(running: list[Running], token_ids: list[int], folder: Path, rows: dict[str, Any]) -> None:
    """Adds each variant's KL from the first one, which is PyTorch in float32."""
    wanted = None
    for each in running:
        file = folder / "logits.npy"
        each.ask(prompt=token_ids[:64], then=token_ids[64:], save=str(file))
        found = log_shares(np.load(file).astype(np.float64))
        if each.variant.engine == "transformers":
            wanted = found
        if wanted is not None:
            width = min(wanted.shape[-1], found.shape[-1])
            left, right = wanted[:, :width], found[:, :width]
            rows[each.variant.name]["kl"] = float((np.exp(left) * (left - right)).sum(-1).mean())


def log_shares(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def table(measured: dict[str, Any]) -> str:
    lengths = next(iter(measured["variants"].values()))["prompts"]
    heads = [f"prefill {n}: CPU / wall ms | decode: CPU / wall ms" for n in lengths]
    lines = [
        f"{measured['model']}, {measured['threads']} thread(s), medians of {measured['rounds']} rounds",
        "",
        "| | " + " | ".join([*heads, "KL from fp32", "load CPU s", "peak MB"]) + " |",
        "|" + "---|" * (2 * len(heads) + 4),
    ]
    for name, said in measured["variants"].items():
        cells = []
        for figures in said["prompts"].values():
            for phase, digits in (("prefill", 0), ("decode", 2)):
                pair = (figures[f"{phase}_{clock}"] * 1e3 for clock in ("cpu", "wall"))
                cells.append(" / ".join(f"{value:.{digits}f}" for value in pair))
        kl = said.get("kl")
        cells += ["" if kl is None else f"{kl:.1e}", f"{said['load_cpu']:.2f}", f"{said['peak_mb']:.0f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [f"\nleft out: {name}: {why}" for name, why in measured["absent"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--only", nargs="+", help="variants whose names contain one of these; keep transformers for KL")
    parser.add_argument("--prompts", nargs="+", type=int, default=[128, 1000], help="lengths of prompts, in tokens")
    parser.add_argument("--tokens", type=int, default=16, help="decoded in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scored", type=int, default=48, help="tokens whose distributions are compared, behind 64")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    words = parser.parse_args()
    folder = words.folder.resolve()
    results = []
    for model in words.models:
        results.append(measure(model, folder, words))
        print(table(results[-1]), end="\n\n", flush=True)
        if words.json:
            words.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
