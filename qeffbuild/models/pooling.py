"""What sentence-transformers' files say of how a model's token vectors become one embedding."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from qeffbuild.errors import ModelError
from qeffbuild.models.files import MODULES, read_json

# The words of their pooling configuration -> ours.
_MODES: Mapping[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
_WORDS = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}
_OTHERS = ("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """`mode` is mean, max, cls or last; `longest` the number of tokens that their own encoder cuts texts to."""

    mode: str
    normalize: bool
    longest: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {"mode": self.mode, "normalize": self.normalize, "longest": self.longest}


def read_pooling(folder: Path) -> Pooling | None:
    """None where the folder has no modules.json; a ModelError for modules that we do not build."""
    if not (folder / MODULES).is_file():
        return None
    mode, normalize = "mean", False
    for module in _modules(folder / MODULES):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            mode = _mode(folder / str(module.get("path", "")) / "config.json")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            _refuse(folder / MODULES, f"a module of type {kind!r:.60} comes after the model")
    said = read_json(folder / "sentence_bert_config.json", "model.config") if _has_length(folder) else {}
    longest = said.get("max_seq_length")
    return Pooling(mode=mode, normalize=normalize, longest=longest if isinstance(longest, int) else None)


def _has_length(folder: Path) -> bool:
    return (folder / "sentence_bert_config.json").is_file()


def _modules(path: Path) -> list[dict[str, Any]]:
    try:
        said = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise ModelError("model.config", f"{MODULES}: no sensible JSON", where=str(path)) from problem
    if not isinstance(said, list) or not all(isinstance(module, dict) for module in said):
        raise ModelError("model.config", f"{MODULES}: no list of modules", where=str(path))
    for module in said:
        place = str(module.get("path", ""))
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise ModelError("model.config", f"{MODULES}: names a folder outside the model: {place!r:.80}")
    return said


def _mode(path: Path) -> str:
    said = read_json(path, "model.config")
    if said.get("pooling_mode") in _WORDS:  # their newer form
        return _WORDS[str(said["pooling_mode"])]
    chosen = [key for key in (*_MODES, *_OTHERS) if said.get(key) is True]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        _refuse(path, f"pooling by {' and '.join(chosen) or 'no mode'}")
    return _MODES[chosen[0]]


def _refuse(path: Path, found: str) -> NoReturn:
    hint = "choose what comes after the model yourself: model.pooling=mean model.normalize=true"
    raise ModelError("model.unsupported", f"{path.name}: {found}, which is not built", where=str(path), hint=hint)
