"""A table of floats -> integers in blocks: `Rounded` stands for it in a graph until weights are written."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.blocks import round_to_nearest

ROUNDED = "Rounded"


def evaluate_rounded(node: ir.Node, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Numbers [rows, columns * bits / 8] and scales [rows, blocks] of a table [rows, columns]."""
    (rows, columns), bits = inputs[0].shape, node.attributes["bits"].as_int()
    block_size = node.attributes["block_size"].as_int()
    table = np.asarray(inputs[0], np.float32)
    blocks = round_to_nearest(table, bits=bits, block_size=block_size, symmetric=True)
    return [blocks.packed.reshape(rows, -1)[:, : columns * bits // 8], blocks.scales.reshape(rows, -1)]
