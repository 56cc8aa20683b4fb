"""Compiled program, its documents, tokenizer -> a folder that runs without the store."""

from __future__ import annotations

import json

from qeffbuild.cloud_ai_100.bring import bring_programs, image_facts
from qeffbuild.executor.work import Work
from qeffbuild.graph.weights import checkpoint_folder
from qeffbuild.models import save_tokenizer
from qeffbuild.models.manifest import model_facts
from qeffbuild.package import TOKENIZER, bring_adapters, gates, write_manifest, write_provenance


def run(work: Work) -> None:
    facts = json.loads((work.inputs["model"] / "facts.json").read_text())
    fetched = json.loads((work.inputs["model"] / "model.json").read_text())["files"]
    checkpoint = checkpoint_folder(work.inputs["model"], work.leaves.get("model"))

    documents = work.inputs["documents"]
    graphs = bring_programs(work)
    has_tokenizer = save_tokenizer(checkpoint.path, fetched, work.out / TOKENIZER)
    adapters = bring_adapters(documents, work.out)
    write_provenance(work.out, work.params, fetched)
    said = ("backend", "target", "specialization")
    manifest = {
        **{name: work.params[name] for name in said if name in work.params},
        "task": facts["task"],
        "graphs": graphs,
        "model": model_facts(facts),
        "quantization": {
            "method": "none",
            "mxfp6_matmul": work.params["mxfp6_matmul"],
            "mxint8_kv_cache": work.params["mxint8_kv_cache"],
        },
        "devices": work.params["num_devices"],
        "tokenizer": TOKENIZER if has_tokenizer else None,
        **gates(work.inputs),
        **image_facts(documents),
    }
    write_manifest(work.out, manifest if adapters is None else {**manifest, "adapters": adapters})
