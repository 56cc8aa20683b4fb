"""A package on cards, with ONNX Runtime behind a binding that is played: tokens are PyTorch's, calls as they have to be.

No real card has run any of it: what is played is what is publicly known of the driver's binding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import by_hand
import numpy as np
import pytest
import small_decoder as small
import torch

from qeffbuild.backends.qaic.options import Options
from qeffbuild.backends.qaic.session import open_session
from qeffbuild.cloud_ai_100 import binding
from qeffbuild.errors import QeffBuildError
from qeffbuild.package import Package
from qeffbuild.runtime.engine import Engine
from qeffbuild.runtime.scheduler import Row
from qeffbuild.spec.types import DecodingSpec, DeviceGroupSpec, SpecializationSpec

PROMPTS = [[3, 1, 4, 1, 5, 9, 2], [27, 18], [11, 12, 13, 14, 15], [8]]
DECODING = DecodingSpec(max_new_tokens=5, ignore_eos=True)
EACH = {
    "chunks of ragged rows": {"batch_size": 2},
    "one row": {},
    "one token at a time": {"prefill_seq_len": 1},
    "only decode": {"prefill_only": False},
    "only prefill": {"prefill_only": True},
    "rows that come and go": {"full_batch_size": 2},
    "more slots than rows": {"full_batch_size": 2, "kv_cache_batch_size": 5},
    "rows that come and go, one token at a time": {"full_batch_size": 2, "prefill_seq_len": 1},
    "part of the context": {"comp_ctx_lengths_prefill": (8, 15), "comp_ctx_lengths_decode": (10, small.CONTEXT)},
    "drafts": {"num_speculative_tokens": (2, 3)},
    "logits of whole prompts": {"batch_size": 2, "logits_to_keep": 0},
    "logits of the last tokens, and drafts": {
        "logits_to_keep": 3,
        "num_speculative_tokens": (2,),
        "full_batch_size": 2,
    },
    "drafts in rows that come and go": {"num_speculative_tokens": (3,), "full_batch_size": 2},
}


@pytest.fixture
def package(tmp_path: Path, played_compiler: Path) -> Callable[..., Path]:
    """package(batch_size=2, ...) is the small decoder, compiled for these shapes."""

    def make(devices: tuple[int, ...] = (0,), options: Options | None = None, **shapes: Any) -> Path:
        asked = {"prefill_seq_len": 4, "ctx_len": small.CONTEXT, **shapes}
        spec = by_hand.spec(
            "qaic",
            options,
            specialization=SpecializationSpec(**asked),
            device_group=DeviceGroupSpec(devices=devices),
        )
        return by_hand.Build(spec, tmp_path / "steps", {"compiler": played_compiler}).up_to("package")

    return make


def answers(path: Path, **more: Any) -> list[list[int]]:
    made = Engine.open(path, **more).generate(PROMPTS, DECODING)
    return [list(output.token_ids) for output in made.outputs]


def refused(kind: str, call: Callable[[], Any]) -> QeffBuildError:
    with pytest.raises(QeffBuildError) as caught:
        call()
    assert caught.value.kind == kind
    return caught.value


@pytest.mark.parametrize("kind", EACH)
def test_a_card_says_what_pytorch_says(kind: str, card: ModuleType, package: Callable[..., Path]) -> None:
    shapes = EACH[kind]

    said = answers(package(**shapes))

    assert said == [small.SmallDecoder().greedy(prompt, 5) for prompt in PROMPTS]


def test_what_is_retained_never_travels(card: ModuleType, package: Callable[..., Path]) -> None:
    answers(package(full_batch_size=2, num_speculative_tokens=(3,)))

    sent = {(tuple(run["given"]), tuple(run["wanted"])) for run in card.LOG}
    assert sent == {(("batch_index", "input_ids", "num_logits_to_keep", "position_ids"), ("logits",))}
    assert {run["set"] for run in card.LOG} == {0, 1}


def test_what_is_retained_cannot_be_put_back_after_a_wrong_draft(
    card: ModuleType, package: Callable[..., Path]
) -> None:
    session = open_session(Package.open(package()))

    refused("run.speculation", lambda: session.contents(session.allocate("decoder", 1, small.CONTEXT)))


def test_as_much_context_is_computed_as_the_tokens_need(card: ModuleType, package: Callable[..., Path]) -> None:
    shapes = {"comp_ctx_lengths_prefill": (8, 15), "comp_ctx_lengths_decode": (10, small.CONTEXT)}

    Engine.open(package(**shapes)).generate([[1] * 7], DECODING)

    assert [run["set"] for run in card.LOG] == [0, 0, 2, 2, 2, 3]  # positions 0-3, 4-6, then 7, 8, 9 and 10


def test_every_position_can_be_scored(card: ModuleType, package: Callable[..., Path]) -> None:
    state = Engine.open(package(batch_size=2)).state
    rows = [Row(0, 0, PROMPTS[0][:4]), Row(1, 0, PROMPTS[1])]

    logits = np.array(state.run(4, rows, keep=0))

    decoder = small.SmallDecoder()
    for row in rows:
        expected = decoder(torch.tensor(row.token_ids)).detach().numpy()
        np.testing.assert_allclose(logits[row.slot, : len(row.token_ids)], expected, atol=1e-4)


def test_whole_chunks_are_scored_at_once_where_prefill_keeps_their_logits(
    card: ModuleType, package: Callable[..., Path]
) -> None:
    state = Engine.open(package(logits_to_keep=0)).state

    logits = np.array(state.run(4, [Row(0, 0, PROMPTS[0][:4])], keep=0))

    expected = small.SmallDecoder()(torch.tensor(PROMPTS[0][:4])).detach().numpy()
    np.testing.assert_allclose(logits[0], expected, atol=1e-4)
    assert [run["set"] for run in card.LOG] == [0]


def test_a_program_over_several_cards_says_which(card: ModuleType, package: Callable[..., Path]) -> None:
    path = package(devices=(0, 1))  # the played binding refuses a program that does not

    said = answers(path, devices=(1, 0))

    assert said == [small.SmallDecoder().greedy(prompt, 5) for prompt in PROMPTS]
    error = refused("run.shape", lambda: Engine.open(path, devices=(1,)))
    assert "1 devices, but the package was compiled for 2" in error.message


def test_16_a_card_that_is_not_there_is_named(
    card: ModuleType, package: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = package()

    error = refused("device.absent", lambda: Engine.open(path, devices=(7,)))
    monkeypatch.setenv("PLAYED_DEVICES", "0")
    none = refused("device.absent", lambda: Engine.open(path, devices=(0,)))

    assert (error.exit_code, error.message) == (3, "device_group.devices: device 7 is not there; there are 0, 1")
    assert error.hint == "device_group.devices=[0]"
    assert "the driver sees none" in none.message


def test_without_the_binding_the_error_says_what_to_install(package: Callable[..., Path]) -> None:
    error = refused("backend.absent", lambda: open_session(Package.open(package())))

    assert error.exit_code == 3
    assert "qaicrt is not installed" in error.message
    assert "Platform and Apps SDKs" in (error.hint or "")


def test_a_binding_that_does_not_load_says_why(
    package: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sdk").mkdir()
    (tmp_path / "sdk" / "qaicrt.py").write_text("raise ImportError('libQAic.so.1: cannot open shared object file')\n")
    monkeypatch.setattr(binding, "PLACES", {name: tmp_path / "sdk" for name in binding.PLACES})
    monkeypatch.setattr(sys, "path", list(sys.path))

    error = refused("backend.absent", lambda: open_session(Package.open(package())))

    assert "qaicrt does not load: libQAic.so.1: cannot open" in error.message


def test_a_program_that_is_not_the_packages_own_is_refused(card: ModuleType, package: Callable[..., Path]) -> None:
    path = package()
    found = Package.open(path)
    said = dict(found.manifest)
    graph = dict(said["graphs"]["decoder"])
    graph["signature"] = {**graph["signature"], "outputs": [{"name": "scores", "dtype": "float32", "axes": [1]}]}

    error = refused("backend.file", lambda: open_session(Package(path, {**said, "graphs": {"decoder": graph}})))

    assert "the program has no scores" in error.message


def test_a_device_that_fails_is_no_bug_of_ours(card: ModuleType, package: Callable[..., Path]) -> None:
    engine = Engine.open(package())
    card.ExecObj.run = lambda self: None  # nothing comes of it

    error = refused("step.device", lambda: engine.generate(PROMPTS, DECODING))

    assert error.exit_code == 4
    assert "input_ids [1, 4]" in error.message


def test_a_package_has_one_size(card: ModuleType, package: Callable[..., Path]) -> None:
    session = open_session(Package.open(package(batch_size=2)))

    error = refused("run.shape", lambda: session.allocate("decoder", 3, small.CONTEXT))

    assert "compiled for 2 of 16" in error.message
