"""Whether a model wants to run Python of its own, or only names classes that transformers has itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qeffbuild.errors import ModelError
from qeffbuild.models.files import CONFIG, line_of
from qeffbuild.models.tasks import TASKS, classes

# What a class of a model type is called beyond the family: Mpt in MptForCausalLM, MptConfig, MptModel.
_ROLE = re.compile(r"(For[A-Z]\w*|LMHead\w*|Config|PreTrainedModel|Model)$")


def refuse_code(folder: Path, config: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a model that wants to run Python of its own.

    `others` are the tokenizer's and processors' configurations by file name. A config.json whose classes transformers
    has itself (Falcon, MPT and Phi still carry the code from before) needs none: its auto_map is never followed.
    """
    model_type = str(config.get("model_type"))
    native = {_stem(found) for task in TASKS if (found := classes(task).get(model_type))}
    wanted = [name for name in _code_of(config) if _stem(name) not in native]
    places = [(CONFIG, wanted), *((file, _code_of(said)) for file, said in others.items())]
    for file, names in places:
        if names:
            raise ModelError(
                "model.code",
                f"{file}: wants to run Python of the model repository ({names[0]})",
                where=line_of(folder / file, "auto_map"),
                hint="if you have read it: model.trust_remote_code=true, and for the hub a pinned model.revision",
            )


def _code_of(config: Mapping[str, Any]) -> list[str]:
    """Class names that a configuration wants imported from the repository."""
    table = config.get("auto_map")
    if not table:
        return []
    values = table.values() if isinstance(table, Mapping) else [table]
    flat = [name for value in values for name in (value if isinstance(value, list) else [value]) if name]
    return [str(name) for name in flat]


def _stem(name: str) -> str:
    return _ROLE.sub("", name.rpartition(".")[2]).casefold()
