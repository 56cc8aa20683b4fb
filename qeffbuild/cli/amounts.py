"""Words for sizes and ages: 10G, 30d."""

from __future__ import annotations

import re

from qeffbuild.errors import SpecError

SIZES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def size_of(word: str) -> int:
    """10G, 500M, 1.5T in bytes: powers of 1000, as disks are sold."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT]?)B?", word, re.ASCII)
    if match is None:
        raise SpecError("flag.value", f"{word}: not a size", hint="a number with k, M, G or T: --max-size 10G")
    return int(float(match[1]) * SIZES[match[2]])


def age_of(word: str) -> float:
    """30d, 12h, 2w in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", word, re.ASCII)
    if match is None:
        raise SpecError("flag.value", f"{word}: not an age", hint="a number with s, m, h, d or w: --older 30d")
    return float(match[1]) * AGES[match[2]]
