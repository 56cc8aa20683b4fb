"""The sampler in the graph: what the host's sampler would do, run by ONNX Runtime in the device's form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_decoder as small
from played_device import Device

from qeffbuild.actions import transform as transform_action
from qeffbuild.cloud_ai_100.form import Form
from qeffbuild.cloud_ai_100.lower import lower
from qeffbuild.errors import QeffBuildError
from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.plan import Plan
from qeffbuild.runtime.sampling import Sampler, candidates
from qeffbuild.signature import IoSignature
from qeffbuild.spec.types import DecodingSpec

PROMPT = [3, 1, 4, 1, 5]
ASKED = {"name": "sampler", "max_top_k_ids": 64, "return_pdfs": True, "include_guided_decoding": False}
MOST = small.VOCAB  # fewer words than candidates were asked for
PLAIN: dict[str, float] = {
    "repetition_penalties": 1.0, "presence_penalties": 0.0, "temperatures": 1.0, "top_ks": 0, "top_ps": 1.0, "min_ps": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def decoder() -> small.SmallDecoder:
    return small.SmallDecoder()


@pytest.fixture
def device_of(decoder: small.SmallDecoder, tmp_path: Path) -> Callable[..., Device]:
    """device_of(form, rows, **asked): the decoder with a sampler, on a device that remembers."""

    def device(form: Form, rows: int, **asked: Any) -> Device:
        graph, out = tmp_path / "graph", tmp_path / "out"
        graph.mkdir()
        out.mkdir()
        model, signature = small.neutral_graph(decoder)
        save_graph(model, graph / "graph.onnx")
        signature.save(graph / "io.json")
        (graph / "export.json").write_text("{}")
        work = Work(
            name="transform", params={"passes": [{**ASKED, **asked}]}, inputs={"graph": graph}, leaves={}, out=out
        )
        transform_action.run(work)
        made = load_graph(out / "graph.onnx")
        return Device(made, lower(made, IoSignature.load(out / "io.json"), form), rows, tmp_path)

    return device


def settings(rows: int, accepted: list[list[int]], random: np.ndarray | None = None, **said: float) -> dict[str, Any]:
    values = PLAIN | said
    feed: dict[str, Any] = {name: np.full((rows, 1), value, np.float32) for name, value in values.items()}
    feed["top_ks"] = feed["top_ks"].astype(np.int32)
    feed["last_accepted_output_tokens"] = np.array(accepted)
    feed["random_numbers"] = np.full((rows, MOST), 0.5, np.float32) if random is None else random.astype(np.float32)
    return feed


def prefill(device: Device, prompt: list[int], **said: Any) -> int:
    feed = settings(1, [[-1] * len(prompt)], **said)
    device.run([prompt], [list(range(len(prompt)))], **feed)
    return int(device.made["next_tokens"][0, 0, 0])


def logits_after(decoder: small.SmallDecoder, ids: list[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return decoder(torch.tensor(ids))[-1].numpy()


def test_a_temperature_of_0_takes_the_likeliest(decoder, device_of) -> None:
    device = device_of(Form(), rows=1)
    answer = [prefill(device, PROMPT, temperatures=0.0)]

    while len(answer) < 6:
        at = len(PROMPT) + len(answer) - 1
        device.run([[answer[-1]]], [[at]], **settings(1, [[answer[-1]]], temperatures=0.0))
        answer.append(int(device.made["next_tokens"][0, 0, 0]))

    assert answer == decoder.greedy(PROMPT, 6)
    assert device.made["probs"][0, 0].argmax() == answer[-1]
    assert device.made["probs"][0, 0].sum() == 1


def test_penalties_are_those_of_the_host(decoder, device_of) -> None:
    device = device_of(Form(), rows=1)
    said = DecodingSpec(repetition_penalty=5.0, presence_penalty=3.0)
    host = Sampler(said, PROMPT, small.VOCAB)
    expected, ids = [], list(PROMPT)
    for _ in range(6):
        expected.append(host.choose(logits_after(decoder, ids)))
        ids.append(expected[-1])

    penalties = {"temperatures": 0.0, "repetition_penalties": 5.0, "presence_penalties": 3.0}
    prefill(device, [7, 8, 9], **penalties)  # an earlier prompt, which the next one's first token wipes out
    answer = [prefill(device, PROMPT, **penalties)]
    while len(answer) < 6:
        at = len(PROMPT) + len(answer) - 1
        device.run([[answer[-1]]], [[at]], **settings(1, [[answer[-1]]], **penalties))
        answer.append(int(device.made["next_tokens"][0, 0, 0]))

    assert answer == expected
    assert expected != decoder.greedy(PROMPT, 6)
    assert set(np.flatnonzero(device.states["past_repetition_penalty_buffer"][0])) == set(PROMPT + answer[:-1])
    assert set(np.flatnonzero(device.states["past_presence_penalty_buffer"][0])) == set(answer[:-1])


@pytest.mark.parametrize(
    "said",
    [
        {"temperature": 0.7},
        {"temperature": 1.3, "top_k": 5},
        {"temperature": 1.0, "top_p": 0.6},
        {"temperature": 0.5, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
        {"temperature": 1.0, "top_p": 0.0},
    ],
    ids=str,
)
def test_probabilities_are_those_of_the_host(said: dict[str, float], decoder, device_of) -> None:
    device = device_of(Form(), rows=1)
    words, shares = candidates(logits_after(decoder, PROMPT), DecodingSpec(**said))
    expected = np.zeros(small.VOCAB)
    expected[words] = shares

    prefill(device, PROMPT, **{f"{name}s": value for name, value in said.items()})

    np.testing.assert_allclose(device.made["probs"][0, 0], expected, atol=2e-6)


def test_draws_follow_the_probabilities(device_of) -> None:
    device = device_of(Form(), rows=1)
    random = np.random.default_rng(0)
    prefill(device, PROMPT)
    shares = device.made["probs"][0, 0].copy()
    draws = 600
    counts = np.zeros(small.VOCAB)

    for _ in range(draws):
        counts[prefill(device, PROMPT, random=random.random((1, MOST)))] += 1

    # Of 50 words the statistic has 49 degrees of freedom: above 86 in one of a thousand samples.
    assert ((counts - draws * shares) ** 2 / (draws * shares)).sum() < 86


def test_a_bitmask_leaves_only_allowed_words(device_of) -> None:
    device = device_of(Form(), rows=1, include_guided_decoding=True)
    allowed = np.zeros((1, small.VOCAB), bool)
    allowed[0, [11, 12]] = True

    feed = settings(1, [[-1] * len(PROMPT)]) | {"token_bitmasks": allowed}
    device.run([PROMPT], [list(range(len(PROMPT)))], **feed)

    assert set(np.flatnonzero(device.made["probs"][0, 0])) == {11, 12}


def test_slots_of_continuous_batching_have_buffers_of_their_own(decoder, device_of) -> None:
    device = device_of(Form(continuous_batching=True), rows=3)
    greedy = {"temperatures": 0.0}
    prompts = {2: PROMPT, 0: [9, 8, 7]}

    firsts = {}
    for slot, prompt in prompts.items():
        feed = settings(1, [[-1] * len(prompt)], **greedy) | {"batch_index": np.array([[slot]])}
        device.run([prompt], [list(range(len(prompt)))], **feed)
        firsts[slot] = int(device.made["next_tokens"][0, 0, 0])
    at = [[len(prompts[slot])] for slot in (0, 2)]
    feed = settings(2, [[firsts[0]], [firsts[2]]], **greedy) | {"batch_index": np.array([[0], [2]])}
    device.run([[firsts[0]], [firsts[2]]], at, **feed)

    seen = device.states["past_repetition_penalty_buffer"]
    assert firsts == {slot: decoder.greedy(prompt, 1)[0] for slot, prompt in prompts.items()}
    assert set(np.flatnonzero(seen[2])) == {*PROMPT, firsts[2]}
    assert set(np.flatnonzero(seen[0])) == {9, 8, 7, firsts[0]}
    assert seen[1].all()  # nobody has used it: it holds what memory held


def test_several_logits_give_several_tokens(decoder, device_of) -> None:
    device = device_of(Form(num_logits_to_keep=True), rows=1)
    one, several = (np.zeros((count, 1), np.int64) for count in (1, 3))
    feed = settings(1, [[-1] * 3], temperatures=0.0)
    device.run([PROMPT[:3]], [[0, 1, 2]], num_logits_to_keep=one, **feed)
    drafted = [PROMPT[3], PROMPT[4], 6]

    feed = settings(1, [[PROMPT[3], -1, -1]], temperatures=0.0)
    device.run([drafted], [[3, 4, 5]], num_logits_to_keep=several, **feed)

    expected = [decoder.greedy(PROMPT[:3] + drafted[: count + 1], 1)[0] for count in range(3)]
    assert device.made["next_tokens"][0, :, 0].tolist() == expected
    assert set(np.flatnonzero(device.states["past_presence_penalty_buffer"][0])) == {PROMPT[3]}


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["transforms.include_sampler=true"], "transforms.include_sampler"),
        (["backend=qaic", "transforms.return_pdfs=true"], "transforms.return_pdfs"),
    ],
)
def test_what_has_no_sampler_says_so(words: list[str], key: str, spec_of: Callable[..., Any]) -> None:
    with pytest.raises(QeffBuildError) as caught:
        spec_of(*words)

    assert (caught.value.kind, caught.value.message.partition(":")[0]) == ("spec.conflict", key)


def test_the_plan_says_what_the_sampler_is(plan_of: Callable[..., Plan]) -> None:
    words = (
        "backend=qaic",
        "transforms.include_sampler=true",
        "transforms.return_pdfs=true",
        "transforms.max_top_k_ids=64",
    )

    assert plan_of(*words)["transform"].params == {"passes": [ASKED]}
