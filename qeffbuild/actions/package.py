"""Lowered graph, checkpoint, tokenizer -> a folder that runs without the store, loaded and run once as the proof."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import onnx

from qeffbuild.errors import StepError
from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.weights import Folder, Weights, checkpoint_folder
from qeffbuild.graph.write import write_weights
from qeffbuild.models import save_tokenizer
from qeffbuild.package import TOKENIZER, Package, bring_adapters, model_facts, write_manifest, write_provenance
from qeffbuild.signature import IoSignature

GRAPH = "decoder"
_TRIAL_CONTEXT = 4


def run(work: Work) -> None:
    facts = json.loads((work.inputs["model"] / "facts.json").read_text())
    fetched = json.loads((work.inputs["model"] / "model.json").read_text())["files"]
    checkpoint = checkpoint_folder(work.inputs["model"], work.leaves.get("model"))

    known = _write_graph(work, checkpoint)
    has_tokenizer = save_tokenizer(checkpoint.path, fetched, work.out / TOKENIZER)
    adapters = bring_adapters(work.inputs["exported"], work.out)
    write_provenance(work.out, work.params, fetched, known)
    said = _manifest(work, facts, has_tokenizer)
    package = write_manifest(work.out, said if adapters is None else {**said, "adapters": adapters}, known)
    _try_out(package, work)


def _write_graph(work: Work, checkpoint: Folder) -> dict[str, str]:
    """decoder.onnx and decoder.data; the digest of the latter, taken while writing."""
    steps = [work.inputs[role] for role in ("graph", "quantized", "exported") if role in work.inputs]
    weights = Weights(*(Folder(step) for step in steps), checkpoint)
    model = load_graph(work.inputs["graph"] / "graph.onnx")
    written = write_weights(model, weights, work.out / f"{GRAPH}.data", work.progress)
    save_graph(model, work.out / f"{GRAPH}.onnx")
    return {f"{GRAPH}.data": written.sha256}


def _manifest(work: Work, facts: Mapping[str, Any], has_tokenizer: bool) -> dict[str, Any]:
    signature = IoSignature.load(work.inputs["graph"] / "io.json")
    lowered = json.loads((work.inputs["graph"] / "lower.json").read_text())
    graph = {
        "file": f"{GRAPH}.onnx",
        "signature": signature.as_json(),
        "in_place": lowered["in_place"],
        "rows_apart": lowered["rows_apart"],
    }
    return {
        "backend": work.params["backend"],
        "task": facts["task"],
        "graphs": {GRAPH: graph},
        "specialization": work.params["specialization"],
        "model": model_facts(facts),
        "quantization": work.params["quantization"],
        "tokenizer": TOKENIZER if has_tokenizer else None,
    }


def _try_out(package: Package, work: Work) -> None:
    """The checker's opinion, then a real run of one token: a package that does not run is not published."""
    try:
        onnx.checker.check_model(str(package.graph(GRAPH)))
    except onnx.checker.ValidationError as cause:
        problem = str(cause).strip().splitlines()[0]
        raise StepError("step.check", f"{GRAPH}.onnx is not valid: {problem}") from cause
    session = import_module(work.params["session"]).open_session(package, threads=1)
    states = session.allocate(GRAPH, 1, _TRIAL_CONTEXT)
    # The second token is padding: it must do no harm.
    tokens = {"input_ids": np.zeros((1, 2), np.int64), "position_ids": np.array([[0, -1]])}
    tokens["logits_index"] = np.zeros((1, 1), np.int64)
    others = [tensor for tensor in session.signature(GRAPH).inputs if tensor.name not in tokens]
    for tensor in others:
        tokens[tensor.name] = np.zeros([size if isinstance(size, int) else 1 for size in tensor.axes], tensor.dtype)
    logits = session.run(GRAPH, tokens, states)["logits"]
    vocabulary = package.model["vocab_size"]
    if logits.shape[-1] < vocabulary:
        raise StepError("step.check", f"{logits.shape[-1]} logits for a vocabulary of {vocabulary}")
    if not np.isfinite(logits).all() and not work.params["allow_nonfinite"]:
        raise StepError(
            "step.check",
            "a run of one token gives logits that are not finite",
            hint="look for overflow (model.dtype=float32), or say model.allow_nonfinite=true",
        )
