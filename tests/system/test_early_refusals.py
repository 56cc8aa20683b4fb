"""What the words alone, or they and the model's task, decide against is refused before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import Call, Row, expect_refusal

TINY = ("model=hf", "model.scale=tiny", "cache.root=../cache")
LLAMA = (*TINY, "model.model_type=llama")
EMBEDDER = (*TINY, "model.model_type=bert", "model.task=embedding")
TRANSLATOR = (*TINY, "model.model_type=t5", "model.task=text-seq2seq")
PROMPT = "prompts=[hello]"


def refused(kind: str, says: str, *words: str) -> Row:
    return Row(f"{words[0]}, {' '.join(words[-2:])}", words, kind, says=says, files={"text": "In the beginning."})


EARLY = (
    refused("spec.conflict", "only models that go on with it alone", "build", *EMBEDDER, "quantization=gptq"),
    refused("spec.conflict", "only models that go on with it alone", "build", *TRANSLATOR, "quantization=awq"),
    refused("spec.conflict", "quantization.budget: it is measured", "build", *EMBEDDER,
            "quantization=int4", "quantization.budget=0.1"),
    refused("spec.conflict", "has no cache", "build", *EMBEDDER, "quantization.kv_cache=mxint8"),
    refused("spec.conflict", "quantization.kv_cache: it is measured", "build", *TRANSLATOR, "quantization.kv_cache=int8"),
    refused("model.calibration", "there is no file", "build", *LLAMA, "quantization=gptq", "quantization.calibration=no"),
    refused("spec.choice", "no adapter is called 'fr'", "run", *LLAMA, PROMPT, "decoding.adapter=fr"),
    refused("spec.conflict", "decoding.draft: no run", "run", *LLAMA, PROMPT, "decoding.draft=nowhere"),
    refused("spec.conflict", "eval_stride: 64 tokens", "eval", *LLAMA, "eval_stride=64",
            "specialization.ctx_len=64", "specialization.prefill_seq_len=8"),
    refused("run.prompt", "there is no prompt", "run", *LLAMA),
    refused("run.prompt", "prompt 2 is empty", "run", *EMBEDDER, 'prompts=["a",""]'),
    refused("run.prompt", "there is no prompt", "bench", *LLAMA),
    refused("run.task", "does not go on with a text", "bench", *EMBEDDER, PROMPT),
    refused("run.task", "does not go on with a text", "eval", *TRANSLATOR, "eval_file=text"),
    refused("run.eval", "there is no file", "eval", *LLAMA, "eval_file=nowhere"),
)  # fmt: skip


@pytest.mark.parametrize("row", EARLY, ids=str)
def test_what_needs_no_step_to_be_seen_is_refused_before_the_first(row: Row, call: Call, tmp_path: Path) -> None:
    expect_refusal(row, call, tmp_path)


def test_a_draft_that_is_no_package_is_refused_before_its_target_is_built(call: Call, tmp_path: Path) -> None:
    words = ("run", *LLAMA, "specialization=tlm", PROMPT, "decoding.draft=nowhere")

    expect_refusal(Row("draft", words, "verify.package", exit_code=6), call, tmp_path)
