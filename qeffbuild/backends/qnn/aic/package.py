"""Compiled program, its documents, tokenizer -> a folder that runs without the store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from qeffbuild.backends.qnn.aic.command import OUTPUT, PROGRAM
from qeffbuild.cloud_ai_100.names import IMAGE_FACTS, SPECIALIZATIONS
from qeffbuild.executor.work import Work
from qeffbuild.graph.weights import checkpoint_folder
from qeffbuild.graphs import members
from qeffbuild.models import save_tokenizer
from qeffbuild.package import TOKENIZER, bring_adapters, gates, model_facts, write_manifest, write_provenance


def run(work: Work) -> None:
    facts = json.loads((work.inputs["model"] / "facts.json").read_text())
    fetched = json.loads((work.inputs["model"] / "model.json").read_text())["files"]
    checkpoint = checkpoint_folder(work.inputs["model"], work.leaves.get("model"))

    documents, graphs = work.inputs["documents"], {}
    for member in members(documents):
        folder = member.name if member.prefix else "."
        shutil.copytree(work.inputs["compiled"] / folder / OUTPUT, work.out / folder / OUTPUT)
        # Whoever runs the program reads the sizes of its buffers from the specializations, by their names.
        shutil.copyfile(documents / folder / SPECIALIZATIONS, work.out / folder / SPECIALIZATIONS)
        file = (Path(folder) / OUTPUT / PROGRAM).as_posix()
        graphs[member.name] = {"file": file, "signature": member.signature.as_json()}
    adapters = bring_adapters(documents, work.out)
    has_tokenizer = save_tokenizer(checkpoint.path, fetched, work.out / TOKENIZER)
    write_provenance(work.out, work.params, fetched)
    params = work.params
    manifest = {
        **{name: params[name] for name in ("backend", "target", "specialization")},
        "task": facts["task"],
        "graphs": graphs,
        "model": model_facts(facts),
        "quantization": {"method": "none", **{name: params[name] for name in ("mxfp6_matmul", "mxint8_kv_cache")}},
        "devices": params["num_devices"],
        "tokenizer": TOKENIZER if has_tokenizer else None,
        **gates(work.inputs),
    }
    if (documents / IMAGE_FACTS).is_file():
        manifest["image"] = json.loads((documents / IMAGE_FACTS).read_text())
    write_manifest(work.out, manifest if adapters is None else {**manifest, "adapters": adapters})
