"""A model's tokenizer -> the token ids on which every graph of it is held against PyTorch, the same ones each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qeffbuild.models import Facts, load_tokenizer

LEVELS = {"fast": (2, 10), "full": (8, 32)}  # prompts, and the tokens of the longest
_SHORTER = 3  # every other prompt has so many tokens less
_LEAST = 4
_TEXTS = (
    "The river rises in the hills above the old town and runs south for three days before it meets the sea, and those "
    "who live along it say that no two summers have ever been alike.",
    "In 1969 the price of bread was 23 pence; by 1974 it had risen to 30, which is an increase of about 30 percent.",
    "def area(radius):\n    return 3.14159 * radius ** 2\n\nfor r in range(1, 5):\n    print(r, area(r))\n",
    "Der Schnee lag noch auf den Bergen, als wir im Mai zum ersten Mal wieder an den See gingen, und niemand sprach.",
    "And he said unto them, Go your way into the city, and there shall meet you a man bearing a pitcher of water.",
    "Water boils at 100 degrees Celsius at sea level, but on a high mountain it boils sooner, because the air is thin.",
    "Le marché ouvre à six heures; on y trouve du pain, des œufs, du fromage et des fleurs jusqu'à midi.",
    '{"name": "pump", "state": "open", "pressure": [1.2, 1.4, 1.1], "alarms": [], "next_service": "2031-04-12"}',
)


def texts(level: str) -> tuple[str, ...]:
    return _TEXTS[: LEVELS[level][0]]


def prompts(folder: Path, facts: Facts, level: str, *, trust_remote_code: bool) -> list[np.ndarray]:
    """Rows of token ids, int64, of two lengths."""
    _, longest = LEVELS[level]
    most = facts.max_position_embeddings or longest
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    rows = []
    for number, text in enumerate(texts(level)):
        length = max(_LEAST, min(longest, most) - _SHORTER * (number % 2))
        token_ids = np.array(tokenizer(text, verbose=False)["input_ids"] or [0], np.int64)
        rows.append(np.resize(token_ids, length))
    return rows
