"""config.json + the checkpoint's tensor table -> what is missing, unexpected or of another shape.

transformers' own loader decides, on tensors without data: it knows tied weights, base-model prefixes, old names,
buffers that a checkpoint may carry, and experts that it merges while loading. Its parts are private: used here only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qeffbuild.errors import ModelError
from qeffbuild.models.classes import learn, model_from
from qeffbuild.models.facts import Facts
from qeffbuild.models.tasks import EMBEDDING
from qeffbuild.models.weights import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]


def compare(folder: Path, facts: Facts, *, trust_remote_code: bool = False) -> Disagreement:
    """Hold the checkpoint against the model that its configuration describes; nothing is read or allocated."""
    import torch
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    config = _configuration(folder, facts, trust_remote_code)
    nowhere = torch.device("meta")
    with nowhere:
        try:
            model = model_from(config, facts.task, trust_remote_code=trust_remote_code)
        except Exception as problem:
            found = f"transformers cannot make this {facts.model_type}: {problem}"
            raise ModelError("model.config", f"config.json: {found:.200}", where=str(folder)) from problem
    renaming: Any = get_model_conversion_mapping(model, None, None)
    loading = LoadStateDictConfig(device_map={"": nowhere}, ignore_mismatched_sizes=True, weight_mapping=renaming)
    state = {name: _empty(torch, tensor) for name, tensor in facts.plain_tensors.items()}
    found, _ = convert_and_load_state_dict_in_model(model, state, loading, None)
    model.tie_weights(missing_keys=found.missing_keys, recompute_mapping=False)
    model._adjust_missing_and_unexpected_keys(found)
    missing, unexpected = set(found.missing_keys), set(found.unexpected_keys)
    if facts.task == EMBEDDING:
        # A model is embedded with whatever head it was published for, and its own pooler is not used.
        missing, unexpected = {name for name in missing if "pooler" not in name.split(".")}, set()
    return Disagreement(
        missing=tuple(sorted(missing)),
        unexpected=tuple(sorted(unexpected)),
        mismatched=tuple(
            sorted(f"{name} {list(is_)}, not {list(wants)}" for name, is_, wants in found.mismatched_keys)
        ),
    )


def refuse_disagreement(folder: Path, found: Disagreement) -> None:
    """A ModelError that names the first tensors of the gravest kind."""
    kinds: Mapping[str, tuple[str, ...]] = {
        "tensors of another shape than config.json says": found.mismatched,
        "missing tensors": found.missing,
        "unexpected tensors": found.unexpected,
    }
    for what, names in kinds.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            said = f"{what}: {', '.join(names[:3])}{more}"
            hint = "config.json and the weights are of different models, or a file is missing"
            raise ModelError("model.weights", said, where=str(folder), hint=hint)


def _configuration(folder: Path, facts: Facts, trust_remote_code: bool) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    learn(facts.config)
    try:
        if trust_remote_code and facts.config.get("auto_map"):
            return AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code, local_files_only=True)
        return CONFIG_MAPPING[facts.model_type].from_pretrained(str(folder), local_files_only=True)
    except Exception as problem:
        first = " ".join(str(problem).split())
        raise ModelError("model.config", f"config.json: {first:.200}", where=str(folder)) from problem


def _empty(torch: Any, tensor: Tensor) -> Any:
    dtype = getattr(torch, tensor.dtype, torch.uint8)
    return torch.empty(tensor.shape, dtype=dtype, device="meta")
