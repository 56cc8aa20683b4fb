"""facts.json -> what the manifest of a package says of the model, for its runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qeffbuild.models.config import text_config

# What transformers' generation does beyond choosing the likeliest token.
_RULES = (
    "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids",
    "no_repeat_ngram_size", "min_length",
)  # fmt: skip
_GENERATION = (
    "decoder_start_token_id", *_RULES, "is_multilingual", "lang_to_id", "task_to_id", "no_timestamps_token_id",
)  # fmt: skip


def model_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the runtime has to know of the model. The generation config has the last word, as in transformers."""
    config = facts["config"]
    text, generation = text_config(config), facts["generation_config"] or {}
    whole = {**text, **config}
    said = {**whole, **generation}
    vocabulary = text.get("vocab_size") or said.get("vocab_size")  # some say another one of the whole
    eos = said.get("eos_token_id")
    ends = eos if isinstance(eos, list) else [] if eos is None else [eos]
    # GPT-2's and MPT's words for the longest context; whoever has none says nothing of it.
    lengths = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions")
    longest = next((said[key] for key in lengths if key in said), None)
    return {
        "model_type": config["model_type"],
        "name": next(iter(config.get("architectures") or [config["model_type"]])),
        "vocab_size": vocabulary,
        "eos_token_id": [token for token in ends if vocabulary is None or token < vocabulary],
        "bos_token_id": said.get("bos_token_id"),
        "pad_token_id": said.get("pad_token_id"),
        "max_position_embeddings": longest,
        **_of_task(facts["task"], said, generation or whole),
    }


def _of_task(task: str, said: Mapping[str, Any], rules: Mapping[str, Any]) -> dict[str, Any]:
    """What only the runtime of this task asks for. `rules` are said by one file: transformers does not join the two."""
    if task == "sequence-classification":
        labels = said.get("id2label") or {}
        many = said.get("problem_type") == "multi_label_classification"
        return {"labels": [labels[key] for key in sorted(labels, key=int)], "many_labels": many}
    if task in ("speech-seq2seq", "text-seq2seq"):
        return {key: said.get(key) for key in _GENERATION}
    if task in ("causal-lm", "image-text"):  # few of them have any
        return {key: rules[key] for key in _RULES if rules.get(key) not in (None, [])}
    return {}
