"""A network while it runs -> what its layers hand on: those that see tokens, and those of an encoder before them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qeffbuild.models.tasks import IMAGE_TEXT, SPEECH, TEXT

TWO_STACKS = frozenset({SPEECH, TEXT, IMAGE_TEXT})  # tasks of an encoder and a decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of a stack of `count`, or what enters the stack (`number` is None).

    What is `whole` belongs to an encoder beside the decoder: it is made once, of all that there is.
    """

    path: str
    number: int | None
    count: int
    whole: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def named(self) -> str:
        if self.number is None:
            return f"before the first layer of {self.path}" if self.whole else "before the first layer"
        return f"in {self.path}, layer {self.number} of {self.count}"


@contextlib.contextmanager
def listening(network: Any, task: str) -> Iterator[dict[Layer, np.ndarray]]:
    """What enters the first layer of each stack and what leaves each layer, once the network has run."""
    heard: dict[Layer, np.ndarray] = {}
    hooks: list[Any] = []
    for path, stack, whole in stacks(network, task):
        entrance = Layer(path=path, number=None, count=len(stack), whole=whole)
        hooks.append(stack[0].register_forward_pre_hook(_entering(heard, entrance), with_kwargs=True))
        for number, module in enumerate(stack):
            layer = Layer(path=f"{path}.{number}", number=number, count=len(stack), whole=whole)
            hooks.append(module.register_forward_hook(_leaving(heard, layer)))
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def stacks(network: Any, task: str) -> Iterator[tuple[str, Sequence[Any], bool]]:
    """Each stack of layers by its path, an encoder's first."""
    from qeffbuild.export.layers import NotAlike, stack_of

    found = []
    for within, whole in _parts(network, task):
        with contextlib.suppress(NotAlike):
            path, stack = stack_of(network, within)
            found.append((path, list(stack), whole))
    encoders = [each for each in found if each[2]]
    yield from sorted(encoders, key=lambda each: len(each[1]))[-1:]
    yield from (each for each in found if not each[2])


def _parts(network: Any, task: str) -> Iterator[tuple[str, bool]]:
    """Paths within which a stack may be, and whether it is an encoder's."""
    if task not in TWO_STACKS:
        yield "", False
        return
    names = {module: name for name, module in network.named_modules()}
    decoder = names[network.get_decoder()]
    if task == IMAGE_TEXT:
        parts = (names[part] for part in network.base_model.children())
        yield from ((part, True) for part in parts if not f"{decoder}.".startswith(f"{part}."))
    else:
        yield names[network.get_encoder()], True
    yield decoder, False


def _entering(heard: dict[Layer, np.ndarray], layer: Layer) -> Any:
    def enter(_: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        _note(heard, layer, args[0] if args else kwargs.get("hidden_states"))

    return enter


def _leaving(heard: dict[Layer, np.ndarray], layer: Layer) -> Any:
    def leave(_: Any, args: Any, made: Any) -> None:
        _note(heard, layer, made[0] if isinstance(made, tuple) else made)

    return leave


def _note(heard: dict[Layer, np.ndarray], layer: Layer, made: Any) -> None:
    """An encoder may have tiles of an image for rows, or one long row without a batch."""
    if hasattr(made, "detach") and made.dim() >= 2 and (layer.whole or (made.dim() == 3 and made.shape[0] == 1)):
        heard[layer] = flat(made)


def flat(tensor: Any) -> np.ndarray:
    """[..., width] -> [tokens, width]."""
    array: np.ndarray = tensor.detach().float().numpy()
    return np.ascontiguousarray(array.reshape(-1, array.shape[-1]))
