"""The steps of one spec, run by hand on folders of `tmp_path`; the export is a small decoder's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx_ir as ir
import small_decoder as small
from plain import plain

from qeffbuild import backends
from qeffbuild.executor.work import Work
from qeffbuild.plan.types import Step
from qeffbuild.spec.types import BuildSpec, ModelSpec, SpecializationSpec

SHAPES = SpecializationSpec(prefill_seq_len=4, ctx_len=small.CONTEXT)


def spec(backend: str, options: Any = None, **parts: Any) -> BuildSpec:
    """A build of the small decoder for this backend."""
    return plain(backend, options, **{"model": ModelSpec(path="somewhere"), "specialization": SHAPES, **parts})


def exported_tiny(root: Path, model_type: str) -> tuple[Path, Path]:
    """The folders of fetch and export for a tiny random model."""
    from qeffbuild.actions import export, fetch

    fetched, exported = root / "fetch", root / "export"
    fetched.mkdir()
    exported.mkdir()
    tiny = {"scale": "tiny", "model_type": model_type, "seed": 0, "task": "causal-lm"}
    fetch.run(Work(name="fetch", params=tiny, inputs={}, leaves={}, out=fetched))
    asked = {"dtype": "float32", "task": "causal-lm", "trust_remote_code": False}
    export.run(Work(name="export", params=asked, inputs={"model": fetched}, leaves={}, out=exported))
    return fetched, exported


class Build:
    """One spec's folders; each step is run when it is asked for."""

    def __init__(self, asked: BuildSpec, root: Path, leaves: Mapping[str, Path] | None = None) -> None:
        steps = backends.room(asked.backend.name, "plan").steps(asked, "export")
        self.steps: dict[str, Step] = {step.name: step for step in steps}
        self.root = root
        self.leaves = leaves or {}
        self._export()

    def _export(self) -> None:
        model, signature = small.neutral_graph(small.SmallDecoder())
        checkpoint, export, fetch = (self.root / name for name in ("checkpoint", "export", "fetch"))
        for folder in (checkpoint, export, fetch):
            folder.mkdir(parents=True)
        ir.save(model, export / "graph.onnx", external_data="model.safetensors", size_threshold_bytes=0)
        (export / "model.safetensors").rename(checkpoint / "model.safetensors")
        signature.save(export / "io.json")
        (export / "export.json").write_text(json.dumps({"task": "causal-lm"}))
        config = {"model_type": "small", "vocab_size": small.VOCAB, "eos_token_id": 2, "n_positions": 16}
        facts = {"schema": 1, "config": config, "generation_config": None, "task": "causal-lm", "tensors": {}}
        (fetch / "facts.json").write_text(json.dumps(facts))
        (fetch / "model.json").write_text(json.dumps({"schema": 1, "files": {}}))

    def run(self, name: str) -> Path:
        step, out = self.steps[name], self.root / name
        out.mkdir()
        leaves = {"model": self.root / "checkpoint", **self.leaves}
        inputs = {role: self.root / source for role, source in step.inputs.items()}
        wanted = {leaf.name: leaves[leaf.name] for leaf in step.leaves if leaf.name in leaves}
        action = import_module(step.action)
        action.run(Work(name=name, params=json.loads(json.dumps(step.params)), inputs=inputs, leaves=wanted, out=out))
        for path in out.rglob("*"):
            path.chmod(path.stat().st_mode & ~0o222)  # as the store does
        return out

    def up_to(self, last: str) -> Path:
        """Every step that is not there yet, in order; the last one's folder."""
        for name in self.steps:
            if not (self.root / name).exists():
                self.run(name)
            if name == last:
                break
        return self.root / last
