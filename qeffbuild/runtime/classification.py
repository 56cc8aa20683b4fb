"""A package of a sequence classifier or reranker -> a label and the score of every label, for each text or pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qeffbuild.package import Package
from qeffbuild.runtime.encoder import Encoder
from qeffbuild.runtime.reading import Answers, Asked, Clock
from qeffbuild.runtime.tokenizer import shown


@dataclass(frozen=True, slots=True)
class Labelled:
    """The likeliest label, its score, and those of all labels."""

    label: str
    score: float
    scores: dict[str, float]


class Classifier:
    """classify(["a text", "a question" + TAB + "a passage"]); scores are shares, or of one label its probability."""

    def __init__(self, package: Package, encoder: Encoder) -> None:
        self.package, self.encoder, self.load_s = package, encoder, 0.0

    def classify(self, texts: Sequence[str]) -> list[Labelled]:
        return [self._labelled(logits) for logits in self.encoder.run(self.encoder.rows(texts))]

    def answer(self, asked: Asked) -> Answers:
        clock = Clock()
        counts = [len(row.token_ids) for row in self.encoder.rows(asked.prompts)]
        found = self.classify(asked.prompts)
        outputs = [
            {"prompt": text, "label": one.label, "score": one.score, "scores": one.scores}
            for text, one in zip(asked.prompts, found, strict=True)
        ]
        rows = [
            (str(place), one.label, f"{one.score:.4f}", shown(text))
            for place, (text, one) in enumerate(zip(asked.prompts, found, strict=True), 1)
        ]
        figures = clock.figures(self.load_s, tokens=sum(counts), answers=len(found))
        return Answers(said={"outputs": outputs}, columns=("#", "LABEL", "SCORE", "TEXT"), rows=rows, figures=figures)

    def _labelled(self, logits: np.ndarray) -> Labelled:
        model = self.package.model
        labels = model.get("labels") or []
        labels = labels if len(labels) == len(logits) else [f"LABEL_{place}" for place in range(len(logits))]
        wide = logits.astype(np.float64)
        if model.get("many_labels") or len(wide) == 1:
            scores = 1 / (1 + np.exp(-wide))
        else:
            shares = np.exp(wide - wide.max())
            scores = shares / shares.sum()
        best = int(scores.argmax())
        return Labelled(labels[best], float(scores[best]), dict(zip(labels, map(float, scores), strict=True)))
