"""A model that reads all of its input at once, run as the trace will run it and as PyTorch runs it: do they agree?

Rows of several lengths go alone through PyTorch, and together, padded, through what is traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad

from qeffbuild.export.adapted import adapted
from qeffbuild.export.encoder import MASK
from qeffbuild.export.interfaces import interfaces, use, use_its_own
from qeffbuild.export.modules import AnyAttention, Traceable
from qeffbuild.export.selfcheck import Disagreement
from qeffbuild.export.sound import wave

Row = tuple[torch.Tensor, ...]
_MUCH = 1e-3


@torch.no_grad()
def error(
    model: Any, graphs: tuple[Traceable, ...], expected: list[torch.Tensor], attention: str, choice: AnyAttention
) -> float:
    """The largest difference of their results from what PyTorch says, of its spread."""
    (asked,) = graphs
    rows = _rows(asked)
    use(model, attention)
    with interfaces(choice), adapted(model):
        choice.measuring = True
        asked.module(*rows[0])
        choice.measuring = False
        alone = [asked.module(*row)[0] for row in rows]
        if MASK not in asked.inputs:  # what comes behind a row's end would change it, so rows go alone
            return _apart(alone, expected)
        padded = asked.module(*together(rows))[0]
    difference = _apart([padded[place : place + 1] for place in range(len(rows))], expected)
    if difference > _MUCH and difference > 100 * _apart(alone, expected):
        raise Disagreement("what stands behind a text changes what comes of it, so that texts cannot be padded")
    return difference


@torch.no_grad()
def reference(model: Any, graphs: tuple[Traceable, ...]) -> list[torch.Tensor]:
    """What PyTorch says to each row alone."""
    (asked,) = graphs
    use_its_own(model)
    with adapted(model):
        return [asked.module(*row)[0] for row in _rows(asked)]


def _rows(asked: Traceable) -> list[Row]:
    (first, *_) = asked.inputs
    if first.dtype == "int64":
        return _texts(asked)
    return [(wave(first, number),) for number in range(2)]


def _apart(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """The largest difference, of the spread of all rows: a reranker makes one number of each."""
    spread = torch.cat([result.flatten() for result in wanted]).std().clamp(min=1e-3)
    pairs = zip(found, wanted, strict=True)
    return max(float((ours[:, : row.shape[1]] - row).abs().max() / spread) for ours, row in pairs)


def _texts(asked: Traceable) -> list[Row]:
    rows = []
    for number, length in enumerate((11, 7)):
        ids = (torch.arange(length) * (37 + number) + 11 * number + 20)[None] % 200 + 20
        types = (torch.arange(length) >= length // 2).long()[None]
        of = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types}
        rows.append(tuple(of[tensor.name] for tensor in asked.inputs))
    return rows


def together(rows: Sequence[Sequence[torch.Tensor]], axis: int = 1) -> list[torch.Tensor]:
    """Rows as one batch, the shorter ones filled up with zeros behind their end."""
    batch = []
    for column in zip(*rows, strict=True):
        longest = max(tensor.shape[axis] for tensor in column)
        inner = (0, 0) * (column[0].dim() - 1 - axis)
        batch.append(torch.cat([pad(tensor, (*inner, 0, longest - tensor.shape[axis])) for tensor in column]))
    return batch
