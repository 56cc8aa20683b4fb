"""A configuration -> the model's modules: weightless for the trace, or small with random weights for the self-check.

A skeleton's parameters hold no memory, its buffers (rotary tables, slopes) are real and exact; what a
checkpoint stores of them becomes parameters.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM
from transformers.initialization import guard_torch_init_functions
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from qeffbuild.errors import ModelError
from qeffbuild.export.rotary import add_long_tables
from qeffbuild.models.classes import learn
from qeffbuild.models.code import own_class

_MOST_NUMBERS = 1 << 24  # of a tensor that is made at all before it moves to the meta device


def configuration(said: Mapping[str, Any], code: Path | None = None) -> Any:
    """config.json -> transformers' configuration object, or that of the model's own code, which lies in `code`."""
    model_type = str(said.get("model_type"))
    known = {key: value for key, value in said.items() if key not in ("quantization_config", "auto_map")}
    own = None if code is None else own_class(said, "AutoConfig", code)
    learn(said)
    if own is None and model_type not in CONFIG_MAPPING:
        raise ModelError(
            "model.unsupported",
            f"model_type {model_type!r} is not known to the installed transformers",
            hint="upgrade transformers, or check model_type in config.json",
        )
    family = CONFIG_MAPPING[model_type] if own is None else own
    if code is not None:  # said by a class, because what a configuration says itself has to go into JSON
        family = type(family.__name__, (family,), {"own_model": own_class(said, "AutoModelForCausalLM", code)})
    return family.from_dict(family._decode_special_floats(known))  # JSON has no infinity


def causal(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """The causal language model of a configuration, with transformers' own attention."""
    own = getattr(config, "own_model", None)
    if own is not None:
        return own._from_config(config, dtype=dtype, attn_implementation="eager")
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")


def skeleton(config: Any, make: Callable[[Any], Any] = causal) -> nn.Module:
    """The model with parameters on the meta device, whatever its size."""
    with _parameters_on_meta():
        return _model(config, make)


def small_model(config: Any, make: Callable[[Any], Any] = causal) -> nn.Module:
    """The model with seeded random weights that make every part of it matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _model(config, make)
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            with torch.no_grad():
                if parameter.dim() >= 2:
                    parameter.copy_(noise * parameter.shape[-1] ** -0.5)
                else:
                    parameter.add_(noise * 0.1)
    return model


def number_of_parameters(config: Any, make: Callable[[Any], Any] = causal) -> int:
    return sum(parameter.numel() for parameter in skeleton(config, make).parameters())


def fake_mode() -> FakeTensorMode:
    """Without its cache: each operator is met a few times only, which saves less than keys of symbols cost."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    mode.cache_enabled = False
    return mode


def make_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace meta parameters by fake ones on cpu, tied ones by the same: a trace mixes them with real buffers."""
    made: dict[int, nn.Parameter] = {}
    with mode:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is None:
                    continue
                if id(parameter) not in made:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
                    made[id(parameter)] = nn.Parameter(empty, requires_grad=False)
                module._parameters[name] = made[id(parameter)]


def _model(config: Any, make: Callable[[Any], Any]) -> nn.Module:
    # Whatever the checkpoint stores: the neutral graph casts what it reads, mostly to float32.
    # A copy, because `interfaces.use` writes into the configuration that the model holds.
    said = copy.deepcopy(config)
    model = make(said)
    add_long_tables(model)
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Inside the block parameters have no memory, and nobody draws the numbers that they would hold."""
    register, register_buffer, empty = nn.Module.register_parameter, nn.Module.register_buffer, torch.empty
    done = "_is_hf_initialized"  # transformers' own word: of a parameter, or of all that a module holds

    def on_meta(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            if parameter.device.type != "meta":
                parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
            setattr(parameter, done, True)
            if not self._buffers:
                self.__dict__[done] = True
        register(self, name, parameter)

    def as_it_is(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        self.__dict__.pop(done, None)
        register_buffer(self, *args, **kwargs)

    def large_on_meta(*sizes: Any, **kwargs: Any) -> torch.Tensor:
        # Experts of one layer can be more than a machine's memory; what is `empty` becomes a parameter.
        if kwargs.get("device") is None and _count(sizes) > _MOST_NUMBERS:
            kwargs["device"] = "meta"
        return empty(*sizes, **kwargs)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    nn.Module.register_buffer = as_it_is  # type: ignore[method-assign]
    torch.empty = large_on_meta
    try:
        with guard_torch_init_functions():
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
        nn.Module.register_buffer = register_buffer  # type: ignore[method-assign]
        torch.empty = empty


def _count(sizes: Any) -> int:
    plain = sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    return math.prod(plain) if all(isinstance(size, int) for size in plain) else 0
