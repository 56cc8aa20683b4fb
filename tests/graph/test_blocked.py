"""Attention in blocks: the numbers of the plain form, and never more scores at a time than a block has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from qeffbuild.graph.blocked import Blocks
from qeffbuild.graph.files import DOMAIN
from qeffbuild.graph.ops import lower_portable

ROWS, HEADS, TOKENS, SLOTS, WIDTH, VALUE_WIDTH = 3, 8, 13, 50, 8, 12

ALL = Blocks(num_batch_blocks=2, head_block_size=4, num_q_blocks=3, num_kv_blocks=4)
CASES = {
    "kv": Blocks(num_kv_blocks=4),
    "kv, all slots": Blocks(num_kv_blocks=4, skip_kv=False),
    "q": Blocks(num_q_blocks=5),
    "h": Blocks(head_block_size=4),
    "h, parts of a group": Blocks(head_block_size=1),
    "b": Blocks(num_batch_blocks=2),
    "bhqkv": ALL,
    "more blocks than there are": Blocks(num_batch_blocks=9, num_q_blocks=40, num_kv_blocks=99),
}


def graph_of(blocks: Blocks | None, kv_heads: int, softcap: float = 0.0, mask_heads: int = 1) -> ir.Model:
    number, flag = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.BOOL)
    shapes = {
        "q": ("b", HEADS, "s", WIDTH),
        "k": ("b", kv_heads, "c", WIDTH),
        "v": ("b", kv_heads, "c", VALUE_WIDTH),
        "mask": ("b", mask_heads, "s", "c"),
    }
    inputs = [
        ir.Value(name=name, shape=ir.Shape(shape), type=flag if name == "mask" else number)
        for name, shape in shapes.items()
    ]
    node = ir.node("Attention", inputs, {"scale": WIDTH**-0.5, "softcap": softcap}, domain=DOMAIN)
    if blocks is not None:
        blocks.mark(node)
    (out,) = node.outputs
    out.name, out.type, out.shape = "out", number, ir.Shape(("b", "s", HEADS, VALUE_WIDTH))
    graph = ir.Graph(inputs, [out], nodes=[node], opset_imports={"": 20, DOMAIN: 1}, name="attention")
    return lower_portable(ir.Model(graph, ir_version=10))


def values(kv_heads: int, mask_heads: int = 1) -> dict[str, np.ndarray]:
    """Rows that see more and more; the second token of the second row is padding."""
    random = np.random.default_rng(0)
    shape = {"q": (HEADS, TOKENS, WIDTH), "k": (kv_heads, SLOTS, WIDTH), "v": (kv_heads, SLOTS, VALUE_WIDTH)}
    made: dict[str, Any] = {
        name: random.standard_normal((ROWS, *sizes), np.float32) * 2 for name, sizes in shape.items()
    }
    last = np.arange(TOKENS)[None] + np.array([0, 7, 20])[:, None]
    mask = np.arange(SLOTS) <= last[..., None]
    mask[1, 1] = False
    return {**made, "mask": np.repeat(mask[:, None], mask_heads, 1)}


def run(model: ir.Model, given: dict[str, np.ndarray], options: Any = None) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.serde.serialize_model(model).SerializeToString(), options)
    return session.run(None, given)[0]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kv_heads", [HEADS, 4])
def test_blocks_give_what_the_whole_gives(case: str, kv_heads: int) -> None:
    given = values(kv_heads)

    whole = run(graph_of(None, kv_heads), given)
    in_blocks = run(graph_of(CASES[case], kv_heads), given)

    is_text = given["mask"][:, 0].any(-1)
    np.testing.assert_allclose(in_blocks[is_text], whole[is_text], rtol=2e-5, atol=2e-6)
    assert np.isfinite(in_blocks).all()


def test_capped_scores_and_a_mask_for_each_head_go_in_blocks_too() -> None:
    given = values(4, HEADS)
    given["mask"][:, 3] &= np.arange(SLOTS) % 2 == 0

    whole = run(graph_of(None, 4, 5.0, HEADS), given)
    in_blocks = run(graph_of(ALL, 4, 5.0, HEADS), given)

    is_text = given["mask"].any(-1).transpose(0, 2, 1)
    np.testing.assert_allclose(in_blocks[is_text], whole[is_text], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("blocks", "most"),
    [
        (None, ROWS * HEADS * TOKENS * SLOTS),
        (Blocks(num_kv_blocks=5), ROWS * HEADS * TOKENS * 10),
        (Blocks(num_q_blocks=4), ROWS * HEADS * 4 * SLOTS),
        (Blocks(head_block_size=2), ROWS * 2 * TOKENS * SLOTS),
        (Blocks(num_batch_blocks=3), HEADS * TOKENS * SLOTS),
        (ALL, 2 * 4 * 5 * 13),
    ],
)
def test_no_more_scores_than_one_block_has_exist_at_a_time(blocks: Blocks | None, most: int, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    model = graph_of(blocks, HEADS)

    run(model, values(HEADS), options)

    (profile,) = tmp_path.glob("profile*")
    assert max(scores_made(json.loads(profile.read_text()))) == most


def scores_made(events: list[dict[str, Any]]) -> list[int]:
    """How many numbers each shifted and exponentiated block, or each softmax, had."""
    sizes = []
    for event in events:
        if event["args"].get("op_name") in ("Softmax", "Exp") and event["name"].endswith("kernel_time"):
            (shape,) = (next(iter(shape.values())) for shape in event["args"]["output_type_shape"])
            sizes.append(int(np.prod(shape)))
    return sizes


def test_slots_that_nobody_sees_yet_are_left_out(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")

    run(graph_of(Blocks(num_kv_blocks=5), HEADS), values(HEADS), options)  # 33 of 50 slots are seen, ten to a block

    (profile,) = tmp_path.glob("profile*")
    assert len(scores_made(json.loads(profile.read_text()))) == 2 * 4


def test_the_graph_does_not_grow_with_the_number_of_blocks() -> None:
    few, many = (
        sum(1 for _ in graph_of(Blocks(num_kv_blocks=count, num_q_blocks=count), 4).graph.all_nodes())
        for count in (2, 64)
    )

    assert few == many
