"""What a GGUF file says of rotary embeddings, windows and sizes reaches the configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import Gemma2Config, GPT2Config, LlamaConfig, Phi3Config, PreTrainedConfig, Qwen3MoeConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qeffbuild.models.gguf_config import completed

SIZES = {"hidden_size": 64, "num_attention_heads": 2, "head_dim": 32, "num_hidden_layers": 1, "vocab_size": 96}


def config_of(file: Path, config: PreTrainedConfig, write: Callable[[gguf.GGUFWriter], None]) -> dict[str, Any]:
    writer = gguf.GGUFWriter(file, config.model_type)
    write(writer)
    writer.add_tensor("output_norm.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return completed(config, gguf.GGUFReader(file)).to_dict()


def test_sizes_windows_and_caps_are_those_of_the_file(tmp_path: Path) -> None:
    def of_experts(writer: gguf.GGUFWriter) -> None:
        writer.add_key_length(48)
        writer.add_expert_feed_forward_length(40)
        writer.add_tensor("token_embd.weight", np.ones((77, 64), np.float32))

    experts = config_of(tmp_path / "experts.gguf", Qwen3MoeConfig(**SIZES), of_experts)
    window = config_of(
        tmp_path / "window.gguf", Phi3Config(**SIZES, pad_token_id=0), lambda w: w.add_sliding_window(16)
    )
    caps = config_of(
        tmp_path / "caps.gguf", Gemma2Config(**SIZES), lambda writer: writer.add_final_logit_softcapping(20.0)
    )
    table = config_of(tmp_path / "table.gguf", GPT2Config(n_embd=64, n_head=2), lambda w: w.add_context_length(128))

    assert (experts["head_dim"], experts["moe_intermediate_size"], experts["vocab_size"]) == (48, 40, 77)
    assert window["sliding_window"] == 16
    assert (caps["final_logit_softcapping"], caps["attn_logit_softcapping"]) == (20.0, 50.0)
    assert table["n_positions"] == 128


def test_frequencies_of_llama_3_are_known_by_their_factors(tmp_path: Path) -> None:
    rope: dict[str, Any] = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    plain = LlamaConfig(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](LlamaConfig(**SIZES, rope_parameters=rope), torch.device("cpu"))
    factors = (500000.0 ** -(torch.arange(0, 32, 2) / 32) / stretched).numpy()

    said = config_of(tmp_path / "a.gguf", plain, lambda writer: writer.add_tensor("rope_freqs.weight", factors))

    found = said["rope_parameters"]
    assert found == {**rope, "factor": pytest.approx(32.0)}


def test_other_factors_are_taken_one_by_one(tmp_path: Path) -> None:
    factors = np.linspace(1, 3, 16).astype(np.float32)

    said = config_of(
        tmp_path / "a.gguf", LlamaConfig(**SIZES), lambda writer: writer.add_tensor("rope_freqs.weight", factors)
    )

    frequencies, scale = ROPE_INIT_FUNCTIONS["longrope"](LlamaConfig.from_dict(said), torch.device("cpu"))
    np.testing.assert_allclose(frequencies, 1e4 ** -(np.arange(0, 32, 2) / 32) / factors, rtol=1e-5)
    assert scale == 1.0


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (gguf.RopeScalingType.NONE, {"rope_type": "default"}),
        (gguf.RopeScalingType.LINEAR, {"rope_type": "linear", "factor": 4.0}),
        (gguf.RopeScalingType.YARN, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
    ],
)
def test_a_stretched_context_is_stretched(tmp_path: Path, kind: gguf.RopeScalingType, wanted: dict[str, Any]) -> None:
    def write(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(kind)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(64)

    said = config_of(tmp_path / "a.gguf", LlamaConfig(**SIZES), write)

    assert said["rope_parameters"] == {"rope_theta": 10000.0, **wanted}


def test_a_stretch_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rope\.scaling\.type longrope is not known"):
        config_of(
            tmp_path / "a.gguf",
            LlamaConfig(**SIZES),
            lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE),
        )
