"""A session's buffers: states stay where they are, shapes come and go, and nothing idle is touched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from decoder_steps import build, generate
from neutral_decoder import HEAD_WIDTH, KV_HEADS, Decoder, make_decoder, signature

from qeffbuild.backends.onnxruntime.session import Session, States, open_session
from qeffbuild.errors import BackendError
from qeffbuild.package import MANIFEST, Package, write_manifest


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return make_decoder(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="module")
def package(decoder: Decoder) -> Package:
    return build(decoder, decoder.checkpoint.parent)


@pytest.fixture
def session(package: Package) -> Session:
    return open_session(package, threads=1)


def swapping(package: Package) -> Session:
    """The same package, but no state is said to be safe in place."""
    said = dict(package.manifest)
    graph = {**said["graphs"]["decoder"], "in_place": []}
    return open_session(Package(package.path, {**said, "graphs": {"decoder": graph}}), threads=1)


def feed(session: Session, states: States, tokens: list[list[int]], positions: list[list[int]]) -> np.ndarray:
    inputs = {"input_ids": np.array(tokens), "position_ids": np.array(positions)}
    inputs["logits_index"] = np.zeros((len(tokens), 1), np.int64)
    return session.run("decoder", inputs, states)["logits"]


def test_the_signature_is_that_of_the_package(session: Session) -> None:
    assert session.signature("decoder") == signature()


def test_states_begin_as_zeros_in_the_shape_of_the_signature(session: Session) -> None:
    states = session.allocate("decoder", 3, 8)

    assert list(states.arrays) == [state.name for state in signature().states]
    assert {array.shape for array in states.arrays.values()} == {(3, KV_HEADS, 8, HEAD_WIDTH)}
    assert not any(array.any() for array in states.arrays.values())


def test_states_lie_side_by_side_each_from_the_start_of_a_line_of_the_processors_cache(session: Session) -> None:
    arrays = session.allocate("decoder", 1, 5).arrays.values()

    starts = [array.ctypes.data - next(iter(arrays)).ctypes.data for array in arrays]
    size = -(-KV_HEADS * 5 * HEAD_WIDTH * 4 // 64) * 64
    assert starts == [size * number for number in range(len(arrays))]


def test_a_run_writes_its_tokens_slots_and_no_others(session: Session) -> None:
    states = session.allocate("decoder", 3, 8)
    for array in states.arrays.values():
        array[...] = 7
    before = {name: (array, array.ctypes.data) for name, array in states.arrays.items()}

    feed(session, states, [[1, 2], [3, 0], [0, 0]], [[4, 5], [2, -1], [-1, -1]])

    written = np.zeros((3, 8), bool)
    written[0, 4:6] = written[1, 2] = True
    for name, array in states.arrays.items():
        assert (array, array.ctypes.data) == before[name]
        np.testing.assert_array_equal((array != 7).any(axis=(1, 3)), written)


def test_a_decoding_run_leaves_rows_that_sit_out_bit_for_bit(session: Session) -> None:
    states = session.allocate("decoder", 3, 8)
    for array in states.arrays.values():
        array[...] = 7

    feed(session, states, [[1], [2], [3]], [[5], [-1], [0]])

    written = np.zeros((3, 8), bool)
    written[0, 5] = written[2, 0] = True
    for array in states.arrays.values():
        np.testing.assert_array_equal((array != 7).any(axis=(1, 3)), written)


def test_two_buffers_that_change_places_give_the_same_as_one(package: Package) -> None:
    prompts = [[1, 2, 3, 4, 5, 6, 7], [11, 12], [21, 22, 23]]

    one, two = (generate(session, prompts, 2) for session in (open_session(package, threads=1), swapping(package)))

    for left, right in zip(one, two, strict=True):
        np.testing.assert_array_equal(left, right)


def test_swapped_states_are_read_where_they_are_now(package: Package) -> None:
    session = swapping(package)
    states = session.allocate("decoder", 1, 8)

    for position in range(3):
        feed(session, states, [[5]], [[position]])
        filled = states.arrays["past_key.0"].any(axis=(0, 1, 3))
        assert filled.tolist() == [slot <= position for slot in range(8)]


def test_a_row_that_sits_out_changes_nothing_for_itself_or_others(session: Session, decoder: Decoder) -> None:
    states = session.allocate("decoder", 2, 8)
    feed(session, states, [[1, 2], [0, 0]], [[0, 1], [-1, -1]])
    feed(session, states, [[0], [9]], [[-1], [0]])
    logits = feed(session, states, [[3], [10]], [[2], [1]])

    np.testing.assert_allclose(logits[0, 0], decoder.logits([1, 2, 3])[-1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits[1, 0], decoder.logits([9, 10])[-1], rtol=1e-4, atol=1e-4)


def test_a_slot_can_be_used_again_by_another_request(session: Session, decoder: Decoder) -> None:
    states = session.allocate("decoder", 1, 8)
    feed(session, states, [[1, 2, 3, 4, 5]], [[0, 1, 2, 3, 4]])

    logits = feed(session, states, [[9]], [[0]])

    np.testing.assert_allclose(logits[0, 0], decoder.logits([9])[0], rtol=1e-4, atol=1e-4)


def test_many_shapes_in_turn_keep_a_bounded_number_of_buffers(session: Session, decoder: Decoder) -> None:
    states = session.allocate("decoder", 1, 64)
    prompt = [n % 50 for n in range(40)]

    for width in [*range(1, 40), 40]:
        logits = feed(session, states, [prompt[:width]], [list(range(width))])
    feed(session, states, [prompt[:1]], [[0]])

    assert len(states.bindings) == 16
    np.testing.assert_allclose(logits[0, 0], decoder.logits(prompt[:1])[0], rtol=1e-4, atol=1e-4)


def test_outputs_are_the_same_memory_from_run_to_run(session: Session) -> None:
    states = session.allocate("decoder", 1, 8)

    first, second = feed(session, states, [[1]], [[0]]), feed(session, states, [[2]], [[1]])

    assert first is second


def test_inputs_of_a_narrower_integer_are_taken(session: Session, decoder: Decoder) -> None:
    states = session.allocate("decoder", 1, 8)
    inputs = {name: np.zeros((1, 1), np.int32) for name in ("input_ids", "position_ids", "logits_index")}

    logits = session.run("decoder", inputs, states)["logits"]

    np.testing.assert_allclose(logits[0], decoder.logits([0]), rtol=1e-4, atol=1e-4)


def test_a_graph_that_onnx_runtime_does_not_load_is_named(package: Package, tmp_path: Path) -> None:
    facts = {key: value for key, value in package.manifest.items() if key not in ("files", "digest")}
    (tmp_path / "decoder.onnx").write_bytes(b"no graph")
    write_manifest(tmp_path, {**facts, "tokenizer": None})
    assert json.loads((tmp_path / MANIFEST).read_text())["files"]["decoder.onnx"]["size"] == 8

    with pytest.raises(BackendError) as refused:
        open_session(Package.open(tmp_path))

    assert refused.value.kind == "backend.file"
    assert "decoder.onnx" in refused.value.message
