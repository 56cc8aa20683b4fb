"""The device's form of a graph says what PyTorch says, whatever the chunks, padding, rows and slots."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import small_decoder as small
from played_device import ANSWER, Device, chunks, generate

from qeffbuild.backends.qaic.pipeline import split_into_stages
from qeffbuild.cloud_ai_100.form import Form
from qeffbuild.cloud_ai_100.layers import partition_nodes
from qeffbuild.cloud_ai_100.lower import lower
from qeffbuild.errors import ModelError
from qeffbuild.signature import IoSignature

PROMPTS = ([3, 1, 4, 1, 5, 9, 2], [27, 18], [11, 12, 13, 14, 15])
CONTEXT = small.CONTEXT


@pytest.fixture(scope="module")
def decoder() -> small.SmallDecoder:
    return small.SmallDecoder()


def lowered(decoder, form: Form) -> tuple[ir.Model, IoSignature]:
    model, signature = small.neutral_graph(decoder)
    return model, lower(model, signature, form)


@pytest.fixture
def device_of(decoder, tmp_path: Path) -> Callable[..., Device]:
    """device_of(form, rows=1): the decoder in that form, on a device that remembers."""

    def device(form: Form, rows: int) -> Device:
        return Device(*lowered(decoder, form), rows, tmp_path)

    return device


@pytest.mark.parametrize("size", [1, 3, 4, 8])
def test_chunks_of_any_size_give_pytorchs_tokens(decoder, device_of, size: int) -> None:
    device = device_of(Form(), rows=1)

    assert generate(device, PROMPTS[:1], size) == [decoder.greedy(PROMPTS[0], ANSWER)]


@pytest.mark.parametrize("size", [2, 4, 8])
def test_ragged_rows_do_not_disturb_each_other(decoder, device_of, size: int) -> None:
    device = device_of(Form(), rows=3)

    assert generate(device, PROMPTS, size) == [decoder.greedy(prompt, ANSWER) for prompt in PROMPTS]


def test_padding_leaves_the_last_slot_to_the_last_token(decoder, device_of) -> None:
    prompt = [*range(20, 20 + CONTEXT)]  # the whole context, and 16 is no multiple of 5
    device = device_of(Form(), rows=1)

    for ids, positions in chunks([prompt], 5):
        logits = device.run(ids, positions)

    assert int(logits[0, -1].argmax()) == decoder.greedy(prompt, 1)[0]


def test_with_continuous_batching_a_row_may_sit_in_any_slot(decoder, device_of) -> None:
    device = device_of(Form(continuous_batching=True), rows=5)

    answers = generate(device, PROMPTS, 4, batch_index=np.array([[4], [0], [2]]))

    assert answers == [decoder.greedy(prompt, ANSWER) for prompt in PROMPTS]
    assert all(np.isnan(state[[1, 3]]).all() for state in device.states.values())


def test_a_slot_can_be_filled_again_while_others_decode(decoder, device_of) -> None:
    device = device_of(Form(continuous_batching=True), rows=2)
    first, second, third = PROMPTS
    expected = decoder.greedy(second, ANSWER)

    generate(device, [first, second], 8, batch_index=np.array([[0], [1]]))
    joined = generate(device, [third], 4, batch_index=np.array([[0]]))
    at = len(second) + ANSWER - 1
    logits = device.run([[expected[-1]], [0]], [[at], [-1]], batch_index=np.array([[1], [0]]))

    assert joined == [decoder.greedy(third, ANSWER)]
    assert int(logits[0, -1].argmax()) == decoder.greedy(second, ANSWER + 1)[-1]


def test_a_target_keeps_the_logits_of_its_last_tokens(decoder, device_of) -> None:
    device = device_of(Form(num_logits_to_keep=True), rows=1)
    prompt, truth = PROMPTS[0], decoder.greedy(PROMPTS[0], 4)
    kept = {count: np.zeros((count, 1), np.int64) for count in (1, 4)}

    (ids, positions), *_ = chunks([prompt], 8)
    first = device.run(ids, positions, num_logits_to_keep=kept[1])
    at = len(prompt)
    verified = device.run([truth], [[*range(at, at + 4)]], num_logits_to_keep=kept[4])

    assert first.shape == (1, 1, small.VOCAB)
    assert int(first[0, 0].argmax()) == truth[0]
    assert verified.argmax(-1)[0].tolist() == [decoder.greedy([*prompt, *truth[: i + 1]], 1)[0] for i in range(4)]


def test_a_compute_context_only_has_to_hold_what_was_written(decoder, device_of) -> None:
    device = device_of(Form(comp_ctx_lengths=True), rows=1)
    length = np.zeros(len(PROMPTS[0]) + ANSWER, np.int64)

    assert generate(device, PROMPTS[:1], 4, comp_ctx_lengths=length) == [decoder.greedy(PROMPTS[0], ANSWER)]


def test_continuous_batching_and_a_compute_context_go_together(decoder, device_of) -> None:
    device = device_of(Form(continuous_batching=True, comp_ctx_lengths=True), rows=4)
    more = {"batch_index": np.array([[3], [1], [0]]), "comp_ctx_lengths": np.zeros(14, np.int64)}

    answers = generate(device, PROMPTS, 4, **more)

    assert answers == [decoder.greedy(prompt, ANSWER) for prompt in PROMPTS]


def test_inputs_and_outputs_have_the_names_and_axes_of_the_device(decoder) -> None:
    model, signature = lowered(decoder, Form(continuous_batching=True, kv_cache_prefix="tok"))

    shapes = {
        value.name: [str(d) if isinstance(d, ir.SymbolicDim) else d for d in value.shape]
        for value in model.graph.inputs
    }
    states = [f"past_{kind}.{layer}_tok" for layer in (0, 1) for kind in ("key", "value")]
    assert [*shapes] == ["input_ids", "position_ids", "batch_index", *states]
    assert [value.name for value in model.graph.outputs] == ["logits", *(f"{name}_RetainedState" for name in states)]
    assert signature.states[0].axes == ("full_batch_size", 2, "ctx_len", 8)
    assert [state.output for state in signature.states] == [f"{name}_RetainedState" for name in states]
    assert signature.outputs[0].axes == ("batch_size", 1, small.VOCAB)


def test_the_graph_is_of_the_age_that_the_compiler_reads(decoder) -> None:
    model, _ = lowered(decoder, Form())

    assert (model.opset_imports, model.ir_version) == ({"": 17, "com.qualcomm.cloud": 1}, 8)
    assert {function.name for function in model.functions.values()} == {"CtxScatter", "CtxGather"}
    assert "Gelu" not in {node.op_type for node in model.graph}


def test_the_same_graph_is_lowered_to_the_same_bytes(decoder) -> None:
    first, second = (ir.to_proto(lowered(decoder, Form())[0]).SerializeToString(deterministic=True) for _ in range(2))

    assert first == second


def test_nodes_are_named_after_their_layers_and_split_between_them(decoder) -> None:
    model, _ = lowered(decoder, Form())
    nodes = list(partition_nodes(model))

    first, second = split_into_stages(nodes, stages=2, devices=4)

    assert (first.devices, second.devices) == ((0, 1), (2, 3))
    assert len(first.nodes) + len(second.nodes) == len(nodes) == len(set(first.nodes) | set(second.nodes))
    layers = [
        {int(found) for found in re.findall(r"layers\.(\d+)/", " ".join(stage.nodes))} for stage in (first, second)
    ]
    assert layers == [{0}, {1}]
    assert not any("Transpose" in name and "weight" in name for name in first.nodes)
    assert any(re.search(r"CtxScatter_\d+/ScatterND_\d+$", name) for name in second.nodes)


def test_a_state_that_is_no_cache_is_refused(decoder) -> None:
    model, signature = small.neutral_graph(decoder)
    recurrent = replace(signature.states[0], kind="recurrent", positional=False)

    with pytest.raises(ModelError) as caught:
        lower(model, signature.with_states((recurrent, *signature.states[1:])), Form())

    assert caught.value.kind == "onnx.unsupported"


def test_an_operator_without_a_form_in_opset_17_is_named(decoder) -> None:
    model, signature = small.neutral_graph(decoder)
    x = model.graph.inputs[0]
    mask = ir.node("BitwiseNot", [x])
    summed = ir.node("Add", [x, mask.outputs[0]])
    model.graph.insert_before(model.graph[0], [mask, summed])
    for node, index in list(x.uses()):
        if node not in (mask, summed):
            node.replace_input_with(index, summed.outputs[0])

    with pytest.raises(ModelError) as caught:
        lower(model, signature, Form())

    assert caught.value.kind == "onnx.unsupported"
    assert "BitwiseNot" in caught.value.message


def test_layers_as_calls_of_one_function_say_the_same(decoder, device_of) -> None:
    device = device_of(Form(sub_functions=True), rows=3)

    assert generate(device, PROMPTS, 4) == [decoder.greedy(prompt, ANSWER) for prompt in PROMPTS]


def test_each_layer_is_a_call_and_the_graph_around_them_is_small(decoder) -> None:
    plain, _ = lowered(decoder, Form(continuous_batching=True))
    model, signature = lowered(decoder, Form(continuous_batching=True, sub_functions=True))

    calls = [node for node in model.graph if node.op_type == "DecoderLayer"]
    assert [call.name for call in calls] == [f"layers.{layer}/DecoderLayer" for layer in range(small.LAYERS)]
    assert len(model.graph) < len(plain.graph) / 2
    assert [value.name for value in model.graph.outputs] == [value.name for value in plain.graph.outputs]
    assert {name for name, _ in partition_nodes(model) if name.startswith("layers.1")} >= {
        f"layers.1/DecoderLayer/{node.name}" for node in model.functions[calls[0].op_identifier()]
    } or len(model.functions[calls[0].op_identifier()]) >= 100
    assert signature.states[0].output == "past_key.0_RetainedState"


def test_layers_that_are_not_alike_are_functions_of_their_own(decoder) -> None:
    model, signature = small.neutral_graph(decoder)
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)

    lower(model, signature, Form(sub_functions=True))

    calls = [node.op_type for node in model.graph if node.domain == "qeffbuild.layers"]
    assert calls == ["DecoderLayer_0", "DecoderLayer_1"]
