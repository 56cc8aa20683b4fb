"""Neutral graph and calibration text -> sensitivity.json: what each weight costs when it alone has 4 bits."""

from __future__ import annotations

import json

from qeffbuild.calibration.apply import candidates
from qeffbuild.calibration.flow import Flow
from qeffbuild.calibration.sensitivity import measure
from qeffbuild.calibration.text import calibration_rows
from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph
from qeffbuild.graph.hoist import hoist
from qeffbuild.graph.weights import Folder, Weights, checkpoint_folder
from qeffbuild.graphs import members
from qeffbuild.models import Facts


def run(work: Work) -> None:
    facts = Facts.load(work.inputs["model"] / "facts.json")
    checkpoint = checkpoint_folder(work.inputs["model"], work.leaves.get("model"))
    weights = Weights(Folder(work.inputs["graph"]), checkpoint)
    text, tokens = work.leaves["calibration"], work.params["calibration_tokens"]
    rows = calibration_rows(checkpoint.path, facts, text, tokens=tokens)
    (member, *_) = members(work.inputs["graph"])
    model, flow = load_graph(member.graph), Flow(load_graph(member.graph), member.signature, weights, rows)
    hoist(model.graph)
    found, sizes = candidates(model, weights, facts.names, work.params["keep"], flow)
    work.progress(0.1, f"{len(found)} weights on paths of their own")
    said = measure(flow, found, block_size=work.params["block_size"])
    document = {"schema": 1, "tokens": flow.tokens, "kl": said, "sizes": sizes}
    (work.out / "sensitivity.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
