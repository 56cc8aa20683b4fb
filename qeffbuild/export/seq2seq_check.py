"""An encoder-decoder, run as the trace will run it and as PyTorch runs it: do they agree?

Two rows that are not alike go alone through PyTorch, and together, the shorter one padded, through what is traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from qeffbuild.export.adapted import adapted
from qeffbuild.export.encoder_check import Row, together
from qeffbuild.export.interfaces import interfaces, use, use_its_own
from qeffbuild.export.modules import AnyAttention, Traceable
from qeffbuild.export.sound import wave

CTX_LEN = 17
_STEPS = ((0, 4), (4, 5), (5, 6), (6, 9))  # prompt, tokens one by one, and several at once


@torch.no_grad()
def error(model: Any, made: tuple[Traceable, ...], attention: str, choice: AnyAttention) -> float:
    """The largest difference of logits in a few decoder steps, of the spread of PyTorch's."""
    decoder, encoder = made
    rows = _rows(encoder)
    tokens = (torch.arange(9) * 37 + 20)[None].repeat(2, 1) % 200 + torch.tensor([[0], [7]])
    use_its_own(model)
    expected = torch.cat([_said(model, encoder, *pair) for pair in zip(rows, tokens, strict=True)])
    use(model, attention)
    worst = 0.0
    with interfaces(choice), adapted(model):
        for measuring in (True, False):  # measured once, then computed as it will be traced
            choice.measuring = measuring
            held = _held(decoder, encoder, rows)
            states = [spec.zeros(2, CTX_LEN) for spec in decoder.module.parts.form.states]  # type: ignore[union-attr]
            for start, stop in _STEPS[:1] if measuring else _STEPS:
                given_tokens, positions = tokens[:, start:stop], torch.arange(start, stop).repeat(2, 1)
                index = torch.arange(stop - start).repeat(2, 1)
                if stop - start == 1:  # a trace takes the way of several tokens, and so does this
                    given_tokens, positions = tokens[:, start : stop + 1], torch.tensor([[start, -1]] * 2)
                logits, *states = decoder.module(given_tokens, positions, index, *states, *held)
                if not measuring:
                    difference = (logits - expected[:, start:stop]).abs().max() / expected.std()
                    worst = max(worst, float(difference))
    return worst


def _said(model: Any, encoder: Traceable, row: Row, tokens: torch.Tensor) -> torch.Tensor:
    arguments: dict[str, Any] = dict(zip((tensor.name for tensor in encoder.inputs), row, strict=True))
    logits: torch.Tensor = model(**arguments, decoder_input_ids=tokens[None], use_cache=False).logits
    return logits


def _held(decoder: Traceable, encoder: Traceable, rows: Sequence[Row]) -> list[torch.Tensor]:
    """What the decoder reads of both rows: texts are padded before the encoder, sounds behind it."""
    if len(encoder.inputs) > 1:
        given = together(rows)
        return [*encoder.module(*given), given[1]]
    heard = [encoder.module(*row) for row in rows]
    held, lengths = together(heard, 2), [cross[0].shape[2] for cross in heard]
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return [*held, mask.long()] if len(decoder.held) > len(held) else held


def _rows(encoder: Traceable) -> list[Row]:
    first = encoder.inputs[0]
    if first.dtype == "float32":
        return [(wave(first, number),) for number in range(2)]
    texts = [(torch.arange(length) * 29 + 23)[None] % 180 + start for length, start in ((11, 20), (7, 25))]
    return [(ids, torch.ones_like(ids)) for ids in texts]
