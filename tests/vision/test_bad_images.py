"""What cannot be shown to a model is refused in a line: before anything is built where that is known, else before it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_models

from qeffbuild import api
from qeffbuild.errors import QeffBuildError, RunError, SpecError
from qeffbuild.runtime.engine import Engine
from qeffbuild.spec.types import DecodingSpec


@pytest.fixture(scope="module")
def engine(built: Callable[..., Any]) -> Engine:
    return Engine.open(built("llava", "specialization.batch_size=2", "specialization.prefill_seq_len=8").package)


@pytest.fixture
def image(tmp_path: Path) -> str:
    small_models.picture().save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def refused(engine: Engine, prompts: list[str], images: list[str]) -> str:
    with pytest.raises(RunError) as caught:
        engine.stream(prompts, DecodingSpec(), images)
    assert caught.value.kind == "run.image"
    return caught.value.message


def test_there_are_as_many_images_as_places(engine: Engine, image: str) -> None:
    assert refused(engine, ["w1 <image> w2"], []) == "images: 0, but the prompts have 1 places for one"
    assert refused(engine, ["w1 <image> w2"], [image, image]) == "images: 2, but the prompts have 1 places for one"


def test_images_without_places_belong_to_one_prompt_or_one_to_each(engine: Engine, image: str) -> None:
    said = refused(engine, ["w1", "w2"], [image, image, image])

    assert said == "images: 3 for 2 prompts, and no prompt says which are its own"


def test_a_prompt_has_as_many_images_as_were_built_for(engine: Engine, image: str) -> None:
    said = refused(engine, ["<image> w1 <image>"], [image, image])

    assert said == "prompt 1: 2 images, but the package is built for 1"


def test_what_is_no_image_is_named(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a picture")
    small_models.picture().save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])

    assert "not an image that Pillow reads" in refused(engine, ["<image>"], [str(tmp_path / "notes.txt")])
    assert "half.png: cannot be read" in refused(engine, ["<image>"], [str(tmp_path / "half.png")])
    assert "no such image" in refused(engine, ["<image>"], [str(tmp_path / "none.png")])


def test_text_alone_is_answered_and_an_image_without_a_place_goes_in_front(engine: Engine, image: str) -> None:
    decoding = DecodingSpec(max_new_tokens=3, ignore_eos=True)

    alone = engine.generate(["w1 w2 w3"], decoding)
    implied = engine.generate(["w1 w2 w3"], decoding, [image])
    said = engine.generate(["<image>\nw1 w2 w3"], decoding, [image])

    assert len(alone.outputs[0].token_ids) == 3
    assert implied.outputs[0].token_ids == said.outputs[0].token_ids


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("model=demo", "images=[cat.png]"), "images"),
        (("model=demo", "specialization.img_size=336"), "specialization.img_size"),
        (("model=demo", "model.kv_offload=false"), "model.kv_offload"),
    ],
)
def test_a_model_of_text_is_shown_nothing(words: tuple[str, ...], key: str) -> None:
    with pytest.raises(QeffBuildError) as caught:
        api.admit(api.compose(words))

    assert caught.value.message.startswith(key)


def test_one_graph_for_both_sees_for_one_row(folder_of: Callable[[str], Path]) -> None:
    words = ("model=hf", f"model.path={folder_of('llava')}", "model.kv_offload=false", "specialization.batch_size=2")

    with pytest.raises(SpecError) as caught:
        api.admit(api.compose(words))

    assert caught.value.message.startswith("specialization.batch_size")


def test_a_folder_without_a_processor_is_refused(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    from qeffbuild.errors import ModelError
    from qeffbuild.models.processor import load_processor

    with pytest.raises(ModelError) as caught:
        load_processor(tmp_path, "llava")

    assert caught.value.kind == "model.processor"
