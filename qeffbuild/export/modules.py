"""A module from named tensors to named tensors, whose parameters may be fake -> a tidy ONNX graph and its signature.

`decoder` and `trace` do this for a causal model with its caches; here an axis is free when its tensor's axes name it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from qeffbuild.export import ops, translations
from qeffbuild.export.adapted import adapted
from qeffbuild.export.interfaces import AttentionChoice, interfaces, use
from qeffbuild.export.layers import Layers, named_on
from qeffbuild.export.shrink import positions
from qeffbuild.export.sizes import CTX_LEN, FixedAxis, contexts, longest_context, named_constants
from qeffbuild.export.states import dtype_name
from qeffbuild.export.tidy import tidy
from qeffbuild.export.trace import OPSET, SYMBOL
from qeffbuild.export.transformers_patches import to_onnx_program, traceable
from qeffbuild.signature import Axis, IoSignature, State, Tensor

log = logging.getLogger(__name__)

# No two alike and none 0 or 1, so that no size is taken for another or for a constant.
SIZES: Mapping[str, int] = {"batch_size": 2, "seq_len": 3, "num_logits": 5, "ctx_len": 24, "encoder_ctx_len": 14}


class AnyAttention(AttentionChoice):
    """The same choice for models that hand no mask to an attention without padding: there, everything is seen."""

    def __call__(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        seen = torch.ones(1, 1, 1, 1, dtype=torch.bool) if attention_mask is None else attention_mask
        return super().__call__(module, query, key, value, seen, scaling, dropout, **kwargs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traceable:
    """`module` takes all of `inputs`, `states` and `held` in that order; of its results, those of the states come last.

    `sizes` are what the trace uses for the names of free axes, beyond the usual ones. `layer_of` says which of
    `outputs` and `held` are one layer's, and whose; states say it themselves.
    """

    graph: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    states: tuple[State, ...] = ()
    held: tuple[Tensor, ...] = ()
    sizes: Mapping[str, int] | None = None
    layer_of: Mapping[str, int] = field(default_factory=dict)

    @property
    def own(self) -> dict[str, int]:
        """What goes in and comes out for one layer only, by its name, and which layer that is."""
        states = {name: state.layer for state in self.states for name in (state.name, state.output)}
        return {**states, **self.layer_of}

    def of_all(self, layers: Layers) -> Traceable:
        """The same with what all layers have, where what the traced layers have was asked for."""
        own = self.layer_of
        return replace(
            self,
            outputs=layers.spread(self.outputs, own.get, named_on),
            states=layers.spread(self.states, lambda state: state.layer, _state_on),
            held=layers.spread(self.held, lambda tensor: own.get(tensor.name), _tensor_on),
        )

    @property
    def taken(self) -> tuple[Tensor | State, ...]:
        return (*self.inputs, *self.states, *self.held)

    def example(self, sizes: Mapping[str, int] | None = None) -> tuple[torch.Tensor, ...]:
        """Tensors of ones in the sizes of a trace."""
        chosen = {**SIZES, **(self.sizes or {}), **(sizes or {})}
        return tuple(
            torch.ones([chosen[axis] if isinstance(axis, str) else axis for axis in tensor.axes], dtype=_dtype(tensor))
            for tensor in self.taken
        )


def _state_on(state: State, layer: int) -> State:
    name, output = named_on(state.name, layer), named_on(state.output, layer)
    return replace(state, name=name, output=output, layer=layer)


def _tensor_on(tensor: Tensor, layer: int) -> Tensor:
    return replace(tensor, name=named_on(tensor.name, layer))


def to_graph(asked: Traceable, model: Any, attention: str, choice: AttentionChoice, mode: Any) -> ir.Model:
    """The graph, by decompositions only where it is not to be had without them. `mode` makes the parameters fake."""
    try:
        with mode:
            made = _traced(asked, model, attention, choice, decompose=False)
    except torch.onnx.OnnxExporterError:
        log.debug("decomposing", exc_info=True)
        with mode:
            made = _traced(asked, model, attention, choice, decompose=True)
    tidy(made.graph, dtype_name(model.dtype))
    return made


def signature_of(graph: ir.Graph, asked: Traceable) -> IoSignature:
    """What was asked for, with the axes of the outputs as the trace found them."""
    outputs = [_tensor(value) for value in graph.outputs[: len(asked.outputs)]]
    return IoSignature(
        graph=asked.graph, inputs=asked.inputs, outputs=tuple(outputs), states=asked.states, held=asked.held
    )


def _traced(asked: Traceable, model: Any, attention: str, choice: AttentionChoice, *, decompose: bool) -> ir.Model:
    use(model, attention)
    example, free = asked.example(), tuple(_free_axes(asked.taken))
    with interfaces(choice), adapted(model), traceable(model), named_constants():
        program = torch.export.export(asked.module, example, dynamic_shapes={"tensors": free}, strict=False)
    longest, why = longest_context(program, [tensor.axes for tensor in asked.taken], _tried(asked, model))
    if longest is not None:
        raise FixedAxis(why)
    outputs = [*asked.outputs, *(state.output for state in asked.states)]
    made = to_onnx_program(
        program,
        input_names=[tensor.name for tensor in asked.taken],
        output_names=outputs,
        translations={**translations.TRANSLATIONS, **ops.TRANSLATIONS},
        opset=OPSET,
        decompose=decompose,
    )
    _name_axes(made.model.graph, asked.taken)
    return made.model


def _tried(asked: Traceable, model: Any) -> dict[str, Sequence[int]]:
    """Sizes for the free axes. What is read as a whole, its tokens or samples, may be as long as a context."""
    tried = contexts(positions(model.config))
    has_context = any(CTX_LEN in tensor.axes for tensor in asked.states)
    sizes = asked.sizes or {}
    if not has_context:
        tried |= {"seq_len": [length for length in tried[CTX_LEN] if length >= sizes.get("seq_len", 0)]}
    if asked.inputs[0].dtype == "int64":
        return tried
    return {**tried, **{name: (size, 2 * size + 1, 11 * size) for name, size in sizes.items()}}


def _free_axes(tensors: Iterable[Tensor | State]) -> Iterable[dict[int, Any]]:
    """The first tensor that bears a name decides its size, the others follow."""
    seen: set[Axis] = set()
    for tensor in tensors:
        axes = {}
        for place, axis in enumerate(tensor.axes):
            if isinstance(axis, str):
                axes[place] = torch.export.Dim.AUTO if axis in seen else torch.export.Dim.DYNAMIC
                seen.add(axis)
        yield axes


def _name_axes(graph: ir.Graph, tensors: Sequence[Tensor | State]) -> None:
    """torch's symbols are numbered by chance; ours say what they count, in every shape of the graph."""
    names: dict[str, str] = {}
    for value, tensor in zip(graph.inputs, tensors, strict=True):
        assert value.shape is not None
        for axis, name in zip(value.shape, tensor.axes, strict=True):
            if isinstance(axis, ir.SymbolicDim) and axis.value is not None and isinstance(name, str):
                names.setdefault(axis.value, name)
        value.shape = ir.Shape(tensor.axes)
    for value in [*graph.outputs, *(value for node in graph for value in node.outputs)]:
        if value.shape is not None:
            value.shape = ir.Shape([_named(axis, names) for axis in value.shape])


def _named(axis: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | str | None:
    if isinstance(axis, int) or axis.value is None:
        return axis if isinstance(axis, int) else None
    said = SYMBOL.sub(lambda found: names.get(found.group(), found.group()), axis.value)
    return None if SYMBOL.search(said) else said


def _tensor(value: ir.Value) -> Tensor:
    assert value.name is not None
    assert value.shape is not None
    assert value.dtype is not None
    # An axis that follows from others by arithmetic is only known once the graph has run.
    axes = [axis if isinstance(axis, int) else axis.value for axis in value.shape]
    plain = [axis if isinstance(axis, int) or (axis or "").isidentifier() else "frames" for axis in axes]
    return Tensor(name=value.name, dtype=value.dtype.numpy().name, axes=tuple(axis or "frames" for axis in plain))


def _dtype(tensor: Tensor | State) -> torch.dtype:
    return getattr(torch, tensor.dtype)


def with_axes(tensor: Tensor, **sizes: Axis) -> Tensor:
    """The same tensor with some of its named axes as given."""
    return replace(tensor, axes=tuple(sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in tensor.axes))
