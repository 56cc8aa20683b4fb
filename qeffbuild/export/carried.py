"""How a model that reads whole texts is called: at once, with a cache that lives inside of the graph, or text by text.

State-space layers have a form for whole texts, too, which loops in Python or cuts a text into blocks; no trace of it
holds for every length. With a cache they go token by token, as in a decoder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from qeffbuild.export.adapted import adapted
from qeffbuild.export.cache import RetainedCache, retained_cache
from qeffbuild.export.decoder import without_cache
from qeffbuild.export.interfaces import AttentionChoice, interfaces, use
from qeffbuild.export.loops import token_by_token
from qeffbuild.export.positions import true_positions
from qeffbuild.export.states import CacheForm, NoStates, accepts, cache_name, probe


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """`form` is that of the cache, if there is to be one; texts that go alone have no padding.

    With room, there are tokens behind a text for the model's code alone: some takes one block of them another way.
    """

    form: CacheForm | None = None
    is_alone: bool = False
    has_room: bool = False


def form_of(model: Any, mode: contextlib.AbstractContextManager[Any] | None = None) -> CacheForm:
    """What the model keeps of a text; `mode` makes its parameters fake. NoStates where that is nothing."""
    use(model, "eager")
    try:
        with mode or contextlib.nullcontext(), interfaces(AttentionChoice()), adapted(model):
            return probe(model.base_model)
    except NoStates:
        raise
    except Exception as reason:
        raise NoStates(f"it does not run with a cache: {reason}") from reason


class Call:
    """One call of a model that reads texts so."""

    def __init__(self, model: Any, reading: Reading) -> None:
        self.model, self.form = model, reading.form
        self.cache: RetainedCache | None = None

    @contextlib.contextmanager
    def arguments(self, given: Mapping[str, torch.Tensor]) -> Iterator[dict[str, Any]]:
        """What the model is to be called with inside of the block; `given` are its inputs by name."""
        if self.form is None:
            yield {**given, **without_cache(self.model)}
            return
        made: dict[str, Any] = {name: tensor for name, tensor in given.items() if name != "attention_mask"}
        batch, length = given["input_ids"].shape
        torch._check(given["attention_mask"].shape[0] == batch)
        torch._check(given["attention_mask"].shape[1] == length)
        positions = torch.where(given["attention_mask"] > 0, torch.arange(length)[None], -1)
        # A first token finds zeros whatever is there; were two states the same value, two loops would be one.
        states = [spec.zeros(batch, length) + number for number, spec in enumerate(self.form.states)]
        self.cache = retained_cache(self.form, states, positions, None)
        made |= {cache_name(self.model): self.cache, "use_cache": True}
        if accepts(self.model, "position_ids"):
            made["position_ids"] = positions.clamp(min=0)
        body = self.model.base_model
        with true_positions(self.model, positions.clamp(min=0)), token_by_token(body, self.form, self.cache):
            yield made

    def held(self, result: torch.Tensor) -> torch.Tensor:
        """`result`, and nothing of the last states: a trace leaves out a state that nobody reads."""
        if self.form is None or self.cache is None:
            return result
        ones = (1,) * (result.dim() - 1)
        for spec in (spec for loop in self.form.loops for spec in loop.states):
            last = spec.read(self.cache.layers).movedim(spec.batch_axis, 0).flatten(1)[:, 0]
            result = result + 0 * last.reshape(-1, *ones).to(result.dtype)
        return result
