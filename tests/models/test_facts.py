from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qeffbuild.errors import QeffBuildError
from qeffbuild.models import DEMO, Facts, Tensor, listing, read_facts
from qeffbuild.models.config import num_key_value_heads

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32,
    "max_position_embeddings": 64, "tie_word_embeddings": True, "eos_token_id": 2,
}  # fmt: skip

ModelFolder = Callable[..., Path]


def test_a_folder_says_its_task_its_numbers_and_where_each_tensor_lies(model_folder: ModelFolder) -> None:
    folder = model_folder()

    facts = read_facts(folder)

    assert (facts.task, facts.model_type) == ("causal-lm", "llama")
    assert (facts.num_hidden_layers, facts.num_attention_heads, facts.num_key_value_heads) == (1, 4, 2)
    assert (facts.vocab_size, facts.max_position_embeddings, facts.has_position_table) == (32, 64, False)
    first = facts.tensors["model.embed_tokens.weight"]
    header = int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little")
    expected = Tensor(file="model.safetensors", offset=8 + header, nbytes=2048, dtype="float32", shape=(32, 16))
    assert first == expected


def test_the_table_points_at_the_bytes_that_safetensors_reads() -> None:
    from safetensors.numpy import load_file

    facts = read_facts(DEMO)
    arrays = load_file(DEMO / "model.safetensors")

    raw = (DEMO / "model.safetensors").read_bytes()
    assert facts.tensors.keys() == arrays.keys()
    for name, tensor in facts.tensors.items():
        assert raw[tensor.offset : tensor.offset + tensor.nbytes] == arrays[name].tobytes()
        assert (tensor.dtype, tensor.shape) == (str(arrays[name].dtype), arrays[name].shape)


def test_layers_that_share_weights_by_groups_need_no_tensors_of_their_own(model_folder: ModelFolder) -> None:
    folder = model_folder(config={**CONFIG, "num_hidden_layers": 12, "num_hidden_groups": 1})

    assert read_facts(folder).num_hidden_layers == 12


def test_facts_survive_their_file(tmp_path: Path) -> None:
    facts = read_facts(DEMO)

    facts.save(tmp_path / "facts.json")

    assert Facts.load(tmp_path / "facts.json") == facts


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ({"model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}, (12, 12, 12, 1024)),
        ({"model_type": "gpt_bigcode", "n_layer": 24, "n_head": 16, "multi_query": True}, (24, 16, 1, None)),
        ({"model_type": "mpt", "n_layers": 32, "n_heads": 32, "max_seq_len": 2048}, (32, 32, 32, 2048)),
        ({"model_type": "falcon", "num_hidden_layers": 60, "num_attention_heads": 128, "num_kv_heads": 8,
          "new_decoder_architecture": True, "multi_query": True}, (60, 128, 8, None)),
    ],
    ids=lambda value: value.get("model_type", "") if isinstance(value, dict) else "",
)  # fmt: skip
def test_families_with_words_of_their_own_give_the_same_facts(
    family: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    facts = Facts(config=family, generation_config=None, task="causal-lm", tensors={})

    found = (
        facts.num_hidden_layers,
        facts.num_attention_heads,
        facts.num_key_value_heads,
        facts.max_position_embeddings,
    )
    assert found == expected


def test_a_readme_or_a_git_folder_is_no_part_of_the_model(model_folder: ModelFolder) -> None:
    folder = model_folder(files={"README.md": "hello", "tokenizer.json": "{}", "modeling_x.py": "", "old.bin": b""})
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("")

    assert listing(folder) == ("config.json", "model.safetensors", "tokenizer.json")
    assert "modeling_x.py" in listing(folder, trust_remote_code=True)


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "52 unknown type": ("model.unsupported", {"config": {**CONFIG, "model_type": "lama", "architectures": ["X"]}}),
    "52 no type": ("model.unsupported", {"config": {"hidden_size": 16}}),
    "53 another head": ("model.task", {"config": {**CONFIG, "architectures": ["LlamaForTokenClassification"]}}),
    "53 words are filled in": ("model.task", {"config": {"model_type": "bert", "architectures": ["BertForMaskedLM"]}}),
    "53 known, but no language model": ("model.task", {"config": {"model_type": "vit"}}),
    "54 truncated": ("model.config", {"config": '{"model_type": "llama",\n "hidden'}),
    "54 a list": ("model.config", {"config": "[]"}),
    "54 nested without end": ("model.config", {"config": "[" * 100_000}),
    "54 missing": ("model.config", {"config": None}),
    "55 heads do not divide": ("model.config", {"config": {**CONFIG, "hidden_size": 18}}),
    "55 negative layers": ("model.config", {"config": {**CONFIG, "num_hidden_layers": -1}}),
    "55 layers beyond belief": ("model.config", {"config": {**CONFIG, "num_hidden_layers": 10**9}}),
    "55 a word for a number": ("model.config", {"config": {**CONFIG, "vocab_size": "many"}}),
    "55 KV heads do not divide": ("model.config", {"config": {**CONFIG, "num_key_value_heads": 3}}),
    "56 layers": ("model.weights", {"config": {**CONFIG, "num_hidden_layers": 2}}),
    "56 vocabulary": ("model.weights", {"config": {**CONFIG, "vocab_size": 64}}),
    "57 none at all": ("model.weights", {"weights": None}),
    "58 empty": ("model.weights", {"weights": b""}),
    "58 header of 2^62 bytes": ("model.weights", {"weights": (1 << 62).to_bytes(8, "little") + b"{}"}),
    "58 header beyond the file": ("model.weights", {"weights": (99).to_bytes(8, "little") + b"{}"}),
    "58 header is no JSON": ("model.weights", {"weights": (4).to_bytes(8, "little") + b"{]]]"}),
    "61 pickle": ("model.pickle", {"weights": None, "files": {"pytorch_model.bin": b"\x80\x02."}}),
    "62 code for the model": ("model.code", {"config": {**CONFIG, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}}),
    "62 code for the tokenizer": (
        "model.code",
        {"files": {"tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["evil.Slow", null]}}'}},
    ),
    "quantized by another tool": ("model.unsupported", {"config": {**CONFIG, "quantization_config": {"bits": 4}}}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_built_is_refused_by_its_files_alone(case: str, model_folder: ModelFolder) -> None:
    kind, broken = REFUSED[case]
    folder = model_folder(**broken)

    with pytest.raises(QeffBuildError) as caught:
        read_facts(folder)

    assert (caught.value.kind, caught.value.exit_code) == (kind, 2)
    assert "\n" not in caught.value.message
    assert caught.value.hint is None or "\n" not in caught.value.hint


STRANGE = (
    None,
    True,
    -1,
    0,
    1 << 70,
    0.5,
    float("inf"),
    "",
    "../..",
    "\ud800",
    [],
    [[]],
    {},
    {"a": {}},
    [None],
    {"1": [2]},
)


@pytest.mark.parametrize("key", [*CONFIG, "auto_map", "text_config", "quantization_config", "attn_config", "head_dim"])
def test_strange_values_are_read_or_refused_and_never_a_traceback(key: str, model_folder: ModelFolder) -> None:
    folder = model_folder()
    for value in STRANGE:
        (folder / "config.json").write_text(json.dumps({**CONFIG, key: value}))
        try:
            facts = read_facts(folder)
        except QeffBuildError:
            continue
        facts.save(folder / "facts.json")
        assert Facts.load(folder / "facts.json").tensors == facts.tensors


def test_a_complaint_about_config_json_names_its_line(model_folder: ModelFolder) -> None:
    folder = model_folder(config='{\n "model_type": "llama",\n "hidden')

    with pytest.raises(QeffBuildError) as caught:
        read_facts(folder)

    assert caught.value.where == f"{folder / 'config.json'}:3"


def test_an_unknown_model_type_gets_a_suggestion(model_folder: ModelFolder) -> None:
    folder = model_folder(config={"model_type": "mixtrall"})

    with pytest.raises(QeffBuildError) as caught:
        read_facts(folder)

    assert caught.value.hint is not None
    assert "did you mean mixtral" in caught.value.hint


def test_code_that_transformers_has_itself_is_not_needed_and_not_refused(model_folder: ModelFolder) -> None:
    table = {"AutoConfig": "configuration_llama.LlamaConfig", "AutoModelForCausalLM": "modeling_llama.LLaMAForCausalLM"}
    folder = model_folder(config={**CONFIG, "auto_map": table})

    assert read_facts(folder).model_type == "llama"


def test_a_missing_folder_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(QeffBuildError) as caught:
        read_facts(tmp_path / "nowhere")

    assert (caught.value.kind, caught.value.exit_code) == ("model.absent", 2)
    assert "nowhere" in caught.value.message


def test_reading_facts_imports_nothing_beyond_the_standard_library() -> None:
    program = (
        "import sys; from qeffbuild import models; models.read_facts(models.DEMO); models.listing(models.DEMO);"
        "print([name for name in ('torch', 'transformers', 'numpy', 'yaml', 'huggingface_hub') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("config", "kv_heads"),
    [
        ({"model_type": "falcon", "num_attention_heads": 71, "num_kv_heads": 71, "multi_query": True}, 1),
        ({"model_type": "falcon", "num_attention_heads": 8, "num_kv_heads": 2, "new_decoder_architecture": True}, 2),
        ({"model_type": "dbrx", "n_heads": 6, "num_key_value_heads": 4, "attn_config": {"kv_n_heads": 3}}, 3),
        ({"model_type": "gpt2", "n_head": 12}, 12),
    ],
)
def test_heads_of_the_cache_are_those_that_the_family_uses(config: dict[str, object], kv_heads: int) -> None:
    assert num_key_value_heads(config) == kv_heads
