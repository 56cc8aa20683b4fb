"""Lowered graph, checkpoint, tokenizer -> a folder that runs without the store, loaded and run once as the proof."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qeffbuild.errors import ModelError, StepError
from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.weights import Folder, Weights, checkpoint_folder
from qeffbuild.graph.write import write_weights
from qeffbuild.package import PROVENANCE, Package, digest_of, members, write_manifest
from qeffbuild.signature import IoSignature

GRAPH = "decoder"
TOKENIZER = "tokenizer"
TOKENIZER_FILES = frozenset(
    {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
        "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
        "chat_template.jinja", "chat_template.json",
    }
)  # fmt: skip
_TRIAL_CONTEXT = 4


def run(work: Work) -> None:
    facts = json.loads((work.inputs["model"] / "facts.json").read_text())
    fetched = json.loads((work.inputs["model"] / "model.json").read_text())["files"]
    checkpoint = checkpoint_folder(work.inputs["model"], work.leaves.get("model"))

    known = _write_graph(work, checkpoint)
    has_tokenizer = _copy_tokenizer(checkpoint.path, fetched, work.out)
    known |= {rel: digest_of(work.out / rel) for rel in members(work.out) if rel not in known}
    provenance = _provenance(work.params, known, fetched)
    (work.out / PROVENANCE).write_text(json.dumps(provenance, indent=1, sort_keys=True) + "\n")
    package = write_manifest(work.out, _manifest(work, facts, has_tokenizer), known)
    _try_out(package, work)


def _write_graph(work: Work, checkpoint: Folder) -> dict[str, str]:
    """decoder.onnx and decoder.data; the digest of the latter, taken while writing."""
    steps = [work.inputs[role] for role in ("graph", "quantized", "exported") if role in work.inputs]
    weights = Weights(*(Folder(step) for step in steps), checkpoint)
    model = load_graph(work.inputs["graph"] / "graph.onnx")
    written = write_weights(model, weights, work.out / f"{GRAPH}.data", work.progress)
    save_graph(model, work.out / f"{GRAPH}.onnx")
    return {f"{GRAPH}.data": written.sha256}


def _copy_tokenizer(checkpoint: Path, fetched: Mapping[str, Any], out: Path) -> bool:
    """Copies what makes the tokenizer, the very bytes that were fetched."""
    names = sorted(TOKENIZER_FILES & set(fetched))
    if not names:
        return False
    (out / TOKENIZER).mkdir()
    # config.json tells transformers which tokenizer class the others belong to.
    for name in [*names, "config.json"]:
        copy = out / TOKENIZER / name
        shutil.copyfile(checkpoint / name, copy)
        if digest_of(copy) != fetched[name]["sha256"]:
            raise ModelError("model.changed", f"{name} changed while the build ran", hint="run the build again")
    return True


def _manifest(work: Work, facts: Mapping[str, Any], has_tokenizer: bool) -> dict[str, Any]:
    signature = IoSignature.load(work.inputs["graph"] / "io.json")
    lowered = json.loads((work.inputs["graph"] / "lower.json").read_text())
    graph = {"file": f"{GRAPH}.onnx", "signature": signature.as_json(), "in_place": lowered["in_place"]}
    return {
        "backend": work.params["backend"],
        "task": facts["task"],
        "graphs": {GRAPH: graph},
        "specialization": work.params["specialization"],
        "model": _model_facts(facts),
        "quantization": work.params["quantization"],
        "tokenizer": TOKENIZER if has_tokenizer else None,
    }


def _model_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the runtime has to know of the model. The generation config has the last word, as in transformers."""
    config = facts["config"]
    said = {**config.get("text_config", {}), **config, **(facts["generation_config"] or {})}
    eos = said.get("eos_token_id")
    # GPT-2's and MPT's words for the longest context; whoever has none says nothing of it.
    longest = next(
        (said[key] for key in ("max_position_embeddings", "n_positions", "max_seq_len") if key in said), None
    )
    return {
        "model_type": config["model_type"],
        "name": next(iter(config.get("architectures") or [config["model_type"]])),
        "vocab_size": said["vocab_size"],
        "eos_token_id": eos if isinstance(eos, list) else [] if eos is None else [eos],
        "bos_token_id": said.get("bos_token_id"),
        "pad_token_id": said.get("pad_token_id"),
        "max_position_embeddings": longest,
    }


def _provenance(params: Mapping[str, Any], made: Mapping[str, str], fetched: Mapping[str, Any]) -> dict[str, Any]:
    """An in-toto statement with a SLSA v1 predicate: what was made, from what, by which words. No time, no place."""
    return {
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
    logits = session.run(GRAPH, {**tokens, "logits_index": np.zeros((1, 1), np.int64)}, states)["logits"]
    vocabulary = package.model["vocab_size"]
    if logits.shape[-1] < vocabulary:
        raise StepError("step.check", f"{logits.shape[-1]} logits for a vocabulary of {vocabulary}")
    if not np.isfinite(logits).all() and not work.params["allow_nonfinite"]:
        raise StepError(
            "step.check",
            "a run of one token gives logits that are not finite",
            hint="look for overflow (model.dtype=float32), or say model.allow_nonfinite=true",
        )
