"""A model that reads all of its input at once, run as the trace will run it and as PyTorch runs it: do they agree?

Rows of several lengths go alone through PyTorch, and together, padded, through what is traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from qeffbuild.export.adapted import adapted
from qeffbuild.export.interfaces import interfaces, use, use_its_own
from qeffbuild.export.modules import AnyAttention, Traceable

Row = tuple[torch.Tensor, ...]
_MUCH = 1e-3


@torch.no_grad()
def error(model: Any, graphs: tuple[Traceable, ...], attention: str, choice: AnyAttention) -> float:
    """The largest difference of their results, of the spread of PyTorch's."""
    (asked,) = graphs
    is_sound = asked.inputs[0].dtype == "float32"
    rows = _sounds() if is_sound else _texts(asked)
    use_its_own(model)
    with adapted(model):
        expected = [asked.module(*row)[0] for row in rows]
    use(model, attention)
    with interfaces(choice), adapted(model):
        choice.measuring = True
        asked.module(*rows[0])
        choice.measuring = False
        alone = [asked.module(*row)[0] for row in rows]
        if is_sound:  # what is heard after a row's end would change its norms, so rows of one length go together
            return _apart(alone, expected)
        together = asked.module(*_padded(rows))[0]
    difference = _apart([together[place : place + 1] for place in range(len(rows))], expected)
    if difference > _MUCH and difference > 100 * _apart(alone, expected):
        raise ValueError("what stands behind a text changes what comes of it, so that texts cannot be padded")
    return difference


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


def _sounds() -> list[Row]:
    return [(torch.sin(torch.arange(length) ** 1.1 / 7)[None],) for length in (4800, 6400)]


def _padded(rows: Sequence[Row]) -> Row:
    longest = max(row[0].shape[1] for row in rows)
    columns = zip(*rows, strict=True)
    return tuple(
        torch.cat([torch.nn.functional.pad(tensor, (0, longest - tensor.shape[1])) for tensor in column])
        for column in columns
    )
