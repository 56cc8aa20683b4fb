"""Text <-> token ids by the files of a package, and text that grows token by token without broken characters.

A tokenizer.json is read by `tokenizers` alone, so that a run imports neither torch nor transformers; tokenizer files
without one are left to transformers. The ids are those of `AutoTokenizer`: it too lets tokenizer.json decide which
special tokens go round a prompt, whatever add_bos_token in tokenizer_config.json says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from qeffbuild.errors import RunError

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what decoders say for bytes that are not yet, or never, a character


class Tokenizer(Protocol):
    def encode(self, text: str) -> list[int]:
        """Ids of a prompt, with the special tokens that the model expects around it."""

    def encode_pair(self, first: str, second: str | None) -> tuple[list[int], list[int]]:
        """The same for one text or two, and for each id whether it is of the first text (0) or the second (1)."""

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
        # A file may keep the length to which its training cut and filled texts; a prompt is taken whole.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    def encode_pair(self, first: str, second: str | None) -> tuple[list[int], list[int]]:
        found = self._tokenizer.encode(first, second)
        return found.ids, found.type_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids)


class _Transformers:
    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, ImportError) as cause:
            raise _unreadable(folder, cause) from cause

    def encode(self, text: str) -> list[int]:
        return self._tokenizer(text)["input_ids"]

    def encode_pair(self, first: str, second: str | None) -> tuple[list[int], list[int]]:
        found = self._tokenizer(first, second)
        ids = found["input_ids"]
        return ids, found.get("token_type_ids") or [0] * len(ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))


def shown(text: str, most: int = 60) -> str:
    """A text in one short line."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


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
