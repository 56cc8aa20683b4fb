"""A fetched model and a fixed set of inputs -> what PyTorch says to them: the measure of every gate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from qeffbuild.executor.work import Work
from qeffbuild.gate import reference
from qeffbuild.models import Facts, checkpoint
from qeffbuild.models.tasks import CAUSAL


def run(work: Work) -> None:
    facts = Facts.load(work.inputs["model"] / "facts.json")
    folder = checkpoint(work.inputs["model"], work.leaves.get("model"))
    why_not = reference.refuse(facts.task)
    if why_not is not None:
        document = {"schema": 1, "skipped": why_not}
        (work.out / reference.SAID).write_text(json.dumps(document, indent=1) + "\n")
        return
    wrap = _text if facts.task == CAUSAL else _at_once(work, facts)
    said = {name: work.params[name] for name in ("level", "trust_remote_code")}
    reference.make(folder, facts, work.out, wrap=wrap, **said)


def _text(network: Any) -> Callable[[Mapping[str, Any]], Any]:
    from qeffbuild.export.decoder import without_cache

    return lambda inputs: network(**inputs, **without_cache(network)).logits


def _at_once(work: Work, facts: Facts) -> Callable[[Any], Callable[[Mapping[str, Any]], Any]]:
    """What is exported of an encoder: the same module around the real network, without our attention and masks."""
    import torch

    from qeffbuild.export.tasks import embedding_of, kind_of

    said = json.loads((work.inputs["model"] / "facts.json").read_text())
    kind = kind_of(facts.task, *embedding_of(said, work.params["pooling"], work.params["normalize"]))

    def wrap(network: Any) -> Callable[[Mapping[str, Any]], Any]:
        (asked,) = kind.graphs(network)

        def ask(inputs: Mapping[str, Any]) -> Any:
            ids = next(iter(inputs.values()))
            defaults = {"attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
            return asked.module(*({**defaults, **inputs}[tensor.name] for tensor in asked.inputs))[0]

        return ask

    return wrap
