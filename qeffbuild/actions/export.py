"""Facts of a model -> its neutral graph, in graph.onnx, io.json and export.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qeffbuild.errors import ModelError
from qeffbuild.executor.work import Work
from qeffbuild.export import export
from qeffbuild.models.processor import PACKED, load_packed
from qeffbuild.models.tasks import CAUSAL, IMAGE_TEXT


def run(work: Work) -> None:
    facts = json.loads((work.inputs["model"] / "facts.json").read_text())
    _refuse_dtype(work.params["dtype"], facts["task"])
    if work.params["trust_remote_code"]:
        _refuse_own_code(facts["config"])
    if facts["task"] == CAUSAL:
        export(facts, work.out, dtype=work.params["dtype"], progress=work.progress)
        return
    if facts["task"] == IMAGE_TEXT:
        from qeffbuild.export import image_text

        processor = load_packed(work.inputs["model"] / PACKED, facts["config"]["model_type"], work.out / "processor")
        wanted = {name: work.params[name] for name in ("img_size", "max_num_images", "kv_offload")}
        image_text.export(facts, processor, work.out, **wanted, progress=work.progress)
        return
    from qeffbuild.export import tasks

    asked = {name: work.params[name] for name in ("pooling", "normalize")}
    tasks.export(facts, work.out, **asked, progress=work.progress)


def _refuse_dtype(dtype: str, task: str) -> None:
    if dtype != "float32" and (dtype, task) != ("float16", CAUSAL):
        raise ModelError(
            "model.unsupported",
            f"model.dtype: {dtype}, but the graph computes in float32, or for text in float16",
            hint="leave it out: what a device computes in is decided when its backend compiles",
        )


def _refuse_own_code(config: Mapping[str, Any]) -> None:
    """Trust changes nothing about a model that brings no code; one that does is not what transformers would build."""
    named = config.get("auto_map")
    code = named.get("AutoModelForCausalLM") if isinstance(named, dict) else None
    if code is None:
        return
    raise ModelError(
        "model.unsupported",
        f"model.trust_remote_code: the model is computed by its own {code!r:.60}, and only transformers' are exported",
        hint=f"without it, transformers' own {config.get('model_type')!s:.60} is built, where there is one",
    )
