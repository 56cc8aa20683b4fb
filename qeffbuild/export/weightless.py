"""A configuration and a checkpoint's table of tensors -> the real model without weights, and graphs that refer to them.

Every exporter goes this way: the model is made, cut to one layer of each kind and given parameters without memory;
it is traced; its layers are copied; its parameters become references.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import onnx_ir as ir
import torch
from torch import nn

from qeffbuild.export import layers, skeleton, weights
from qeffbuild.export.copies import expand, order
from qeffbuild.export.finish import finish
from qeffbuild.export.modules import Traceable

log = logging.getLogger(__name__)

Made = TypeVar("Made")


class Weightless:
    """`model` has fake parameters and the layers that `choose` leaves; the tables are those of the whole model."""

    def __init__(
        self,
        config: Any,
        stored: Mapping[str, weights.Stored],
        make: Callable[[Any], Any] = skeleton.causal,
        choose: Callable[[Any], Sequence[layers.Layers]] | None = None,
    ) -> None:
        self.model: Any = skeleton.skeleton(config, make)
        self.sources = weights.find_sources(self.model, stored)
        weights.take_in_buffers(self.model, self.sources)
        weights.untie(self.model, self.sources)
        self.names, self.buffers = weights.aliases(self.model), dict(self.model.named_buffers())
        self.shapes = weights.shapes_of(self.model)
        self.by_rule = dict(_by_rule(self.model, self._missing()))
        self.stacks = tuple(choose(self.model)) if choose is not None else ()
        for stack in self.stacks:
            layers.cut(self.model, stack)
        self.mode = skeleton.fake_mode()
        skeleton.make_fake(self.model, self.mode)

    def numbers(self, whole: int) -> tuple[int, int]:
        """How many layers the stack has that was planned last, and how many are traced; `whole` where none was."""
        return (self.stacks[-1].count, self.stacks[-1].traced) if self.stacks else (whole, whole)

    def copied(self, made: ir.Model, asked: Traceable) -> Traceable:
        """Append the layers that were not traced; what was asked for, with the tensors of all layers."""
        for stack in (stack for stack in self.stacks if stack.traced < stack.count):
            expand(made.graph, stack, asked.own if stack.has_states else {}, self.buffers)
            asked = asked.of_all(stack) if stack.has_states else asked
        outputs = [*asked.outputs, *(state.output for state in asked.states)]
        order(made.graph, [tensor.name for tensor in asked.taken], outputs)
        return asked

    def finish(self, made: ir.Model, name: str = "decoder") -> None:
        """Let a graph with all its layers refer to the weights that it reads; its bytes are the same each time."""
        _drop_unread(made.graph)
        for initializer, value in made.graph.initializers.items():
            if (table := self.by_rule.get(initializer.removeprefix(weights.PREFIX))) is not None:
                dtype = value.dtype or ir.DataType.FLOAT
                value.const_value = ir.tensor(table.numpy().astype(dtype.numpy()), name=initializer)
        names = {name: others for name, others in self.names.items() if name not in self.by_rule}
        weights.refer(made.graph, self.sources, names, self.shapes)
        finish(made)
        made.graph.name = name

    def _missing(self) -> Iterator[str]:
        return (name for name, others in self.names.items() if not any(other in self.sources for other in others))


def copied_or_whole(attempt: Callable[[bool], Made]) -> tuple[Made, str | None]:
    """attempt(True), by copies of layers; where that is not sound, attempt(False), by all of them, and why."""
    try:
        return attempt(True), None
    except (layers.NotAlike, IndexError, RuntimeError) as reason:
        if isinstance(reason, RuntimeError) and "invalid for input of size" not in str(reason):
            raise
        # (A size that counts all layers, such as Gemma's embeddings for each, does not fit a part of them, and a layer
        # whose features are taken may be none of that part.)
        log.info("all layers are traced: %s", reason)
        return attempt(False), str(reason)


def _by_rule(model: Any, missing: Iterator[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tables that no checkpoint holds because a rule gives them (sinusoids): made twice, they are the same."""
    for name in missing:
        owner, _, attribute = name.rpartition(".")
        module = model.get_submodule(owner)
        if not isinstance(module, nn.Embedding) or not module.weight.is_floating_point():
            continue
        made = []
        for _ in range(2):
            real = copy.copy(module)
            table = nn.Parameter(torch.empty(model.get_parameter(name).shape, dtype=torch.float32), requires_grad=False)
            real._parameters = {attribute: table}
            with torch.no_grad():
                model._init_weights(real)
            made.append(real.get_parameter(attribute))
        if torch.equal(*made):
            yield name, made[0]


def _drop_unread(graph: ir.Graph) -> None:
    """Parameters that no output depends on (a pooler, the other graph's part) need not be in the checkpoint."""
    outputs = set(graph.outputs)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in outputs:
            del graph.initializers[name]
