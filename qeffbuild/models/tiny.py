"""A model_type -> a random model of it with two small layers, that text can go through."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qeffbuild.errors import ModelError, QeffBuildError
from qeffbuild.models.classes import learn
from qeffbuild.models.tasks import CAUSAL, CTC, GENERATING, IMAGE_TEXT, SPEECH, classes, task_of_type, unsupported
from qeffbuild.models.tiny_images import write_tiny_seeing
from qeffbuild.models.tiny_sizes import AS_DECODER, CORRECTIONS, FILL_IN, SIZES
from qeffbuild.models.tiny_tasks import CHARACTERS, beyond_causal, write_features, write_processor

_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_PER_LAYER = (
    "layer_types", "mlp_layer_types", "layers_block_type", "block_types", "no_rope_layers",
    "indexer_types", "hybrid_layer_pattern", "moe_layer_freq",
)  # fmt: skip
_TOKENS = re.compile(r"_token_(id|index)$")
_MROPE = [2, 3, 3]  # half a head of 16 in three parts

# The tokenizer of a tiny model is the demo's. A step's key holds our sources, not that file: so its digest stands here.
TOKENIZER_SHA256 = "34fb7e49e995eb5b0767ba43717d7031f4e67f98752a51f0128480a40d87838e"

# Logits wide enough that greedy tokens differ from step to step; where the head is the embedding again (and Gemma
# scales that up), a wide embedding would only repeat its own token.
_STD = 0.12
_STD_OF_TABLES = 0.03

_MOST_PARAMETERS = 20_000_000  # more means that a size was missed; some families would fill the memory


def tiny_config(model_type: str, vocab_size: int, end: int, task: str = CAUSAL) -> Any:
    """The configuration of the small model; `end` is the token that begins and ends a text."""
    from transformers import CONFIG_MAPPING

    learn({"model_type": model_type})
    if model_type not in classes(task) or model_type not in CONFIG_MAPPING:
        raise unsupported(model_type, f"model.model_type: unknown model_type {model_type!r:.60}")
    fixed = {"vocab_size": vocab_size, "bos_token_id": end, "eos_token_id": end}
    whole = CONFIG_MAPPING[model_type]()
    if task != CAUSAL:
        return _shrink(type(whole), fixed, beyond_causal(whole, task, end), is_decoder=False)
    return _shrink(_of_text(whole), fixed, {})


def _of_text(whole: Any) -> Any:
    """The language model's own class of configuration, where it is a causal language model by itself.

    A class for text alone that is made of the whole configuration is no part of anything.
    """
    import transformers

    name, text = classes(CAUSAL).get(whole.model_type, ""), type(whole.get_text_config(decoder=True))
    made_of = getattr(getattr(transformers, name, None), "config_class", None)
    if text.model_type not in classes(CAUSAL) or (made_of is type(whole) and name.endswith("ForCausalLM")):
        return type(whole)
    return text


def write_tiny(folder: Path, model_type: str, *, seed: int, tokenizer: Path, task: str = "auto") -> None:
    """Write config.json, model.safetensors and the files of `tokenizer`; the same bytes for the same seed."""
    import torch
    from transformers import GenerationConfig

    from qeffbuild.models.classes import model_from
    from qeffbuild.models.tokenizer import load_tokenizer

    does = task_of_type(model_type, task) or CAUSAL
    if does == IMAGE_TEXT:
        write_tiny_seeing(folder, model_type, seed=seed, tokenizer=tokenizer)
        return
    words = load_tokenizer(tokenizer)
    size, end = (len(words), words.eos_token_id) if does != CTC else (len(CHARACTERS), 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            config = tiny_config(model_type, vocab_size=size, end=end, task=does)
            with torch.device("meta"):
                parameters = model_from(config, does).num_parameters()
            if parameters > _MOST_PARAMETERS:
                raise ValueError(f"what is left has {parameters} parameters")
            model = model_from(config, does)
        except QeffBuildError:
            raise
        except Exception as problem:  # whatever a family's classes say to sizes that do not go together
            found = f"model.scale: no tiny {model_type} is known: {problem}"
            raise ModelError("model.unsupported", f"{found:.200}", hint="use model.scale=full") from problem
        _randomise(model)
    if does in GENERATING:
        padding = getattr(config, "pad_token_id", end)
        start = {"decoder_start_token_id": end, "pad_token_id": padding} if does != CAUSAL else {}
        model.generation_config = GenerationConfig(bos_token_id=end, eos_token_id=end, **start)
    model.save_pretrained(folder)
    write_processor(folder, tokenizer, does)
    if does in (CTC, SPEECH):
        write_features(folder, config)


def _shrink(family: Any, fixed: Mapping[str, Any], more: Mapping[str, Any], *, is_decoder: bool = True) -> Any:
    """A configuration of a class with every known size small, and per-layer lists cut to one layer of each kind."""
    default = family()
    chosen: dict[str, Any] = {word: size for word, size in _words() if _takes(default, word)}
    if chosen.get("kv_lora_rank"):  # latent attention: every head has keys of its own
        chosen["num_key_value_heads"] = chosen["num_attention_heads"]
    lists = {name: _value(default, name) for name in _PER_LAYER if not _is_read_only(default, name)}
    kinds = {name: list(dict.fromkeys(values)) for name, values in lists.items() if isinstance(values, list) and values}
    layers = max([2, *map(len, kinds.values())])
    chosen |= {word: layers for word in _LAYERS if word in chosen}
    chosen |= {name: (values * layers)[:layers] for name, values in kinds.items()}
    chosen |= {word: values for word, values in _lists_of_sizes(default, chosen).items()}
    chosen |= _settings(default, fixed)
    if is_decoder and _has(default, "is_decoder"):
        chosen["is_decoder"] = True
    for name, inner in family.sub_configs.items():
        nested = getattr(default, name, None)
        if nested is not None or isinstance(inner, type):
            part = type(nested) if nested is not None else inner
            chosen[name] = _shrink(part, fixed, _reading(name, nested), is_decoder=is_decoder)
    corrections = dict(CORRECTIONS.get(family.model_type, {}))
    if is_decoder:
        corrections |= AS_DECODER.get(family.model_type, {})
    given = {word: value for word, value in fixed.items() if _has(default, word)}
    return family(**{**chosen, **given, **more, **corrections})


def _reading(name: str, default: Any) -> dict[str, Any]:
    """What lets one model read what another one says, where each is of a family of its own."""
    words = {"is_decoder", "add_cross_attention"} if name == "decoder" and _has(default, "is_decoder") else set()
    return {word: True for word in words if _has(default, word)}


def _settings(default: Any, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """What is no size: special tokens inside the vocabulary, rotary sections that fit the head, a decoder."""
    chosen: dict[str, Any] = {}
    for place, name in enumerate(sorted(name for name in vars(default) if _TOKENS.search(name))):
        if isinstance(_value(default, name), int):
            chosen[name] = fixed["eos_token_id"] if name.startswith(("pad", "decoder_start")) else place + 3
    if _has(default, "vocab_size_per_layer_input"):
        chosen["vocab_size_per_layer_input"] = fixed["vocab_size"]
    if isinstance(_value(default, "time_step_min"), float):
        chosen["time_step_min"] = 1e-6  # PyTorch clips steps in prefill, not in decode: random weights would show it
    rope = copy.deepcopy(_value(default, "rope_parameters"))
    if isinstance(rope, dict) and "mrope_section" in str(rope):
        for part in [rope, *(part for part in rope.values() if isinstance(part, dict))]:
            if "mrope_section" in part:
                part["mrope_section"] = _MROPE
        chosen["rope_parameters"] = rope
    return chosen


def _words() -> Iterator[tuple[str, int]]:
    return ((word, size) for size, words in SIZES.items() for word in words.split())


def _value(config: Any, word: str) -> Any:
    """What a configuration says; 0 where it says it for each layer apart, so that it has no one answer."""
    try:
        return getattr(config, word, None)
    except Exception:
        return 0


def _has(config: Any, word: str) -> bool:
    return not _is_read_only(config, word) and (word in vars(config) or word in type(config).attribute_map)


def _takes(config: Any, word: str) -> bool:
    """Whether a configuration has this word as a number of its own that can be set."""
    if not _has(config, word) or word in type(config).sub_configs:
        return False
    value = _value(config, word)
    return word in FILL_IN if value is None else not isinstance(value, (bool, str, dict))


def _lists_of_sizes(config: Any, chosen: Mapping[str, Any]) -> dict[str, list[int]]:
    """Sizes that a family says once per layer."""
    lists = {word: _value(config, word) for word in chosen if word not in _PER_LAYER}
    return {word: [chosen[word]] * 2 for word, values in lists.items() if isinstance(values, list)}


def _is_read_only(config: Any, word: str) -> bool:
    name = type(config).attribute_map.get(word, word)
    return any(isinstance(found, property) and found.fset is None for found in _found(config, (word, name)))


def _found(config: Any, names: tuple[str, ...]) -> list[Any]:
    return [inspect.getattr_static(type(config), name, None) for name in names]


def _randomise(model: Any) -> None:
    """Weights and biases that matter: transformers starts matrices so small that every token comes out the same."""
    import torch

    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if id(parameter) in tables:
                parameter.normal_(0.0, _STD_OF_TABLES)
            elif parameter.dim() >= 2 and "conv" not in name:
                parameter.normal_(0.0, _STD)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.02)
        stored = model.state_dict()
        for name, buffer in model.named_buffers():
            # Learned without gradients: of a rule's table there is nothing to vary.
            if name in stored and buffer.is_floating_point() and bool((buffer == buffer.flatten()[0]).all()):
                buffer.add_(torch.randn_like(buffer) * 0.02)
