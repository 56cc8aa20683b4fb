"""What QEfficient was told, by keyword -> the keys of a build that say the same, and notes on what they cannot."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qeffbuild.compat.flags import keywords
from qeffbuild.compat.lengths import automatic, settled
from qeffbuild.errors import SpecError
from qeffbuild.spec.keys import Key, keys_of
from qeffbuild.spec.text import nearest, quoted

# Who compiles: a backend's name is said as on a command line.
THE_COMPILER = ("backend", "backend=qaic".partition("=")[2])
THE_TOOLS = ("backend", "backend=qnn".partition("=")[2])

# Words that are not ours to carry, and what becomes of them.
_LEFT_OUT = {
    "compile_only": "nothing else is done than asked for anyway",
    "verbose": "the log of every step is kept",
    "dynamo": "there is one exporter",
    "offload_pt_weights": "weights are never loaded whole",
    "enable_chunking": "prompts are prefilled in chunks in any case",
    "moe_prefill_packed_chunk_size": "experts take the tokens of a chunk as they come",
    "mdp_strategy": "stages are split by layers",
    "mdp_compiler_dump_path": "stages are split by layers, whatever a compiler left behind",
    "num_patches": "how many patches an image becomes follows from its size",
    "compile_dir": "results are filed under their keys; out=DIR copies a package",
    "iteration": "it belongs to a run of an image generator",
    "automation": "it belongs to a run of an image generator",
}
# Keys of other groups that a compiler carries out.
_COMPILERS_OWN = frozenset({"quantization.mxfp6_matmul", "quantization.mxint8_kv_cache", "device_group.devices"})
# Words of qaic_config that mean nothing of their own here: what they switch on follows from another word.
_CARRIED = frozenset({"replicate_kv_heads", "speculative_model_type", "enable_blocking", "mla_absorption"})
_BLOCKS = {"num_kv_blocks": "kv", "num_q_blocks": "q", "head_block_size": "h", "num_batch_blocks": "b"}


@dataclass(slots=True)
class Translation:
    """`choices` and `values` are ours, by group and by dotted key; `notes` says what was left or changed."""

    choices: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def overrides(self) -> tuple[str, ...]:
        """The same as words of a command line."""
        return (
            *(f"{group}={choice}" for group, choice in self.choices.items()),
            *(f"{key}={quoted(value)}" for key, value in self.values.items()),
        )

    def move_to(self, backend: str) -> None:
        """The same for another backend: what only the compiler is told is left out, with a note."""
        from importlib import import_module

        if backend == self.choices.pop("backend", None):
            return
        known = keys_of(import_module("qeffbuild.backends").room(backend, "options").Options)
        for key in list(self.values):
            group, _, name = key.partition(".")
            if (group == "backend" and name not in known) or key in _COMPILERS_OWN:
                del self.values[key]
                self.notes.append(f"{name}: left out: it is said to the compiler, and {backend} needs none")

    def take_model_from_elsewhere(self) -> None:
        """A choice of ours names the model."""
        self.choices.pop("model", None)
        for key in ("model.id", "model.path"):
            self.values.pop(key, None)


def translate(said: Mapping[str, Any], others: Mapping[str, Any]) -> Translation:
    """`said` holds words that QEfficient knows; `others` those that it hands to the compiler."""
    known = keywords()
    made = Translation(choices=dict([("model", "hf"), THE_COMPILER]))
    tool = _tool_options(said)
    made.choices |= tool.choices
    made.values |= tool.values
    _name_model(made, said)
    for name, value in said.items():
        flag = known.get(name)
        if flag is None or flag.key is None or value is None or name in ("model_name", "local_model_dir"):
            continue
        made.values[flag.key] = value
    key = "specialization.num_speculative_tokens"
    if isinstance(drafted := made.values.get(key), list):  # a number that is said twice is one graph
        made.values[key] = sorted(set(drafted))
    if (mos := made.values.get("backend.mos")) is not None and mos <= 0:
        del made.values["backend.mos"]
    _set_lengths(made, said)
    for name in ("dynamo", "verbose"):
        if said.get(name):
            made.notes.append(f"{name}: left out: {_LEFT_OUT[name]}")
    _add_others(made, others)
    return made


def translate_call(request: Mapping[str, Any], config: Mapping[str, Any]) -> Translation:
    """Keywords of `from_pretrained(...)` and `compile(...)`, as Python calls say them, for a model of `config`."""
    loading, compiling = dict(request.get("from_pretrained", {})), dict(request.get("compile", {}))
    if (config_file := compiling.pop("qnn_config", None)) is not None:
        compiling["enable_qnn"] = config_file  # the command line has one flag for both
    extras = dict(loading.pop("qaic_config", None) or {})
    unused = _take_unused_blocks(extras)
    dtype = str(loading.pop("torch_dtype", None) or loading.pop("dtype", None) or "").removeprefix("torch.")
    known, api = keywords(), str(request.get("api", ""))
    if _TASKS.get(api) == "image-text" and {"height", "width"} <= compiling.keys():  # of images that are not square
        compiling["img_size"] = [compiling.pop("height"), compiling.pop("width")]
    said = {name: value for part in (loading, extras, compiling) for name, value in part.items() if name in known}
    made = translate(said, {name: value for name, value in compiling.items() if name not in known})
    _set_task(made, api, loading)
    if dtype and dtype != "auto":
        made.values["model.dtype"] = dtype
    if (extras.get("mla_absorption") or {}).get("absorption"):
        made.values["transforms.mla_absorption"] = True
    if loading.pop("enable_proxy", None):
        made.values["transforms.proxy"] = True
        made.notes.append("enable_proxy: embeddings go in, where QEfficient spreads the words' numbers")
    if extras.get("replicate_kv_heads"):
        made.values["model.kv_head_replication"] = _replication(config, compiling.get("num_devices", 1))
    made.notes += [f"{name}: left out: nothing is cut into blocks along this axis" for name in unused]
    for name in (*loading, *extras):
        if name not in known and name not in _CARRIED:
            made.notes.append(f"{name}: nothing here says this")
    return made


# The class that a call names -> what the model is to do; for all others its own files say it.
_TASKS = {
    "QEFFAutoModel": "embedding",
    "QEFFAutoModelForSequenceClassification": "sequence-classification",
    "QEFFAutoModelForCTC": "ctc",
    "QEFFAutoModelForImageTextToText": "image-text",
    "QEFFAutoModelForSpeechSeq2Seq": "speech-seq2seq",
}
_POOLINGS = {"avg": "mean"}


def _set_task(made: Translation, api: str, loading: dict[str, Any]) -> None:
    task = _TASKS.get(api)
    if task is None:
        return
    made.values["model.task"] = task
    pooling = loading.pop("pooling", None)
    if task == "embedding":  # without a word about it, QEfficient gives every token's vector
        made.values["model.pooling"] = _POOLINGS.get(pooling, pooling) or "none"
        made.values["model.normalize"] = False
    if task == "speech-seq2seq":
        made.values.setdefault("specialization.ctx_len", 150)
    if task in ("embedding", "sequence-classification"):
        made.values.setdefault("specialization.seq_len", 32)


def _take_unused_blocks(extras: dict[str, Any]) -> list[str]:
    """Sizes of blocks that the mode does not cut, taken out; a mode that nobody named is written in."""
    said = [name for name in ("blocking_mode", *_BLOCKS, "skip_kv") if name in extras]
    if not extras.get("enable_blocking"):
        unused = said
    else:
        if extras.get("blocking_mode") in (None, "", "auto"):
            extras["blocking_mode"] = "hqkv"
        unused = [name for name in said if name in _BLOCKS and _BLOCKS[name] not in extras["blocking_mode"]]
    for name in unused:
        del extras[name]
    return unused


# What families call the number of heads with keys and values of their own, else that of all heads.
_HEADS = ("num_key_value_heads", "num_kv_heads", "num_attention_heads", "n_head", "n_heads")


def _replication(config: Mapping[str, Any], devices: int) -> int:
    """How often KV heads are repeated until they divide over the devices."""
    known = (config[name] for name in _HEADS if config.get(name))
    heads = 1 if config.get("multi_query") else next(known, devices)
    return next(times for times in range(1, devices + 1) if heads * times % devices == 0)


def _tool_options(said: Mapping[str, Any]) -> Translation:
    """QNN's tools where they were asked for."""
    made = Translation()
    asked = said.get("enable_qnn")
    if asked:
        made.choices = dict([THE_TOOLS])
        made.values["backend.target"] = "aic"
        if isinstance(asked, str):
            made.values["backend.config"] = asked
    return made


def _name_model(made: Translation, said: Mapping[str, Any]) -> None:
    folder, name = said.get("local_model_dir"), said.get("model_name")
    if folder is None and name is not None and Path(name).is_dir():
        folder = name
    if folder is not None:
        made.values["model.path"] = str(folder)
    elif name is not None:
        made.values["model.id"] = name


def _set_lengths(made: Translation, said: Mapping[str, Any]) -> None:
    """Compute context lengths, written out; what QEfficient would change quietly is changed with a note."""
    prefill, decode = (list(said.get(f"comp_ctx_lengths_{phase}") or ()) for phase in ("prefill", "decode"))
    if not (said.get("ccl_enabled") or prefill or decode):
        return
    ctx_len, chunk = said.get("ctx_len") or 128, said.get("prefill_seq_len") or 32
    if prefill or decode:
        lengths = settled(prefill, decode, ctx_len, chunk)
    else:
        lengths = automatic(ctx_len, chunk)
    if said.get("prefill_only") is True:  # without decode, nothing is in the way of the lengths as they are
        whole = settled([], prefill, ctx_len, chunk)[1] if prefill else lengths[1]
        lengths = (whole, lengths[1])
    for phase, given, chosen in zip(("prefill", "decode"), (prefill, decode), lengths, strict=True):
        is_there = said.get("prefill_only") is not (phase == "decode")
        made.values.pop(f"specialization.comp_ctx_lengths_{phase}", None)
        if not is_there:
            continue
        made.values[f"specialization.comp_ctx_lengths_{phase}"] = chosen
        if given != chosen:
            shown = given or "nothing"
            made.notes.append(f"comp_ctx_lengths_{phase}: {shown} became {chosen}, as QEfficient makes of it")
    if (longest := max(lengths[1])) > ctx_len:
        made.values["specialization.ctx_len"] = longest
        made.notes.append(f"ctx_len: {ctx_len} became {longest}, as QEfficient does with compute context lengths")


def _add_others(made: Translation, others: Mapping[str, Any]) -> None:
    """Options of the compiler: typed where we know them, else handed over as they are, unless they look misspelt."""
    from importlib import import_module

    known = keys_of(import_module("qeffbuild.backends").room(made.choices["backend"], "options").Options)
    extra: list[str] = []
    for name, value in others.items():
        if name in _LEFT_OUT:
            made.notes.append(f"{name}: left out: {_LEFT_OUT[name]}")
        elif name in known and name not in ("compiler", "templates", "extra_args"):
            made.values[f"backend.{name}"] = _as(known[name], name, value)
        elif near := nearest(name, (*keywords(), *known)):
            raise SpecError("flag.unknown", f"{name}: no such option", hint=f"did you mean {near}?")
        elif value is not None and value is not False:
            flag = f"-{name.replace('_', '-')}"
            extra.append(flag if value is True or value == "True" else f"{flag}={value}")
            made.notes.append(f"{name}: not known here; handed to the compiler as {extra[-1]}")
    if extra:
        made.values["backend.extra_args"] = extra


def _as(key: Key, name: str, value: Any) -> Any:
    """A word of the command line as what the key holds."""
    if not isinstance(value, str) or key.kind == "text":
        return value
    if key.kind == "bool" and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if key.kind == "int" and re.fullmatch(r"[+-]?\d+", value):
        return int(value)
    raise SpecError("spec.type", f"{name}: {value[:60]!r} is not {key.holds}")
