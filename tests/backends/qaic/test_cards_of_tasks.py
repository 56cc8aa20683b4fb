"""Whole builds on the played card, of every task that it has a program for: they say what the default backend says."""

from __future__ import annotations

import contextlib
import io
import wave
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from adapter_folders import write_adapter

from qeffbuild import api
from qeffbuild.cli.front import main
from qeffbuild.runtime.engine import Engine
from qeffbuild.runtime.reader import open_reader
from qeffbuild.runtime.reading import Asked
from qeffbuild.spec.types import DecodingSpec

pytestmark = pytest.mark.slow

TEXTS = (
    "Hello there",
    "In the beginning",
    "And it came to pass in those days, that there went out a decree from Caesar Augustus",
)
DECODING = DecodingSpec(max_new_tokens=8, ignore_eos=True)
Both = Callable[..., tuple[Path, Path]]


@pytest.fixture
def both(played_compiler: Path) -> Both:
    """both("model=llama", ...): the packages for the processor and for the card, of one export."""

    def build(*words: str) -> tuple[Path, Path]:
        with contextlib.redirect_stderr(io.StringIO()):
            here = api.build(api.compose([*words], conf_dirs=())).package
            compiled = ["backend=qaic", f"backend.compiler={played_compiler}", *words]
            return here, api.build(api.compose(compiled, conf_dirs=())).package

    return build


def test_run_on_a_card_prints_what_the_default_backend_prints(
    card: ModuleType, played_compiler: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [
        *("run", "model=llama", "model.scale=tiny", 'prompts=["In the beginning","And it came to pass"]'),
        *("specialization.batch_size=2", "specialization.prefill_seq_len=8", "specialization.ctx_len=32"),
    ]
    said = []
    for more in ([], ["backend=qaic", f"backend.compiler={played_compiler}", "device_group.devices=[1]"]):
        assert main([*words, *more]) == 0
        said.append(capfd.readouterr().out)

    assert said[0] == said[1]
    assert card.LOG, "it was the card"


@pytest.mark.long
def test_adapters_that_are_inputs_travel_once(card: ModuleType, both: Both, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    words = ("model=llama", "model.scale=tiny", "specialization.ctx_len=32", "specialization.prefill_seq_len=8")
    with contextlib.redirect_stderr(io.StringIO()):
        fetched = api.build(api.compose([*words], conf_dirs=()), "export").folder_of("fetch")
    model = AutoModelForCausalLM.from_pretrained(fetched / "model")
    for seed, name in enumerate(("fr", "nl")):
        write_adapter(tmp_path / name, model, ("q_proj", "v_proj"), seed=seed)
    adapters = f"adapters={{fr:{tmp_path}/fr,nl:{tmp_path}/nl}}"
    packages = both(*words, adapters, "transforms.lora=inputs")

    told = []
    for package in packages:
        engine = Engine.open(package)
        for name in ("base", "nl", "fr"):
            decoding = DecodingSpec(max_new_tokens=4, ignore_eos=True, adapter=name)
            told.append([output.token_ids for output in engine.generate([[3, 1, 4], [27, 18]], decoding).outputs])

    assert told[:3] == told[3:]
    assert len({str(each) for each in told[:3]}) == 3
    sent = ["base_model" in str(run["given"]) for run in card.LOG]
    assert [place for place, is_sent in enumerate(sent) if is_sent] == [0, 8, 16]  # one after each change


@pytest.mark.long
def test_texts_are_embedded_as_here(card: ModuleType, both: Both) -> None:
    words = ("model=hf", "model.model_type=bert", "model.scale=tiny", "model.task=embedding")
    here, there = both(*words, "specialization.batch_size=2", "specialization.seq_len=[8,64]")

    vectors = [open_reader(package).answer(Asked(prompts=TEXTS)).as_json()["embeddings"] for package in (here, there)]

    np.testing.assert_allclose(vectors[0], vectors[1], atol=2e-5)
    assert {run["set"] for run in card.LOG} == {0, 1}


def test_a_sound_is_heard_once_and_written_as_here(card: ModuleType, both: Both, tmp_path: Path) -> None:
    sound = tmp_path / "tone.wav"
    with wave.open(str(sound), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((np.sin(np.arange(32000) / 8) * 9000).astype("<i2").tobytes())
    packages = both("model=hf", "model.model_type=whisper", "model.scale=tiny", "specialization.ctx_len=32")

    asked = Asked(audio=(str(sound),), decoding=DECODING)
    here, there = (open_reader(package).answer(asked).as_json()["outputs"][0] for package in packages)

    assert here["token_ids"] == there["token_ids"]
    assert [run["set"] for run in card.LOG] == [0, *[1] * (len(card.LOG) - 1)]
