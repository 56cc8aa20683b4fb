"""Facts of a model -> its neutral graph, in graph.onnx, io.json and export.json."""

from __future__ import annotations

import json

from qeffbuild.errors import ModelError
from qeffbuild.executor.work import Work
from qeffbuild.export import export


def run(work: Work) -> None:
    if work.params.get("trust_remote_code"):
        raise ModelError(
            "model.unsupported",
            "model.trust_remote_code: the export knows the models of transformers, not a repository's own code",
            hint="use a model_type that transformers has",
        )
    facts = json.loads((work.inputs["model"] / "facts.json").read_text())
    export(facts, work.out, dtype=work.params["dtype"], progress=work.progress)
