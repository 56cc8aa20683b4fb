"""A model's layers -> which of them are traced, and whom each other one is a copy of.

Layers differ in their weights, but few differ in what they compute. They are grouped by all that a trace can depend
on, and a prefix that holds each kind is traced; `copies` makes the others. What cannot be proved alike raises
NotAlike, and then every layer is traced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from qeffbuild.export.rehearsal import Rehearsal

SCALARS = (int, float, str, bool, type(None))
NUMBERS = frozenset({"layer_idx", "layer_id", "layer_number", "seed", "training"})

_NUMBER = re.compile(r"\.\d+(?=(_RetainedState)?$)")

Item = TypeVar("Item")


class NotAlike(Exception):
    """The layers of this graph cannot be copied; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """`path` of the stack in the model; how many layers it has, how many are traced, and whom each is a copy of.

    `unread` layers behind them are read by nobody: features are taken from an earlier one, counted from the end.
    `twins` are pairs of traced layers of one kind: that they are traced alike is checked, not assumed. `has_states` is
    false for a stack beside the one that states and results of single layers belong to.
    """

    path: str
    count: int
    traced: int
    template: tuple[int, ...]
    twins: tuple[tuple[int, int], ...]
    has_states: bool = True
    unread: int = 0

    def name_on(self, name: str, old: int, new: int) -> str:
        return name.replace(f".{self.path}.{old}.", f".{self.path}.{new}.")

    def spread(
        self, items: Sequence[Item], layer_of: Callable[[Item], int | None], move: Callable[[Item, int], Item]
    ) -> tuple[Item, ...]:
        """What the traced layers have -> what all have; what is no layer's stays before or behind it."""
        ours = [place for place, item in enumerate(items) if layer_of(item) is not None]
        if not ours:
            return tuple(items)
        copied = [
            move(item, layer)
            for layer in range(self.traced, self.count - self.unread)
            for item in items
            if layer_of(item) == self.template[layer]
        ]
        return (*items[: ours[-1] + 1], *copied, *items[ours[-1] + 1 :])


def named_on(name: str, layer: int) -> str:
    """The name of the same state, or of what is held, of another layer: NAME.LAYER, or NAME.LAYER_RetainedState."""
    return _NUMBER.sub(f".{layer}", name)


def plan(model: Any, within: str = "", first: int = 1, rehearsed: Rehearsal | None = None) -> Layers:
    """Decide how many layers to trace. Raises NotAlike where there is nothing to gain.

    `within` is the path of the part of the model that has them, where there are others. `first` is the first layer that
    others may be copies of: what enters an earlier one is not the output of a layer. `rehearsed` tells more about
    layers whose number their model may choose by.
    """
    path, stack = stack_of(model, within)
    kinds, unread = _kinds(stack, _config_of(model, path)), 0
    if rehearsed is not None:
        if len(rehearsed.read) != 1:
            raise NotAlike(f"{len(rehearsed.read)} of its layers are read behind them: {sorted(rehearsed.read)}")
        unread = len(stack) - 1 - max(rehearsed.read)
        kinds = list(zip(kinds, rehearsed.given, strict=True))[: len(stack) - unread]
    count = len(kinds)
    firsts = [kinds.index(kind) for kind in kinds]
    template = [next((other for other in range(first, count) if kinds[other] == kind), 0) for kind in kinds]
    traced = max(max(template) + 1, first)
    if all(first == layer for layer, first in enumerate(firsts[:traced])):
        # Nothing in the prefix happens twice; one more layer shows what depends on a layer's number.
        traced += 1
    if traced >= count:
        raise NotAlike(f"{len(set(kinds))} kinds of layer among {count}")
    twins = [(template[layer], layer) for layer in range(traced) if template[layer] not in (0, layer)]
    return Layers(
        path=path,
        count=len(stack),
        traced=traced,
        template=(*template, *(0 for _ in range(unread))),
        twins=tuple(twins),
        unread=unread,
    )


def plan_or_whole(model: Any, within: str) -> Layers:
    """The same for one stack of several: where there is nothing to gain, it is traced whole."""
    try:
        return plan(model, within)
    except NotAlike:
        path, stack = stack_of(model, within)
        return Layers(path=path, count=len(stack), traced=len(stack), template=(), twins=())


def number_of(config: Any) -> int | None:
    """How many layers a configuration says that a model has."""
    return getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)


def stack_of(model: nn.Module, within: str) -> tuple[str, nn.ModuleList]:
    """The longest list of modules of few classes is the stack of decoder layers; lists inside of lists are parts.

    A layer is made of modules and hands on as many tokens as it takes: convolutions that a sound enters by are none.
    """
    parts = ((name, module) for name, module in model.named_modules() if name.startswith(within))
    lists = [(name, module) for name, module in parts if isinstance(module, nn.ModuleList)]
    inner = {name for outer, _ in lists for name, _ in lists if name.startswith(f"{outer}.")}
    several = [(name, module) for name, module in lists if name not in inner and len(module) > 1]
    alike = [(name, stack) for name, stack in several if len({type(m) for m in stack}) <= 3]
    stacks = [(name, stack) for name, stack in alike if all(map(_is_layer, stack))]
    if not stacks:
        raise NotAlike("the model has no list of layers")
    return max(stacks, key=lambda item: len(item[1]))


def _is_layer(module: nn.Module) -> bool:
    convolutions = (part for part in module.modules() if isinstance(part, nn.modules.conv._ConvNd))
    return any(True for _ in module.children()) and all(max(part.stride) == 1 for part in convolutions)


def _config_of(model: Any, path: str) -> Any:
    """The configuration of the part that has the layers."""
    while path:
        path = path.rpartition(".")[0]
        config = getattr(model.get_submodule(path), "config", None)
        if path and config is not None:
            return config
    return model.config.get_text_config(decoder=True)


def _kinds(stack: nn.ModuleList, config: Any) -> list[Any]:
    """All that a layer's trace can depend on: classes, shapes, Python scalars, the configuration's per-layer lists."""
    lists = per_layer_lists(config, len(stack))
    return [(_describe(layer), repr([values[i] for values in lists.values()])) for i, layer in enumerate(stack)]


def per_layer_lists(config: Any, count: int) -> dict[str, list[Any]]:
    return {k: list(v) for k, v in sorted(vars(config).items()) if isinstance(v, list | tuple) and len(v) == count}


def _describe(layer: nn.Module) -> tuple[Any, ...]:
    described = []
    for name, module in layer.named_modules():
        tensors = {**module._parameters, **module._buffers}
        shapes = tuple((key, tuple(tensor.shape)) for key, tensor in tensors.items() if tensor is not None)
        scalars = tuple(
            (key, value)
            for key, value in sorted(vars(module).items())
            if isinstance(value, SCALARS) and key not in NUMBERS
        )
        described.append((name, type(module), shapes, scalars))
    return tuple(described)


def cut(model: Any, layers: Layers) -> None:
    """Leave only the layers that are traced, in the modules and in the configuration."""
    owner, _, name = layers.path.rpartition(".")
    stack = model.get_submodule(layers.path)
    model.get_submodule(owner)._modules[name] = nn.ModuleList(list(stack)[: layers.traced + layers.unread])
    config = _config_of(model, layers.path)
    for key, values in per_layer_lists(config, layers.count).items():
        setattr(config, key, values[: layers.traced + layers.unread])
    config.num_hidden_layers = layers.traced + layers.unread
