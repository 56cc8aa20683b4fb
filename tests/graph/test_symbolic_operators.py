"""The portable forms of the symbolic operators against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neutral_decoder import attend

from qeffbuild.errors import ModelError
from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.ops import lower_portable

QUIET = ort.SessionOptions()
QUIET.log_severity_level = 4
QUIET.intra_op_num_threads = 1


def value(name: str, dtype: Any, shape: list[Any]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype))))


def one_node(op_type: str, inputs: list[ir.Value], like: ir.Value, **attributes: float) -> ort.InferenceSession:
    """A graph of one symbolic operator, lowered and loaded."""
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": 20, "qeffbuild": 1}, name="one")
    emit = Emitter(graph, "n")
    made = emit(op_type, *inputs, domain="qeffbuild", **attributes)
    made.name, made.type, made.shape = "out", like.type, like.shape
    graph.extend(emit.waiting())
    graph.outputs.append(made)
    model = lower_portable(ir.Model(graph, ir_version=10))
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), QUIET, providers=["CPUExecutionProvider"])


def scatter_session(dtype: str, between: list[int]) -> ort.InferenceSession:
    cache = value("cache", dtype, ["B", *between, "C", 3])
    inputs = [cache, value("position_ids", np.int64, ["B", "S"]), value("updates", dtype, ["B", *between, "S", 3])]
    return one_node("CtxScatter", inputs, cache)


SCATTERS = {2: scatter_session("float32", [2]), 0: scatter_session("float32", [])}


@st.composite
def positions(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Rows of distinct slots with padding anywhere, and the number of slots."""
    slots, tokens, rows = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    order = [draw(st.permutations([*range(slots), *[-1] * tokens])) for _ in range(rows)]
    return np.array([row[:tokens] for row in order], np.int64), slots


@settings(max_examples=150, deadline=None)
@given(said=positions(), heads=st.sampled_from([2, 0]), seed=st.integers(0, 99))
def test_only_tokens_with_a_position_are_written(said: tuple[np.ndarray, int], heads: int, seed: int) -> None:
    position_ids, slots = said
    rng, between = np.random.default_rng(seed), [heads] if heads else []
    rows, tokens = position_ids.shape
    cache = rng.standard_normal((rows, *between, slots, 3)).astype(np.float32)
    updates = rng.standard_normal((rows, *between, tokens, 3)).astype(np.float32)

    feed = {"cache": cache, "position_ids": position_ids, "updates": updates}
    (found,) = SCATTERS[heads].run(None, feed)

    expected = cache.copy()
    for row in range(rows):
        for token, slot in enumerate(position_ids[row]):
            if slot >= 0:
                expected[row, ..., slot, :] = updates[row, ..., token, :]
    np.testing.assert_array_equal(found, expected)


def test_positions_far_below_zero_are_padding_too() -> None:
    cache = np.ones((1, 2, 4, 3), np.float32)
    feed = {"cache": cache, "position_ids": np.array([[-7, -1]]), "updates": np.zeros((1, 2, 2, 3), np.float32)}

    (found,) = SCATTERS[2].run(None, feed)

    np.testing.assert_array_equal(found, cache)


def test_a_slot_beyond_the_cache_is_an_error() -> None:
    cache = np.ones((1, 2, 4, 3), np.float32)
    feed = {"cache": cache, "position_ids": np.array([[4]]), "updates": np.zeros((1, 2, 1, 3), np.float32)}

    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument):
        SCATTERS[2].run(None, feed)


def test_updates_take_the_dtype_of_the_cache() -> None:
    cache = value("cache", np.float16, ["B", 1, "C", 2])
    inputs = [cache, value("position_ids", np.int64, ["B", "S"]), value("updates", np.float32, ["B", 1, "S", 2])]
    session = one_node("CtxScatter", inputs, cache)
    updates = np.array([[[[1.0, 2.0]]]], np.float32)

    feed = {"cache": np.zeros((1, 1, 2, 2), np.float16), "position_ids": np.array([[1]]), "updates": updates}
    (found,) = session.run(None, feed)

    assert found.dtype == np.float16
    assert found[0, 0].tolist() == [[0, 0], [1, 2]]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
def test_attention_equals_its_definition(heads: int, kv_heads: int, softcap: float, dtype: str) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (
        rng.standard_normal(shape).astype(dtype)
        for shape in ((2, heads, 3, 4), (2, kv_heads, 5, 4), (2, kv_heads, 5, 6))
    )
    mask = rng.random((2, 1, 3, 5)) < 0.5
    mask[..., 0] = True
    inputs = [
        value("q", dtype, ["B", heads, "S", 4]),
        value("k", dtype, ["B", kv_heads, "C", 4]),
        value("v", dtype, ["B", kv_heads, "C", 6]),
        value("mask", np.bool_, ["B", 1, "S", "C"]),
    ]
    session = one_node("Attention", inputs, value("like", dtype, ["B", "S", heads, 6]), scale=0.7, softcap=softcap)

    (found,) = session.run(None, {"q": q, "k": k, "v": v, "mask": mask})

    wide = [np.repeat(part.astype(np.float32), heads // kv_heads, axis=1) for part in (k, v)]
    expected = attend(q.astype(np.float32), *wide, mask, 0.7, softcap).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 if dtype == "float32" else 5e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_row_that_sees_nothing_stays_finite(dtype: str) -> None:
    shapes = [("q", 2), ("k", 1), ("v", 1)]
    inputs = [value(name, dtype, ["B", heads, "S", 4]) for name, heads in shapes]
    inputs.append(value("mask", np.bool_, ["B", 1, "S", "C"]))
    session = one_node("Attention", inputs, value("like", dtype, ["B", "S", 2, 4]), scale=1.0, softcap=0.0)

    feed = {name: np.full((1, heads, 2, 4), 9, dtype) for name, heads in shapes}
    (found,) = session.run(None, {**feed, "mask": np.zeros((1, 1, 2, 2), bool)})

    assert np.isfinite(found).all()


def test_an_operator_without_a_portable_form_is_refused() -> None:
    x = value("x", np.float32, [1])

    with pytest.raises(ModelError) as refused:
        one_node("Unheard", [x], x)

    assert refused.value.kind == "onnx.unsupported"
