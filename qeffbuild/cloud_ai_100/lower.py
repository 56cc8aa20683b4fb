"""Neutral graph -> the Cloud AI 100 form: its inputs, its cache operators, opset 17; weights are still references."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass

from qeffbuild.cloud_ai_100.cache_ops import add_functions
from qeffbuild.cloud_ai_100.carried import with_heads, without_loops
from qeffbuild.cloud_ai_100.finish import finish
from qeffbuild.cloud_ai_100.form import Form, set_io, signature_of, unsupported
from qeffbuild.cloud_ai_100.functions import outline_layers
from qeffbuild.cloud_ai_100.images import lower_vision, retain_images, sees
from qeffbuild.cloud_ai_100.lower_reader import lower_reader, refuse_free_lengths
from qeffbuild.cloud_ai_100.merge_speech import merge_speech
from qeffbuild.cloud_ai_100.rewriting import Rewriting
from qeffbuild.cloud_ai_100.rings import with_rings
from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.fold import remove_unread
from qeffbuild.graph.held import hold_blocks
from qeffbuild.graph.tied import share_tied_head
from qeffbuild.graphs import GRAPH, IO, Member, members, place
from qeffbuild.signature import IoSignature

_HELD_BITS = (4,)  # of MatMulNBits that the compiler is known to take; wider integers become floats


def run(work: Work) -> None:
    main, *others = members(work.inputs["graph"])
    model, signature = load_graph(main.graph), main.signature
    if not signature.states:
        refuse_free_lengths(model.graph, signature)
        lowered = lower_reader(model, signature)
    elif others and not sees(signature):
        (encoder,) = others
        lowered = _lower_speech(model, signature, encoder, Form(**work.params))
    else:
        lowered = lower(model, signature, Form(**work.params))
        for vision in others:
            seen = load_graph(vision.graph)
            made = place(work.out, lower_vision(seen, vision.signature), is_main=False)
            save_graph(seen, made.graph)
    save_graph(model, work.out / GRAPH)
    lowered.save(work.out / IO)


def _lower_speech(model: ir.Model, signature: IoSignature, encoder: Member, form: Form) -> IoSignature:
    """Decoder and encoder in one graph; what the decoder only reads comes in as an input until they are joined."""
    if not all(isinstance(axis, int) for axis in encoder.signature.inputs[0].axes[1:]):
        raise unsupported(
            "its encoder hears sounds of any length, one by one; here a graph hears so many frames at once"
        )
    told = replace(signature, inputs=(*signature.inputs, *signature.held), held=())
    lowered = lower(model, told, form)
    heard = load_graph(encoder.graph)
    lower_reader(heard, encoder.signature)
    return merge_speech(model, heard, lowered, encoder.signature)


def lower(model: ir.Model, signature: IoSignature, form: Form) -> IoSignature:
    """Rewrites `model`; its inputs and outputs from now on."""
    InlinePass()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    without_loops(model.graph, signature.states, form.longest_run)
    signature = retain_images(model.graph, signature, one_row=form.continuous_batching)
    signature = with_rings(with_heads(model.graph, signature), form.rings_below)
    _hold_integers(model.graph)
    share_tied_head(model.graph)
    rewriting = Rewriting(model.graph, signature, form)
    rewriting.choose_logits()
    rewriting.rewrite_cache()
    rewriting.choose_rows()
    rewriting.rewrite_attention()
    remove_unread(model.graph)
    lowered = signature_of(signature, form)
    set_io(model.graph, signature, lowered)
    layers = finish(model, lowered)
    if form.sub_functions:
        outline_layers(model, layers)
    add_functions(model)
    return lowered


def _hold_integers(graph: ir.Graph) -> None:
    """Weights that the checkpoint has in 4 bits stay so, in MatMulNBits; others that it encodes become floats."""
    hold_blocks(graph, bits=_HELD_BITS)
    for node in graph:
        if node.op_type == "MatMulNBits":
            node.attributes.pop("accuracy_level", None)  # said to ONNX Runtime only
