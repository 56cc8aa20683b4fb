"""One recorded request of QEfficient -> the same documents and command lines by us: commands.json and what it names.

    python -m tests.golden.replay REQUEST.json FOLDER

The model is a random one of the recorded configuration; the request's keywords become a spec by the rules that turn
any of QEfficient's command lines into a recipe (qeffbuild/compat), whatever the case is called.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qeffbuild import api
from qeffbuild.compat.translate import Translation, translate, translate_call
from qeffbuild.compat.words import read_words
from qeffbuild.errors import QeffBuildError
from qeffbuild.spec.text import quoted
from tests.golden.models import adapters_of, config_of, write_model

Case = Mapping[str, Any]

NAMED = Path(__file__).parent / "named"  # files that requests name, which no record holds
# What QEfficient never asks: whether positions, heads, layers and devices go together.
UNASKED = ("model.allow_extended_context=true", "device_group.allow_uneven=true")


def read_case(path: Path) -> Case:
    case: Case = json.loads(path.read_text())
    return case if "request" in case else {"request": case}


def overrides_of(case: Case, model: Path, out: Path) -> tuple[str, ...]:
    """The words of a build that asks for the same."""
    made = translated(case["request"], model, config_of(case))
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    made.values = {name: _found(name, value, model) for name, value in made.values.items()}
    for name, folder in adapters_of(case["request"], model).items():
        made.values[f"adapters.{name}"] = folder
    if "adapter" in case["request"]:
        made.values["transforms.lora"] = "inputs"
    return (*made.overrides(), *UNASKED, f"out={quoted(str(out))}")


def translated(request: Mapping[str, Any], model: Path, config: Mapping[str, Any]) -> Translation:
    if "cli" in request:
        words = [str(model) if word.startswith("{models}") else word for word in request["args"]]
        said = read_words(request["cli"].rpartition(".")[2], words)
        return translate({**said.values, "local_model_dir": str(model)}, said.others)
    asked = dict(request)
    asked["compile"] = dict(request.get("compile") or request.get("comp") or {})
    asked["from_pretrained"] = {**request.get("from_pretrained", {}), "local_model_dir": str(model)}
    if "continuous_batching" in request:
        asked["from_pretrained"]["continuous_batching"] = request["continuous_batching"]
    if request.get("adapters") and not request.get("continuous_batching"):
        asked["compile"].setdefault("batch_size", request["adapters"])  # a row for each, as it was recorded
    if request.get("subfunctions"):
        asked["compile"]["use_onnx_subfunctions"] = True
    return translate_call(asked, config)


def _found(key: str, value: Any, model: Path) -> Any:
    """`{w}/work/x.json` is a place on the recording machine: the file of that name here, or one that says nothing.

    A name that the compiler writes to stays a name.
    """
    if not isinstance(value, str) or not value.startswith("{"):
        return value
    name = Path(value).name
    if key == "backend.mdp_dump_partition_config":
        return name
    if (NAMED / name).is_file():
        return str(NAMED / name)
    made = model.parent / "named" / name
    made.parent.mkdir(exist_ok=True)
    made.write_text(json.dumps({"connections": [], "partitions": []} if "partition" in key else {}))
    return str(made)


def replay(path: Path, folder: Path) -> dict[str, Any]:
    """Emits into `folder`; what `emit` says."""
    case = read_case(path)
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        write_model(model, config_of(case))
        return api.emit(api.compose(overrides_of(case, model, folder), conf_dirs=()), allow_outside=True)


def main(words: list[str]) -> int:
    if len(words) != 2:
        print("usage: python -m tests.golden.replay REQUEST.json FOLDER", file=sys.stderr)
        return 2
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        said = replay(Path(words[0]), Path(words[1]))
    except QeffBuildError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(said["folder"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
