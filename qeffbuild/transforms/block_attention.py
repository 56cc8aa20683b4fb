"""Attention is marked to be done in blocks: over rows (b), heads (h), queries (q) and slots of the cache (kv).

A backend writes the marked operator out as loops (qeffbuild.graph.blocked). Sizes that nobody names are chosen here: as
few blocks as keep the scores of one within a budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from qeffbuild.errors import ModelError
from qeffbuild.graph.blocked import Blocks, Heads, fits
from qeffbuild.graph.ops import ATTENTION, given, sizes_of, symbolic
from qeffbuild.transforms.subject import Subject

BUDGET = 6 << 20  # bytes of one block's scores in float16, which are to stay in a core's fast memory
LEAST_SLOTS, LEAST_QUERIES = 128, 16  # below, a product is too small to be worth its turn of the loop


def apply(subject: Subject, said: Mapping[str, Any]) -> None:
    nodes = symbolic(subject.graph, ATTENTION)
    layers = {state.layer for state in subject.signature.states if state.kind == "key"}
    if len(nodes) < len(layers) or not nodes:
        raise _unfit(f"{len(layers) - len(nodes)} of {len(layers)} layers work out their attention themselves")
    kinds = []
    for node in nodes:
        blocks = _blocks(node, said)
        blocks.mark(node)
        kinds.append({name: getattr(blocks, name) for name in Blocks.__slots__})
    subject.report |= {
        "layers": len(nodes),
        "blocks": [kind for at, kind in enumerate(kinds) if kind not in kinds[:at]],
    }


def _blocks(node: ir.Node, said: Mapping[str, Any]) -> Blocks:
    q, k, v, _ = given(node)
    sizes = sizes_of(q, k, v)
    wanted = said["head_block_size"]
    if wanted is not None and wanted < sizes.heads and not fits(wanted, sizes):
        allowed = ", ".join(str(size) for size in range(1, sizes.heads) if fits(size, sizes))
        raise _unfit(
            f"head_block_size: blocks of {wanted} of {sizes.heads} heads are no groups of {sizes.group}, nor parts",
            f"transforms.head_block_size: one of {allowed}",
        )
    lengths, heads = _lengths(said, sizes)
    return Blocks(
        num_batch_blocks=_number(lengths["b"], said["shapes"]["batch_size"], said["num_batch_blocks"]),
        head_block_size=min(heads, sizes.heads),
        num_q_blocks=_number(lengths["q"], said["shapes"]["prefill_seq_len"], said["num_q_blocks"]),
        num_kv_blocks=_number(lengths["kv"], said["shapes"]["ctx_len"], said["num_kv_blocks"]),
        skip_kv=said["skip_kv"],
    )


def _number(length: int, whole: int, said: int | None) -> int:
    return said if said is not None else -(-whole // length)


def _lengths(said: Mapping[str, Any], sizes: Heads) -> tuple[dict[str, int], int]:
    """How long a block is along each axis, and its heads: what is said, else halved until scores fit the budget."""
    shapes = said["shapes"]
    whole = {"kv": shapes["ctx_len"], "q": shapes["prefill_seq_len"], "b": shapes["batch_size"]}
    named = {"kv": said["num_kv_blocks"], "q": said["num_q_blocks"], "b": said["num_batch_blocks"]}
    lengths = {axis: -(-size // (named[axis] or 1)) for axis, size in whole.items()}
    heads = said["head_block_size"] or sizes.heads
    least = {"kv": LEAST_SLOTS, "q": LEAST_QUERIES, "b": 1}
    free = [axis for axis in ("kv", "q", "b") if axis in said["axes"] and named[axis] is None]
    while 2 * heads * lengths["kv"] * lengths["q"] * lengths["b"] > BUDGET:
        axis = next((axis for axis in free if lengths[axis] >= 2 * least[axis]), None)
        smaller = [size for size in range(1, heads) if fits(size, sizes)]
        if axis is not None:
            lengths[axis] = -(-lengths[axis] // 2)
        elif "h" in said["axes"] and said["head_block_size"] is None and smaller:
            heads = smaller[-1]
        else:
            break
    return lengths, heads


def _unfit(found: str, hint: str = "leave transforms.blocking_mode out") -> ModelError:
    return ModelError("onnx.unsupported", f"transforms.blocking_mode: {found}", hint=hint)
