"""A fetched model -> checked.json, or the reason why it cannot be built: fit, weights, tokenizer, numbers."""

from __future__ import annotations

import json
import math

from qeffbuild.errors import ModelError
from qeffbuild.executor.work import Work
from qeffbuild.models import Facts, checkpoint, load_tokenizer
from qeffbuild.models.fit import fit_values
from qeffbuild.models.numbers import nonfinite
from qeffbuild.models.tokenizer import refuse_misfit, refuse_missing

_FIT = ("ctx_len", "seq_len", "num_devices", "mdp_num_partitions", "kv_head_replication", "allow_extended_context")


def run(work: Work) -> None:
    facts = Facts.load(work.inputs["model"] / "facts.json")
    folder = checkpoint(work.inputs["model"], work.leaves.get("model"))
    trust_remote_code = work.params["trust_remote_code"]

    # What costs nothing comes before what costs an import of torch.
    fit_values(facts, **{name: work.params[name] for name in _FIT})
    refuse_missing(folder)
    work.progress(0.0, "looking for NaN")
    strange = nonfinite(folder, facts.tensors, work.progress)
    if strange and not work.params["allow_nonfinite"]:
        found = f"{len(strange)} tensors hold NaN or infinity, the first is {strange[0]}"
        raise ModelError("model.numeric", found, where=str(folder), hint="accept them: model.allow_nonfinite=true")

    from qeffbuild.models.skeleton import compare, refuse_disagreement

    refuse_disagreement(folder, compare(folder, facts, trust_remote_code=trust_remote_code))
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    refuse_misfit(folder, tokenizer, facts)
    said = {
        "schema": 1,
        "task": facts.task,
        "parameters": sum(math.prod(tensor.shape) for tensor in facts.plain_tensors.values()),
        "nonfinite": list(strange),
        "tokens": len(tokenizer.get_vocab()),
    }
    (work.out / "checked.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n", "utf-8")
