"""The table of flags -> the end of docs/qefficient.md (`python -m qeffbuild.compat.guide`)."""

from __future__ import annotations

from pathlib import Path

from qeffbuild.compat.flags import FLAGS, rows

PAGE = Path(__file__).parents[2] / "docs" / "qefficient.md"
MARK = "<!-- Below this line the page is written by `python -m qeffbuild.compat.guide`. -->\n"


def page(opening: str) -> str:
    """The whole page: the hand-written `opening`, then every flag."""
    lines = ["| flag | takes | key | says | modules |", "|---|---|---|---|---|"]
    for (typed, takes, key, does), flag in zip(rows(), FLAGS, strict=True):
        shown = takes.replace("|", "\\|")
        spellings = typed.replace(", ", "`, `")
        named = f"`{key}`" if key else ""
        meaning = does.replace("|", "\\|")
        lines.append(f"| `{spellings}` | {shown} | {named} | {meaning} | {', '.join(flag.modules)} |")
    return opening.partition(MARK)[0] + MARK + "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
