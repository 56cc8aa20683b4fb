"""The steps of a build, one after the other in this process, on tiny random models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qeffbuild.actions import export as export_action
from qeffbuild.actions import fetch as fetch_action
from qeffbuild.actions import package as package_action
from qeffbuild.actions import transform as transform_action
from qeffbuild.backends.onnxruntime import lower as lower_action
from qeffbuild.executor.work import Work
from qeffbuild.models.adapters import read_adapter
from qeffbuild.runtime.engine import Engine
from qeffbuild.spec.types import DecodingSpec

__all__ = ["read_adapter"]

PROMPTS = ([3, 1, 4, 1, 5, 9, 2, 6, 5], [27, 18], [11, 12, 13, 14, 15])
ANSWER = 6
SHAPES = {"batch_size": 3, "prefill_seq_len": 4, "ctx_len": 32}


def step(action: Any, out: Path, params: Mapping[str, Any], inputs: Mapping[str, Path], **leaves: Path) -> Path:
    out.mkdir(parents=True)
    action.run(Work(name=out.name, params=params, inputs=inputs, leaves=leaves, out=out))
    return out


def exported(model_type: str, root: Path) -> tuple[Path, Path]:
    """The folders of fetch and export."""
    fetch = step(fetch_action, root / "fetch", {"scale": "tiny", "model_type": model_type, "seed": 0}, {})
    asked = {"dtype": "float32", "task": "causal-lm", "trust_remote_code": False}
    return fetch, step(export_action, root / "export", asked, {"model": fetch})


def transformed(graph: Path, out: Path, *passes: Mapping[str, Any], **leaves: Path) -> Path:
    return step(transform_action, out, {"passes": list(passes)}, {"graph": graph}, **leaves)


def packaged(fetch: Path, graph: Path, root: Path, **params: Any) -> Path:
    """The package for ONNX Runtime, tried out."""
    lower = step(lower_action, root / "lower", {"attention": "auto", "recurrence": "chunked"}, {"graph": graph})
    said = {
        "backend": "onnxruntime",
        "session": "qeffbuild.backends.onnxruntime.session",
        "allow_nonfinite": False,
        "quantization": {"method": "none"},
        "specialization": SHAPES,
        **params,
    }
    return step(package_action, root / "package", said, {"graph": lower, "model": fetch, "exported": graph})


def answers(package: Path, prompts: Sequence[Sequence[int]] = PROMPTS, **decoding: Any) -> list[list[int]]:
    """Greedy tokens of each prompt."""
    asked = DecodingSpec(max_new_tokens=ANSWER, ignore_eos=True, **decoding)
    return [list(output.token_ids) for output in Engine.open(package, threads=1).generate(prompts, asked).outputs]


def by_pytorch(model: Any, prompts: Sequence[Sequence[int]] = PROMPTS) -> list[list[int]]:
    """Each prompt alone, without padding and without a cache."""
    import torch

    told = []
    for prompt in prompts:
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(ANSWER):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        told.append(ids[len(prompt) :])
    return told


def reference(fetch: Path) -> Any:
    """The tiny model itself."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(fetch / "model", dtype=torch.float32).eval()
