"""A package of an embedding model -> vectors of texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qeffbuild.package import Package
from qeffbuild.runtime.encoder import Encoder
from qeffbuild.runtime.reading import Answers, Asked, Clock
from qeffbuild.runtime.tokenizer import shown

_SHOWN = 4  # numbers of a vector that people see


class Embedder:
    """embed(["a text"]) -> [1, width]; without pooling, one [tokens, width] for each text."""

    def __init__(self, package: Package, encoder: Encoder) -> None:
        self.package, self.encoder, self.load_s = package, encoder, 0.0

    def embed(self, texts: Sequence[str]) -> list[np.ndarray]:
        rows = self.encoder.rows(texts)
        made = self.encoder.run(rows)
        return [
            array[: len(row.token_ids)] if array.ndim == 2 else array for row, array in zip(rows, made, strict=True)
        ]

    def answer(self, asked: Asked) -> Answers:
        clock = Clock()
        counts = [len(row.token_ids) for row in self.encoder.rows(asked.prompts)]
        vectors = self.embed(asked.prompts)
        outputs = [{"prompt": text, "tokens": count} for text, count in zip(asked.prompts, counts, strict=True)]
        rows = [
            (str(place), str(count), f"{np.linalg.norm(vector):.4f}", _first(vector), shown(text))
            for place, (text, count, vector) in enumerate(zip(asked.prompts, counts, vectors, strict=True), 1)
        ]
        return Answers(
            said={"outputs": outputs, "embeddings": [vector.tolist() for vector in vectors]},
            columns=("#", "TOKENS", "NORM", f"VECTOR OF {vectors[0].shape[-1]}", "TEXT"),
            rows=rows,
            figures=clock.figures(self.load_s, tokens=sum(counts), answers=len(vectors)),
        )


def _first(vector: np.ndarray) -> str:
    numbers = vector.reshape(-1)[:_SHOWN]
    return " ".join(f"{number:.4f}" for number in numbers) + " ..."
