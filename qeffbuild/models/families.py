"""What transformers knows of model types, read from its source: importing it would cost seconds."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from qeffbuild.errors import AbsentError, ModelError
from qeffbuild.models.files import CONFIG, line_of

TASK = "causal-lm"

# transformers lists these under causal language models, for a decoder of that family; as published they are encoders.
_ENCODERS = frozenset({
    "bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert", "roberta",
    "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod",
})  # fmt: skip
_NOT_CAUSAL = re.compile(
    r"For(MaskedLM|PreTraining|Sequence|Token|MultipleChoice|QuestionAnswering|NextSentence|Conditional|Image|Audio|CTC)"
)
# What a class of a model type is called beyond the family: Mpt in MptForCausalLM, MptConfig, MptModel.
_ROLE = re.compile(r"(For[A-Z]\w*|LMHead\w*|Config|PreTrainedModel|Model)$")


@cache
def causal_classes() -> Mapping[str, str]:
    """model_type -> class name of the causal language model, as the installed transformers has it."""
    found = find_spec("transformers")
    if found is None or found.origin is None:
        raise AbsentError("transformers.absent", "transformers is not installed", hint="pip install transformers")
    source = (Path(found.origin).parent / "models" / "auto" / "modeling_auto.py").read_text("utf-8")
    table = re.search(r"^MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict\((.*?)^\)", source, re.S | re.M)
    pairs = re.findall(r'\(\s*"([^"]+)",\s*"([^"]+)"', table[1] if table else "")
    assert pairs, "transformers' table of causal language models has moved"
    return dict(pairs)


def task_of(folder: Path, config: Mapping[str, Any], *, trust_remote_code: bool = False) -> str:
    """What the model does; refused here, without transformers, when we know that we cannot build it."""
    path = folder / CONFIG
    model_type = config.get("model_type")
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(model_type, str):
        _refuse_type(path, "no model_type", None)
    if isinstance(architecture, str) and _NOT_CAUSAL.search(architecture):
        _refuse_task(path, f"{architecture} is no causal language model")
    if model_type in _ENCODERS and config.get("is_decoder") is not True:
        _refuse_task(path, f"{model_type} is an encoder (is_decoder is not true)")
    if model_type in causal_classes() or (trust_remote_code and config.get("auto_map")):
        return TASK
    if _is_known(model_type):
        _refuse_task(path, f"transformers has no causal language model for {model_type}")
    _refuse_type(path, f"unknown model_type {model_type!r:.60}", model_type)


def refuse_code(folder: Path, config: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a model that wants to run Python of its own.

    `others` are the tokenizer's and processors' configurations by file name. A config.json whose classes transformers
    has itself (Falcon, MPT and Phi still carry the code from before) needs none: its auto_map is never followed.
    """
    native = causal_classes().get(str(config.get("model_type")))
    wanted = _code_of(config)
    if native and all(_stem(name) == _stem(native) for name in wanted):
        wanted = []
    places = [(CONFIG, wanted), *((file, _code_of(said)) for file, said in others.items())]
    for file, names in places:
        if names:
            raise ModelError(
                "model.code",
                f"{file}: wants to run Python of the model repository ({names[0]})",
                where=line_of(folder / file, "auto_map"),
                hint="if you have read it: model.trust_remote_code=true, and for the hub a pinned model.revision",
            )


def unsupported(model_type: str | None, found: str, where: str | None = None) -> ModelError:
    """The error for a model type that nobody knows, with the nearest known one."""
    near = difflib.get_close_matches(model_type or "", causal_classes(), n=3)
    common = "gpt2 llama mistral mixtral qwen2 qwen3 gemma2 falcon mpt phi3 granite gpt_oss"
    known = f"known are {len(causal_classes())} types, such as {common}"
    suggestion = f"did you mean {' or '.join(near)}? " if near else ""
    return ModelError("model.unsupported", found, where=where, hint=suggestion + known)


def _code_of(config: Mapping[str, Any]) -> list[str]:
    """Class names that a configuration wants imported from the repository."""
    table = config.get("auto_map")
    if not table:
        return []
    values = table.values() if isinstance(table, Mapping) else [table]
    flat = [name for value in values for name in (value if isinstance(value, list) else [value]) if name]
    return [str(name) for name in flat]


def _stem(name: str) -> str:
    return _ROLE.sub("", name.rpartition(".")[2]).casefold()


@cache
def _is_known_folder(name: str) -> bool:
    found = find_spec("transformers")
    return bool(found and found.origin and (Path(found.origin).parent / "models" / name).is_dir())


def _is_known(model_type: str) -> bool:
    """Whether transformers has the type at all; its folders bear the types' names."""
    return re.fullmatch(r"[\w-]+", model_type) is not None and _is_known_folder(model_type.replace("-", "_"))


def _refuse_task(path: Path, found: str) -> NoReturn:
    where = line_of(path, "architectures")
    raise ModelError("model.task", f"{CONFIG}: {found}", where=where, hint=f"only {TASK} models are built")


def _refuse_type(path: Path, found: str, model_type: str | None) -> NoReturn:
    raise unsupported(model_type, f"{CONFIG}: {found}", where=line_of(path, "model_type"))
