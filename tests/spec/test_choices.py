"""What a package remembers of its spec composes to the same spec again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qeffbuild.api.specs import steps_of
from qeffbuild.errors import SpecError
from qeffbuild.spec.choices import choices, words
from qeffbuild.spec.text import quoted
from qeffbuild.spec.types import BuildSpec

SpecOf = Callable[..., BuildSpec]


@pytest.mark.parametrize(
    "said",
    [
        (),
        ("recipe=gpt2_notebook",),
        ("recipe=llama_speculative",),
        ("recipe=llama_x4",),
        ("recipe=whisper",),
        ("backend=qnn", "backend.tolerance=null", "backend.vtcm_mb=null"),
        ("backend=qaic", 'backend.extra_args=["-a=b c","-d"]', "backend.mos=2"),
        ("quantization=int4", 'quantization.keep=["lm_head*","true"]', "quantization.budget=0.5"),
        ("model=llama", "model.scale=tiny", "backend=qaic", "device_group.devices=[4,5]"),
    ],
)
def test_the_same_spec_comes_of_what_is_remembered(spec_of: SpecOf, said: tuple[str, ...]) -> None:
    remembered = choices(spec_of(*said))

    again = spec_of(*words(remembered))

    assert choices(again) == remembered
    assert [step.params for step in steps_of(again, "export")] == [
        step.params for step in steps_of(spec_of(*said), "export")
    ]


def test_the_defaults_are_not_worth_a_word(spec_of: SpecOf) -> None:
    assert choices(spec_of()) == {"backend": "onnxruntime", "model.path": "package:models/demo"}


def test_where_and_how_it_ran_is_not_remembered(spec_of: SpecOf) -> None:
    elsewhere = spec_of("launch.jobs=3", "cache.verify=always", "decoding.top_k=3", "runs=2", "backend.threads=2")

    assert choices(elsewhere) == choices(spec_of())
    assert choices(spec_of("backend=qaic", "device_group.devices=[0,1]")) == choices(
        spec_of("backend=qaic", "device_group.devices=[7,9]")
    )


def test_a_place_on_one_machine_is_a_gap_that_another_must_fill(spec_of: SpecOf, tmp_path: Path) -> None:
    remembered = choices(spec_of("model=hf", f"model.path={tmp_path}", f"adapters={{fr: {tmp_path}}}"))

    assert str(tmp_path) not in str(remembered)
    with pytest.raises(SpecError, match=r"adapters\.fr: no value given") as refused:
        spec_of(*words(remembered))
    assert refused.value.kind == "spec.missing"
    assert spec_of(*words(remembered), "model.path=x", "adapters.fr=y").model.path == "x"


@pytest.mark.parametrize("text", ["true", "Null", ".5", "1e3", "a b", 'say "x"', "back\\", "${x}", "a,b", ""])
def test_a_quoted_text_stays_that_text(spec_of: SpecOf, text: str) -> None:
    assert spec_of(f"prompts=[{quoted(text)}]").prompts == (text,)
