"""Model types in the size that their configurations have by default, exported without a weight -> a line for each.

    python tests/coverage/whole.py [TYPE ...]

Small configurations show whether results are right; these show whether a real one finds its way there: its small model,
its groups of experts, its kinds of layers, the tables of its positions.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]


def main() -> None:
    import run

    from qeffbuild.models.tasks import CAUSAL, classes

    run.import_what_all_need()
    for model_type in sys.argv[1:] or list(classes(CAUSAL)):
        said = run.in_a_process(model_type, 300.0, _told)
        sys.stdout.write(f"{model_type}: {said['reason']} {said['seconds']} s\n")
        sys.stdout.flush()


def exported_whole(model_type: str, out: Path) -> Any:
    """The report of an export of the default configuration, whose tensors are said to be in a file that is not there."""
    from transformers import CONFIG_MAPPING

    from qeffbuild.export import export
    from qeffbuild.export.skeleton import configuration, skeleton
    from qeffbuild.models.tasks import CAUSAL, classes

    whole = CONFIG_MAPPING[model_type]()
    text = whole.get_text_config(decoder=True)
    config = type(text)() if type(text).model_type in classes(CAUSAL) else whole
    if hasattr(config, "is_decoder"):
        config.is_decoder = True
    said = json.loads(config.to_json_string(use_diff=False))
    tensors = {
        name: {
            "file": "absent.safetensors",
            "offset": 0,
            "nbytes": 4 * parameter.numel(),
            "dtype": "float32",
            "shape": list(parameter.shape),
        }
        for name, parameter in skeleton(configuration(said)).named_parameters()
    }
    return export({"schema": 1, "config": said, "tensors": tensors}, out)


def _told(model_type: str) -> str:
    said: dict[str, Any] = {"model_type": model_type, "stage": "done"}
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = exported_whole(model_type, Path(folder))
            why = report.all_layers_because or report.decomposed_because or ""
            said["reason"] = f"{report.recipe}, {report.layers_traced} of {report.layers} layers {why}"
        except Exception as problem:
            said["reason"] = f"{type(problem).__name__}: {problem}".replace("\n", " ")
    return json.dumps(said)


if __name__ == "__main__":
    main()
