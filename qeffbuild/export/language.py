"""A model of images and text, and a recipe -> its decoder, which takes the embeddings of images beside the tokens.

A token that stands for a piece of an image takes the next embedding of its row; `image_idx` counts how many are taken,
so that an image may be split over chunks of a prompt.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from qeffbuild.export.cache import flat_states, retained_cache
from qeffbuild.export.decoder import Decoder, _gather
from qeffbuild.export.loops import token_by_token
from qeffbuild.export.recipes import Recipe
from qeffbuild.export.states import CacheForm, accepts
from qeffbuild.export.vision import DEEPSTACK, EMBEDDINGS, stacked_layers
from qeffbuild.models.image_positions import RULE
from qeffbuild.signature import Tensor

IMAGE_IDX = "image_idx"
_STACKS, _TURNS = "_deepstack_process", "recomposition_frequencies"
OUTPUTS = ("logits", f"{IMAGE_IDX}_output")


class Language(Decoder):
    """input_ids [batch, tokens], position_ids, logits_index, image_idx [batch, 1], states, vision -> logits, image_idx.

    position_ids are [batch, tokens], or [4, batch, tokens] where the model turns by time, height and width: then the
    first of the four is the place in the text.
    """

    def __init__(self, model: Any, form: CacheForm, recipe: Recipe, *, vision: Sequence[str], is_listed: bool) -> None:
        super().__init__(model, form, recipe)
        self.vision = tuple(vision)
        self.is_listed = is_listed
        self.has_grid = hasattr(model.base_model, RULE)
        self.replaced = _by_choice(model)
        self.image_token = model.config.image_token_id

    def inputs(self) -> tuple[Tensor, ...]:
        rows = ("batch_size", "seq_len")
        return (
            Tensor(name="input_ids", dtype="int64", axes=rows),
            Tensor(name="position_ids", dtype="int64", axes=(4, *rows) if self.has_grid else rows),
            Tensor(name="logits_index", dtype="int64", axes=("batch_size", "num_logits")),
            Tensor(name=IMAGE_IDX, dtype="int64", axes=("batch_size", 1)),
        )

    def held(self) -> tuple[Tensor, ...]:
        """What the vision graph gives, a row of it for each row of tokens."""
        rows = ("batch_size", "vision_size", self.model.config.get_text_config().hidden_size)
        axes = {EMBEDDINGS: rows, DEEPSTACK: (rows[0], stacked_layers(self.model), *rows[1:])}
        return tuple(Tensor(name=name, dtype="float32", axes=axes[name]) for name in self.vision)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        input_ids, position_ids, logits_index, image_idx, *rest = tensors
        states, vision = rest[: len(self.form.states)], rest[len(self.form.states) :]
        places = position_ids[0] if self.has_grid else position_ids
        ctx_len = self._one_symbol_each(input_ids, states)
        assert ctx_len is not None
        cache = retained_cache(self.form, states, places, self.recipe.past_len)
        is_image = (input_ids == self.image_token) & (places >= 0)
        arguments: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        # A padded token still needs some valid position; what it computes is read by nobody.
        arguments["position_ids"] = position_ids.clamp(min=0) + self.offset
        if accepts(self.model, "token_type_ids"):  # whose images see themselves as a whole
            arguments["token_type_ids"] = _by_place(is_image, places, ctx_len)
        if self.recipe.explicit_mask:
            arguments["attention_mask"] = (torch.arange(ctx_len)[None] <= places.amax(dim=1, keepdim=True)).long()
        chosen_embeddings = [_taken(embeddings, is_image, image_idx) for embeddings in vision]
        arguments["mm_encoder_outputs"] = {"image": self._features(chosen_embeddings)}
        with (
            _for_every_token(),
            _unchecked(self.model),
            _replacing(self.replaced),
            token_by_token(self.model, self.form, cache),
            self._chosen_rows(logits_index) as chosen,
        ):
            logits = self.model(input_ids=input_ids, **arguments).logits
        if not chosen:
            logits = _gather(logits, logits_index)
        return (logits, image_idx + is_image.sum(1, keepdim=True), *flat_states(cache, self.form.states))

    def _features(self, chosen: Sequence[torch.Tensor]) -> Any:
        """What the model's own vision part would hand on, with one embedding for every token."""
        embeddings, *layers = chosen
        pooled = [embeddings.flatten(0, 1)] if self.is_listed else embeddings
        stacks = [[layer.flatten(0, 1)] for layer in layers[0].unbind(1)] if layers else None
        return SimpleNamespace(pooler_output=pooled, last_hidden_state=embeddings, deepstack_features=stacks)


def _taken(embeddings: torch.Tensor, is_image: torch.Tensor, image_idx: torch.Tensor) -> torch.Tensor:
    """embeddings[B, ..., V, D] -> [B, ..., S, D]: for each token the embedding that it takes if it stands for one."""
    index = (image_idx + is_image.cumsum(1) - 1).clamp(min=0, max=embeddings.shape[-2] - 1)
    index = index[:, :, None] if embeddings.dim() == 3 else index[:, None, :, None]
    return torch.gather(embeddings, -2, index.expand(*embeddings.shape[:-2], -1, embeddings.shape[-1]))


def _by_place(is_image: torch.Tensor, places: torch.Tensor, ctx_len: int) -> torch.Tensor:
    """is_image[B,S] of tokens at places[B,S] -> [B, ctx_len]: models count rows of images from the beginning."""
    found = (places[:, :, None] == torch.arange(ctx_len)) & is_image[:, :, None]
    return found.long().amax(dim=1)


@contextlib.contextmanager
def _for_every_token() -> Iterator[None]:
    """What models scatter to the tokens of images only is chosen for each token, which has an embedding anyway.

    Picked out by a mask, embeddings would be as many as the data says, which no graph can. (transformers replaces the
    method too for the length of a trace, so it is replaced here and not watched.)
    """

    def choose(into: torch.Tensor, mask: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, source.reshape(into.shape), into)

    before = torch.Tensor.masked_scatter
    torch.Tensor.masked_scatter = choose  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.Tensor.masked_scatter = before  # type: ignore[method-assign]


def _adding(module: nn.Module) -> Callable[..., torch.Tensor]:
    """Features that first layers add to the tokens of images."""

    def add(hidden: torch.Tensor, is_image: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        return hidden + torch.where(is_image[..., None], embeddings.reshape(hidden.shape), 0.0)

    return add


def _taking_turns(module: Any) -> Callable[..., torch.Tensor]:
    """Angles of time, height and width [3,B,S,D] -> [B,S,2D] in turns, as far as height's and width's sections go."""

    def recompose(angles: torch.Tensor) -> torch.Tensor:
        place, turned = torch.arange(angles.shape[-1]), angles[0]
        for axis in (1, 2):
            chosen = (place % 3 == axis) & (place < module.mrope_section[axis] * 3)
            turned = torch.where(chosen, angles[axis], turned)
        return torch.cat((turned, turned), dim=-1)

    return recompose


Replaced = list[tuple[nn.Module, str, Callable[..., torch.Tensor]]]


def _by_choice(model: nn.Module) -> Replaced:
    """Methods that write into a part of a tensor, and the same as a choice, which has a form without memory."""
    found: Replaced = []
    module: Any
    for module in model.modules():
        if hasattr(module, _STACKS):
            found.append((module, _STACKS, _adding(module)))
        # Several rotary modules have a method of this name; the one that takes turns is known by what it gives.
        if hasattr(module, _TURNS) and hasattr(module, "mrope_section"):
            turning, angles = _taking_turns(module), torch.rand(3, 1, 2, module.inv_freq.shape[-1])
            wanted = getattr(module, _TURNS)(angles.clone())
            if torch.equal(turning(angles), wanted):
                found.append((module, _TURNS, turning))
    return found


@contextlib.contextmanager
def _replacing(replaced: Replaced) -> Iterator[None]:
    for module, name, function in replaced:
        setattr(module, name, function)
    try:
        yield
    finally:
        for module, name, _ in replaced:
            delattr(module, name)


@contextlib.contextmanager
def _unchecked(model: nn.Module) -> Iterator[None]:
    """Models count their images' tokens against the embeddings; here the two are as many as there are tokens."""
    name = "torch_compilable_check"
    modules = {sys.modules[type(module).__module__] for module in model.modules()}
    before = {module: getattr(module, name) for module in modules if hasattr(module, name)}
    for module in before:
        setattr(module, name, lambda *args, **kwargs: None)
    try:
        yield
    finally:
        for module, check in before.items():
            setattr(module, name, check)
