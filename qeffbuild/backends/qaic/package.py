"""Compiled program, its documents, tokenizer -> a folder that runs without the store."""

from __future__ import annotations

import json
import shutil

from qeffbuild.backends.qaic.command import OUTPUT, PROGRAM
from qeffbuild.cloud_ai_100.names import SPECIALIZATIONS
from qeffbuild.executor.work import Work
from qeffbuild.graph.weights import checkpoint_folder
from qeffbuild.models import save_tokenizer
from qeffbuild.package import TOKENIZER, bring_adapters, model_facts, write_manifest, write_provenance
from qeffbuild.signature import IoSignature


def run(work: Work) -> None:
    facts = json.loads((work.inputs["model"] / "facts.json").read_text())
    fetched = json.loads((work.inputs["model"] / "model.json").read_text())["files"]
    checkpoint = checkpoint_folder(work.inputs["model"], work.leaves.get("model"))

    shutil.copytree(work.inputs["compiled"] / OUTPUT, work.out / OUTPUT)
    # The runtime reads the sizes of its buffers from the specializations, by their names.
    shutil.copyfile(work.inputs["documents"] / SPECIALIZATIONS, work.out / SPECIALIZATIONS)
    has_tokenizer = save_tokenizer(checkpoint.path, fetched, work.out / TOKENIZER)
    adapters = bring_adapters(work.inputs["documents"], work.out)
    write_provenance(work.out, work.params, fetched)
    signature = IoSignature.load(work.inputs["documents"] / "io.json")
    manifest = {
        "backend": "qaic",
        "task": facts["task"],
        "graphs": {signature.graph: {"file": f"{OUTPUT}/{PROGRAM}", "signature": signature.as_json()}},
        "specialization": work.params["specialization"],
        "model": model_facts(facts),
        "quantization": {
            "method": "none",
            "mxfp6_matmul": work.params["mxfp6_matmul"],
            "mxint8_kv_cache": work.params["mxint8_kv_cache"],
        },
        "devices": work.params["num_devices"],
        "tokenizer": TOKENIZER if has_tokenizer else None,
    }
    write_manifest(work.out, manifest if adapters is None else {**manifest, "adapters": adapters})
