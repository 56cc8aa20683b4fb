"""config.json, and what transformers' tables say of its model_type -> what the model does, and by which class."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from qeffbuild.errors import AbsentError, ModelError
from qeffbuild.models.files import CONFIG, MODULES, PROCESSORS, line_of
from qeffbuild.models.own import OWN

CAUSAL = "causal-lm"
EMBEDDING = "embedding"
CLASSIFICATION = "sequence-classification"
CTC = "ctc"
SPEECH = "speech-seq2seq"
TEXT = "text-seq2seq"
IMAGE_TEXT = "image-text"

# Task -> the table of transformers that has its classes. The order decides where a config.json names no class: what
# hears or translates is more special than what goes on with a text.
_TABLES: Mapping[str, str] = {
    SPEECH: "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    TEXT: "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    CAUSAL: "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    IMAGE_TEXT: "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    CTC: "MODEL_FOR_CTC_MAPPING_NAMES",
    EMBEDDING: "MODEL_MAPPING_NAMES",
    CLASSIFICATION: "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
}
TASKS = tuple(_TABLES)
GENERATING = frozenset({CAUSAL, SPEECH, TEXT, IMAGE_TEXT})  # they make tokens one by one

# What a class is called that is none of the above.
_OTHER_HEAD = re.compile(
    r"For(MaskedLM|PreTraining|Sequence|Token|MultipleChoice|QuestionAnswering|NextSentence|Conditional|Image|Audio|CTC)"
)


@cache
def classes(task: str) -> Mapping[str, str]:
    """model_type -> name of the class that does this task, as the installed transformers has it."""
    found = _table(_TABLES[task])
    if task == CAUSAL:
        return found | OWN
    if task != EMBEDDING:
        return found
    # An encoder-decoder embeds by its encoder alone.
    encoders = _table("MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES")
    return found | {name: cls for name, cls in encoders.items() if cls.endswith("EncoderModel")}


def class_of_part(config: Mapping[str, Any]) -> str | None:
    """The class of a language model that was saved by itself, where transformers' table has it for the family only."""
    model_type, architecture = str(config.get("model_type")), _architecture(config)
    family = next((name for name, found in classes(CAUSAL).items() if found == architecture), None)
    if family is None or model_type in classes(CAUSAL) or not model_type.startswith(f"{family}_"):
        return None
    return architecture


def task_of(folder: Path, config: Mapping[str, Any], *, asked: str = "auto", trust_remote_code: bool = False) -> str:
    """What the model does, or is asked to do; refused here, without transformers, when its type cannot do it."""
    path = folder / CONFIG
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        _refuse_type(path, "no model_type", None)
    if asked != "auto":
        if asked == CAUSAL and _is_encoder(model_type) and not _is_causal(config):
            _refuse_task(path, f"{model_type} is an encoder (is_decoder is not true)")
        if model_type in classes(asked) or (asked == CAUSAL and trust_remote_code and config.get("auto_map")):
            return asked
        if asked == CAUSAL and class_of_part(config):
            return asked
        _refuse_type_or_task(path, model_type, f"transformers has no {asked} class for {model_type}")
    if (folder / MODULES).is_file() and model_type in classes(EMBEDDING):
        return EMBEDDING
    if _sees(folder, config, model_type):
        return IMAGE_TEXT
    return _said(path, config, model_type, trust_remote_code)


def _sees(folder: Path, config: Mapping[str, Any], model_type: str) -> bool:
    """Some classes stand in the tables of text and of images: with a processor in the folder they are meant to see."""
    architecture = _architecture(config)
    both = classes(IMAGE_TEXT).get(model_type)
    is_in_both = both is not None and both == classes(CAUSAL).get(model_type) and architecture in (None, both)
    return is_in_both and _has_processor(folder)


def _has_processor(folder: Path) -> bool:
    return any((folder / name).is_file() for name in PROCESSORS)


def task_of_type(model_type: str, asked: str = "auto") -> str | None:
    """What a type does when no config.json says more; None for a type that transformers does not have."""
    possible = list(_tasks_of(model_type))
    if asked != "auto":
        return asked if asked in possible else None
    if _is_encoder(model_type):
        return EMBEDDING
    return possible[0] if possible else None


def unsupported(model_type: str | None, found: str, where: str | None = None) -> ModelError:
    """The error for a model type that nobody knows, with the nearest known one."""
    every = dict.fromkeys(name for task in (CAUSAL, *TASKS) for name in classes(task))
    near = difflib.get_close_matches(model_type or "", every, n=3)
    common = "gpt2 llama mistral mixtral qwen2 qwen3 gemma2 falcon mpt phi3 granite gpt_oss bert whisper t5"
    known = f"known are {len(every)} types, such as {common}"
    suggestion = f"did you mean {' or '.join(near)}? " if near else ""
    return ModelError("model.unsupported", found, where=where, hint=suggestion + known)


def _architecture(config: Mapping[str, Any]) -> str | None:
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None


def _said(path: Path, config: Mapping[str, Any], model_type: str, trust_remote_code: bool) -> str:
    architecture = _architecture(config)
    if class_of_part(config):
        return CAUSAL
    for task in TASKS if _has_processor(path.parent) else (CAUSAL, *TASKS):
        if architecture is not None and classes(task).get(model_type) == architecture:
            if task == CAUSAL and _is_encoder(model_type) and not _is_causal(config):
                _refuse_task(path, f"{model_type} is an encoder (is_decoder is not true)")
            return task
    if architecture is not None and _OTHER_HEAD.search(architecture):
        _refuse_task(path, f"{architecture} does nothing that is built here", model_type)
    if _is_encoder(model_type) and not _is_causal(config):
        return EMBEDDING
    if trust_remote_code and config.get("auto_map"):
        return CAUSAL
    if found := next(_tasks_of(model_type), None):
        return found
    _refuse_type_or_task(path, model_type, f"transformers has no language model for {model_type}")


def _tasks_of(model_type: str) -> Iterator[str]:
    """Every task of a type. That transformers has a class without a head says little: it has one for everything."""
    return (task for task in TASKS if model_type in classes(task) and (task != EMBEDDING or _reads_text(model_type)))


def _reads_text(model_type: str) -> bool:
    tables = (_TABLES[CAUSAL], "MODEL_FOR_MASKED_LM_MAPPING_NAMES", "MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES")
    return any(model_type in _table(name) for name in tables)


def _is_encoder(model_type: str) -> bool:
    """Types that fill in masked words and translate nothing. Some are causal too, as a decoder of their family."""
    return model_type in _table("MODEL_FOR_MASKED_LM_MAPPING_NAMES") and model_type not in classes(TEXT)


def _is_causal(config: Mapping[str, Any]) -> bool:
    """Whether such a type is used as a decoder; XLM calls that causal."""
    return config.get("is_decoder") is True or config.get("causal") is True


def _refuse_type_or_task(path: Path, model_type: str, found: str) -> NoReturn:
    if is_known(model_type):
        _refuse_task(path, found, model_type)
    _refuse_type(path, f"unknown model_type {model_type!r:.60}", model_type)


def _refuse_task(path: Path, found: str, model_type: str = "") -> NoReturn:
    possible = ", ".join(f"model.task={task}" for task in _tasks_of(model_type))
    hint = f"the type can be built for {possible}" if possible else f"what is built: {', '.join(sorted(TASKS))}"
    raise ModelError("model.task", f"{CONFIG}: {found}", where=line_of(path, "architectures"), hint=hint)


def _refuse_type(path: Path, found: str, model_type: str | None) -> NoReturn:
    raise unsupported(model_type, f"{CONFIG}: {found}", where=line_of(path, "model_type"))


@cache
def _source() -> Path:
    found = find_spec("transformers")
    if found is None or found.origin is None:
        raise AbsentError("transformers.absent", "transformers is not installed", hint="pip install transformers")
    return Path(found.origin).parent / "models"


@cache
def _table(name: str) -> dict[str, str]:
    """One of transformers' tables, read from its source: importing it would cost seconds."""
    source = _auto_source()
    start = source.find(f"\n{name} = OrderedDict(")
    table = source[start : source.find("\n)", start)] if start >= 0 else ""
    pairs = re.findall(r'\(\s*"([^"]+)",\s*"([^"]+)"', table)
    assert pairs, f"transformers' table {name} has moved"
    return dict(pairs)


@cache
def _auto_source() -> str:
    return (_source() / "auto" / "modeling_auto.py").read_text("utf-8")


def is_known(model_type: str) -> bool:
    """Whether transformers has the type at all; its folders bear the types' names."""
    return re.fullmatch(r"[\w-]+", model_type) is not None and (_source() / model_type.replace("-", "_")).is_dir()


@cache
def positions_after_padding(model_type: str) -> bool:
    """Whether the first token's position is the one behind the padding token's index, as in the RoBERTa family."""
    name = model_type.replace("-", "_")
    folders = (_source() / folder for folder in (name, name.rpartition("_")[0]) if re.fullmatch(r"\w+", folder))
    file = next((file for folder in folders if (file := folder / f"modeling_{name}.py").is_file()), None)
    return file is not None and "def create_position_ids_from_input_ids(" in file.read_text("utf-8")
