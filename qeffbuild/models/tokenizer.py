"""The tokenizer of a model folder, loaded on demand and held against the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qeffbuild.errors import ModelError
from qeffbuild.models.facts import Facts

# Any of these holds a vocabulary; the other tokenizer files only describe one.
_VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip


def refuse_missing(folder: Path) -> None:
    """Without a vocabulary transformers may make up an empty tokenizer: every prompt would be no tokens."""
    if any((folder / name).is_file() for name in _VOCABULARIES) or any(folder.glob("*.tiktoken")):
        return
    hint = f"copy the model's {_VOCABULARIES[0]} into the folder"
    raise ModelError("model.tokenizer", "no tokenizer in the model folder", where=str(folder), hint=hint)


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """transformers' tokenizer of a local folder; never looks beyond the folder."""
    from transformers import AutoTokenizer

    refuse_missing(folder)
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as problem:
        first = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise ModelError("model.tokenizer", f"cannot be read: {first:.160}", where=str(folder)) from problem


def refuse_misfit(folder: Path, tokenizer: Any, facts: Facts) -> None:
    """Every id that the tokenizer can say must be a row of the embedding."""
    vocabulary, size = tokenizer.get_vocab(), facts.vocab_size
    if not vocabulary:
        raise ModelError("model.tokenizer", "the tokenizer has no tokens", where=str(folder))
    token = max(vocabulary, key=vocabulary.__getitem__)
    if size is not None and vocabulary[token] >= size:
        found = f"token {token!r:.40} has id {vocabulary[token]}, but the model's vocab_size is {size}"
        raise ModelError("model.tokenizer", found, where=str(folder), hint="the tokenizer is another model's")
    for name in ("bos", "eos", "pad"):
        said, said_id = getattr(tokenizer, f"{name}_token"), facts.config.get(f"{name}_token_id")
        if said is not None and said not in vocabulary:
            raise ModelError("model.tokenizer", f"{name}_token {said!r:.40} is no token", where=str(folder))
        if size is not None and isinstance(said_id, int) and not -1 <= said_id < size:
            found = f"config.json: {name}_token_id is {said_id}, but vocab_size is {size}"
            raise ModelError("model.tokenizer", found, where=str(folder))
