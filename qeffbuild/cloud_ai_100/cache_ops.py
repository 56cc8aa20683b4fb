"""The operators by which the device reads and writes its cache, as ONNX functions that any runtime can execute.

data [B, H, C, D] (with continuous batching [slots, H, C, D]), position_ids int64 [B, S], updates [B, H, S, D],
batch_index int64 [B, 1], ctx_indices int64 [B, 1, L], comp_ctx_len int64 [1] (= L).
The device drops a write to position 2^31 - 1; ONNX Runtime refuses it, and takes -1 for the last slot.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

DOMAIN = "com.qualcomm.cloud"
VERSION = 1
NOWHERE = (1 << 31) - 1  # the position whose write the device drops

_HEAD = '<opset_import: ["" : 17], domain: "com.qualcomm.cloud">'

# Each index counts along one axis of [B, H, S, 1] (or [B, H, L, 1]) and is the same along the others.
_NUMBERS = """
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    ones = Constant <value_ints = [1]> ()"""
_ROW = """
    row_count = Squeeze (rows)
    row_numbers = Range (zero, row_count, one)
    after_row = Constant <value_ints = [1, 2, 3]> ()
    row_column = Unsqueeze (row_numbers, after_row)
    row = Expand (row_column, shape)"""
_ROW_OF_SLOT = """
    after_row = Constant <value_ints = [2, 3]> ()
    row_column = Unsqueeze (batch_index, after_row)
    row = Expand (row_column, shape)"""
_COLUMN_OF_HEAD = """
    head_count = Squeeze (heads)
    head_numbers = Range (zero, head_count, one)
    around_head = Constant <value_ints = [0, 2, 3]> ()
    head_column = Unsqueeze (head_numbers, around_head)
    head = Expand (head_column, shape)"""


def _scatter(name: str, arguments: str, row: str) -> str:
    return f"""
{name} ({arguments}) => (result) {{{_NUMBERS}
    rows = Shape <start = 0, end = 1> (position_ids)
    heads = Shape <start = 1, end = 2> (data)
    tokens = Shape <start = 1, end = 2> (position_ids)
    shape = Concat <axis = 0> (rows, heads, tokens, ones){row}{_COLUMN_OF_HEAD}
    around_token = Constant <value_ints = [1, 3]> ()
    slot_column = Unsqueeze (position_ids, around_token)
    slot = Expand (slot_column, shape)
    index = Concat <axis = 3> (row, head, slot)
    result = ScatterND (data, index, updates)
}}"""


_GATHER = """
CtxGather (data, ctx_indices, comp_ctx_len) => (result) {
    rows_heads = Shape <start = 0, end = 2> (data)
    shape = Concat <axis = 0> (rows_heads, comp_ctx_len)
    slots = Expand (ctx_indices, shape)
    last = Constant <value_ints = [3]> ()
    index = Unsqueeze (slots, last)
    result = GatherND <batch_dims = 2> (data, index)
}"""

_GATHER_CB = f"""
CtxGatherCB (data, batch_index, ctx_indices, comp_ctx_len) => (result) {{{_NUMBERS}
    rows = Shape <start = 0, end = 1> (batch_index)
    heads = Shape <start = 1, end = 2> (data)
    slots = Shape <start = 2, end = 3> (ctx_indices)
    shape = Concat <axis = 0> (rows, heads, slots, ones){_ROW_OF_SLOT}{_COLUMN_OF_HEAD}
    last = Constant <value_ints = [3]> ()
    slot_column = Unsqueeze (ctx_indices, last)
    slot = Expand (slot_column, shape)
    index = Concat <axis = 3> (row, head, slot)
    result = GatherND (data, index)
}}"""

_TEXTS = {
    "CtxScatter": _scatter("CtxScatter", "data, position_ids, updates", _ROW),
    "CtxScatterCB": _scatter("CtxScatterCB", "data, batch_index, position_ids, updates", _ROW_OF_SLOT),
    "CtxGather": _GATHER,
    "CtxGatherCB": _GATHER_CB,
}


def add_functions(model: ir.Model) -> None:
    """Gives `model` the functions of this domain that its graph calls."""
    bodies = [model.graph, *model.functions.values()]
    called = {node.op_type for body in bodies for node in body if node.domain == DOMAIN}
    for name in sorted(called):
        function = ir.serde.deserialize_function(onnx.parser.parse_function(_HEAD + _TEXTS[name]))
        for number, node in enumerate(function):
            node.name = f"{node.op_type}_{number}"
        model.functions[function.identifier()] = function
    if called:
        for body in model.functions.values():
            body.opset_imports.setdefault(DOMAIN, VERSION)
        model.opset_imports[DOMAIN] = VERSION
