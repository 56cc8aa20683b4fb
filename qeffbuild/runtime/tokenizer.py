"""Text <-> token ids by the files of a package, and text that grows token by token without broken characters.

A tokenizer.json is read by `tokenizers` alone, so that a run imports neither torch nor transformers; tokenizer files
without one are left to transformers. The ids are those of `AutoTokenizer` (tokenizer.json is taken at its word).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from qeffbuild.errors import RunError

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what decoders say for bytes that are not yet, or never, a character


class Tokenizer(Protocol):
    def encode(self, text: str) -> list[int]:
        """Ids of a prompt, with the special tokens that the model expects around it."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of an answer, without special tokens."""


def open_tokenizer(folder: Path) -> Tokenizer:
    """Reads the tokenizer files in `folder`."""
    if (folder / "tokenizer.json").is_file():
        return _Fast(folder)
    return _Transformers(folder)


class _Fast:
    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer as Fast  # 30 ms, and only text needs it

        try:
            self._tokenizer = Fast.from_file(str(folder / "tokenizer.json"))
        except Exception as cause:  # the library raises bare Exception
            raise _unreadable(folder, cause) from cause
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._surround(_config(folder))

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids)

    def _surround(self, config: dict[str, Any]) -> None:
        """Puts the special tokens round a prompt as `AutoTokenizer` does: an explicit key outranks tokenizer.json."""
        from tokenizers import processors

        if "add_bos_token" not in config and "add_eos_token" not in config:
            return
        named = {
            name: _text(config.get(name)) for name in ("bos_token", "eos_token") if config.get(f"add_{name}", False)
        }
        ids = {text: self._tokenizer.token_to_id(text) for text in named.values() if text is not None}
        known = {text: token_id for text, token_id in ids.items() if token_id is not None}
        parts = [named.get("bos_token"), "$A", named.get("eos_token")]
        template = " ".join(part for part in parts if part == "$A" or part in known)
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=template, pair=f"{template} $B", special_tokens=list(known.items())
        )


class _Transformers:
    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, ImportError) as cause:
            raise _unreadable(folder, cause) from cause

    def encode(self, text: str) -> list[int]:
        return self._tokenizer(text)["input_ids"]

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_bytes())
    except ValueError as cause:
        raise _unreadable(folder, cause) from cause


def _text(token: str | dict[str, Any] | None) -> str | None:
    return token["content"] if isinstance(token, dict) else token


def _unreadable(folder: Path, cause: Exception) -> RunError:
    return RunError(
        "run.tokenizer",
        f"the tokenizer cannot be read: {cause}",
        where=str(folder),
        hint="check the tokenizer files of the model, then build the package again",
    )


class TextStream:
    """One answer's text as it grows, in pieces of whole characters; no piece is taken back.

    A token may be a part of a character, and decoders look at neighbours (a first space is dropped, bytes join). So a
    short window is decoded: the tokens of the piece that went out last, and those that came after. What the window
    says beyond that piece goes out, unless it ends in a broken character: then it waits for the next token.
    """

    __slots__ = ("_ids", "_said", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # the window
        self._said = (0, 0)  # how many of its tokens are out, and how many of its characters

    def push(self, token_id: int) -> str:
        """The text that became whole with this token; often empty."""
        self._ids.append(token_id)
        tokens, characters = self._said
        text = self._tokenizer.decode(self._ids)
        if len(text) <= characters or text.endswith(REPLACEMENT):
            return ""
        self._ids = self._ids[tokens:]
        # Alone, a token may decode to fewer characters than it added: the first space is the usual one.
        alone = len(self._tokenizer.decode(self._ids)) if tokens else len(text)
        self._said = (len(self._ids), alone)
        return text[characters:]

    def flush(self) -> str:
        """What is left at the end of the answer: bytes that never became a character."""
        characters = self._said[1]
        text = self._tokenizer.decode(self._ids)
        self._said = (len(self._ids), len(text))
        return text[characters:]
