"""A model_type -> a random model of it with two small layers, that text can go through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qeffbuild.errors import ModelError, QeffBuildError
from qeffbuild.models.tasks import CAUSAL, CTC, GENERATING, SPEECH, classes, task_of_type, unsupported
from qeffbuild.models.tiny_tasks import CHARACTERS, beyond_causal, write_features, write_processor

# A small size -> the words that families have for what gets it. Heads of 16, eight of them, share four KV heads.
_SIZES: Mapping[int, str] = {
    128: "hidden_size d_model n_embd dim embedding_size embed_dim word_embed_proj_dim attention_hidden_size lru_width "
    "attn_hidden_size",
    256: "intermediate_size ffn_dim d_ff d_inner decoder_ffn_dim encoder_ffn_dim n_inner ffn_hidden_size dff "
    "mlp_hidden_size",
    64: "moe_intermediate_size moe_ffn_hidden_size shared_expert_intermediate_size shared_intermediate_size "
    "moe_shared_expert_intermediate_size expert_intermediate_size expert_ffn_hidden_size",
    2: "num_hidden_layers num_layers n_layer n_layers decoder_layers num_decoder_layers encoder_layers num_blocks "
    "num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts max_window_layers",
    8: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads "
    "rotary_dim mamba_d_state ssm_state_size state_size",
    4: "num_key_value_heads num_kv_heads n_kv_heads n_head_kv num_experts n_routed_experts num_local_experts "
    "moe_num_experts n_experts",
    16: "head_dim attention_head_size qk_nope_head_dim qk_rope_head_dim v_head_dim kv_lora_rank linear_key_head_dim "
    "linear_value_head_dim sliding_window attention_window_size",
    32: "q_lora_rank qk_head_dim",
    1: "n_group topk_group num_expert_group n_shared_experts num_shared_experts first_k_dense_replace",
    0: "num_kv_shared_layers num_nextn_predict_layers",
}
# Set even where the family's default is to leave them out.
_FILL_IN = frozenset({"num_key_value_heads"})
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_PER_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "block_types", "no_rope_layers")

# What a family needs beyond its sizes, so that a small configuration is a possible one.
_CORRECTIONS: Mapping[str, Mapping[str, Any]] = {
    "falcon": {"new_decoder_architecture": True},  # the form that has grouped KV heads
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "mamba2": {"num_heads": 16},  # times head_dim: expand times hidden_size
    "ministral": {"head_dim": 16},
    "reformer": {"is_decoder": True},
    "zaya": {"num_experts_per_tok": 1},
}

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

    if model_type not in classes(task) or model_type not in CONFIG_MAPPING:
        raise unsupported(model_type, f"model.model_type: unknown model_type {model_type!r:.60}")
    whole = CONFIG_MAPPING[model_type]()
    family = type(whole.get_text_config(decoder=True))
    fixed = {"vocab_size": vocab_size, "bos_token_id": end, "eos_token_id": end}
    if task != CAUSAL:
        family, fixed = type(whole), fixed | beyond_causal(whole, task, end)
    return _shrink(family, {**fixed, **_CORRECTIONS.get(family.model_type, {})})


def write_tiny(folder: Path, model_type: str, *, seed: int, tokenizer: Path, task: str = "auto") -> None:
    """Write config.json, model.safetensors and the files of `tokenizer`; the same bytes for the same seed."""
    import torch
    from transformers import GenerationConfig

    from qeffbuild.models.classes import model_from
    from qeffbuild.models.tokenizer import load_tokenizer

    does = task_of_type(model_type, task) or CAUSAL
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
        start = {"decoder_start_token_id": end, "pad_token_id": end} if does != CAUSAL else {}
        model.generation_config = GenerationConfig(bos_token_id=end, eos_token_id=end, **start)
    model.save_pretrained(folder)
    write_processor(folder, tokenizer, does)
    if does in (CTC, SPEECH):
        write_features(folder, config)


def _shrink(family: Any, fixed: Mapping[str, Any]) -> Any:
    """A configuration of a class with every known size small, and per-layer lists cut to one layer of each kind."""
    default = family()
    chosen: dict[str, Any] = {word: size for word, size in _words() if _takes(default, word)}
    if getattr(default, "pad_token_id", None) is not None:
        chosen["pad_token_id"] = fixed["eos_token_id"]
    lists = {name: getattr(default, name, None) for name in _PER_LAYER if not _is_read_only(default, name)}
    kinds = {name: list(dict.fromkeys(values)) for name, values in lists.items() if isinstance(values, list) and values}
    layers = max([2, *map(len, kinds.values())])
    chosen |= {word: layers for word in _LAYERS if word in chosen}
    chosen |= {name: (values * layers)[:layers] for name, values in kinds.items()}
    chosen |= {word: values for word, values in _lists_of_sizes(default, chosen).items()}
    return family(**{**chosen, **fixed})


def _words() -> Iterator[tuple[str, int]]:
    return ((word, size) for size, words in _SIZES.items() for word in words.split())


def _takes(config: Any, word: str) -> bool:
    """Whether a configuration has this word as a number of its own that can be set."""
    if _is_read_only(config, word) or not hasattr(config, word):
        return False
    value = getattr(config, word)
    return word in _FILL_IN if value is None else not isinstance(value, (bool, str, dict))


def _lists_of_sizes(config: Any, chosen: Mapping[str, Any]) -> dict[str, list[int]]:
    """Sizes that a family says once per layer."""
    lists = {word: getattr(config, word) for word in chosen if word not in _PER_LAYER}
    return {word: [chosen[word]] * 2 for word, values in lists.items() if isinstance(values, list)}


def _is_read_only(config: Any, word: str) -> bool:
    name = type(config).attribute_map.get(word, word)
    found = getattr(type(config), name, None)
    return isinstance(found, property) and found.fset is None


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
