"""A configuration and a task -> transformers' model of it; what transformers' own tables lack is told to them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qeffbuild.models.own import OWN
from qeffbuild.models.tasks import CAUSAL, class_of_part, classes


def learn(config: Mapping[str, Any]) -> None:
    """From here on transformers' tables have the type of config.json: one of ours, or the text part of a family."""
    import transformers

    model_type = str(config.get("model_type"))
    if model_type in OWN:
        room = import_module(f"qeffbuild.models.own.{model_type}")
        transformers.AutoConfig.register(model_type, room.CONFIG, exist_ok=True)
        transformers.AutoModelForCausalLM.register(room.CONFIG, room.MODEL, exist_ok=True)
    elif part := class_of_part(config):
        model = getattr(transformers, part)
        transformers.AutoModelForCausalLM.register(model.config_class, model, exist_ok=True)


def model_from(config: Any, task: str, *, trust_remote_code: bool = False, **arguments: Any) -> Any:
    """The class that the task's table names; a causal model may also be its folder's own code, if that is trusted."""
    import transformers

    if task == CAUSAL:
        auto = transformers.AutoModelForCausalLM
        return auto.from_config(config, trust_remote_code=trust_remote_code, **arguments)
    return getattr(transformers, classes(task)[config.model_type])._from_config(config, **arguments)


@cache
def module_of(name: str, files: str) -> str | None:
    """The module of transformers in whose file a class is written, also where the class wants what is not installed.

    `files` is the pattern of names to look through, such as processing_*.py.
    """
    spec = find_spec("transformers")
    models = Path(str(spec and spec.origin)).parent / "models"
    for file in sorted(models.glob(f"*/{files}")):
        if f"class {name}(" in file.read_text("utf-8"):
            return f"transformers.models.{file.parent.name}.{file.stem}"
    return None
