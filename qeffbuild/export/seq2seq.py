"""An encoder-decoder -> two traceable graphs: one makes the keys and values of the cross cache, the other reads them.

The decoder's own keys and values are retained state; those of the cross cache are held: made once for an input, and
only read while tokens are made. All rows of a batch are at the same position.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from qeffbuild.export.adapted import adapted
from qeffbuild.export.cache import flat_states, retained_cache
from qeffbuild.export.carried import Reading
from qeffbuild.export.interfaces import use_its_own
from qeffbuild.export.layers import Layers, NotAlike, plan_or_whole, stack_of
from qeffbuild.export.modules import Traceable
from qeffbuild.export.positions import true_positions
from qeffbuild.export.sound import LENGTH, LENGTHS, ONE_DECODER, is_free, sound_of
from qeffbuild.export.states import CacheForm, StateSpec, accepts
from qeffbuild.signature import State, Tensor

_ROWS = ("batch_size", "seq_len")
IDS = Tensor(name="input_ids", dtype="int64", axes=_ROWS)
POSITIONS = Tensor(name="position_ids", dtype="int64", axes=_ROWS)
MASK = Tensor(name="attention_mask", dtype="int64", axes=_ROWS)
INDEX = Tensor(name="logits_index", dtype="int64", axes=("batch_size", "num_logits"))
CROSS_MASK = Tensor(name="encoder_attention_mask", dtype="int64", axes=("batch_size", "encoder_ctx_len"))
_KEYS_AND_VALUES = ("keys", "values")


@dataclass
class _Heard(BaseModelOutput):
    """What an encoder says, in the form of those with experts, and of those that say how much of it counts, too."""

    router_logits: Any = None
    attention_mask: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a model's two caches are made of, as one run on small data leaves them."""

    form: CacheForm
    cross: tuple[tuple[int, ...], ...]  # shapes of its keys and values, layer by layer, of one row


def graphs(model: Any, reading: Reading) -> tuple[Traceable, ...]:
    """The decoder, which is the main graph, and the encoder; padding behind a text for its code alone, where asked."""
    if not model.config.is_encoder_decoder:
        raise ValueError(ONE_DECODER)
    parts = _parts(model)
    reads = model.main_input_name == IDS.name
    inputs = (IDS, MASK) if reads else (sound_of(model),)
    has_mask = reads or is_free(inputs[0])
    held = tuple(
        Tensor(name=_cross(place), dtype="float32", axes=("batch_size", shape[1], "encoder_ctx_len", shape[3]))
        for place, shape in enumerate(parts.cross)
    )
    layer_of = {tensor.name: place // 2 for place, tensor in enumerate(held)}
    decoder = Traceable(
        graph="decoder",
        module=_Decoder(model, parts, has_mask=has_mask),
        inputs=(IDS, POSITIONS, INDEX),
        outputs=("logits",),
        layer_of=layer_of,
        states=tuple(_signed(spec) for spec in parts.form.states),
        held=(*held, CROSS_MASK) if has_mask else held,
    )
    encoder = Traceable(
        graph="encoder",
        module=_Encoder(model, room=_block(model.config) if reading.has_room else 0),
        inputs=inputs,
        outputs=tuple(tensor.name for tensor in held),
        sizes=None if reads else {LENGTH: LENGTHS[inputs[0].name][0]},
        layer_of=layer_of,
    )
    return decoder, encoder


def stacks(model: Any) -> tuple[Layers, ...]:
    """The layers of the encoder, and those of the decoder, which have states. One of the two may be traced whole."""
    encoder, decoder = _parts_with_layers(model)
    planned = (replace(plan_or_whole(model, encoder), has_states=False), plan_or_whole(model, decoder))
    if all(stack.traced == stack.count for stack in planned):
        raise NotAlike(f"{planned[0].count} and {planned[1].count} layers, no more than a trace needs")
    return planned


def count(model: Any) -> int:
    return sum(len(stack_of(model, part)[1]) for part in _parts_with_layers(model))


def _parts_with_layers(model: Any) -> tuple[str, str]:
    """The paths of the encoder and of the decoder."""
    names = {module: name for name, module in model.named_modules()}
    return names[model.get_encoder()], names[model.get_decoder()]


def _block(config: Any) -> int:
    """How many tokens attend to one another at once, in the words of LongT5 and of PEGASUS-X."""
    return max(getattr(config, "local_radius", 0) + 1, getattr(config, "block_size", 0))


class _Encoder(nn.Module):
    """The encoder, and what each decoder layer makes of its output: run for one token, all else of which is dropped."""

    def __init__(self, model: Any, room: int = 0) -> None:
        super().__init__()
        self.model = model
        self.room = room

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mask = {"attention_mask": tensors[1]} if len(tensors) > 1 else {}
        if self.room:
            ids, shown = (torch.nn.functional.pad(tensor, (0, self.room)) for tensor in tensors)
            hidden = self.model.get_encoder()(ids, attention_mask=shown)[0][:, : tensors[0].shape[1]]
        else:
            hidden = self.model.get_encoder()(tensors[0], **mask)[0]
        start = torch.ones(hidden.shape[0], 1, dtype=torch.long)
        made = self.model(decoder_input_ids=start, encoder_outputs=_Heard(hidden), use_cache=True, **mask)
        return tuple(_flat_cross(made.past_key_values))


class _Decoder(nn.Module):
    def __init__(self, model: Any, parts: Parts, *, has_mask: bool) -> None:
        super().__init__()
        self.model = model
        self.parts = parts
        self.has_mask = has_mask

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        input_ids, position_ids, logits_index, *rest = tensors
        count = len(self.parts.form.states)
        states, cross = rest[:count], rest[count : count + len(self.parts.cross)]
        self._one_symbol_each(input_ids, states, rest[count:])
        own = retained_cache(self.parts.form, states, position_ids, None)
        cache = EncoderDecoderCache(own, _cross_cache(cross))
        cache.is_updated = dict.fromkeys(range(len(cross) // 2), True)
        positions = position_ids.clamp(min=0)
        arguments: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        if accepts(self.model, "decoder_position_ids"):
            arguments["decoder_position_ids"] = positions
        if accepts(self.model, "decoder_attention_mask"):
            # Else some models make one as long as the tokens that they have seen, not as the cache.
            arguments["decoder_attention_mask"] = torch.ones(input_ids.shape[0], states[0].shape[2], dtype=torch.long)
        # Nobody looks at what the encoder said: its keys and values are there already.
        said = torch.zeros(input_ids.shape[0], cross[0].shape[2], _width(self.model), dtype=self.model.dtype)
        with true_positions(self.model, positions), self._seeing(rest[-1]):
            logits = self.model(decoder_input_ids=input_ids, encoder_outputs=_Heard(said), **arguments).logits
        chosen = torch.gather(logits, 1, logits_index[:, :, None].expand(-1, -1, logits.shape[-1]))
        return (chosen, *flat_states(own, self.parts.form.states))

    @contextlib.contextmanager
    def _seeing(self, mask: torch.Tensor) -> Iterator[None]:
        """Inside the block the decoder sees what `mask` shows of an encoder's output, of a length of its own."""
        decoder = self.model.get_decoder()

        def show(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**kwargs, "encoder_attention_mask": mask}

        hook = decoder.register_forward_pre_hook(show, with_kwargs=True) if self.has_mask else None
        try:
            yield
        finally:
            if hook is not None:
                hook.remove()

    def _one_symbol_each(
        self, input_ids: torch.Tensor, states: Sequence[torch.Tensor], held: Sequence[torch.Tensor]
    ) -> None:
        for tensor in (*states, *held):
            torch._check(tensor.shape[0] == input_ids.shape[0])
        for tensor in states:
            torch._check(tensor.shape[2] == states[0].shape[2])
        for tensor in held:
            axis = 2 if tensor.dim() == 4 else 1
            torch._check(tensor.shape[axis] == held[0].shape[2])


@torch.no_grad()
def _parts(model: Any) -> Parts:
    """One run without an encoder: its output may be anything of the right width."""
    device = next(model.parameters()).device
    said = torch.zeros(1, 3, _width(model), device=device, dtype=model.dtype)
    tokens = torch.ones(1, 3, dtype=torch.long, device=device)
    use_its_own(model)
    with adapted(model):
        made = model(decoder_input_ids=tokens, encoder_outputs=_Heard(said), use_cache=True)
    if made.logits.shape[1] != tokens.shape[1]:
        raise ValueError("with a cache its decoder reads the last of the tokens that it is given, and no others")
    cache = made.past_key_values
    states = [
        StateSpec(
            layer=number,
            attribute=attribute,
            shape=tuple(getattr(layer, attribute).shape),
            dtype=torch.float32,
            batch_axis=0,
            ctx_axis=2,
            window=None,
        )
        for number, layer in enumerate(_used(cache.self_attention_cache))
        for attribute in _KEYS_AND_VALUES
    ]
    form = CacheForm(cache_class=DynamicCache, layers=_used(cache.self_attention_cache), states=tuple(states))
    return Parts(form=form, cross=tuple(tuple(tensor.shape) for tensor in _flat_cross(cache)))


def _flat_cross(cache: Any) -> Iterator[torch.Tensor]:
    for layer in _used(cache.cross_attention_cache):
        yield from (layer.keys, layer.values)


def _used(cache: Any) -> tuple[Any, ...]:
    """Its layers that something was written to: a model that was cut may ask for as many as it had."""
    return tuple(layer for layer in cache.layers if layer.is_initialized)


def _cross_cache(tensors: Sequence[torch.Tensor]) -> DynamicCache:
    """What is held as it is, not appended to nothing: a layer reads its own tensors and nothing before them."""
    cache = DynamicCache()
    for keys, values in zip(tensors[::2], tensors[1::2], strict=True):
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def _cross(place: int) -> str:
    return f"past_{'value' if place % 2 else 'key'}_cross.{place // 2}"


def _signed(spec: StateSpec) -> State:
    name = f"past_{spec.kind}_self.{spec.layer}"
    _, heads, _, width = spec.shape
    return State(
        name=name,
        output=f"{name}_RetainedState",
        dtype="float32",
        axes=("batch_size", heads, "ctx_len", width),
        layer=spec.layer,
        kind=spec.kind,
    )


def _width(model: Any) -> int:
    """Of what the encoder says."""
    config = getattr(model.get_encoder(), "config", model.config).get_text_config()
    return int(getattr(config, "d_model", None) or config.hidden_size)
