"""S' = g S + u, each element by itself -> what the state is behind every token: [tokens, B, ...] of each.

Nothing but these two operations is left of such a state: as turns of a loop, or in a few steps over all tokens.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.shapes import Shape


def by_turns(emit: Emitter, before: ir.Value, decay: ir.Value, written: ir.Value, sizes: Shape) -> ir.Value:
    """A loop of one product and one sum; the state `before` has `sizes` behind its rows."""
    name = emit.name("elements")
    state, g, u = (ir.Value(name=f"{name}.{part}", type=before.type) for part in ("state", "decay", "written"))
    inner = Emitter(emit.graph, name)
    new = inner("Add", inner("Mul", state, g), u)
    copy = inner("Identity", new)
    for value in (new, copy):
        value.type, value.shape = before.type, ir.Shape([None, *sizes])
    body = ir.Graph([state, g, u], [new, copy], nodes=inner.waiting(), name=name)
    _, every = emit.several("Scan", 2, before, decay, written, body=body, num_scan_inputs=2)
    return every


def by_doubling(emit: Emitter, before: ir.Value, decay: ir.Value, written: ir.Value, most: int) -> ir.Value:
    """No loop: two runs of 1, 2, 4 ... tokens make one twice as long. `most` is how many tokens there can be."""
    length = emit("Shape", decay, start=0, end=1)
    rest = emit("Shape", decay, start=1)
    reach = 1
    while reach < most:
        earlier = emit("Concat", [reach], rest, axis=0)

        def moved(value: ir.Value, first: float, shape: ir.Value = earlier) -> ir.Value:
            """Of the token so far before each; of those that have none, what changes nothing."""
            padded = emit("Concat", emit("Expand", np.array(first, np.float32), shape), value, axis=0)
            return emit("Slice", padded, [0], length, [0])

        written = emit("Add", emit("Mul", decay, moved(written, 0)), written)
        decay = emit("Mul", decay, moved(decay, 1))
        reach *= 2
    return emit("Add", emit("Mul", decay, emit("Unsqueeze", before, [0])), written)
