"""Facts of a model -> its neutral graph, in graph.onnx, io.json and export.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qeffbuild.errors import ModelError
from qeffbuild.executor.work import Work
from qeffbuild.export import export
from qeffbuild.models.code import CODE, unpacked_code
from qeffbuild.models.processor import PACKED, load_packed
from qeffbuild.models.tasks import CAUSAL, IMAGE_TEXT


def run(work: Work) -> None:
    facts = json.loads((work.inputs["model"] / "facts.json").read_text())
    if facts["task"] == CAUSAL:
        with unpacked_code(work.inputs["model"] / CODE, work.out / "code") as code:
            if work.params["trust_remote_code"] and code is None:
                _refuse_absent_code(facts["config"])
            export(facts, work.out, dtype=work.params["dtype"], code=code, progress=work.progress)
        return
    if facts["task"] == IMAGE_TEXT:
        from qeffbuild.export import image_text

        processor = load_packed(work.inputs["model"] / PACKED, facts["config"]["model_type"], work.out / "processor")
        wanted = {name: work.params[name] for name in ("dtype", "img_size", "max_num_images", "kv_offload")}
        image_text.export(facts, processor, work.out, **wanted, progress=work.progress)
        return
    from qeffbuild.export import tasks

    asked = {name: work.params[name] for name in ("dtype", "pooling", "normalize")}
    tasks.export(facts, work.out, **asked, progress=work.progress)


def _refuse_absent_code(config: Mapping[str, Any]) -> None:
    named = config.get("auto_map")
    absent = named.get("AutoModelForCausalLM") if isinstance(named, dict) else None
    if absent is None:
        return
    raise ModelError(
        "model.code",
        f"config.json: auto_map: {absent!r:.120} is not in the model folder",
        hint=f"without model.trust_remote_code, transformers' own {config.get('model_type')!s:.60} is built",
    )
