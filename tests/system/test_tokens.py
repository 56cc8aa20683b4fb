"""From words on a command line to tokens: each equals PyTorch's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from qeffbuild.paths import HERE

Run = Callable[..., "CompletedProcess[str]"]
DEMO = HERE / "models" / "demo"

# Of several lengths: some end inside a chunk of 8, one on its border, one needs several chunks.
PROMPTS = [
    "And God said",
    "In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness",
    "The LORD is my",
    "Blessed",
    "And it came to pass in those days, that there went out a decree",
]


def ran(done: CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def greedy_by_pytorch(folder: Path, prompts: list[list[int]], steps: int, eos: set[int]) -> list[list[int]]:
    """Each prompt alone, without padding, without a cache of ours."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    answers = []
    for prompt in prompts:
        ids, answer = list(prompt), []
        with torch.no_grad():
            for _ in range(steps):
                token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
                ids.append(token)
                answer.append(token)
                if token in eos:
                    break
        answers.append(answer)
    return answers


def compare(package: Path, folder: Path, outputs: list[dict[str, Any]], prompts: list[str], steps: int) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    eos = set(json.loads((package / "manifest.json").read_text())["model"]["eos_token_id"])
    expected = greedy_by_pytorch(folder, [tokenizer.encode(prompt).ids for prompt in prompts], steps, eos)
    ours = [[token for token in output["token_ids"]] for output in outputs]

    assert [output["prompt"] for output in outputs] == prompts
    # An eos that ends the answer may or may not be listed; the tokens before it may not differ.
    strip = lambda row: [token for token in row if token not in eos]  # noqa: E731
    assert [strip(row) for row in ours] == [strip(row) for row in expected]


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [
        ("specialization.batch_size=1",),
        ("specialization.batch_size=2", "specialization.prefill_seq_len=8"),
        ("specialization.full_batch_size=3", "specialization.prefill_seq_len=8"),
    ],
    ids=["one row", "ragged rows in chunks", "continuous batching"],
)
def test_the_demo_answers_as_pytorch_does(shape: tuple[str, ...], qeffbuild: Run) -> None:
    words = [f"prompts={json.dumps(PROMPTS)}", "decoding.max_new_tokens=12", *shape]

    said = ran(qeffbuild("run", *words, "--json"))

    compare(Path(said["package"]), DEMO, said["outputs"], PROMPTS, 12)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gpt2", "llama", "mpt", pytest.param("gemma2", marks=pytest.mark.long)])
def test_a_tiny_random_model_answers_as_pytorch_does(model: str, qeffbuild: Run) -> None:
    prompts = PROMPTS[:3]
    shape = ["specialization.batch_size=2", "specialization.prefill_seq_len=8", "specialization.ctx_len=64"]
    words = [f"model={model}", "model.scale=tiny", "device_group=one", "backend=onnxruntime", *shape]

    said = ran(qeffbuild("run", *words, f"prompts={json.dumps(prompts)}", "decoding.max_new_tokens=8", "--json"))

    plan = ran(qeffbuild("cache", "ls", "--json"))
    folders = [Path(entry["path"]) / "out" / "model" for entry in plan["entries"] if entry["step"] == "fetch"]
    made = next(
        folder for folder in folders
        if (folder / "config.json").exists() and json.loads((folder / "config.json").read_text())["model_type"] == model
    )  # fmt: skip
    compare(Path(said["package"]), made, said["outputs"], prompts, 8)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["mamba", "lfm2"])
def test_a_state_that_passes_from_token_to_token_answers_as_pytorch_does(
    model_type: str, qeffbuild: Run, tmp_path: Path
) -> None:
    from qeffbuild.models.tiny import write_tiny

    write_tiny(tmp_path, model_type, seed=0, tokenizer=DEMO)
    # Two slots for three prompts: the third one finds what the first has left.
    shape = ["specialization.full_batch_size=2", "specialization.prefill_seq_len=8", "specialization.ctx_len=64"]
    words = ["model=hf", f"model.path={tmp_path}", f"prompts={json.dumps(PROMPTS[:3])}", "decoding.max_new_tokens=8"]

    said = ran(qeffbuild("run", *words, *shape, "--json"))

    compare(Path(said["package"]), tmp_path, said["outputs"], PROMPTS[:3], 8)
