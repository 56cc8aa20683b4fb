"""Small model folders: a llama of one layer, whole or broken in one place."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # encoders.py, which other rooms share

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32,
    "max_position_embeddings": 64, "tie_word_embeddings": True, "eos_token_id": 2,
}  # fmt: skip

SHAPES: dict[str, list[int]] = {
    "model.embed_tokens.weight": [32, 16],
    "model.layers.0.input_layernorm.weight": [16],
    "model.layers.0.mlp.down_proj.weight": [16, 32],
    "model.layers.0.mlp.gate_proj.weight": [32, 16],
    "model.layers.0.mlp.up_proj.weight": [32, 16],
    "model.layers.0.post_attention_layernorm.weight": [16],
    "model.layers.0.self_attn.k_proj.weight": [8, 16],
    "model.layers.0.self_attn.o_proj.weight": [16, 16],
    "model.layers.0.self_attn.q_proj.weight": [16, 16],
    "model.layers.0.self_attn.v_proj.weight": [8, 16],
    "model.norm.weight": [16],
}


def safetensors(shapes: Mapping[str, list[int]], dtype: str = "F32", size: int = 4) -> bytes:
    """A file of zeros with these tensors."""
    header, at = {}, 0
    for name, shape in shapes.items():
        nbytes = size
        for dim in shape:
            nbytes *= dim
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + nbytes]}
        at += nbytes
    return headed(header) + bytes(at)


def headed(header: Any) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.fixture
def model_folder(tmp_path: Path) -> Callable[..., Path]:
    """model_folder(config=..., weights=..., files={name: content}) -> folder; None leaves a file out."""

    def make(
        config: Any = CONFIG,
        weights: bytes | None = safetensors(SHAPES),
        files: Mapping[str, str | bytes] | None = None,
    ) -> Path:
        folder = tmp_path / "model"
        folder.mkdir()
        if config is not None:
            text = config if isinstance(config, str) else json.dumps(config, indent=1)
            (folder / "config.json").write_text(text)
        if weights is not None:
            (folder / "model.safetensors").write_bytes(weights)
        for name, content in (files or {}).items():
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return make
