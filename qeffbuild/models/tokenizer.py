"""The tokenizer of a model folder: loaded on demand, held against the model, written as transformers reads it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from qeffbuild.errors import ModelError
from qeffbuild.models.facts import Facts

log = logging.getLogger(__name__)

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
            if name == "pad":
                raise ModelError("model.tokenizer", found, where=str(folder))
            # A family's default beside a smaller vocabulary: transformers takes it for no token, too.
            log.warning("%s: no text begins or ends by it", found)


_FILES = frozenset(
    {
        *_VOCABULARIES,
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "merges.txt",
        "tekken.json",
        "chat_template.jinja",
        "chat_template.json",
    }
)
# What else a processor reads: it lies beside the tokenizer, as it came.
_PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")  # fmt: skip
# Of tokenizer_config.json: where it was read, not what it is.
_PLACE = ("is_local", "local_files_only", "name_or_path")


def save_tokenizer(checkpoint: Path, fetched: Mapping[str, Any], out: Path) -> bool:
    """Writes the tokenizer of `checkpoint` as transformers understands it; False where there is none.

    transformers rebuilds some tokenizers (llama, gemma, qwen2) by rules of its own, so that the tokenizer.json of the
    checkpoint alone gives other ids for some texts. What it saves again gives its ids to every reader.
    """
    names = sorted(_FILES & set(fetched))
    if not names:
        return False
    for name in names:
        if sha256((checkpoint / name).read_bytes()).hexdigest() != fetched[name]["sha256"]:
            raise ModelError("model.changed", f"{name} changed while the build ran", hint="run the build again")
    out.mkdir()
    if _needs_code(checkpoint):  # only its own code can read it; that code comes along
        for name in [*names, "config.json", *(name for name in fetched if name.endswith(".py"))]:
            shutil.copyfile(checkpoint / name, out / name)
        return True
    load_tokenizer(checkpoint).save_pretrained(out)
    around = [name for name in _PROCESSORS if name in fetched]
    for name in [*around, *(["config.json"] if around else [])]:
        shutil.copyfile(checkpoint / name, out / name)
    config = out / "tokenizer_config.json"
    said = {key: value for key, value in json.loads(config.read_text()).items() if key not in _PLACE}
    config.write_text(json.dumps(said, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return True


def _needs_code(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    return config.is_file() and "auto_map" in json.loads(config.read_text())
