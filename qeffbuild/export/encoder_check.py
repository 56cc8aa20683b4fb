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
    # Of all rows: a reranker makes one number of each.
    spread = torch.cat([wanted.flatten() for wanted in expected]).std().clamp(min=1e-3)
    errors = []
    with interfaces(choice), adapted(model):
        choice.measuring = True
        asked.module(*rows[0])
        choice.measuring = False
        if is_sound:  # what is heard after a row's end would change its norms, so rows of one length go together
            made = [asked.module(*row)[0] for row in rows]
        else:
            together = asked.module(*_padded(rows))[0]
            made = [together[place : place + 1] for place in range(len(rows))]
    for wanted, found in zip(expected, made, strict=True):
        found = found[:, : wanted.shape[1]] if found.dim() == 3 else found
        errors.append(float((found - wanted).abs().max() / spread))
    return max(errors)


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
