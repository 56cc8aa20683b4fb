"""Attention(q, k, v, mask) in blocks: loops over rows, heads, queries and slots, so that few scores exist at a time.

Rows, heads and queries are independent of each other: a loop stacks what its blocks give. Slots are not: their loop
carries the greatest score, the sum of shares and the mean so far, and corrects them when a greater score appears.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter, Input

_FLAG, _NUMBER = ir.TensorType(ir.DataType.BOOL), ir.TensorType(ir.DataType.INT64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """How many blocks each axis is cut into, and heads of one block; `skip_kv` leaves out slots nobody sees yet."""

    num_batch_blocks: int = 1
    head_block_size: int = 0  # 0: all heads at once
    num_q_blocks: int = 1
    num_kv_blocks: int = 1
    skip_kv: bool = True

    def mark(self, node: ir.Node) -> None:
        for name, value in asdict(self).items():
            node.attributes[name] = ir.AttrInt64(name, int(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """What is known of the sizes before anything runs."""

    heads: int
    kv_heads: int
    width: int
    value_width: int

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One attention, or a block of one: values [B, N, S, D], [B, K, C, D], [B, K, C, Dv], [B, 1 or N, S, C]."""

    q: ir.Value
    k: ir.Value
    v: ir.Value
    mask: ir.Value
    sizes: Heads
    mask_has_heads: bool
    scale: float
    softcap: float
    dtype: np.dtype

    @property
    def lowest(self) -> np.ndarray:
        """The smallest finite number."""
        return np.array(ml_dtypes.finfo(self.dtype).min, self.dtype)

    def widened(self, emit: Emitter, value: ir.Value) -> ir.Value:
        """In float32, as PyTorch sums up what a softmax shares out."""
        return value if self.dtype == np.float32 else emit("Cast", value, to=int(ir.DataType.FLOAT))

    def narrowed(self, emit: Emitter, value: ir.Value) -> ir.Value:
        """Of float32 in the attention's own dtype."""
        return value if self.dtype == np.float32 else emit("Cast", value, to=int(ir.DataType.from_numpy(self.dtype)))


Attend = Callable[[Emitter, Attention], ir.Value]  # -> [B, S, N, Dv]


def blocks_of(node: ir.Node) -> Blocks | None:
    """What `mark` left at an attention node."""
    said: Mapping[str, ir.Attr] = node.attributes
    if "num_kv_blocks" not in said:
        return None
    names = ("num_batch_blocks", "head_block_size", "num_q_blocks", "num_kv_blocks")
    return Blocks(**{name: said[name].as_int() for name in names}, skip_kv=bool(said["skip_kv"].as_int()))


def fits(block: int, sizes: Heads) -> bool:
    """Whether blocks of so many heads hold whole groups, or equal parts of one."""
    return sizes.heads % block == 0 and (block % sizes.group == 0 or sizes.group % block == 0)


def in_blocks(emit: Emitter, work: Attention, blocks: Blocks, plain: Attend) -> ir.Value:
    """From the outside in: rows, heads, queries, slots. `plain` attends to what is left undivided."""
    attend = plain
    if blocks.num_kv_blocks > 1:
        attend = _by_slots(blocks.num_kv_blocks, skip=blocks.skip_kv)
    if blocks.num_q_blocks > 1:
        attend = _by_queries(blocks.num_q_blocks, attend)
    if blocks.head_block_size and blocks.head_block_size < work.sizes.heads:
        attend = _by_heads(blocks.head_block_size, attend)
    if blocks.num_batch_blocks > 1:
        attend = _by_rows(blocks.num_batch_blocks, attend)
    return attend(emit, work)


def _by_rows(count: int, attend: Attend) -> Attend:
    def by_rows(emit: Emitter, work: Attention) -> ir.Value:
        rows = emit("Shape", work.q, start=0, end=1)
        size, turns = _cut(emit, rows, count)

        def one(inner: Emitter, turn: ir.Value) -> ir.Value:
            chosen = _members(inner, turn, size, rows)
            q, k, v, mask = (inner("Gather", value, chosen, axis=0) for value in (work.q, work.k, work.v, work.mask))
            return attend(inner, _with(work, q=q, k=k, v=v, mask=mask))

        stacked = _each(emit, turns, one, work.dtype)  # [turns, rows of a block, S, N, Dv]
        tail = emit("Shape", stacked, start=2)
        flat = emit("Reshape", stacked, emit("Concat", [-1], tail, axis=0))
        return emit("Slice", flat, [0], rows, [0])  # the last block repeats the last row until it is full

    return by_rows


def _by_heads(size: int, attend: Attend) -> Attend:
    def by_heads(emit: Emitter, work: Attention) -> ir.Value:
        sizes = work.sizes
        kv_size = max(size // sizes.group, 1)

        def one(inner: Emitter, turn: ir.Value) -> ir.Value:
            first = inner("Mul", turn, size)
            first_kv = inner("Div", first, sizes.group)
            q = _slice(inner, work.q, first, size, axis=1)
            k, v = (_slice(inner, value, first_kv, kv_size, axis=1) for value in (work.k, work.v))
            mask = _slice(inner, work.mask, first, size, axis=1) if work.mask_has_heads else work.mask
            of_block = Heads(heads=size, kv_heads=kv_size, width=sizes.width, value_width=sizes.value_width)
            return attend(inner, _with(work, q=q, k=k, v=v, mask=mask, sizes=of_block))

        stacked = _each(
            emit, emit.constant(sizes.heads // size), one, work.dtype
        )  # [turns, B, S, heads of a block, Dv]
        beside = emit("Transpose", stacked, perm=[1, 2, 0, 3, 4])
        return emit("Reshape", beside, [0, 0, sizes.heads, sizes.value_width])

    return by_heads


def _by_queries(count: int, attend: Attend) -> Attend:
    def by_queries(emit: Emitter, work: Attention) -> ir.Value:
        queries = emit("Shape", work.q, start=2, end=3)
        size, turns = _cut(emit, queries, count)

        def one(inner: Emitter, turn: ir.Value) -> ir.Value:
            chosen = _members(inner, turn, size, queries)
            q, mask = (inner("Gather", value, chosen, axis=2) for value in (work.q, work.mask))
            return attend(inner, _with(work, q=q, mask=mask))

        stacked = _each(emit, turns, one, work.dtype)  # [turns, B, queries of a block, N, Dv]
        beside = emit("Transpose", stacked, perm=[1, 0, 2, 3, 4])
        flat = emit("Reshape", beside, [0, -1, work.sizes.heads, work.sizes.value_width])
        return emit("Slice", flat, [0], queries, [1])  # the last block repeats the last query until it is full

    return by_queries


def _by_slots(count: int, *, skip: bool) -> Attend:
    def by_slots(emit: Emitter, work: Attention) -> ir.Value:
        sizes, zero = work.sizes, np.array(0, np.float32)
        lowest = np.array(work.lowest, np.float32)
        slots = emit("Shape", work.k, start=2, end=3)
        size, turns = _cut(emit, slots, count)
        if skip:
            turns = _until_nobody_sees(emit, work.mask, size, slots)
        rows, queries = emit("Shape", work.q, start=0, end=1), emit("Shape", work.q, start=2, end=3)
        column = emit("Concat", rows, [sizes.heads], queries, [1], axis=0)
        whole = emit("Concat", rows, [sizes.heads], queries, [sizes.value_width], axis=0)
        grouped = emit("Mul", work.q, np.array(work.scale, work.dtype))
        grouped = emit("Reshape", grouped, [0, sizes.kv_heads, -1, sizes.width])

        def one(inner: Emitter, turn: ir.Value, top: ir.Value, total: ir.Value, mean: ir.Value) -> tuple[ir.Value, ...]:
            start = inner("Mul", turn, size)
            end = inner("Add", start, size)
            k, v = (inner("Slice", value, start, end, [2]) for value in (work.k, work.v))
            scores = inner("MatMul", grouped, inner("Transpose", k, perm=[0, 1, 3, 2]))
            scores = work.widened(inner, scores)
            scores = inner("Reshape", scores, inner("Concat", [0, sizes.heads], queries, [-1], axis=0))
            if work.softcap:
                cap = np.array(work.softcap, np.float32)
                scores = inner("Mul", inner("Tanh", inner("Div", scores, cap)), cap)
            scores = inner("Where", inner("Slice", work.mask, start, end, [3]), scores, lowest)
            new_top = inner("Max", top, inner("ReduceMax", scores, [-1], keepdims=1))
            shares = inner("Exp", inner("Sub", scores, new_top))
            kept = inner("Exp", inner("Sub", top, new_top))
            total = inner("Add", inner("Mul", total, kept), inner("ReduceSum", shares, [-1], keepdims=1))
            by_group = inner("Concat", [0, sizes.kv_heads, -1], inner("Shape", k, start=2, end=3), axis=0)
            product = inner("MatMul", work.narrowed(inner, inner("Reshape", shares, by_group)), v)
            part = inner("Reshape", work.widened(inner, product), whole)
            return new_top, total, inner("Add", inner("Mul", mean, kept), part)

        begin = [emit("Expand", value, shape) for value, shape in ((lowest, column), (zero, column), (zero, whole))]
        _, total, mean = _loop(emit, turns, one, begin, np.dtype(np.float32))
        return emit("Transpose", work.narrowed(emit, emit("Div", mean, total)), perm=[0, 2, 1, 3])

    return by_slots


def _until_nobody_sees(emit: Emitter, mask: ir.Value, size: ir.Value, slots: ir.Value) -> ir.Value:
    """How many blocks there are up to the last slot that some token sees; one at least, which gives finite numbers."""
    seen = emit("ReduceMax", emit("Cast", mask, to=int(ir.DataType.UINT8)), [0, 1, 2], keepdims=0)
    number = emit("Range", 1, emit("Add", emit("Squeeze", slots), 1), 1)
    last = emit("ReduceMax", emit("Mul", emit("Cast", seen, to=int(ir.DataType.INT64)), number), [0], keepdims=1)
    return emit("Squeeze", _quotient_up(emit, emit("Max", last, [1]), size))


def _cut(emit: Emitter, length: ir.Value, count: int) -> tuple[ir.Value, ir.Value]:
    """length [1] in `count` blocks, or fewer where there is less: the size of a block [1] and their number []."""
    size = _quotient_up(emit, length, emit.constant([count]))
    return size, emit("Squeeze", _quotient_up(emit, length, size))


def _quotient_up(emit: Emitter, length: ir.Value, by: ir.Value) -> ir.Value:
    return emit("Div", emit("Sub", emit("Add", length, by), 1), by)


def _members(emit: Emitter, turn: ir.Value, size: ir.Value, length: ir.Value) -> ir.Value:
    """Which of `length` things are in a turn's block; where there are none left, the last."""
    within = emit("Range", 0, emit("Squeeze", size), 1)
    return emit("Min", emit("Add", emit("Mul", turn, size), within), emit("Sub", length, 1))


def _slice(emit: Emitter, value: ir.Value, first: ir.Value, size: int, *, axis: int) -> ir.Value:
    start = emit("Unsqueeze", first, [0])
    return emit("Slice", value, start, emit("Add", start, size), [axis])


def _with(work: Attention, **changed: object) -> Attention:
    return Attention(**{name: changed.get(name, getattr(work, name)) for name in Attention.__slots__})  # type: ignore[arg-type]


def _each(emit: Emitter, turns: ir.Value, one: Callable[[Emitter, ir.Value], ir.Value], dtype: np.dtype) -> ir.Value:
    """What `one` gives for each turn, stacked."""
    return _emit_loop(emit, turns, lambda inner, turn: (one(inner, turn),), [], dtype, stacked=1)[0]


def _loop(
    emit: Emitter, turns: ir.Value, one: Callable[..., tuple[ir.Value, ...]], begin: list[ir.Value], dtype: np.dtype
) -> tuple[ir.Value, ...]:
    """What is left of `begin` after every turn has changed it."""
    return _emit_loop(emit, turns, one, begin, dtype, stacked=0)


def _emit_loop(
    emit: Emitter,
    turns: ir.Value,
    one: Callable[..., tuple[ir.Value, ...]],
    begin: list[ir.Value],
    dtype: np.dtype,
    *,
    stacked: int,
) -> tuple[ir.Value, ...]:
    name = emit.name("Loop")
    inner = Emitter(emit.graph, name)
    number = ir.TensorType(ir.DataType.from_numpy(dtype))
    turn = ir.Value(name=f"{name}.turn", shape=ir.Shape([]), type=_NUMBER)
    going = ir.Value(name=f"{name}.going", shape=ir.Shape([]), type=_FLAG)
    entering = [ir.Value(name=f"{name}.state_{place}", type=number) for place in range(len(begin))]
    leaving = list(one(inner, turn, *entering))
    on = inner("Identity", going)
    on.type, on.shape = _FLAG, ir.Shape([])
    for value in leaving:
        value.type = number
    body = ir.Graph([turn, going, *entering], [on, *leaving], nodes=inner.waiting(), name=name)
    inputs: list[Input] = [turns, None, *begin]
    return emit.several("Loop", len(begin) + stacked, *inputs, body=body)
