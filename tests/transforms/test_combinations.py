"""Passes and forms together: what a spec allows says what PyTorch says, and what it does not is refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from combine import Kitchen, check
from wishes import draw, named

HALF, BRAIN = "model.dtype=float16", "model.dtype=bfloat16 backend.aic_hw_version=ai200"
HEADS, SHARE = "transforms.speculative_heads=HEADS_FILE", "transforms.share_weights=true"
TWICE, FUSE = "model.kv_head_replication=2", "transforms.fuse_projections=true"
BLOCKS = "transforms.blocking_mode=kv transforms.num_kv_blocks=3"

TOGETHER = (
    ("llama", "qaic", ("ADAPTERS transforms.lora=inputs", HALF, "specialization.logits_to_keep=3")),
    ("llama", "qaic", (HEADS, BLOCKS, HALF)),
    ("llama", "qaic", (HEADS, BRAIN, "transforms.clip_float16=true")),  # types alone: nothing here computes in it
    ("llama", "qaic", ("backend.sub_functions=true", SHARE, "specialization.num_speculative_tokens=2")),
    ("llama", "qaic", ("transforms.proxy=true", HALF)),
    ("phi3", "onnxruntime", (TWICE, "quantization=dynamic")),
    ("deepseek_v3", "onnxruntime", (TWICE, FUSE)),  # latents are one head
    ("deepseek_v3", "qaic", ("transforms.mla_absorption=true", BLOCKS, FUSE)),
)
REFUSED = (
    (
        "llama",
        "qaic",
        ("transforms.include_sampler=true transforms.return_pdfs=true", "specialization.logits_to_keep=0"),
    ),
    ("deepseek_v3", "qaic", (TWICE, "transforms.mla_absorption=true", FUSE)),
)


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Kitchen:
    return Kitchen(tmp_path_factory.mktemp("kitchen"))


@pytest.mark.slow
@pytest.mark.parametrize("asked", TOGETHER, ids=lambda asked: str(named(*asked)))
def test_what_is_allowed_says_what_pytorch_says(asked: tuple[str, str, tuple[str, ...]], kitchen: Kitchen) -> None:
    assert check(named(*asked), kitchen).startswith("same ")


@pytest.mark.slow
@pytest.mark.parametrize("asked", REFUSED, ids=lambda asked: str(named(*asked)))
def test_what_does_not_go_together_is_refused(asked: tuple[str, str, tuple[str, ...]], kitchen: Kitchen) -> None:
    assert check(named(*asked), kitchen).startswith("refused ")


def test_a_draw_is_the_same_wherever_it_is_drawn() -> None:
    assert draw(7) == draw(7)
    assert len({str(draw(number)) for number in range(100)}) > 90


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, 200, 20))
def test_drawn_wishes_say_what_pytorch_says_or_are_refused(first: int, kitchen: Kitchen) -> None:
    told = {str(draw(number)): check(draw(number), kitchen) for number in range(first, first + 20)}

    assert {drawn: said for drawn, said in told.items() if not said.startswith(("same ", "refused "))} == {}
