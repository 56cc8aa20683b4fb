"""A file of prompts -> prompts: one per line, or JSON lines of {"prompt": ...}."""

from __future__ import annotations

import json
from pathlib import Path

from qeffbuild.errors import RunError


def read_prompts(path: Path) -> tuple[str, ...]:
    """Every prompt in the file; blank lines are skipped. It is JSON lines if its first line is such an object."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as cause:
        raise RunError(
            "run.prompt", f"prompts_file: {path} cannot be read: {cause.strerror}", hint="check the path"
        ) from cause
    except UnicodeDecodeError as cause:
        raise RunError(
            "run.prompt", f"prompts_file: {path} is not UTF-8 (byte {cause.start})", hint="save it as UTF-8 text"
        ) from cause
    # Not splitlines(): it would also split at form feeds and Unicode separators inside a prompt.
    lines = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise RunError("run.prompt", f"prompts_file: {path} is empty", hint="write one prompt per line")
    if _prompt_of(lines[0][1]) is None:
        return tuple(line for _, line in lines)
    return tuple(_expect(line, path, number) for number, line in lines)


def _prompt_of(line: str) -> str | None:
    try:
        said = json.loads(line) if line.lstrip().startswith("{") else None
    except ValueError:
        return None
    prompt = said.get("prompt") if isinstance(said, dict) else None
    return prompt if isinstance(prompt, str) else None


def _expect(line: str, path: Path, number: int) -> str:
    prompt = _prompt_of(line)
    if prompt is None:
        raise RunError(
            "run.prompt",
            'prompts_file: a line is no JSON object with "prompt", but the first line is',
            where=f"{path}:{number}",
            hint='write every line as {"prompt": "..."}, or every line as plain text',
        )
    return prompt
