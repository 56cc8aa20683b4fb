"""What is asked of an engine and what comes out: requests, events, outputs, and the limits that a request must fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from qeffbuild.errors import RunError
from qeffbuild.runtime.rules import Rules
from qeffbuild.spec.types import DecodingSpec

Finish = Literal["eos", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The shapes that a package was built for, as far as requests meet them."""

    slots: int  # rows of the cache: batch_size, or full_batch_size under continuous batching
    prefill_seq_len: int
    ctx_len: int
    vocab_size: int
    eos_token_ids: frozenset[int] = frozenset()
    logits_to_keep: int = 1  # of a prefill's tokens, how many of the last; 0: all
    draft_lengths: tuple[int, ...] = ()  # tokens that one run may verify, rising; none: it does not speculate
    rules: Rules | None = None  # what the model must and must not say
    is_continuous: bool = False  # a finished row is refilled while the others go on

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Limits:
        shape, model = manifest["specialization"], manifest["model"]
        slots = shape.get("full_batch_size")
        asked = shape.get("continuous_batching")
        is_continuous = slots is not None if asked is None else asked
        return cls(
            slots=slots if is_continuous and slots else shape["batch_size"],
            prefill_seq_len=shape["prefill_seq_len"],
            ctx_len=shape["ctx_len"],
            vocab_size=model["vocab_size"],
            eos_token_ids=frozenset(model["eos_token_id"] or ()),
            logits_to_keep=shape.get("logits_to_keep", 1),
            draft_lengths=tuple(sorted(length for length in shape.get("num_speculative_tokens") or () if length)),
            rules=Rules.if_any(model),
            is_continuous=is_continuous,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt and how to answer it. `id` is its place among the prompts that were given together."""

    id: int
    token_ids: tuple[int, ...]
    decoding: DecodingSpec
    adapter: int = 0  # which one answers; 0 is the model alone
    seen: Any = None  # what its images are to the model
    whole: tuple[tuple[int, int], ...] = ()  # tokens that have to be fed together, from and to

    def check(self, limits: Limits) -> None:
        """Raises RunError when the prompt cannot be run in these limits."""
        name, length = f"prompt {self.id + 1}", len(self.token_ids)
        if not length:
            raise RunError("run.prompt", f"{name} is empty", hint="give at least one token")
        if length >= limits.ctx_len:
            raise RunError(
                "run.prompt",
                f"{name} has {length} tokens, but ctx_len is {limits.ctx_len} and holds prompt and answer",
                hint=f"shorten it to {limits.ctx_len - 1} tokens, or build with specialization.ctx_len={length + 1}",
            )
        longest = max((stop - start for start, stop in self.whole), default=0)
        if longest > limits.prefill_seq_len:
            raise RunError(
                "run.image",
                f"{name}: {longest} tokens that see one another (an image, or all of it), but prefill_seq_len is "
                f"{limits.prefill_seq_len}",
                hint=f"build with specialization.prefill_seq_len={longest}",
            )
        wrong = next((token for token in self.token_ids if not 0 <= token < limits.vocab_size), None)
        if wrong is not None:
            raise RunError(
                "run.prompt",
                f"{name}: token id {wrong} is outside the vocabulary of {limits.vocab_size}",
                hint=f"token ids run from 0 to {limits.vocab_size - 1}",
            )

    def most_tokens(self, ctx_len: int) -> int:
        """How long prompt and answer together may become."""
        asked = self.decoding.max_new_tokens
        return ctx_len if asked is None else min(ctx_len, len(self.token_ids) + asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One token of one request. `text` may be empty while a character is incomplete; `finish` is set on the last."""

    request: int
    token_id: int
    text: str
    finish: Finish | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A finished answer. `token_ids` ends with the end-of-text token if that finished it; `text` never shows it."""

    prompt: str | None  # None when token ids were given
    text: str
    token_ids: tuple[int, ...]
    finish: Finish
    prompt_logprobs: tuple[float | None, ...] | None = None  # of each token of the prompt, where its logits were kept

    def as_json(self) -> dict[str, Any]:
        said = {**asdict(self), "token_ids": list(self.token_ids)}
        if self.prompt_logprobs is None:
            del said["prompt_logprobs"]
        return said
