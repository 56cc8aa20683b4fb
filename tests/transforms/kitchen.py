"""The steps of real plans, run in this process, each once; and tiny models with the files that wishes name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import chain
import numpy as np
from adapter_folders import write_adapter
from safetensors.numpy import save_file

from qeffbuild import backends
from qeffbuild.executor.work import Work
from qeffbuild.plan import Plan, resolve
from qeffbuild.spec.compose import compose
from qeffbuild.spec.load import from_config
from qeffbuild.spec.types import BuildSpec

HEADS = 2  # that guess further ahead


@dataclass(frozen=True)
class Model:
    """A family's tiny model, what it says, and the files of its wishes."""

    folder: Path
    network: Any
    adapters: Mapping[str, Path]
    heads: Path


class Kitchen:
    """Runs steps of plans, each once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made: dict[str, Path] = {}

    def folder(self, plan: Plan, name: str) -> Path:
        key, step = self._key(plan, name), plan[name]
        if key not in self._made:
            out = Path(mkdtemp(prefix=f"{name}-", dir=self.root))
            self._made[key] = out
            inputs = {role: self.folder(plan, other) for role, other in step.inputs.items()}
            leaves = {leaf.name: Path(leaf.path) for leaf in step.leaves}
            params = json.loads(json.dumps(step.params))
            try:
                import_module(step.action).run(Work(name=name, params=params, inputs=inputs, leaves=leaves, out=out))
            except BaseException:
                del self._made[key]
                raise
        return self._made[key]

    def _key(self, plan: Plan, name: str) -> str:
        step = plan[name]
        said = {**step.as_json(), "inputs": {role: self._key(plan, other) for role, other in step.inputs.items()}}
        return json.dumps([said, [leaf.path for leaf in step.leaves]], sort_keys=True)

    @lru_cache  # noqa: B019 - one kitchen for a run
    def model(self, family: str) -> Model:
        from qeffbuild.models.classes import learn

        learn({"model_type": family})
        spec = read(["model=hf", "model.scale=tiny", f"model.model_type={family}", "gate=none"])
        folder = self.folder(planned(spec), "fetch") / "model"
        network = chain.reference(folder.parent)
        first, second = _targets(network)
        place = self.root / family
        adapters = {
            "first": write_adapter(place / "first", network, first, seed=1),
            "other": write_adapter(place / "other", network, second, seed=2),
        }
        width, chance, heads = network.get_input_embeddings().weight.shape[1], np.random.default_rng(0), {}
        for head in range(HEADS):
            heads[f"{head}.0.linear.weight"] = chance.standard_normal((width, width), np.float32) * 0.2
            heads[f"{head}.0.linear.bias"] = chance.standard_normal(width, np.float32) * 0.1
        save_file(heads, place / "heads.safetensors")
        return Model(folder, network, adapters, place / "heads.safetensors")


def _targets(network: Any) -> tuple[list[str], list[str]]:
    """Linear layers of two adapters, by the last parts of their names: one of attention, one of the rest."""
    head = network.get_output_embeddings()
    names = []
    for name, module in network.named_modules():
        if type(module).__name__ in ("Linear", "Conv1D", "FalconLinear") and module is not head:
            names.append(name.rpartition(".")[2])
    found = sorted(set(names))
    attention = [name for name in found if any(part in name for part in ("q", "c_attn")) and "norm" not in name]
    return attention[:1] or found[:1], [found[-1], *attention[:1]]


def read(words: list[str]) -> BuildSpec:
    composed = compose(words, conf_dirs=())
    return from_config(composed.values, origins=composed.origins)


def planned(spec: BuildSpec) -> Plan:
    return resolve(spec, "package", backends.room(spec.backend.name, "plan").steps)
