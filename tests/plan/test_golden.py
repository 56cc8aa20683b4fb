"""The plans of the shipped recipes, byte for byte."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qeffbuild.plan import Plan

GOLDEN = Path(__file__).parent / "golden"

CASES: dict[str, tuple[str, ...]] = {
    "demo": ("recipe=demo",),
    "demo_int8": ("recipe=demo", "quantization=int8"),
    "tiny_llama": ("model=llama", "model.scale=tiny"),
    "gpt2_notebook": ("recipe=gpt2_notebook",),
    "mpt_notebook": ("recipe=mpt_notebook",),
    "cloud_cards_x4": ("model=llama", "backend=qaic", "device_group=x4", "specialization.full_batch_size=4"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_plan_is_the_golden_one(case: str, plan_of: Callable[..., Plan], request: pytest.FixtureRequest) -> None:
    path = GOLDEN / f"{case}.json"

    text = plan_of(*CASES[case]).canonical()

    if request.config.getoption("--write-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_the_same_words_give_the_same_plan_under_another_hash_seed(plan_of: Callable[..., Plan]) -> None:
    program = (
        "from qeffbuild import backends; from qeffbuild.plan import resolve; from qeffbuild.spec.compose import compose;"
        "from qeffbuild.spec.load import from_config; spec = from_config(compose(['recipe=demo'], conf_dirs=()).values);"
        "print(resolve(spec, 'package', backends.room(spec.backend.name, 'plan').steps).canonical(), end='')"
    )
    here = plan_of("recipe=demo").canonical()

    for seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        )
        assert there.stdout == here
