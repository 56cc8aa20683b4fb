"""What a model's generation config forbids or forces at a step -> changed scores, as transformers changes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_NEVER = -np.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`never` and `never_first` are tokens; `least` counts tokens before an end may come."""

    eos: tuple[int, ...]
    never: tuple[int, ...] = ()
    never_first: tuple[int, ...] = ()
    forced_first: int | None = None
    forced_last: int | None = None
    no_repeat: int = 0
    least: int = 0

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> Rules:
        """`model` is what the manifest says of it."""
        words = [ids[0] for ids in model.get("bad_words_ids") or () if len(ids) == 1]
        last = model.get("forced_eos_token_id")
        return cls(
            eos=tuple(model.get("eos_token_id") or ()),
            never=(*(model.get("suppress_tokens") or ()), *words),
            never_first=tuple(model.get("begin_suppress_tokens") or ()),
            forced_first=model.get("forced_bos_token_id"),
            forced_last=next(iter(last), None) if isinstance(last, list) else last,
            no_repeat=model.get("no_repeat_ngram_size") or 0,
            least=model.get("min_length") or 0,
        )

    @classmethod
    def if_any(cls, model: Mapping[str, Any]) -> Rules | None:
        """The same, or None of a model that is free to say anything, which is most."""
        rules = cls.of(model)
        return None if rules == cls(eos=rules.eos) else rules

    def apply(self, logits_V: np.ndarray, token_ids: Sequence[int], start: int, most: int) -> None:
        """Changes the scores of the token after `token_ids`, of which the first `start` were given."""
        if self.never:
            logits_V[list(self.never)] = _NEVER
        if len(token_ids) == start and self.never_first:
            logits_V[list(self.never_first)] = _NEVER
        if len(token_ids) < self.least:
            logits_V[list(self.eos)] = _NEVER
        for token in self._repeats(token_ids):
            logits_V[token] = _NEVER
        if self.forced_first is not None and len(token_ids) == 1:
            _force(logits_V, self.forced_first)
        if self.forced_last is not None and len(token_ids) == most - 1:
            _force(logits_V, self.forced_last)

    def _repeats(self, token_ids: Sequence[int]) -> list[int]:
        """Tokens that would end a run of `no_repeat` tokens that was there before."""
        size = self.no_repeat
        if size <= 0 or len(token_ids) < size:
            return []
        ids, before = list(token_ids), list(token_ids[len(token_ids) - size + 1 :]) if size > 1 else []
        return [ids[at + size - 1] for at in range(len(ids) - size + 1) if ids[at : at + size - 1] == before]


def _force(logits_V: np.ndarray, token: int) -> None:
    logits_V[:] = _NEVER
    logits_V[token] = 0.0
