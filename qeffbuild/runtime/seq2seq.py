"""A package of an encoder-decoder -> what it makes of texts, or transcripts of sounds: token by token, in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from qeffbuild.errors import RunError
from qeffbuild.package import Package
from qeffbuild.runtime.encoder import Shapes
from qeffbuild.runtime.metrics import Tally
from qeffbuild.runtime.reading import Answers, Asked
from qeffbuild.runtime.rules import Rules
from qeffbuild.runtime.sampling import Sampler, choose
from qeffbuild.runtime.session import Session
from qeffbuild.runtime.sound import Hearing, read_wav
from qeffbuild.runtime.tokenizer import Tokenizer
from qeffbuild.spec.types import DecodingSpec

ENCODER, DECODER = "encoder", "decoder"
LENGTH, SHOWN = "seq_len", "encoder_attention_mask"
Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Written:
    """One answer: its tokens without those that it began with."""

    token_ids: tuple[int, ...]
    finish: str


class Seq2Seq:
    """`write` takes what the encoder reads, row by row, and says what the decoder makes of it."""

    def __init__(self, package: Package, session: Session, tokenizer: Tokenizer, hearing: Hearing | None) -> None:
        self.package, self.session, self.tokenizer, self.hearing = package, session, tokenizer, hearing
        self.load_s = 0.0
        self.shapes, self.rules = Shapes.of(package), Rules.of(package.model)
        self.ctx_len: int = package.specialization["ctx_len"]
        self.states = session.allocate(DECODER, self.shapes.rows, self.ctx_len)
        self.is_alone = hearing is not None and LENGTH in session.signature(ENCODER).inputs[0].axes
        self.encoder_states = session.allocate(ENCODER, 1 if self.is_alone else self.shapes.rows, 0)

    def answer(self, asked: Asked) -> Answers:
        tally = Tally()
        rows, outputs = self._sounds(asked.audio) if self.hearing else self._texts(asked.prompts)
        written: list[Written] = []
        for start in range(0, len(rows), self.shapes.rows):
            written += self.write(rows[start : start + self.shapes.rows], asked.decoding, tally)
        for output, one in zip(outputs, written, strict=True):
            text = self.tokenizer.decode(one.token_ids).strip()
            output |= {"text": text, "token_ids": list(one.token_ids), "finish": one.finish}
        said = {"outputs": outputs}
        shown = [(str(output["text"]),) for output in outputs]
        return Answers(said=said, columns=(), rows=shown, figures=tally.metrics(self.load_s).as_json())

    def write(self, rows: Sequence[Feed], decoding: DecodingSpec, tally: Tally | None = None) -> list[Written]:
        """Answers at most as many rows as run together."""
        tally, began = tally or Tally(), perf_counter()
        self._listen(rows)
        prefix = self._prefix()
        logits_BV = self._step([[*prefix]] * len(rows), 0)
        tally.prefilled(began, len(prefix) * len(rows), len(rows))
        most = (
            self.ctx_len
            if decoding.max_new_tokens is None
            else min(self.ctx_len, len(prefix) + decoding.max_new_tokens)
        )
        answers = [list(prefix) for _ in rows]
        samplers = [Sampler(decoding, prefix, logits_BV.shape[1]) for _ in rows]
        left = [place for place in range(len(rows))]
        while True:
            self._choose(logits_BV, left, answers, samplers, len(prefix), most)
            eos = () if decoding.ignore_eos else self.rules.eos
            left = [place for place in left if answers[place][-1] not in eos and len(answers[place]) < most]
            if not left:
                break
            since = perf_counter()
            logits_BV = self._step([[answer[-1]] for answer in answers], max(map(len, answers)) - 1)
            tally.decoded(since, len(left))
        return [
            Written(tuple(answer[len(prefix) :]), "eos" if answer[-1] in self.rules.eos else "length")
            for answer in answers
        ]

    def _choose(
        self,
        logits_BV: np.ndarray,
        left: Sequence[int],
        answers: list[list[int]],
        samplers: list[Sampler],
        start: int,
        most: int,
    ) -> None:
        logits_BV = np.array(logits_BV)
        for place in left:
            self.rules.apply(logits_BV[place], answers[place], start, most)
        chosen = choose(logits_BV, list(left), [samplers[place] for place in left])
        for place, token in zip(left, chosen, strict=True):
            answers[place].append(token)

    def _listen(self, rows: Sequence[Feed]) -> None:
        """Runs the encoder; the decoder holds what comes out until other rows are there."""
        if self.is_alone:
            self.session.hold(self.states, self._heard(rows))
            return
        feed = self._padded(rows)
        made = self.session.run(ENCODER, feed, self.encoder_states)
        held = {tensor.name: made[tensor.name] for tensor in self.session.signature(ENCODER).outputs}
        if "attention_mask" in feed:
            held[SHOWN] = feed["attention_mask"]
        self.session.hold(self.states, held)

    def _heard(self, rows: Sequence[Feed]) -> dict[str, np.ndarray]:
        """Sounds of any length go one by one: what follows a sound would change how it is heard."""
        made = [self._heard_alone(row) for row in rows]
        longest = max(each.shape[2] for heard in made for each in heard.values())
        held = {}
        for name in made[0]:
            whole = np.zeros((self.shapes.rows, made[0][name].shape[1], longest, made[0][name].shape[3]), np.float32)
            for place, heard in enumerate(made):
                whole[place, :, : heard[name].shape[2]] = heard[name][0]
            held[name] = whole
        mask = np.zeros((self.shapes.rows, longest), np.int64)
        mask[:, 0] = 1  # rows that stand idle see something, so that nothing is NaN
        for place, heard in enumerate(made):
            mask[place, : next(iter(heard.values())).shape[2]] = 1
        return {**held, SHOWN: mask}

    def _heard_alone(self, row: Feed) -> dict[str, np.ndarray]:
        try:
            made = self.session.run(ENCODER, row, self.encoder_states)
        except RuntimeError as cause:  # convolutions that nothing is left of, positions that the model does not have
            (sound,) = row.values()
            found = f"audio: {sound.shape[1]} samples or frames are not what the model hears: {cause}"
            raise RunError("run.audio", f"{found:.300}", hint="give a longer sound, or cut it into pieces") from cause
        return {tensor.name: np.array(made[tensor.name]) for tensor in self.session.signature(ENCODER).outputs}

    def _padded(self, rows: Sequence[Feed]) -> dict[str, np.ndarray]:
        feed = {}
        for tensor in self.session.signature(ENCODER).inputs:
            parts = [row[tensor.name] for row in rows]
            width = max(part.shape[-1] for part in parts)
            if self.hearing is None and not self.session.any_length:
                width = self.shapes.fitting(width)
            whole = np.zeros((self.shapes.rows, *parts[0].shape[:-1], width), tensor.dtype)
            for place, part in enumerate(parts):
                whole[place, ..., : part.shape[-1]] = part
            if tensor.name == "attention_mask":
                whole[len(rows) :, 0] = 1  # rows that stand idle see something, so that nothing is NaN
            feed[tensor.name] = whole
        return feed

    def _step(self, token_ids: Sequence[Sequence[int]], start: int) -> np.ndarray:
        """Scores [rows, words] after each row's tokens; all rows are at the same position."""
        width = len(token_ids[0])
        ids = np.zeros((self.shapes.rows, width), np.int64)
        ids[: len(token_ids)] = token_ids
        feed = {
            "input_ids": ids,
            "position_ids": np.tile(np.arange(start, start + width), (self.shapes.rows, 1)),
            "logits_index": np.full((self.shapes.rows, 1), width - 1),
        }
        return np.asarray(self.session.run(DECODER, feed, self.states)["logits"][:, 0])

    def _prefix(self) -> tuple[int, ...]:
        """The tokens that every answer begins with; a model of many languages hears which one it is."""
        model = self.package.model
        start = model["decoder_start_token_id"]
        start = model.get("bos_token_id") if start is None else start
        if start is None:
            raise RunError("run.task", "the model does not say which token begins an answer", hint="check its config")
        prefix = [start]
        if model.get("is_multilingual") and model.get("lang_to_id"):
            languages = sorted(model["lang_to_id"].values())
            scores = self._step([[start]] * self.shapes.rows, 0)[0]
            prefix.append(max(languages, key=lambda token: scores[token]))
            prefix.append(model["task_to_id"]["transcribe"])
        if model.get("no_timestamps_token_id") is not None:
            prefix.append(model["no_timestamps_token_id"])
        return tuple(prefix)

    def _texts(self, prompts: Sequence[str]) -> tuple[list[Feed], list[dict[str, Any]]]:
        if not prompts:
            raise RunError("run.prompt", "there is no prompt", hint='give one: prompts=["Hi there!!"]')
        rows: list[Feed] = []
        for place, text in enumerate(prompts, 1):
            ids = np.array(self.tokenizer.encode(text), np.int64)
            longest = self.shapes.lengths[-1]
            if not 0 < len(ids) <= longest:
                found = f"prompt {place} has {len(ids)} tokens; from 1 to {longest} fit"
                raise RunError(
                    "run.prompt", found, hint=f"build with specialization.seq_len=[{max(len(ids), longest)}]"
                )
            rows.append({"input_ids": ids, "attention_mask": np.ones_like(ids)})
        return rows, [{"prompt": text} for text in prompts]

    def _sounds(self, names: Sequence[str]) -> tuple[list[Feed], list[dict[str, Any]]]:
        assert self.hearing is not None
        (tensor,) = self.session.signature(ENCODER).inputs
        sounds = [read_wav(Path(name), self.hearing.rate) for name in names]
        if not self.is_alone:
            for name, sound in zip(names, sounds, strict=True):
                self.hearing.check(sound, self.hearing.extractor.n_samples, name)
        heard = [self.hearing.inputs(sound, tensor) for sound in sounds]
        rows: list[Feed] = [{tensor.name: each[None] if self.is_alone else each} for each in heard]
        outputs: list[dict[str, Any]] = [
            {"audio": name, "seconds": len(sound) / self.hearing.rate}
            for name, sound in zip(names, sounds, strict=True)
        ]
        return rows, outputs
