"""A model folder -> PyTorch's own network of it in float32, whatever the checkpoint stores.

transformers itself loads it. Weights stay mapped from their files, and what is stored narrower is widened one module
at a time, while that module runs: a network is no larger in memory than its largest module.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from qeffbuild.gate.pages import give_back, mapped_files
from qeffbuild.graph.decode import decode
from qeffbuild.models import Facts, Tensor, read_facts
from qeffbuild.models.classes import learn
from qeffbuild.models.tasks import CAUSAL, classes


def network_of(folder: Path, task: str = CAUSAL) -> Any:
    """A checkpoint that another tool quantized is decoded as the package's weights are, without that tool."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as talk

    talk.disable_progress_bar()  # stderr has one voice, and it is ours
    said = json.loads((folder / "config.json").read_text("utf-8"))
    learn(said)
    if not said.get("quantization_config"):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    from transformers import CONFIG_MAPPING

    said.pop("quantization_config")
    config = CONFIG_MAPPING[said["model_type"]].from_dict(said)
    facts = read_facts(folder, task=task)
    state = {name: torch.from_numpy(array) for name, array in _decoded(folder, facts).items()}
    cls = _class_of(task, said["model_type"])
    cls = cls._model_mapping[type(config)] if task == CAUSAL else cls
    return cls.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32).eval()


@contextlib.contextmanager
def mapped_network(folder: Path, facts: Facts, *, trust_remote_code: bool = False) -> Iterator[Any]:
    """The network of any task, to be run inside the block."""
    import torch
    import transformers
    from transformers.utils import logging as talk

    learn(facts.config)
    if facts.config.get("quantization_config"):
        with torch.inference_mode():
            yield network_of(folder, facts.task)
        return
    talk.disable_progress_bar()
    if trust_remote_code and facts.config.get("auto_map"):  # what it does with narrow weights is its own affair
        auto = transformers.AutoModelForCausalLM
        trusted = {"local_files_only": True, "trust_remote_code": trust_remote_code}
        with torch.inference_mode():
            yield auto.from_pretrained(folder, dtype=torch.float32, **trusted).eval()
        return
    cls = _class_of(facts.task, facts.config["model_type"])
    model = _as_stored(cls, folder, facts)
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        model = _with_exact_buffers(model, facts)
    mapped = mapped_files()
    hooks = [hook for module in model.modules() for hook in _hooks(module, mapped)]
    try:
        with torch.inference_mode():
            yield model
    finally:
        for hook in hooks:
            hook.remove()


def _as_stored(cls: Any, folder: Path, facts: Facts) -> Any:
    """transformers gives all tensors one dtype: what the checkpoint has in float32 among others gets its own back."""
    import torch

    how = {"local_files_only": True, "attn_implementation": "eager"}
    model = cls.from_pretrained(folder, dtype="auto", **how).eval()
    own = model.state_dict()
    if all(not tensor.is_floating_point() or tensor.dtype == torch.float32 for tensor in own.values()):
        return model
    wide = {name: tensor for name, tensor in facts.tensors.items() if tensor.dtype == "float32"}
    if any(name not in own for name in wide):  # under names of the checkpoint's own, so one by one is no way
        return cls.from_pretrained(folder, dtype=torch.float32, **how).eval()
    for name in (name for name in wide if own[name].dtype != torch.float32):
        module, leaf = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        exact = torch.from_numpy(np.array(_read(folder, wide[name])))
        if leaf in module._parameters:
            exact = torch.nn.Parameter(exact, requires_grad=False)
        setattr(module, leaf, exact)
    model.tie_weights()
    return model


def _class_of(task: str, model_type: str) -> Any:
    """For text the automatic class, which knows where a model's text is only a part of it."""
    import transformers

    return transformers.AutoModelForCausalLM if task == CAUSAL else getattr(transformers, classes(task)[model_type])


def _with_exact_buffers(narrow: Any, facts: Facts) -> Any:
    """The same weights in a network that was made in float32: a rotary table or a scale in bfloat16 is another one."""
    import torch

    from qeffbuild.export.skeleton import configuration, skeleton
    from qeffbuild.models.classes import model_from

    config = configuration(facts.config)
    how: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    made: Any = skeleton(config, lambda said: model_from(said, facts.task, **how))
    stored = set(narrow.state_dict())
    for name, module in narrow.named_modules():
        own = made.get_submodule(name)
        own._parameters.update(module._parameters)
        for key, buffer in module._buffers.items():
            if buffer is not None and f"{name}.{key}".lstrip(".") in stored:
                own._buffers[key] = buffer.to(torch.float32) if buffer.is_floating_point() else buffer
    return made


class _Widening(dict[str, Any]):
    """A module's parameters: whoever reads one gets it in float32, and the module itself gets it once for a run."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        super().__init__(stored)
        self.wide: dict[str, Any] | None = None  # while the module runs

    def __getitem__(self, name: str) -> Any:
        if self.wide is not None and name in self.wide:
            return self.wide[name]
        weight = super().__getitem__(name)
        wide = weight.float() if weight is not None and weight.is_floating_point() else weight
        if self.wide is not None:
            self.wide[name] = wide
        return wide


def _hooks(module: Any, mapped: Sequence[range]) -> Iterator[Any]:
    """Around a module's own computation: its weights in float32 in it, and their memory given back after it.

    Some modules read the weights of those within them, or only ask for their dtype: they find float32 there, too.
    """
    own = {name: weight for name, weight in module._parameters.items() if weight is not None}
    if not own:
        return
    module._parameters = parameters = _Widening(module._parameters)

    def begin(*_: Any) -> None:
        parameters.wide = {}

    def release(*_: Any) -> None:
        parameters.wide = None
        for weight in own.values():
            give_back(weight.data_ptr(), weight.nbytes, mapped)

    yield module.register_forward_pre_hook(begin)
    yield module.register_forward_hook(release)


def _decoded(folder: Path, facts: Facts) -> dict[str, np.ndarray]:
    """Every weight as float32 under its plain name."""
    found = {}
    for name, tensor in facts.plain_tensors.items():
        encoded = facts.encodings.get(name)
        if encoded is None:
            found[name] = _read(folder, tensor).astype(np.float32)
            continue
        parts = {role: _read(folder, facts.tensors[part]) for role, part in encoded.parts.items()}
        found[name] = np.ascontiguousarray(decode(encoded.format, parts, encoded.options, encoded.shape))
    return found


def _read(folder: Path, tensor: Tensor) -> np.ndarray:
    dtype = np.dtype(getattr(ml_dtypes, tensor.dtype, tensor.dtype))
    shape = (tensor.nbytes,)
    raw = np.memmap(folder / tensor.file, np.uint8, mode="r", offset=tensor.offset, shape=shape)
    return np.asarray(raw).view(dtype).reshape(tensor.shape)
