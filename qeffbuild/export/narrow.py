"""What is traced of a model in float16 or bfloat16 -> the same with float32 at its doors.

Numbers come in and results go out in float32; states, and what one graph holds for another, are the model's own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from qeffbuild.export.modules import Traceable
from qeffbuild.export.states import dtype_name
from qeffbuild.signature import State, Tensor


def all_in_dtype(graphs: Sequence[Traceable], model: Any) -> tuple[Traceable, ...]:
    """`graphs` of a model, the main one first: it holds what the others make."""
    handed_on = {name for asked in graphs[1:] for name in asked.outputs}
    return tuple(in_dtype(asked, model, handed_on) for asked in graphs)


def in_dtype(asked: Traceable, model: Any, handed_on: Collection[str]) -> Traceable:
    """`handed_on` are the names of what one graph of the model holds for another."""
    dtype = dtype_name(model.dtype)
    if dtype == "float32":
        return asked
    wide = {tensor.name for tensor in (*asked.inputs, *asked.held) if tensor.name not in handed_on}
    inside = [getattr(torch, dtype) if _is_float(tensor) and tensor.name in wide else None for tensor in asked.taken]
    results = [None if name in handed_on else torch.float32 for name in asked.outputs]
    return replace(
        asked,
        module=_Doors(asked.module, inside, results),
        states=tuple(replace(state, dtype=dtype) if _is_float(state) else state for state in asked.states),
        held=tuple(
            replace(tensor, dtype=dtype) if _is_float(tensor) and tensor.name in handed_on else tensor
            for tensor in asked.held
        ),
    )


def _is_float(tensor: Tensor | State) -> bool:
    return tensor.dtype == "float32"


class _Doors(nn.Module):
    """The module between two rows of casts. None leaves a tensor as it is; results beyond the second row stay, too."""

    def __init__(
        self, module: nn.Module, taken: Sequence[torch.dtype | None], given: Sequence[torch.dtype | None]
    ) -> None:
        super().__init__()
        self.model = module.model
        self.within = (module,)  # a tuple, so that parameters have one name
        self.taken, self.given = tuple(taken), tuple(given)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inside = [_cast(tensor, dtype) for tensor, dtype in zip(tensors, self.taken, strict=True)]
        results = self.within[0](*inside)
        count = len(self.given)
        return (
            *(_cast(made, dtype) for made, dtype in zip(results[:count], self.given, strict=True)),
            *results[count:],
        )


def _cast(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor if dtype is None or tensor.dtype == dtype or not tensor.is_floating_point() else tensor.to(dtype)
