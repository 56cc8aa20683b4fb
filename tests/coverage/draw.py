"""A model type and a number -> a small configuration with some of its switches set otherwise, and a text to run it on.

The same type and number give the same draw on every machine. What is drawn is what published configurations differ in:
numbers of heads and their widths, layers and their kinds, windows, rotary settings (in the words of today and of
older files), biases, activations, norms, caps, multipliers, experts, tied embeddings, special tokens, stored dtypes,
sizes that are a multiple of nothing. Not every draw is a possible model: transformers decides, and who asks draws again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from check import END, VOCABULARY, Text
from draw_values import CHOICES, NOT_SWITCHED, USUAL

from qeffbuild.export.shrink import HEAD_NAMES, HIDDEN_NAMES, KV_HEAD_NAMES, LAYER_NAMES
from qeffbuild.export.skeleton import configuration
from qeffbuild.models.tiny import tiny_config

OF_ATTENTION = frozenset({"full_attention", "sliding_attention"})
TRIES = 12


def drawn(model_type: str, number: int, attempt: int = 0) -> tuple[dict[str, Any], Text]:
    """config.json of the draw, and the text. Who cannot make a model of it draws again with the next `attempt`."""
    chance = random.Random(f"{model_type} {number} {attempt}")
    said = json.loads(tiny_config(model_type, VOCABULARY, END).to_json_string(use_diff=False))
    part = next((said[name] for name in ("text_config", "decoder") if isinstance(said.get(name), dict)), said)
    for change in (_usual, _layers, _heads, _rotary, _switches, _numbers, _tokens, _older_words):
        if chance.random() < (0.25 if change in (_usual, _older_words) else 0.6):
            change(chance, part)
    said["dtype"] = chance.choice(("float32", "float32", "bfloat16", "float16"))
    vocabulary = min(size for size in (part.get("vocab_size"), VOCABULARY) if isinstance(size, int))
    return said, _text(chance, vocabulary)


def made(model_type: str, number: int, attempt: int = 0) -> Any:
    return configuration(drawn(model_type, number, attempt)[0])


def _text(chance: random.Random, vocabulary: int) -> Text:
    rows = tuple(
        tuple(chance.randrange(5, vocabulary) for _ in range(chance.choice((1, 2, 3, 5, 7, 11, 13, 17, 21, 64))))
        for _ in range(chance.randint(1, 5))
    )
    decoded = tuple(chance.randrange(5, vocabulary) for _ in range(8))
    longest = max(map(len, rows)) + len(decoded)
    return Text(
        rows=rows,
        decoded=decoded,
        ctx_len=longest + chance.choice((0, 1, 2, 5)),
        chunk=chance.choice((1, 2, 3, 4, 5, 7, 8, 16)),
    )


def _first(said: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if isinstance(said.get(name), int)), None)


def _usual(chance: random.Random, said: dict[str, Any]) -> None:
    """Small sizes as everyone who tests a family gives them."""
    for name, value in USUAL.items():
        if isinstance(said.get(name), int):
            said[name] = value
    if isinstance(said.get("head_dim"), int):
        said["head_dim"] = 8


def _layers(chance: random.Random, said: dict[str, Any]) -> None:
    """One to five layers, and lists that say something of each in an order of their own."""
    name = _first(said, LAYER_NAMES)
    if name is None:
        return
    before, count = said[name], chance.choice((1, 2, 3, 5))
    for key, values in said.items():
        if isinstance(values, list) and len(values) == before and key != "architectures" and not _is_range(values):
            kinds = sorted(set(map(str, values)))
            possible = [*values, *(sorted(OF_ATTENTION) if key == "layer_types" and set(kinds) <= OF_ATTENTION else [])]
            said[key] = [chance.choice(possible) for _ in range(count)]
    said[name] = count
    if isinstance(said.get("num_blocks"), int):
        said["num_blocks"] = count


def _is_range(values: list[Any]) -> bool:
    """Bounds of a number, of which an infinite one is written as an object."""
    return any(isinstance(value, dict) for value in values)


def _heads(chance: random.Random, said: dict[str, Any]) -> None:
    """Any number of heads, in groups of any size, as wide as the model says or as it may choose."""
    head, hidden = _first(said, HEAD_NAMES), _first(said, HIDDEN_NAMES)
    if head is None or hidden is None:
        return
    count, width = chance.choice((1, 2, 3, 4, 5, 6, 7, 8, 12)), chance.choice((8, 12, 16, 20, 24, 32, 40, 64))
    said[head] = count
    for name in KV_HEAD_NAMES:
        if isinstance(said.get(name), int):
            said[name] = chance.choice([each for each in range(1, count + 1) if count % each == 0])
    if isinstance(said.get("head_dim"), int):
        said["head_dim"], said[hidden] = width, chance.choice((64, 72, 80, 96, 136))
    else:
        said[hidden] = count * width


def _rotary(chance: random.Random, said: dict[str, Any]) -> None:
    rope = said.get("rope_parameters")
    if not isinstance(rope, dict):
        return
    parts = [part for part in rope.values() if isinstance(part, dict)] or [rope]
    for part in parts:
        if "mrope_section" not in part:
            _turn(chance, said, part)


def _turn(chance: random.Random, said: dict[str, Any], rope: dict[str, Any]) -> None:
    """Any of transformers' rotary kinds. (Tables that change with the length have an original length out of reach.)"""
    kind = chance.choice(("default", "linear", "dynamic", "yarn", "longrope", "llama3"))
    theta, partial = chance.choice((500.0, 10000.0, 1000000.0)), rope.get("partial_rotary_factor")
    if partial is not None and chance.random() < 0.5:
        partial = chance.choice((0.25, 0.5, 0.75, 1.0))
    rope.clear()
    rope.update(rope_type=kind, rope_theta=theta)
    if partial is not None:
        rope["partial_rotary_factor"] = partial
    if kind != "default":
        rope["factor"] = chance.choice((1.5, 2.0, 4.0))
    if kind in ("yarn", "llama3"):
        rope["original_max_position_embeddings"] = chance.choice((8, 16, 64))
    if kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if kind == "yarn" and chance.random() < 0.6:
        rope |= chance.choice(
            ({"truncate": False}, {"attention_factor": 1.2}, {"mscale": 0.7, "mscale_all_dim": 1.0}, {"beta_fast": 16})
        )
    if kind == "longrope":
        heads, hidden = _first(said, HEAD_NAMES), _first(said, HIDDEN_NAMES)
        width = said.get("qk_rope_head_dim") or said.get("head_dim")
        width = width or (said[hidden] // said[heads] if heads and hidden else 16)
        half = int(width * (partial or 1.0)) // 2
        rope["original_max_position_embeddings"] = 64
        rope["short_factor"] = [1.0 + 0.01 * place for place in range(half)]
        rope["long_factor"] = [1.0 + 0.2 * place for place in range(half)]


def _switches(chance: random.Random, said: dict[str, Any]) -> None:
    """One to three switches the other way, and embeddings tied or not. What is returned is no matter of the graph."""
    if isinstance(said.get("tie_word_embeddings"), bool):
        said["tie_word_embeddings"] = chance.random() < 0.5
    switches = sorted(name for name, value in said.items() if isinstance(value, bool) and name not in NOT_SWITCHED)
    for name in chance.sample(switches, min(len(switches), chance.randint(1, 3))):
        said[name] = not said[name]


def _numbers(chance: random.Random, said: dict[str, Any]) -> None:
    known = sorted(name for name in said if name in CHOICES and not isinstance(said[name], list))
    for name in chance.sample(known, min(len(known), chance.randint(1, 5))):
        value = chance.choice(CHOICES[name])
        said[name] = {**said[name], **value} if isinstance(value, dict) and isinstance(said[name], dict) else value


def _tokens(chance: random.Random, said: dict[str, Any]) -> None:
    """No padding token, the first or the last word for it; ends of a text that are lists, or words there are not."""
    if "pad_token_id" in said:
        said["pad_token_id"] = chance.choice((None, 0, 1, END))
    for name in ("bos_token_id", "eos_token_id"):
        if isinstance(said.get(name), int):
            said[name] = chance.choice((None, 0, END, [END, 3], 50256) if name[0] == "e" else (None, 0, END, 50256))


def _older_words(chance: random.Random, said: dict[str, Any]) -> None:
    """Rotary settings as files had them before they were joined: `rope_theta` and `rope_scaling`."""
    rope = said.get("rope_parameters")
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        return
    del said["rope_parameters"]
    scaling = dict(rope)
    said["rope_theta"] = scaling.pop("rope_theta", 10000.0)
    if "partial_rotary_factor" in scaling:
        said["partial_rotary_factor"] = scaling.pop("partial_rotary_factor")
    if scaling.get("rope_type") != "default":
        name = chance.choice(("type", "rope_type"))
        said["rope_scaling"] = {**scaling, name: scaling.pop("rope_type")}
