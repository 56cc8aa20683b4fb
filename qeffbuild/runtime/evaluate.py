"""A text -> how well a package predicts it, and how far it agrees with PyTorch on the same tokens.

Both run over the same windows, teacher-forced: the package through the engine's session, the reference through the
model folder and PyTorch. Two protocols: `strided` scores each token but the first once, in the window that gives it the
most context (transformers' page on perplexity); `windows` takes whole windows only and scores all of each but its first
token, those of an overlap twice, as QEfficient's perplexity script does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qeffbuild.errors import RunError
from qeffbuild.runtime.engine import Engine
from qeffbuild.runtime.sampling import NOT_FINITE
from qeffbuild.runtime.scheduler import Row

Protocol = Literal["strided", "windows"]


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
    """`perplexity` over `tokens` scored tokens, and the likeliest token at each of them, window by window."""

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


def whole_windows(length: int, size: int, stride: int) -> tuple[Window, ...]:
    """Windows of exactly `size` tokens; all but the first token of each is scored."""
    return tuple(Window(begin, begin + 1, begin + size) for begin in range(0, length - size + 1, stride))


def read_text(
    engine: Engine, path: Path, *, stride: int | None = None, max_tokens: int | None = None,
    protocol: Protocol = "strided",
) -> Text:  # fmt: skip
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
    cut = windows if protocol == "strided" else whole_windows
    found = cut(len(token_ids), size, stride)
    if not found:
        raise RunError(
            "run.eval",
            f"eval_file: {path} has {len(token_ids)} tokens, too few for one whole window of {size}",
            hint="give a longer text, or eval_protocol=strided",
        )
    return Text(np.array(token_ids, np.int64), found)


def evaluate(engine: Engine, text: Text) -> Evaluation:
    """Scores the text with the package, as many windows at a time as the package has rows."""
    scores = _Scores(text)
    for window, first, logits_NV in predictions(engine, text):
        scores.add(window, first, logits_NV)
    return scores.evaluation()


def reference(model: Path, text: Text, *, threads: int | None = None) -> Evaluation:
    """Scores the text with PyTorch in float32, from the folder that the package was built from."""
    network, scores = load(model, threads=threads), _Scores(text)
    for window in text.windows:
        scores.add(window, window.begin + 1, _logits_of(network, text, window))
    return scores.evaluation()


def compare(engine: Engine, model: Path, text: Text, *, threads: int | None = None) -> dict[str, Any]:
    """The `eval` document. `kl` is the mean over scored tokens of KL(PyTorch || package), in nats."""
    network = load(model, threads=threads)
    ours, theirs, divergence = _Scores(text), _Scores(text), 0.0
    known: dict[Window, np.ndarray] = {}  # PyTorch's logits of the windows that the package is working on
    for window, first, logits_NV in predictions(engine, text):
        if window not in known:
            known[window] = _logits_of(network, text, window)
        start = first - window.begin - 1
        others_NV = known[window][start : start + len(logits_NV)]
        ours.add(window, first, logits_NV)
        theirs.add(window, first, others_NV)
        skipped = max(0, window.scored - first)
        divergence += _divergence(others_NV[skipped:], logits_NV[skipped:])
        if start + len(logits_NV) == len(known[window]):
            del known[window]
    found = ours.evaluation()
    return {**as_json(found, theirs.evaluation()), "kl": divergence / found.tokens}


def continuations(engine: Engine, pairs: Iterable[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[float, bool]]:
    """For each context and continuation: its log-probability, and whether it is what greedy decoding would say."""
    token_ids, asked = list[int](), list[Window]()
    for context, wanted in pairs:
        kept = [*context, *wanted][-(engine.limits.ctx_len + 1) :]
        begin, end = len(token_ids), len(token_ids) + len(kept)
        asked.append(Window(begin, max(begin + 1, end - len(wanted)), end))
        token_ids += kept
    text = Text(np.array(token_ids), tuple(asked))
    sums, greedy = dict.fromkeys(asked, 0.0), dict.fromkeys(asked, True)
    for window, first, logits_NV in predictions(engine, text):
        skipped = max(0, window.scored - first)
        logits_NV = logits_NV[skipped:]
        if len(logits_NV):
            wanted_N = text.token_ids[first + skipped : first + skipped + len(logits_NV)]
            sums[window] += float(np.take_along_axis(_log_shares(logits_NV), wanted_N[:, None], axis=-1).sum())
            greedy[window] &= bool((logits_NV.argmax(axis=-1) == wanted_N).all())
    yield from ((sums[window], greedy[window]) for window in asked)


def load(model: Path, *, threads: int | None = None) -> Any:
    """PyTorch's network of a model folder, in float32."""
    import torch

    from qeffbuild.gate.network import network_of

    if threads is not None:
        torch.set_num_threads(threads)
    return network_of(model)


def as_json(ours: Evaluation, theirs: Evaluation | None = None) -> dict[str, Any]:
    """token_agreement is how often both find the same token the likeliest, of those scored."""
    agreement = None if theirs is None else float(np.mean(ours.choices == theirs.choices))
    return {
        "perplexity": ours.perplexity,
        "tokens": ours.tokens,
        "reference_perplexity": None if theirs is None else theirs.perplexity,
        "token_agreement": agreement,
    }


def _logits_of(network: Any, text: Text, window: Window) -> np.ndarray:
    import torch

    with torch.inference_mode():
        token_ids = torch.from_numpy(text.token_ids[None, window.begin : window.end - 1])
        logits: np.ndarray = network(token_ids, use_cache=False).logits[0].float().numpy()
    return logits


def _divergence(p_NV: np.ndarray, q_NV: np.ndarray) -> float:
    """The sum over rows of KL(p || q), from logits; a package may have more logits than the vocabulary has words."""
    width = min(p_NV.shape[-1], q_NV.shape[-1])
    p, q = _log_shares(p_NV[:, :width]), _log_shares(q_NV[:, :width])
    return float((np.exp(p) * (p - q)).sum(dtype=np.float64))


def _log_shares(logits_NV: np.ndarray) -> np.ndarray:
    relative_NV = logits_NV.astype(np.float64) - logits_NV.max(axis=-1, keepdims=True)
    shares: np.ndarray = relative_NV - np.log(np.exp(relative_NV).sum(axis=-1, keepdims=True))
    return shares


def predictions(engine: Engine, text: Text) -> Iterator[tuple[Window, int, np.ndarray]]:
    """Each window's logits in pieces: which tokens they predict, from which on. A piece holds until the next one."""
    slots = engine.limits.slots
    engine.current = None  # the windows overwrite the cache: no stream may go on
    for place in range(0, len(text.windows), slots):
        yield from _predict_together(engine, text, text.windows[place : place + slots])


def _predict_together(
    engine: Engine, text: Text, together: Sequence[Window]
) -> Iterator[tuple[Window, int, np.ndarray]]:
    """Runs one window per slot, chunk by chunk. The last token of a window is only predicted, never fed."""
    width = engine.limits.prefill_seq_len
    fed = [text.token_ids[window.begin : window.end - 1].tolist() for window in together]
    for start in range(0, max(map(len, fed)), width):
        chunks = [token_ids[start : start + width] for token_ids in fed]
        rows = [Row(slot, start, chunk) for slot, chunk in enumerate(chunks) if chunk]
        logits_BNV = engine.state.run(width, rows, keep=0)
        for row in rows:
            window = together[row.slot]
            yield window, window.begin + start + 1, logits_BNV[row.slot, : len(row.token_ids)]


class _Scores:
    """Adds up what each scored token cost, and keeps which token was thought the likeliest in its place."""

    def __init__(self, text: Text) -> None:
        self.token_ids = text.token_ids
        self._cost = 0.0
        sizes = [window.end - window.scored for window in text.windows]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        self._starts = dict(zip(text.windows, starts.tolist(), strict=False))
        self._choices = np.full(int(starts[-1]), -1)

    def add(self, window: Window, first: int, logits_NV: np.ndarray) -> None:
        """`logits_NV` predict the tokens from `first` on; those before the window's scored ones are passed over."""
        skipped = max(0, window.scored - first)
        logits_NV = logits_NV[skipped:]
        if not len(logits_NV):
            return
        begin = first + skipped
        relative_NV = logits_NV - logits_NV.max(axis=-1, keepdims=True)
        sums = np.exp(relative_NV).sum(axis=-1, dtype=np.float64)
        tokens = self.token_ids[begin : begin + len(logits_NV)]
        wanted = np.take_along_axis(relative_NV, tokens[:, None], axis=-1)[:, 0]
        self._cost += float((np.log(sums) - wanted).sum())
        place = self._starts[window] + begin - window.scored
        self._choices[place : place + len(logits_NV)] = logits_NV.argmax(axis=-1)

    def evaluation(self) -> Evaluation:
        if not isfinite(self._cost):
            raise RunError("run.logits", "the model gave logits that are not finite numbers", hint=NOT_FINITE)
        tokens = len(self._choices)
        return Evaluation(float(np.exp(self._cost / tokens)), tokens, self._choices)
