"""A decoder of a few numpy lines behind the session's door, so that the runtime is tested in milliseconds.

Its logits depend on every token that a position can see and on where it stands, so a token that is lost, stale,
repeated or in the wrong place changes the answer; what a runtime must not touch is poisoned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from qeffbuild.runtime.engine import Engine
from qeffbuild.runtime.request import Limits
from qeffbuild.runtime.rules import Rules
from qeffbuild.runtime.tokenizer import Tokenizer
from qeffbuild.signature import IoSignature, Tensor

VOCAB, WIDTH = 64, 16
UNWRITTEN = -7


class ToyModel:
    """logits of a token = tanh(sum over the tokens up to it of token vector * place vector) @ head."""

    def __init__(self, ctx_len: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.tokens = random.normal(size=(VOCAB, WIDTH))
        self.places = random.normal(size=(ctx_len, WIDTH))
        self.head = 4 * random.normal(size=(WIDTH, VOCAB))

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        seen = self.tokens[list(token_ids)] * self.places[: len(token_ids)]
        return (np.tanh(seen.sum(axis=0)) @ self.head).astype(np.float32)

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The answer that every engine must give, found without any cache."""
        token_ids = list(prompt)
        for _ in range(count):
            token_ids.append(int(self.logits(token_ids).argmax()))
        return token_ids[len(prompt) :]


class ToySession:
    """The model behind the session's contract. `states` is the cache [batch_size, ctx_len] of token ids."""

    def __init__(self, model: ToyModel) -> None:
        self.model = model
        self.shapes: list[tuple[int, ...]] = []  # of input_ids, run by run
        self._given = np.zeros(0)

    def signature(self, graph: str) -> IoSignature:
        assert graph == "decoder"
        inputs = (
            Tensor(name="input_ids", dtype="int64", axes=("batch_size", "seq_len")),
            Tensor(name="position_ids", dtype="int64", axes=("batch_size", "seq_len")),
            Tensor(name="logits_index", dtype="int64", axes=("batch_size", "num_logits")),
        )
        logits = Tensor(name="logits", dtype="float32", axes=("batch_size", "num_logits", VOCAB))
        return IoSignature(graph=graph, inputs=inputs, outputs=(logits,))

    def allocate(self, graph: str, batch_size: int, ctx_len: int) -> np.ndarray:
        return np.full((batch_size, ctx_len), UNWRITTEN)

    def run(self, graph: str, inputs: Mapping[str, np.ndarray], states: Any) -> Mapping[str, np.ndarray]:
        token_ids, positions, index = inputs["input_ids"], inputs["position_ids"], inputs["logits_index"]
        assert token_ids.shape == positions.shape
        assert len(token_ids) == len(index) == len(states)
        assert {array.dtype for array in inputs.values()} == {np.dtype(np.int64)}
        self.shapes.append(token_ids.shape)
        self._given.fill(np.nan)  # views that were given out are over now
        rows, columns = np.nonzero(positions >= 0)
        states[rows, positions[rows, columns]] = token_ids[rows, columns]
        logits = np.full((*index.shape, VOCAB), np.nan, np.float32)
        for row, column in np.ndindex(index.shape):
            position = positions[row, index[row, column]]
            if position >= 0:
                visible = states[row, : position + 1]
                assert UNWRITTEN not in visible, "a position attends to a slot that was never written"
                logits[row, column] = self.model.logits(visible)
        self._given = logits
        return {"logits": logits}


class Letters:
    """Token n is one letter; 63 stands for the end of text and is not shown."""

    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 "

    def encode(self, text: str) -> list[int]:
        return [self.alphabet.index(letter) for letter in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self.alphabet[token_id] for token_id in token_ids if token_id < len(self.alphabet))


@pytest.fixture
def toy() -> Callable[..., tuple[Engine, ToyModel, ToySession]]:
    """toy(slots=2, ctx_len=32, ...) -> an engine over the toy model, the model, and the session between them."""

    def make(
        *,
        slots: int = 1,
        ctx_len: int = 32,
        prefill_seq_len: int = 4,
        is_continuous: bool = False,
        eos: Sequence[int] = (),
        tokenizer: Tokenizer | None = None,
        logits_to_keep: int = 1,
        rules: Rules | None = None,
        seed: int = 0,
    ) -> tuple[Engine, ToyModel, ToySession]:
        model = ToyModel(ctx_len, seed)
        session = ToySession(model)
        limits = Limits(
            slots=slots,
            prefill_seq_len=prefill_seq_len,
            ctx_len=ctx_len,
            vocab_size=VOCAB,
            eos_token_ids=frozenset(eos),
            is_continuous=is_continuous,
            logits_to_keep=logits_to_keep,
            rules=rules,
        )
        return Engine(session, limits, tokenizer or Letters()), model, session

    return make
