"""A model folder -> the files in it that matter, and their JSON, read with a place for every complaint."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from qeffbuild.errors import ModelError, PathError

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
MODULES = "modules.json"  # of sentence-transformers: what comes after the model
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "*.tiktoken",
    "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
)  # fmt: skip

PROCESSORS = ("processor_config.json", "preprocessor_config.json")  # either says how images and sound are prepared

# What turns sound and pictures into inputs, and outputs into embeddings.
AROUND = (
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", MODULES,
    "sentence_bert_config.json", "config_sentence_transformers.json", "[0-9]*_*/config.json",
)  # fmt: skip

# What a download takes, as patterns: code too, so that who trusts it later need not fetch again.
WANTED = (CONFIG, GENERATION_CONFIG, *TOKENIZER, *AROUND, "model*.safetensors", INDEX, "*.py")

# No config.json or index of a real model comes near; a larger one only wants our memory.
_LARGEST_JSON = 64 << 20


def listing(folder: Path, *, trust_remote_code: bool = False, allow_pickle: bool = False) -> tuple[str, ...]:
    """Names of the files that a build depends on: a README or a .git beside them changes no key."""
    patterns = [CONFIG, GENERATION_CONFIG, *TOKENIZER, *AROUND, *(["*.py"] if trust_remote_code else [])]
    names = {path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern)}
    return tuple(sorted(names | set(_weight_files(folder, allow_pickle))))


def _weight_files(folder: Path, allow_pickle: bool) -> list[str]:
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / INDEX).is_file():
        return [INDEX, *sorted(set(read_weight_map(folder).values()))]
    return gguf_files(folder) or (pickle_files(folder) if allow_pickle else [])


def gguf_files(folder: Path) -> list[str]:
    """GGUF files that stand for the whole model: they count where there are no safetensors."""
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        return []
    return sorted(path.name for path in folder.glob("*.gguf"))


def gguf_of(leaf: Path) -> Path | None:
    """The GGUF file that a model's path names, or holds where it has no other weights."""
    if leaf.is_file():
        return leaf if leaf.suffix == ".gguf" else None
    found = gguf_files(leaf) if leaf.is_dir() else []
    if len(found) > 1:
        hint = f"name one of them: model.path={leaf / found[0]}"
        raise ModelError("model.unsupported", f"{len(found)} GGUF files in one folder", where=str(leaf), hint=hint)
    return leaf / found[0] if found else None


def pickle_files(folder: Path) -> list[str]:
    return sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))


def read_weight_map(folder: Path) -> dict[str, str]:
    """Tensor name -> shard, from the index. A shard lies in the folder; an index that says otherwise is refused."""
    index = folder / INDEX
    found = read_json(index, "model.weights").get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(shard, str) for shard in found.values()):
        found_instead = f"{INDEX}: weight_map is no table of tensor names and files"
        raise ModelError("model.weights", found_instead, where=str(index))
    for shard in sorted(set(found.values())):
        path = PurePosixPath(shard)
        if path.is_absolute() or ".." in path.parts or "\\" in shard or "\0" in shard:
            outside = f"{INDEX}: names a file outside the model folder: {shard!r:.120}"
            raise PathError("path.outside", outside, where=str(index))
    return found


def read_json(path: Path, kind: str) -> dict[str, Any]:
    """The JSON object in a file, or a ModelError of this kind that names the line."""
    try:
        size = path.stat().st_size
        if size > _LARGEST_JSON:
            raise ModelError(kind, f"{path.name}: {size} bytes, more than {_LARGEST_JSON}", where=str(path))
        found = json.loads(path.read_text("utf-8"))
    except OSError as problem:
        raise ModelError(kind, f"{path.name}: cannot be read: {problem.strerror}", where=str(path)) from problem
    except json.JSONDecodeError as problem:
        said = f"{path.name}: no valid JSON: {problem.msg.lower()}, column {problem.colno}"
        raise ModelError(kind, said, where=f"{path}:{problem.lineno}") from problem
    except UnicodeDecodeError as problem:
        raise ModelError(kind, f"{path.name}: not UTF-8 at byte {problem.start}", where=str(path)) from problem
    except (RecursionError, ValueError) as problem:  # nested too deeply, or a number of thousands of digits
        raise ModelError(kind, f"{path.name}: no sensible JSON", where=str(path)) from problem
    if not isinstance(found, dict):
        raise ModelError(kind, f"{path.name}: a JSON {_word(found)} where an object belongs", where=f"{path}:1")
    return found


def line_of(path: Path, key: str) -> str:
    """`file:line` of a key in a JSON file, the file alone when it is not found."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    wanted = re.compile(rf'"{re.escape(key)}"\s*:')
    return next((f"{path}:{number}" for number, line in enumerate(lines, 1) if wanted.search(line)), str(path))


def _word(value: object) -> str:
    words: Mapping[type, str] = {list: "list", str: "string", int: "number", float: "number", bool: "boolean"}
    return words.get(type(value), "null")
