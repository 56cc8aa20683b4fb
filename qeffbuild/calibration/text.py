"""A text file and a model's tokenizer -> rows of token ids to calibrate on, the same ones each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qeffbuild.errors import ModelError
from qeffbuild.models import Facts, load_tokenizer

ROW = 512  # tokens of a row, where the model has as many positions


def calibration_rows(model: Path, facts: Facts, text: Path, *, tokens: int) -> np.ndarray:
    """Token ids [rows, row length]: about `tokens` of them, in rows that lie evenly over the text."""
    token_ids = np.array(_encoded(model, text), np.int64)
    length = min(ROW, facts.max_position_embeddings or ROW, len(token_ids))
    if length < 2:
        raise _refused(text, "too short to calibrate on", "some pages of plain text")
    there = len(token_ids) // length
    wanted = max(1, min(there, -(-tokens // length)))
    starts = (np.arange(wanted) * there // wanted) * length
    return np.stack([token_ids[start : start + length] for start in starts])


def _encoded(model: Path, text: Path) -> list[int]:
    try:
        said = text.read_text("utf-8")
    except OSError as cause:
        raise _refused(text, f"cannot be read: {cause.strerror}", "check the path") from cause
    except UnicodeDecodeError as cause:
        raise _refused(text, "not UTF-8 text", "save it as UTF-8 text") from cause
    return load_tokenizer(model)(said, verbose=False)["input_ids"]


def _refused(text: Path, what: str, hint: str) -> ModelError:
    return ModelError("model.calibration", f"quantization.calibration: {text.name}: {what}", hint=hint)
