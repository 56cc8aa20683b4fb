"""The qconfig.json that QEfficient leaves beside a compiled program -> what it says, by keyword."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qeffbuild.compat.flags import keywords
from qeffbuild.errors import SpecError

# What its compiler options call otherwise than its keywords do, and what is written whatever was asked.
_NAMES = {"aic_num_cores": "num_cores", "mdp_ts_num_devices": "num_devices", "qnn_config_path": "qnn_config"}
_ALWAYS = frozenset({
    "convert_to_fp16", "retained_state", "aic_hw", "apps_sdk_version", "specializations", "specializations_file_path",
    "mdp_ts_json_path", "custom_io", "compile_dir", "onnx_path", "device_group",
})  # fmt: skip


def read_qconfig(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What its keywords were, and the options of the compiler that have none."""
    try:
        document = json.loads(path.read_text("utf-8"))
        config = document["qpc_config"]
        compiler = dict(config.get("aic_compiler_config") or config["qnn_config"])
        name = (document.get("huggingface_config") or {}).get("_name_or_path")
        said = _shapes(compiler.get("specializations") or ())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        found = f"{path.name}: is no qconfig.json of QEfficient: {cause!r}"
        raise SpecError("spec.text", found, where=str(path), hint="it lies in the folder above qpc") from cause
    if name:
        said["model_name"] = name
    others: dict[str, Any] = {}
    known = keywords()
    for key, value in compiler.items():
        word = str(_NAMES.get(key, key))
        if key in _ALWAYS or value is None:
            continue
        (said if word in known else others)[word] = value
    if said.get("num_devices") == 1:
        del said["num_devices"]
    return said, others


def _shapes(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The keywords that give these specializations; older ones are flat, newer ones have names."""
    sets = [
        {name: int(size) for name, size in entry.get("symbols", entry).items() if name != "name"} for entry in entries
    ]
    if not sets or "ctx_len" not in sets[0]:
        return {}
    chunk = max(entry["seq_len"] for entry in sets)
    names = [str(entry.get("name", "")) for entry in entries]
    decodes = [each for each, name in zip(sets, names, strict=True) if name.startswith("Decode")] or [
        each for each in sets[1:] if each["seq_len"] < chunk
    ]
    prefills = [each for each in sets if each not in decodes]
    said: dict[str, Any] = {"prefill_seq_len": (prefills or decodes)[0]["seq_len"], "ctx_len": sets[0]["ctx_len"]}
    rows = (decodes or prefills)[0]["batch_size"]
    if (slots := sets[0].get("full_batch_size")) is not None:
        said |= {"full_batch_size": rows} | ({"kv_cache_batch_size": slots} if slots != rows else {})
    else:
        said["batch_size"] = rows
    if (not decodes and said["prefill_seq_len"] > 1) or not prefills:
        said["prefill_only"] = bool(prefills)
    if drafts := [each["num_logits_to_keep"] - 1 for each in decodes if "num_logits_to_keep" in each]:
        said["num_speculative_tokens"] = drafts
    if prefills and (kept := prefills[0].get("num_logits_to_keep", 1)) != 1:
        said["logits_to_keep"] = kept
        said["num_speculative_tokens"] = [length for length in drafts if length]
    for phase, members in (("prefill", prefills), ("decode", decodes)):
        if lengths := [each["comp_ctx_lengths"] for each in members if "comp_ctx_lengths" in each]:
            said[f"comp_ctx_lengths_{phase}"] = lengths
    return said
