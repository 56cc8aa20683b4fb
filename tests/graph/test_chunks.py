"""A loop over tokens whose algebra is known goes by chunks of tokens, and says the same as turn by turn."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.files import DOMAIN
from qeffbuild.graph.loops import lower_loops, one_chunk
from qeffbuild.graph.shapes import fill_shapes

HEADS, KEYS, VALUES, KERNEL = 2, 4, 3, 3
POSITIONS = np.stack([np.arange(90), np.arange(5, 95), np.arange(90) - 40, np.full(90, -1)])
POSITIONS[1, 60:] = -1  # a row that is shorter; the next begins behind padding; the last has no token at all
POSITIONS[2] = np.maximum(POSITIONS[2], -1)
POSITIONS[0, 7:9], POSITIONS[0, 9:] = -1, np.arange(7, 88)  # and padding in the middle


class Turn:
    """A graph of one marked loop, written node by node; every value's shape is told."""

    def __init__(self, *wholes: tuple[int, ...], states: tuple[tuple[int, ...], ...]) -> None:
        self.positions = value("position_ids", ["B", "S"], ir.DataType.INT64)
        self.wholes = [value(f"x.{i}", ["B", "S", *sizes]) for i, sizes in enumerate(wholes)]
        self.states = [value(f"state.{i}", ["B", *sizes]) for i, sizes in enumerate(states)]
        inputs = [self.positions, *self.wholes, *self.states]
        self.graph = ir.Graph(inputs, [], nodes=[], name="turn", opset_imports={"": 20, DOMAIN: 1})
        self.emit = Emitter(self.graph, "test")

    def token(self, place: int) -> ir.Value:
        """x[B, 1, ...] without its axis of tokens."""
        whole = self.wholes[place]
        one = self.marked("Token", whole, shape=["B", 1, *whole.shape[2:]])
        return self.shaped(self.emit("Squeeze", one, [1]), ["B", *whole.shape[2:]])

    def begin(self, place: int) -> ir.Value:
        state = self.states[place]
        return self.marked("StateIn", state, self.positions, shape=list(state.shape))

    def marked(self, kind: str, *inputs: ir.Value, shape: list) -> ir.Value:
        return self.shaped(self.emit(kind, *inputs, domain=DOMAIN), shape)

    def shaped(self, made: ir.Value, shape: list) -> ir.Value:
        made.shape, made.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        return made

    def model(self, result: ir.Value, *news: ir.Value) -> ir.Model:
        fill_shapes(node for node in self.emit._waiting)
        sizes = list(result.shape)[1:]
        one = self.shaped(self.emit("Unsqueeze", result, [1]), ["B", 1, *sizes])
        outs = [self.marked("Tokens", one, self.positions, shape=["B", "S", *sizes])]
        for state, new in zip(self.states, news, strict=True):
            outs.append(self.marked("StateOut", state, new, self.positions, shape=list(state.shape)))
        self.graph.extend(self.emit.waiting())
        self.graph.outputs.extend(outs)
        return ir.Model(self.graph, ir_version=10)


def value(name: str, shape: list, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def decaying(by_key: bool) -> ir.Model:
    """S' = exp(g) S + k v,  y = q S'"""
    turn = Turn(
        (HEADS, KEYS) if by_key else (HEADS,),
        (HEADS, KEYS),
        (HEADS, VALUES),
        (HEADS, KEYS),
        states=((HEADS, KEYS, VALUES),),
    )
    emit, shaped = turn.emit, turn.shaped
    log, k, v, q = (turn.token(place) for place in range(4))
    decay = emit("Unsqueeze", emit("Exp", log), [2] if not by_key else [3])
    decay = decay if by_key else emit("Unsqueeze", decay, [3])
    kv = emit("Mul", emit("Unsqueeze", k, [3]), emit("Unsqueeze", v, [2]))
    new = shaped(emit("Add", emit("Mul", turn.begin(0), decay), kv), ["B", HEADS, KEYS, VALUES])
    read = emit("ReduceSum", emit("Mul", new, emit("Unsqueeze", q, [3])), [2], keepdims=0)
    return turn.model(shaped(read, ["B", HEADS, VALUES]), new)


def correcting() -> ir.Model:
    """The gated delta rule: S' = exp(g) S + k beta (v - k exp(g) S),  y = q S'"""
    turn = Turn((HEADS,), (HEADS, KEYS), (HEADS, VALUES), (HEADS, KEYS), (HEADS,), states=((HEADS, KEYS, VALUES),))
    emit, shaped = turn.emit, turn.shaped
    log, k, v, q, beta = (turn.token(place) for place in range(5))
    kept = emit("Mul", turn.begin(0), emit("Unsqueeze", emit("Exp", log), [2, 3]))
    key = emit("Unsqueeze", k, [3])
    known = shaped(emit("ReduceSum", emit("Mul", kept, key), [2], keepdims=0), ["B", HEADS, VALUES])
    missing = emit("Mul", emit("Sub", v, known), emit("Unsqueeze", beta, [2]))
    new = emit("Add", kept, emit("Mul", key, emit("Unsqueeze", missing, [2])))
    shaped(new, ["B", HEADS, KEYS, VALUES])
    read = emit("ReduceSum", emit("Mul", new, emit("Unsqueeze", q, [3])), [2], keepdims=0)
    return turn.model(shaped(read, ["B", HEADS, VALUES]), new)


def selective() -> ir.Model:
    """S' = exp(dt A) S + dt b x,  y = S' c: decays of single elements."""
    turn = Turn((VALUES,), (KEYS,), (VALUES,), (KEYS,), states=((VALUES, KEYS),))
    emit, shaped = turn.emit, turn.shaped
    dt, b, x, c = (turn.token(place) for place in range(4))
    rates = emit.constant(-np.arange(1, VALUES * KEYS + 1, dtype=np.float32).reshape(VALUES, KEYS) / 4)
    step = emit("Unsqueeze", emit("Exp", dt), [2])
    written = emit("Mul", emit("Mul", step, emit("Unsqueeze", b, [1])), emit("Unsqueeze", x, [2]))
    new = emit("Add", emit("Mul", turn.begin(0), emit("Exp", emit("Mul", step, rates))), written)
    shaped(new, ["B", VALUES, KEYS])
    read = shaped(emit("MatMul", new, emit("Unsqueeze", c, [2])), ["B", VALUES, 1])
    return turn.model(shaped(emit("Squeeze", read, [2]), ["B", VALUES]), new)


def shifting() -> ir.Model:
    """A convolution along the text, each channel with its own filter."""
    turn = Turn((VALUES,), states=((VALUES, KERNEL),))
    emit, shaped = turn.emit, turn.shaped
    x = shaped(emit("Unsqueeze", turn.token(0), [2]), ["B", VALUES, 1])
    window = shaped(emit("Concat", turn.begin(0), x, axis=-1), ["B", VALUES, KERNEL + 1])
    new = shaped(emit("Slice", window, [-KERNEL], [1 << 62], [2]), ["B", VALUES, KERNEL])
    weights = np.random.default_rng(5).normal(size=(VALUES, 1, KERNEL)).astype(np.float32)
    seen = shaped(emit("Conv", window, emit.constant(weights), group=VALUES, kernel_shape=[KERNEL]), ["B", VALUES, 2])
    last = shaped(emit("Slice", seen, [-1], [1 << 62], [2]), ["B", VALUES, 1])
    return turn.model(shaped(emit("Squeeze", last, [2]), ["B", VALUES]), new)


def remembering() -> ir.Model:
    """Each token beside the one before it."""
    turn = Turn((VALUES,), states=((VALUES,),))
    x = turn.token(0)
    return turn.model(turn.shaped(turn.emit("Sub", x, turn.begin(0)), ["B", VALUES]), x)


def averaging() -> ir.Model:
    """S' = (S + x) / 2, which is the result: no axis is summed along."""
    turn = Turn((VALUES,), states=((VALUES,),))
    half = turn.emit("Mul", turn.emit("Add", turn.begin(0), turn.token(0)), np.float32(0.5))
    new = turn.shaped(half, ["B", VALUES])
    return turn.model(new, new)


def bending() -> ir.Model:
    """S' = tanh(S + x): no algebra makes one step of many."""
    turn = Turn((VALUES,), states=((VALUES,),))
    new = turn.shaped(turn.emit("Tanh", turn.emit("Add", turn.begin(0), turn.token(0))), ["B", VALUES])
    return turn.model(new, new)


KINDS = {
    "decaying": lambda: decaying(by_key=False),
    "decaying by key": lambda: decaying(by_key=True),
    "correcting": correcting,
    "selective": selective,
    "shifting": shifting,
    "remembering": remembering,
    "averaging": averaging,
}


def run(model: ir.Model, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    model.opset_imports.pop(DOMAIN, None)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def feed_of(model: ir.Model, positions: np.ndarray, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Random numbers of unit length; what is the logarithm of a decay is below zero."""
    rng, sizes = np.random.default_rng(2), {"B": len(positions), "S": positions.shape[1]}
    feed = {"position_ids": positions}
    for given in model.graph.inputs[1:]:
        shape = [size if isinstance(size, int) else sizes[str(size)] for size in given.shape]
        feed[given.name] = rng.normal(size=shape).astype(np.float32) / 2
    feed["x.0"] = -scale * np.abs(feed["x.0"])
    return feed


def check_alike(kind: str, feed: dict[str, np.ndarray], atol: float = 2e-6) -> list[np.ndarray]:
    """By chunks and token by token the same comes out; what comes of padding is read by nobody."""
    chunked, plain = KINDS[kind](), KINDS[kind]()
    assert lower_loops(chunked.graph).by_chunks == 1
    lower_loops(plain.graph, chunks=False)
    (y, *states), (wanted, *wanted_states) = run(chunked, feed), run(plain, feed)
    is_token = feed["position_ids"] >= 0
    np.testing.assert_allclose(y[is_token], wanted[is_token], rtol=1e-4, atol=atol)
    np.testing.assert_allclose(states[0], wanted_states[0], rtol=1e-4, atol=atol)
    return states


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_say_what_single_tokens_say(kind):
    feed = feed_of(KINDS[kind](), POSITIONS)

    states = check_alike(kind, feed)

    assert np.array_equal(states[0][3], feed["state.0"][3])  # the row without a token


MOST = {"decaying by key": 16, "correcting": 32, "shifting": 256, "remembering": 256}  # the others 64


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 13, 16])
def test_a_run_that_is_one_chunk_has_no_loop(kind, length):
    chunk, plain = KINDS[kind](), KINDS[kind]()
    positions = np.arange(length)[None] + np.array([[0], [7], [0], [3]])
    positions[1, -length // 2 :] = -1  # a row that ends before the run, and one that is not there
    positions[3] = -1
    feed = feed_of(plain, positions)

    assert one_chunk(chunk.graph) == MOST.get(kind, 64)
    lower_loops(plain.graph, chunks=False)

    assert not {"Scan", "Loop", "If"} & {node.op_type for node in chunk.graph}
    is_token = positions >= 0
    made, wanted = run(chunk, feed), run(plain, feed)
    np.testing.assert_allclose(made[0][is_token], wanted[0][is_token], rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(made[1], wanted[1], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("length", [1, 2, 31, 65])
def test_a_chunk_may_be_as_long_as_it_likes(length):
    check_alike("correcting", feed_of(correcting(), np.arange(length)[None] + 4))


@pytest.mark.parametrize("kind", ["decaying", "decaying by key", "correcting"])
def test_decays_that_leave_nothing_are_divided_by_nothing(kind):
    check_alike(kind, feed_of(KINDS[kind](), POSITIONS, scale=200))


def test_keys_that_are_all_alike_cancel_nothing():
    feed = feed_of(correcting(), np.arange(64)[None], scale=1e-3)
    feed["x.1"] = np.full_like(feed["x.1"], KEYS**-0.5)
    feed["x.4"] = np.full_like(feed["x.4"], 0.999)

    check_alike("correcting", feed, atol=1e-5)


def test_a_state_that_is_no_linear_one_goes_token_by_token_and_says_why():
    model = bending()

    said = lower_loops(model.graph)

    assert said.as_json() == {"by_chunks": 0, "token_by_token": {"a turn's state goes through Tanh": 1}}
    assert any(node.op_type == "Scan" for node in model.graph)


def test_no_loop_by_chunks_has_a_product_of_single_tokens():
    model = correcting()
    lower_loops(model.graph)

    choice = next(node for node in model.graph if node.op_type == "If")
    many = choice.attributes["else_branch"].as_graph()
    body = next(node for node in many if node.op_type == "Scan").attributes["body"].as_graph()

    assert not any(node.op_type == "Scan" for node in body)
    assert sum(node.op_type == "MatMul" for node in body) > 5


def test_a_quantized_product_is_done_for_all_tokens_at_once():
    turn = Turn((32,), states=((32,),))
    weights = [np.zeros((32, 1, 16), np.uint8), np.ones((32, 1), np.float32)]
    one = turn.shaped(turn.emit("Unsqueeze", turn.token(0), [1]), ["B", 1, 32])
    product = turn.emit("MatMulNBits", one, *weights, domain="com.microsoft", K=32, N=32, bits=4, block_size=32)
    x = turn.emit("Squeeze", turn.shaped(product, ["B", 1, 32]), [1])
    new = turn.shaped(turn.emit("Add", turn.emit("Mul", turn.begin(0), np.float32(0.5)), x), ["B", 32])
    model = turn.model(new, new)

    assert lower_loops(model.graph).as_json() == {"by_chunks": 1, "token_by_token": {}}
