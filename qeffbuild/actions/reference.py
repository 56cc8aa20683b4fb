"""A fetched model and a fixed set of inputs -> what PyTorch says to them: the measure of every gate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from qeffbuild.executor.work import Work
from qeffbuild.gate import reference
from qeffbuild.gate.questions import HEARD, IS_IMAGE, POSITIONS, START, Asking
from qeffbuild.models import Facts, checkpoint
from qeffbuild.models.tasks import GENERATING

_OURS = frozenset({HEARD, IS_IMAGE, POSITIONS})  # of a row; the rest are the model's own inputs
_KINDS = ("token_type_ids", "mm_token_type_ids")  # what a token stands for: 1 for a piece of an image
_SEEN = "decoder_attention_mask"


def run(work: Work) -> None:
    facts = Facts.load(work.inputs["model"] / "facts.json")
    folder = checkpoint(work.inputs["model"], work.leaves.get("model"))
    wrap = _generating if facts.task in GENERATING else _at_once(work, facts)
    asking = Asking(
        level=work.params["level"],
        trust_remote_code=work.params["trust_remote_code"],
        img_size=tuple(work.params["img_size"]),
        images=work.params["images"],
    )
    reference.make(folder, facts, work.out, asking=asking, wrap=wrap)


def _generating(network: Any) -> Callable[[Mapping[str, Any]], Any]:
    """Scores of every next token, all of them at once."""
    import torch

    from qeffbuild.export.decoder import without_cache
    from qeffbuild.export.states import accepts

    def ask(row: Mapping[str, Any]) -> Any:
        inputs = {name: tensor for name, tensor in row.items() if name not in _OURS}
        if IS_IMAGE in row:
            inputs |= {name: row[IS_IMAGE] for name in _KINDS if accepts(network, name) and name not in row}
        if START in row and accepts(network, _SEEN):
            inputs[_SEEN] = torch.ones_like(row[START])  # else some hide the token that they begin with: it is padding
        return network(**inputs, **without_cache(network)).logits

    return ask


def _at_once(work: Work, facts: Facts) -> Callable[[Any], Callable[[Mapping[str, Any]], Any]]:
    """What is exported of an encoder: the same module around the real network, without our attention and masks."""
    import torch

    from qeffbuild.export.carried import Reading
    from qeffbuild.export.tasks import embedding_of, kind_of

    said = json.loads((work.inputs["model"] / "facts.json").read_text())
    kind = kind_of(facts.task, *embedding_of(said, work.params["pooling"], work.params["normalize"]))

    def wrap(network: Any) -> Callable[[Mapping[str, Any]], Any]:
        (asked,) = kind.graphs(network, Reading())

        def ask(inputs: Mapping[str, Any]) -> Any:
            ids = next(iter(inputs.values()))
            defaults = {"attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
            return asked.module(*({**defaults, **inputs}[tensor.name] for tensor in asked.inputs))[0]

        return ask

    return wrap
