"""The documents and the command line of recorded compilations, byte for byte, from the request and the graph's I/O.

Each file of `golden/` is one compilation by QEfficient 1.23.0.dev0 with a stand-in compiler (docs/cloud_ai_100.md):
what was asked, the graph's inputs and outputs, the arguments (files by their base names) and the files' text.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from qeffbuild.backends.qaic.options import Options
from qeffbuild.backends.qaic.options import check as check_options
from qeffbuild.backends.qaic.render import Asked, write_documents
from qeffbuild.cloud_ai_100.requests import is_continuous
from qeffbuild.errors import BackendError, SpecError
from qeffbuild.signature import IoSignature, State, Tensor
from qeffbuild.spec.types import (
    BackendSpec,
    BuildSpec,
    CacheSpec,
    DecodingSpec,
    DeviceGroupSpec,
    LaunchSpec,
    ModelSpec,
    QuantizationSpec,
    SpecializationSpec,
)

GOLDEN = Path(__file__).parent / "golden"
Case = dict[str, Any]

# Where we differ on purpose, and why. All else is equal.
WINDOW = "the window is the model's own 64; recorded is 128, which was written whatever the model said"
NO_WINDOW = "no axis of this graph is called sliding_window, so it is no symbol of it either"
ORDER = "our options have one order; there it was the order in which they were typed"
REFUSED = {
    "pp3_of_4dev": "three stages of four devices leave one unused, and there are only two layers",
    "ccl_explicit": "the lengths were changed without a word: [512, 1024] became [992, 4064]",
}
NOT_YET = {"big_gpt2_124m_subf": "sub_functions"}  # the command is right, but the graph has no function per layer
DIFFERENT = {
    "arch_gpt_oss": WINDOW,
    "cb_gpt_oss": WINDOW,
    "gpt_oss_decode_fullkv": NO_WINDOW,
    "cli_infer": ORDER,
    "opt_extra_flags": "the file is copied beside the graph, so it has our name for it",
}

NAMES = sorted(path.stem for path in GOLDEN.glob("*.json"))
COMMAND_LINE: dict[str, Case] = {  # what these words of the command line ask for
    "cli_infer": {
        "compile": {"num_devices": 2, "mxfp6_matmul": True, "mxint8_kv_cache": True, "mos": 1, "num_cores": 16}
        | {"aic_enable_depth_first": True, "stats_level": 70, "prefill_seq_len": 32, "ctx_len": 128}
    },
    "cli_infer_nodevice": {"compile": {"num_cores": 16, "mos": 1, "prefill_seq_len": 32, "ctx_len": 128}},
}
# Chosen by a rule there (facts, section 4); here they are said.
CHOSEN_LENGTHS = {
    "ccl_auto": ((4000, 8000, 16352), (4096, 8192, 16384)),
    "ccl_explicit": ((992, 4064), (1024, 2048, 4096)),
}


def load(name: str) -> Case:
    case = json.loads((GOLDEN / f"{name}.json").read_text())
    case["request"] = case["request"] | COMMAND_LINE.get(name, {})
    return case


def signature_of(case: Case) -> IoSignature:
    """The recorded I/O. Here, and only here, names are taken apart: the record says no more."""
    window = case["request"].get("config", {}).get("sliding_window")
    outputs = [name for name, _, _ in case["io"]["outputs"]]
    states = []
    for name, dtype, axes in case["io"]["inputs"]:
        if said := re.match(r"past_(key|value)\.(\d+)", name):
            held = window if "sliding_window" in axes else None
            output = next(output for output in outputs if output == f"{name}_RetainedState")
            layer = int(said[2])
            states.append(
                State(name=name, output=output, dtype=dtype, axes=tuple(axes), layer=layer, kind=said[1], window=held)
            )
    kept = {state.name for state in states} | {state.output for state in states}
    tensors = {
        side: tuple(Tensor(name=n, dtype=d, axes=tuple(a)) for n, d, a in case["io"][side] if n not in kept)
        for side in ("inputs", "outputs")
    }
    return IoSignature(graph="decoder", inputs=tensors["inputs"], outputs=tensors["outputs"], states=tuple(states))


def spec_of_case(case: Case, **shapes: Any) -> BuildSpec:
    asked = case["request"]["compile"]
    drafted = asked.get("num_speculative_tokens", ())
    said = {field.name: asked[field.name] for field in fields(SpecializationSpec) if field.name in asked}
    said |= {"num_speculative_tokens": (drafted,) if isinstance(drafted, int) else tuple(drafted)}
    said |= {name: tuple(asked.get(name, ())) for name in ("comp_ctx_lengths_prefill", "comp_ctx_lengths_decode")}
    said |= {"continuous_batching": case["request"].get("from_pretrained", {}).get("continuous_batching", False)}
    options = {field.name: asked[field.name] for field in fields(Options) if field.name in asked}
    for name in ("node_precision_info", "mdp_dump_partition_config"):
        if name in options:
            options[name] = Path(options[name]).name
    if case["request"].get("subfunctions"):
        options["sub_functions"] = True
    return BuildSpec(
        model=ModelSpec(num_hidden_layers=case["request"].get("config", {}).get("num_hidden_layers")),
        quantization=QuantizationSpec(
            mxfp6_matmul=asked.get("mxfp6_matmul", False), mxint8_kv_cache=asked.get("mxint8_kv_cache", False)
        ),
        specialization=SpecializationSpec(**said | shapes),
        device_group=DeviceGroupSpec(
            num_devices=asked.get("num_devices", 1), mdp_num_partitions=asked.get("mdp_num_partitions", 1)
        ),
        backend=BackendSpec(name="qaic", options=Options(**options)),
        decoding=DecodingSpec(),
        adapters={},
        launch=LaunchSpec(),
        cache=CacheSpec(),
    )


def documents_of(case: Case, spec: BuildSpec, out: Path) -> tuple[dict[str, str], list[str]]:
    """Ours: the files' text and the arguments."""
    named = {}
    if spec.backend.options.node_precision_info:
        named["node_precision_info"] = out.parent / "x.yaml"
        named["node_precision_info"].write_text("anything\n")
    out.mkdir()
    asked = Asked(
        options=spec.backend.options,
        shapes=spec.specialization,
        quantization=spec.quantization,
        continuous=is_continuous(spec),
        dtype="float32",
        num_devices=spec.device_group.size,
        stages=spec.device_group.mdp_num_partitions,
    )
    argv = write_documents(asked, two_layers(), signature_of(case), named, out)
    return {path.name: path.read_text() for path in out.iterdir() if path.name not in UNRECORDED}, argv


UNRECORDED = ("node_precision_info.yaml",)


def two_layers() -> ir.Model:
    """A graph with a node per layer: all that stages are made of."""
    x = ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
    first = ir.node("Neg", [x], name="layers.0/Neg_0")
    second = ir.node("Abs", first.outputs, name="layers.1/Abs_1")
    graph = ir.Graph([x], second.outputs, nodes=[first, second], opset_imports={"": 17}, name="decoder")
    return ir.Model(graph, ir_version=8)


def comparable(argv: list[str]) -> list[str]:
    """The graph's name is the class of a model there, and the same for all of ours."""
    return [re.sub(r"^-m=.*\.onnx$", "-m=graph.onnx", argument) for argument in argv]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED and name not in DIFFERENT])
def test_documents_and_command_are_the_recorded_ones(name: str, tmp_path: Path) -> None:
    case = load(name)
    prefill, decode = CHOSEN_LENGTHS.get(name, ((), ()))
    spec = spec_of_case(case, comp_ctx_lengths_prefill=prefill, comp_ctx_lengths_decode=decode)

    files, argv = documents_of(case, spec, tmp_path / "out")

    ours = {file: text for file, text in files.items() if file not in case.get("files_not_kept", ())}
    assert ours == case["files"]
    assert comparable(argv) == comparable(case["argv"])
    assert set(files) == {*case["files"], *case.get("files_not_kept", ())}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED and name not in NOT_YET])
def test_what_was_recorded_is_not_refused(name: str) -> None:
    prefill, decode = CHOSEN_LENGTHS.get(name, ((), ()))
    spec = spec_of_case(load(name), comp_ctx_lengths_prefill=prefill, comp_ctx_lengths_decode=decode)

    check_options(spec)


@pytest.mark.parametrize("name", NOT_YET)
def test_what_no_graph_of_ours_has_yet_is_refused(name: str) -> None:
    with pytest.raises(BackendError) as caught:
        check_options(spec_of_case(load(name)))

    assert (caught.value.kind, NOT_YET[name]) == ("backend.option", "sub_functions")
    assert "backend.sub_functions" in caught.value.message


@pytest.mark.parametrize("name", ["arch_gpt_oss", "cb_gpt_oss"])
def test_the_sliding_window_is_that_of_the_model(name: str, tmp_path: Path) -> None:
    case = load(name)

    files, argv = documents_of(case, spec_of_case(case), tmp_path / "out")

    recorded = case["files"]["specializations.json"]
    assert files["specializations.json"] == recorded.replace('"sliding_window":"128"', '"sliding_window":"64"')
    assert '"sliding_window":"128"' in recorded
    assert files["custom_io.yaml"] == case["files"]["custom_io.yaml"]
    assert comparable(argv) == comparable(case["argv"])


def test_a_graph_without_a_window_axis_has_no_window_symbol(tmp_path: Path) -> None:
    case = load("gpt_oss_decode_fullkv")

    files, argv = documents_of(case, spec_of_case(case), tmp_path / "out")

    recorded = json.loads(case["files"]["specializations.json"])
    for entry in recorded["specializations"]:
        assert entry["symbols"].pop("sliding_window") == "128"
    assert json.loads(files["specializations.json"]) == recorded
    assert comparable(argv) == comparable(case["argv"])


def test_options_are_written_in_one_order(tmp_path: Path) -> None:
    case = load("cli_infer")

    files, argv = documents_of(case, spec_of_case(case), tmp_path / "out")

    assert files == case["files"]
    assert sorted(comparable(argv)) == sorted(comparable(case["argv"]))
    moved = {"-mos=1", "-aic-enable-depth-first"}
    rest = [[argument for argument in said if argument not in moved] for said in (argv, case["argv"])]
    assert comparable(rest[0]) == comparable(rest[1])


def test_a_named_file_comes_along_under_our_name(tmp_path: Path) -> None:
    case = load("opt_extra_flags")

    files, argv = documents_of(case, spec_of_case(case), tmp_path / "out")

    assert files == case["files"]
    recorded = [argument.replace("=x.yaml", "=node_precision_info.yaml") for argument in case["argv"]]
    assert comparable(argv) == comparable(recorded)
    assert (tmp_path / "out" / "node_precision_info.yaml").read_text() == "anything\n"


def test_devices_that_would_stay_unused_are_refused() -> None:
    with pytest.raises(SpecError) as caught:
        check_options(spec_of_case(load("pp3_of_4dev")))

    assert caught.value.kind == "spec.divides"
    assert caught.value.hint == "with 4 devices use one of: 1, 2, 4"


def test_context_lengths_are_refused_where_they_were_changed_quietly(tmp_path: Path) -> None:
    case = load("ccl_explicit")
    prefill, decode = CHOSEN_LENGTHS["ccl_explicit"]

    with pytest.raises(SpecError) as caught:
        check_options(spec_of_case(case))
    files, argv = documents_of(
        case, spec_of_case(case, comp_ctx_lengths_prefill=prefill, comp_ctx_lengths_decode=decode), tmp_path / "out"
    )

    hint = "these fit: comp_ctx_lengths_prefill=[992, 4064] comp_ctx_lengths_decode=[1024, 2048, 4096]"
    assert (caught.value.kind, caught.value.hint) == ("spec.conflict", hint)
    assert files == case["files"]
    assert comparable(argv) == comparable(case["argv"])


def test_every_difference_is_still_one(tmp_path: Path) -> None:
    for name in DIFFERENT:
        case = load(name)
        files, argv = documents_of(case, spec_of_case(case), tmp_path / name)
        assert (files, comparable(argv)) != (case["files"], comparable(case["argv"])), name
