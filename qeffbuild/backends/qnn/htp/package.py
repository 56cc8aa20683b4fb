"""Compiled binaries, tokenizer -> a folder that runs without the store, reloaded and run once as the proof."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from qeffbuild.backends.qnn.htp.compile import DLC
from qeffbuild.backends.qnn.htp.session import GRAPH, open_session
from qeffbuild.errors import StepError
from qeffbuild.executor.work import Work
from qeffbuild.graph.weights import checkpoint_folder
from qeffbuild.models import save_tokenizer
from qeffbuild.models.manifest import model_facts
from qeffbuild.package import TOKENIZER, Package, gates, write_manifest, write_provenance
from qeffbuild.signature import IoSignature


def run(work: Work) -> None:
    facts = json.loads((work.inputs["model"] / "facts.json").read_text())
    fetched = json.loads((work.inputs["model"] / "model.json").read_text())["files"]
    checkpoint = checkpoint_folder(work.inputs["model"], work.leaves.get("model"))
    compared: dict[str, Any] = {}
    for role, folder in work.inputs.items():
        if role.startswith("compiled"):
            _take(folder, work.out)
            compared |= json.loads((folder / "compile.json").read_text())["graphs"]
    has_tokenizer = save_tokenizer(checkpoint.path, fetched, work.out / TOKENIZER)
    write_provenance(work.out, work.params, fetched)
    signature = IoSignature.load(work.inputs["graph"] / "io.json").as_json()
    graphs = {
        GRAPH if phase["seq_len"] == 1 else phase["name"]: {
            "file": f"{phase['name']}.onnx",
            "seq_len": phase["seq_len"],
            "signature": signature,
            **compared[phase["name"]],
        }
        for phase in work.params["phases"]
    }
    manifest = {
        **{name: work.params[name] for name in ("backend", "target", "chip", "sizes", "weight_sharing")},
        **{name: work.params[name] for name in ("specialization", "quantization")},
        "task": facts["task"],
        "graphs": graphs,
        "model": model_facts(facts),
        "tokenizer": TOKENIZER if has_tokenizer else None,
        **gates(work.inputs),
    }
    package = write_manifest(work.out, manifest)
    if not work.params["weight_sharing"]:
        _try_out(package)


def _take(compiled: Path, out: Path) -> None:
    for file in sorted(compiled.iterdir()):
        if file.name == DLC:
            shutil.copytree(file, out / DLC, dirs_exist_ok=True)
        elif file.name != "compile.json" and not (out / file.name).exists():
            shutil.copyfile(file, out / file.name)


def _try_out(package: Package) -> None:
    """One prefill and one decode, in the process of a stranger."""
    session, sizes = open_session(package, threads=1), package.manifest["sizes"]
    states = session.allocate(GRAPH, **sizes)
    widths = sorted({graph["seq_len"] for graph in package.manifest["graphs"].values()}, reverse=True)
    for begin, width in enumerate(widths):
        positions = np.full((sizes["batch_size"], width), -1)
        positions[0, 0] = begin
        inputs = {"input_ids": np.ones_like(positions), "position_ids": positions}
        index = np.zeros((sizes["batch_size"], 1), np.int64)
        logits = session.run(GRAPH, {**inputs, "logits_index": index}, states)["logits"][0]
        if logits.shape[-1] < package.model["vocab_size"]:
            raise StepError("step.check", f"{logits.shape[-1]} logits for {package.model['vocab_size']} words")
        if not np.isfinite(logits).all():
            raise StepError(
                "step.check",
                "a run of one token gives logits that are not finite",
                hint="float16 does not hold this model's numbers",
            )
