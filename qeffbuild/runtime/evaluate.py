"""A text -> how well a package predicts it, and how far it agrees with PyTorch on the same tokens.

Both run over the same windows, teacher-forced: `evaluate` through the engine's session, `reference` through the
model folder and PyTorch. Each token but the first is scored once, in the window that gives it the most context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from qeffbuild.errors import RunError
from qeffbuild.runtime.engine import Engine
from qeffbuild.runtime.sampling import NOT_FINITE
from qeffbuild.runtime.scheduler import Row


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens begin..end of the text; those from `scored` on are scored, the ones before are their context."""

    begin: int
    scored: int
    end: int


@dataclass(frozen=True, slots=True)
class Text:
    """What is predicted: token ids, cut into windows."""

    token_ids: np.ndarray
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`perplexity` over `tokens` scored tokens, and the likeliest token at each of them."""

    perplexity: float
    tokens: int
    choices: np.ndarray


def windows(length: int, size: int, stride: int) -> tuple[Window, ...]:
    """Windows of at most `size` tokens, each `stride` after the one before; token 0 has no context and no score."""
    found = [Window(0, 1, min(size, length))]
    while found[-1].end < length:
        begin = found[-1].begin + stride
        found.append(Window(begin, found[-1].end, min(begin + size, length)))
    return tuple(found)


def read_text(engine: Engine, path: Path, *, stride: int | None = None, max_tokens: int | None = None) -> Text:
    """The text in `path` as windows of ctx_len tokens; `stride` is half of it unless told."""
    size = engine.limits.ctx_len
    stride = max(1, size // 2) if stride is None else stride
    if not 0 < stride < size:
        raise RunError(
            "run.eval", f"stride is {stride}, but ctx_len is {size}", hint=f"use a stride from 1 to {size - 1}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as cause:
        raise RunError(
            "run.eval", f"eval_file: {path} cannot be read: {cause.strerror}", hint="check the path"
        ) from cause
    except UnicodeDecodeError as cause:
        raise RunError("run.eval", f"eval_file: {path} is not UTF-8 text", hint="save it as UTF-8 text") from cause
    token_ids = list(engine.encode(text))[:max_tokens] if text else []
    if len(token_ids) < 2:
        raise RunError("run.eval", f"eval_file: {path} has no token to predict", hint="give a text of a few sentences")
    return Text(np.array(token_ids, np.int64), windows(len(token_ids), size, stride))


def evaluate(engine: Engine, text: Text) -> Evaluation:
    """Scores the text with the package, as many windows at a time as the package has rows."""
    scores = _Scores(text.token_ids)
    slots = engine.limits.slots
    engine.current = None  # the windows overwrite the cache: no stream may go on
    for place in range(0, len(text.windows), slots):
        _predict_together(engine, text.windows[place : place + slots], scores)
    return scores.evaluation()


def reference(model: Path, text: Text, *, threads: int | None = None) -> Evaluation:
    """Scores the text with PyTorch in float32, from the folder that the package was built from."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as talk

    talk.disable_progress_bar()  # stderr has one voice, and it is ours
    if threads is not None:
        torch.set_num_threads(threads)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True).eval()
    scores = _Scores(text.token_ids)
    with torch.inference_mode():
        for window in text.windows:
            token_ids = torch.from_numpy(text.token_ids[None, window.begin : window.end - 1])
            scores.add(window, window.begin + 1, network(token_ids, use_cache=False).logits[0].float().numpy())
    return scores.evaluation()


def as_json(ours: Evaluation, theirs: Evaluation | None = None) -> dict[str, Any]:
    """The `eval` document: token_agreement is how often both find the same token the likeliest, of those scored."""
    agreement = None if theirs is None else float(np.mean(ours.choices == theirs.choices))
    return {
        "perplexity": ours.perplexity,
        "tokens": ours.tokens,
        "reference_perplexity": None if theirs is None else theirs.perplexity,
        "token_agreement": agreement,
    }


def _predict_together(engine: Engine, together: Sequence[Window], scores: _Scores) -> None:
    """Runs one window per slot, chunk by chunk. The last token of a window is only predicted, never fed."""
    width = engine.limits.prefill_seq_len
    fed = [scores.token_ids[window.begin : window.end - 1].tolist() for window in together]
    for start in range(0, max(map(len, fed)), width):
        chunks = [token_ids[start : start + width] for token_ids in fed]
        rows = [Row(slot, start, chunk) for slot, chunk in enumerate(chunks) if chunk]
        logits_BNV = engine.state.run(width, rows, every_position=True)
        for row in rows:
            window = together[row.slot]
            scores.add(window, window.begin + start + 1, logits_BNV[row.slot, : len(row.token_ids)])


class _Scores:
    """Adds up what each scored token cost, and keeps which token was thought the likeliest in its place."""

    def __init__(self, token_ids: np.ndarray) -> None:
        self.token_ids = token_ids
        self._cost = 0.0
        self._choices = np.full(len(token_ids), -1)

    def add(self, window: Window, first: int, logits_NV: np.ndarray) -> None:
        """`logits_NV` predict the tokens from `first` on; those before the window's scored ones are passed over."""
        skipped = max(0, window.scored - first)
        logits_NV = logits_NV[skipped:]
        if not len(logits_NV):
            return
        places = slice(first + skipped, first + skipped + len(logits_NV))
        relative_NV = logits_NV - logits_NV.max(axis=-1, keepdims=True)
        sums = np.exp(relative_NV).sum(axis=-1, dtype=np.float64)
        wanted = np.take_along_axis(relative_NV, self.token_ids[places, None], axis=-1)[:, 0]
        self._cost += float((np.log(sums) - wanted).sum())
        self._choices[places] = logits_NV.argmax(axis=-1)

    def evaluation(self) -> Evaluation:
        if not isfinite(self._cost):
            raise RunError("run.logits", "the model gave logits that are not finite numbers", hint=NOT_FINITE)
        tokens = len(self.token_ids) - 1
        return Evaluation(float(np.exp(self._cost / tokens)), tokens, self._choices[1:])
