"""A llama or GPT-2 folder of transformers -> one GGUF file: `python gguf_file.py FOLDER FILE f32|q8_0|q4_0`.

Runs in llama.cpp's environment, which has `gguf`. The file has no vocabulary: prompts are token ids.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

FORMS = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
WHOLE = {
    "transformer.wte.weight": "token_embd.weight",
    "transformer.wpe.weight": "position_embd.weight",
    "transformer.ln_f.weight": "output_norm.weight",
    "transformer.ln_f.bias": "output_norm.bias",
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
OF_A_LAYER = {
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
DTYPES = {"F16": np.float16, "F32": np.float32}


def tensors(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    for file in sorted(folder.glob("*.safetensors")):
        content = np.memmap(file, np.uint8, mode="r")
        size = int.from_bytes(content[:8].tobytes(), "little")
        for name, said in json.loads(content[8 : 8 + size].tobytes()).items():
            if name != "__metadata__":
                begin, end = (8 + size + place for place in said["data_offsets"])
                yield name, content[begin:end].view(DTYPES[said["dtype"]]).reshape(said["shape"])


def describe(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    if config["model_type"] == "gpt2":
        writer.add_block_count(config["n_layer"])
        writer.add_context_length(config["n_positions"])
        writer.add_embedding_length(config["n_embd"])
        writer.add_feed_forward_length(4 * config["n_embd"])
        writer.add_head_count(config["n_head"])
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    else:
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
        writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")


def place(name: str, array: np.ndarray, config: dict[str, Any]) -> tuple[str, np.ndarray]:
    """A tensor's name and layout in GGUF."""
    if name in WHOLE:
        return WHOLE[name], array
    layer, rest = name.removeprefix("transformer.h.").removeprefix("model.layers.").split(".", 1)
    role, suffix = rest.rsplit(".", 1)
    if config["model_type"] == "gpt2" and suffix == "weight" and array.ndim == 2:
        array = array.T
    if role in ("self_attn.q_proj", "self_attn.k_proj"):  # pairs lie next to each other there
        heads = config["num_attention_heads" if "q_" in role else "num_key_value_heads"]
        parts = array.reshape(heads, 2, array.shape[0] // heads // 2, array.shape[1])
        array = parts.swapaxes(1, 2).reshape(array.shape)
    return f"blk.{layer}.{OF_A_LAYER[role]}.{suffix}", array


def main() -> None:
    folder, out, form = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    config = json.loads((folder / "config.json").read_text())
    kind, file_type = FORMS[form]
    writer = gguf.GGUFWriter(out, "gpt2" if config["model_type"] == "gpt2" else "llama")
    writer.add_file_type(file_type)
    describe(writer, config)
    for name, stored in tensors(folder):
        target, array = place(name, stored, config)
        array = np.ascontiguousarray(array, dtype=np.float32)
        if array.ndim == 1 or target == "position_embd.weight" or form == "f32":
            writer.add_tensor(target, array)
        else:
            writer.add_tensor(target, gguf.quants.quantize(array, kind), raw_dtype=kind)
        if name == "transformer.wte.weight":
            writer.add_tensor("output.weight", gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
