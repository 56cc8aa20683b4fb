"""A package of a model that spells out sound (CTC) -> a transcript of each WAV file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qeffbuild.package import Package
from qeffbuild.runtime.encoder import GRAPH, Shapes
from qeffbuild.runtime.reading import Answers, Asked, Clock
from qeffbuild.runtime.session import Session
from qeffbuild.runtime.sound import Hearing, read_wav


class Listener:
    """transcribe([samples]) -> texts; the likeliest character of each frame, repeated ones and blanks left out."""

    def __init__(self, package: Package, session: Session, folder: Path) -> None:
        from transformers import AutoTokenizer

        self.package, self.session, self.load_s = package, session, 0.0
        self.shapes = Shapes.of(package)
        self.hearing = Hearing(folder)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.states = session.allocate(GRAPH, 1, 0)

    def frames(self, sounds: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Each frame's likeliest token, one sound at a time: what follows a sound would change how it is heard."""
        return [self._logits(sound).argmax(axis=-1) for sound in sounds]

    def transcribe(self, sounds: Sequence[np.ndarray]) -> list[str]:
        return [str(self.tokenizer.decode(frames.tolist())) for frames in self.frames(sounds)]

    def answer(self, asked: Asked) -> Answers:
        clock = Clock()
        sounds = [read_wav(Path(name), self.hearing.rate) for name in asked.audio]
        for name, sound in zip(asked.audio, sounds, strict=True):
            self.hearing.check(sound, self.shapes.lengths[-1], name)
        texts = self.transcribe(sounds)
        seconds = [len(sound) / self.hearing.rate for sound in sounds]
        outputs = [
            {"audio": name, "seconds": length, "text": text}
            for name, length, text in zip(asked.audio, seconds, texts, strict=True)
        ]
        figures = {"seconds_per_s": sum(seconds) / clock.elapsed(), **clock.figures(self.load_s, answers=len(texts))}
        return Answers(said={"outputs": outputs}, columns=(), rows=[(text,) for text in texts], figures=figures)

    def _logits(self, sound: np.ndarray) -> np.ndarray:
        (tensor,) = self.session.signature(GRAPH).inputs
        values = self.hearing.inputs(sound, tensor)
        if not self.session.any_length:
            values = np.pad(values, (0, self.shapes.fitting(len(values)) - len(values)))
        return np.array(self.session.run(GRAPH, {tensor.name: values[None]}, self.states)["logits"][0])
