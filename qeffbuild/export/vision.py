"""A model of images and text -> a module from the pixels of one image to its embeddings, for images of one size.

The size decides grids, windows, positions and how many tiles there are. All that depends on it alone is computed while
the module runs under a trace, so that the graph holds what pixels and weights decide, and nothing else.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import is_fake
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves
from transformers import masking_utils
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from qeffbuild.export.interfaces import configs, use
from qeffbuild.signature import Tensor

# A name with "flash" in it is asked to attend within segments of one long row; others get a call for each segment.
SEGMENTS = "qeffbuild flash segments"
PIXELS, LOOK = "pixel_values", "get_image_features"
EMBEDDINGS, DEEPSTACK = "vision_embeds", "deepstack_features"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What a processor makes of one image of the size that is built for: its pixels, and what its size decides."""

    pixels: torch.Tensor
    geometry: Mapping[str, Any]

    @classmethod
    def of(cls, processed: Mapping[str, Any], model: Any) -> Picture:
        """`processed` are the processor's tensors; what the model's image features are not asked with is left out."""
        lookers = [part for part in (model, model.base_model) if hasattr(part, LOOK)]
        wanted = {name for part in lookers for name in inspect.signature(getattr(part, LOOK)).parameters}
        geometry = {name: value for name, value in processed.items() if name in wanted and name != PIXELS}
        return cls(pixels=processed[PIXELS].float(), geometry=geometry)


class Vision(nn.Module):
    """pixel_values -> vision_embeds [1, tokens, width], and deepstack_features [1, layers, tokens, width]."""

    def __init__(self, model: Any, picture: Picture, *, attention: str) -> None:
        super().__init__()
        self.model = model
        self.picture = picture
        self.attention = attention
        self.own = _segmented(model)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (EMBEDDINGS, DEEPSTACK) if stacked_layers(self.model) else (EMBEDDINGS,)

    @property
    def input(self) -> Tensor:
        return Tensor(name=PIXELS, dtype="float32", axes=tuple(self.picture.pixels.shape))

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (pixel_values,) = tensors
        with _attending(self.model, self.attention, self.own), ComputedNow(self.picture.pixels):
            made = looked(self.model, pixel_values, self.picture.geometry)
            embeddings = rows_of(features_of(made))[None]
            layers = getattr(made, "deepstack_features", None)
            if not layers:
                return (embeddings,)
            return embeddings, torch.stack([rows_of(layer) for layer in layers])[None]


def looked(model: Any, pixels: torch.Tensor, geometry: Mapping[str, Any]) -> Any:
    """What a model makes of pixels, by itself or by the part of it below its head."""
    part = next((part for part in (model, model.base_model) if hasattr(part, LOOK)), None)
    if part is None:
        raise ValueError(f"it has no {LOOK}: what it sees is no embeddings in place of tokens")
    return getattr(part, LOOK)(pixels, **geometry, return_dict=True)


def features_of(looked_at: Any) -> Any:
    """What takes the place of tokens: what was pooled, or where nothing was, what the vision part ends with."""
    pooled = getattr(looked_at, "pooler_output", None)
    return looked_at.last_hidden_state if pooled is None else pooled


def stacked_layers(model: Any) -> int:
    """How many of the decoder's first layers add features of their own to the tokens of images."""
    return len(getattr(getattr(model.config, "vision_config", None), "deepstack_visual_indexes", None) or ())


def rows_of(features: Any) -> torch.Tensor:
    """Embeddings in the order of their placeholders; models give one tensor per image or per tile, or one of all."""
    several = features if isinstance(features, list | tuple) else [features]
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in several])


class ComputedNow(TorchFunctionMode):
    """Operations on plain tensors are carried out at once, while those on what is traced are recorded.

    Some models ask which tiles are all zero, that is: which are no tiles. The image that the size was taken from says.
    """

    def __init__(self, example: torch.Tensor) -> None:
        super().__init__()
        self.example = example

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        # What is empty waits for results, so it is recorded, too.
        if func is torch.empty or any(is_fake(tensor) for tensor in tensors):
            return self._traced(func, args, kwargs)
        with _disable_current_modes():
            return func(*args, **kwargs)

    def _traced(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is torch.Tensor.__eq__ and isinstance(args[1], int | float) and args[0].numel() == self.example.numel():
            with _disable_current_modes():
                return self.example.reshape(args[0].shape) == args[1]
        if func is torch.Tensor.__getitem__ and isinstance(args[1], torch.Tensor) and args[1].dtype == torch.bool:
            with _disable_current_modes():
                chosen = args[1].nonzero(as_tuple=True)
            return args[0][chosen]
        return func(*args, **kwargs)


def attend_within_segments(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of [1,N,S,D] within segments that begin at `cu_seq_lens_q`, or of [B,N,S,D] as a whole."""
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    if query.shape[1] != key.shape[1]:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    starts = [] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
    lengths = [stop - start for start, stop in pairwise(starts) if stop > start]
    if len(lengths) > 1 and len(set(lengths)) == 1:  # segments of one length are rows of a batch
        query, key, value = (_to_rows(tensor, len(lengths)) for tensor in (query, key, value))
        made = _attend(query, key, value, None, scale).transpose(1, 2)
        return made.reshape(1, -1, *made.shape[2:]), None
    if len(lengths) > 1:
        owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        attention_mask = (owner[:, None] == owner[None, :])[None, None]
    return _attend(query, key, value, attention_mask, scale).transpose(1, 2).contiguous(), None


def _to_rows(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """[1,N,C*S,D] -> [C,N,S,D]."""
    _, heads, _, width = tensor.shape
    return tensor.reshape(heads, count, -1, width).transpose(0, 1)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    scores = query @ key.transpose(2, 3) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim=-1) @ value


@contextlib.contextmanager
def _attending(model: nn.Module, attention: str, own: Mapping[type[nn.Module], Callable[..., Any]]) -> Iterator[None]:
    """Inside the block the model looks its attention up under `attention`, and runs its `own` code around it.

    For the length of a trace transformers replaces attention within segments by a form for equal ones only.
    """
    tables: list[dict[str, Any]] = [
        ALL_ATTENTION_FUNCTIONS._global_mapping,
        masking_utils.ALL_MASK_ATTENTION_FUNCTIONS._global_mapping,
    ]
    before = [dict(table) for table in tables]
    tables[0][SEGMENTS] = attend_within_segments
    tables[1][SEGMENTS] = masking_utils.sdpa_mask
    patched = {cls: cls.forward for cls in own}
    for cls, forward in own.items():
        cls.forward = forward
    chosen = [(c, c._attn_implementation_internal, c._experts_implementation_internal) for c in configs(model)]
    use(model, attention)
    try:
        yield
    finally:
        for config, name, experts in chosen:
            config._attn_implementation_internal, config._experts_implementation_internal = name, experts
        for cls, forward in patched.items():
            cls.forward = forward
        for table, entries in zip(tables, before, strict=True):
            table.clear()
            table.update(entries)


def _segmented(model: nn.Module) -> dict[type[nn.Module], Callable[..., Any]]:
    """The classes that attend within segments, and how they do it."""
    classes = {type(module) for module in model.modules()}
    return {cls: cls.forward for cls in classes if "cu_seqlens" in inspect.signature(cls.forward).parameters}
