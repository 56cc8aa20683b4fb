"""The last rewriting of any graph for Cloud AI 100: opset 17, norms as calls, values within float16, named nodes."""

from __future__ import annotations

import onnx_ir as ir

from qeffbuild.cloud_ai_100.layers import name_nodes
from qeffbuild.cloud_ai_100.norms import call_norms
from qeffbuild.cloud_ai_100.opset17 import to_opset17
from qeffbuild.graph.files import DOMAIN as SYMBOLIC
from qeffbuild.graph.halves import clip_to_float16
from qeffbuild.signature import IoSignature


def finish(model: ir.Model, signature: IoSignature) -> dict[ir.Node, int]:
    """Rewrites `model`, whose inputs and outputs are `signature`'s by now; the layers that its nodes show."""
    model.opset_imports.pop(SYMBOLIC, None)
    call_norms(model)
    to_opset17(model)
    clip_to_float16(model.graph)
    return name_nodes(model.graph, signature)
