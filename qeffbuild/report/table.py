"""Rows -> aligned text, in colour and cut to the width where a terminal reads it, whole and plain elsewhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

GAP = "  "
BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"
# Calm by default: only what a reader looks for has a colour.
COLOURS = {"built": GREEN, "BUILD": YELLOW, "failed": RED, "skipped": YELLOW, "hit": DIM, "HIT": DIM, "cutoff": DIM}


@dataclass(frozen=True, slots=True)
class Look:
    """How a stream wants its text: `width` is None where nothing may be cut; `is_live` where lines can be redrawn."""

    width: int | None = None
    colour: bool = False
    is_live: bool = False

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str] = os.environ) -> Look:
        """NO_COLOR, TERM=dumb and COLUMNS are respected."""
        if not stream.isatty():
            return cls()
        is_live = environ.get("TERM") != "dumb"
        colour = is_live and not environ.get("NO_COLOR")
        return cls(width=shutil.get_terminal_size().columns, colour=colour, is_live=is_live)

    def paint(self, text: str, code: str | None) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code and text.strip() else text


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    is_number: bool = False


def table(columns: Sequence[Column | str], rows: Sequence[Sequence[str]], look: Look) -> str:
    """One line for each row. Columns in which nothing stands are left out; the last one gives way to the width."""
    shaped = [column if isinstance(column, Column) else Column(column) for column in columns]
    kept = [at for at in range(len(shaped)) if any(row[at] for row in rows)]
    if not kept:
        return ""
    widths = [max(len(shaped[at].title), *(len(row[at]) for row in rows)) for at in kept]
    if look.width is not None:
        others = sum(widths[:-1]) + len(GAP) * (len(widths) - 1)
        widths[-1] = max(8, min(widths[-1], look.width - others))
    shapes = [(shaped[at].is_number, width) for at, width in zip(kept, widths, strict=True)]
    lines = [look.paint(_line([shaped[at].title for at in kept], shapes), BOLD)]
    for row in rows:
        cells = [row[at] for at in kept]
        code = next((COLOURS[cell] for cell in cells if cell in COLOURS), None)
        lines.append(look.paint(_line(cells, shapes), code))
    return "\n".join(lines)


def _line(cells: Sequence[str], shapes: Sequence[tuple[bool, int]]) -> str:
    fitted = [
        _cut(cell, width).rjust(width) if is_number else _cut(cell, width).ljust(width)
        for cell, (is_number, width) in zip(cells, shapes, strict=True)
    ]
    return GAP.join(fitted).rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def seconds(value: float | None) -> str:
    """0.42, 4.2, 42, 12m 03s: as many digits as one reads."""
    if value is None:
        return ""
    if value < 1:
        return f"{value:.2f}"
    if value < 60:
        return f"{value:.1f}"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60}h {minutes % 60:02d}m"


def duration(value: float) -> str:
    """The same in a sentence, with its unit: 4.2 s, 12m 03s."""
    return f"{seconds(value)} s" if value < 60 else seconds(value)


def size(bytes_: float | None) -> str:
    """512 B, 1.4 MB: powers of 1000, as disks are sold."""
    if bytes_ is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(bytes_) < 1000:
            return f"{bytes_:.0f} {unit}" if unit == "B" or bytes_ >= 100 else f"{bytes_:.1f} {unit}"
        bytes_ /= 1000
    return f"{bytes_:.1f} TB"
