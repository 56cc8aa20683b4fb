"""A real compile for Hexagon: tokens on the simulator are PyTorch's, and what cannot be compiled is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import by_hand
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import small_decoder as small
from by_hand import SHAPES, Build

from qeffbuild import api
from qeffbuild.backends.qnn.htp import wheel
from qeffbuild.backends.qnn.htp.shapes import fix_shapes
from qeffbuild.backends.qnn.options import Options
from qeffbuild.backends.qnn.session import open_session
from qeffbuild.errors import AbsentError, BackendError, ModelError, RunError, StepError, VerificationError
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.package import Package
from qeffbuild.runtime.engine import Engine
from qeffbuild.spec.types import DecodingSpec, QuantizationSpec

pytest.importorskip("onnxruntime_qnn")

spec = partial(by_hand.spec, "qnn")

PROMPT = [3, 1, 4, 1, 5]
DEMO = ("specialization.ctx_len=48", "specialization.prefill_seq_len=8")


def generate(package: Path, prompt: Sequence[int], tokens: int) -> list[int]:
    """Greedy tokens of row 0, by the runtime's own engine."""
    said = Engine.open(package).generate([prompt], DecodingSpec(max_new_tokens=tokens, ignore_eos=True))
    return list(said.outputs[0].token_ids)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small decoder in float16, for two rows."""
    asked = spec(specialization=replace(SHAPES, batch_size=2))
    return Build(asked, tmp_path_factory.mktemp("plain")).up_to("package")


def test_greedy_tokens_are_pytorchs(plain: Path) -> None:
    assert generate(plain, PROMPT, 6) == small.SmallDecoder().greedy(PROMPT, 6)


def test_rows_of_different_lengths_do_not_disturb_each_other(plain: Path) -> None:
    prompts = [[3, 1, 4, 1, 5], [2, 7]]

    said = Engine.open(plain).generate(prompts, DecodingSpec(max_new_tokens=5, ignore_eos=True))

    assert [list(output.token_ids) for output in said.outputs] == [
        small.SmallDecoder().greedy(prompt, 5) for prompt in prompts
    ]


def test_logits_of_every_position_are_those_of_the_last_one_each_time(plain: Path) -> None:
    session = open_session(Package.open(plain))
    tokens, positions = np.array([[3, 1, 4, 1], [2, 7, 0, 0]]), np.array([[0, 1, 2, 3], [0, 1, -1, -1]])
    inputs = {"input_ids": tokens, "position_ids": positions}

    states = session.allocate("decoder", 2, small.CONTEXT)
    every = session.run("decoder", {**inputs, "logits_index": np.tile(np.arange(4), (2, 1))}, states)["logits"]
    states = session.allocate("decoder", 2, small.CONTEXT)
    last = session.run("decoder", {**inputs, "logits_index": np.array([[3], [1]])}, states)["logits"]

    assert every.shape[:2] == (2, 4)
    np.testing.assert_allclose(every[0, 3], last[0, 0], atol=0.02)
    np.testing.assert_allclose(every[1, 1], last[1, 0], atol=0.02)


def test_a_package_says_its_chip_its_sizes_and_how_far_it_is_from_the_processor(plain: Path) -> None:
    package = Package.open(plain, verify=True)

    assert package.manifest["chip"] == {"soc_model": 60, "htp_arch": 73, "vtcm_mb": 8}
    assert package.manifest["sizes"] == {"batch_size": 2, "ctx_len": small.CONTEXT}
    assert {name: graph["seq_len"] for name, graph in package.manifest["graphs"].items()} == {
        "prefill": 4,
        "decoder": 1,
    }
    assert all(0 < graph["difference"] < 0.05 for graph in package.manifest["graphs"].values())
    assert {"prefill.onnx", "prefill_qnn.bin", "decode.onnx", "decode_qnn.bin"} <= set(package.manifest["files"])


def test_a_flipped_byte_of_a_binary_is_noticed(plain: Path, tmp_path: Path) -> None:
    copied = tmp_path / "package"
    copied.mkdir()
    for file in plain.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    binary = copied / "decode_qnn.bin"
    content = bytearray(binary.read_bytes())
    content[len(content) // 2] ^= 1
    binary.write_bytes(content)

    with pytest.raises(VerificationError) as caught:
        Package.open(copied, verify=True)

    assert caught.value.message.startswith("decode_qnn.bin: ")


def test_other_sizes_than_those_of_the_binary_are_refused(plain: Path) -> None:
    with pytest.raises(RunError) as caught:
        open_session(Package.open(plain)).allocate("decoder", 1, small.CONTEXT)

    assert caught.value.kind == "run.shape"


def test_the_simulators_lines_stay_off_stdout(plain: Path, capfd: pytest.CaptureFixture[str]) -> None:
    generate(plain, PROMPT, 1)

    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "quantization"),
    [
        (Options(), QuantizationSpec(method="int4", block_size=32)),
        (Options(precision="a16w8", calibration_file="text", dlc=True), QuantizationSpec()),
    ],
    ids=["4-bit weights", "A16W8"],
)
def test_smaller_weights_compile_whole_and_stay_near_the_processor(
    tmp_path: Path, options: Options, quantization: QuantizationSpec
) -> None:
    made = Build(spec(options, quantization=quantization), tmp_path)
    if options.precision == "a16w8":
        made.up_to("lower")
        _write_ranges(made)

    package = made.up_to("package")

    said = Package.open(package, verify=True).manifest
    assert all(graph["difference"] < 0.1 for graph in said["graphs"].values())
    assert len(generate(package, PROMPT, 3)) == 3
    assert (package / "dlc" / "decode.dlc").is_file() == options.dlc
    assert said["quantization"]["precision"] == options.precision


def _write_ranges(made: Build) -> None:
    """What `calibrate` measures; the small decoder has no tokenizer for a text."""
    from qeffbuild.backends.qnn.htp.calibrate import measure, watch
    from qeffbuild.backends.qnn.htp.provider import open_reference
    from qeffbuild.graph.weights import Folder, Weights
    from qeffbuild.graph.write import write_weights
    from qeffbuild.signature import IoSignature

    out = made.root / "calibrate"
    out.mkdir()
    model = load_graph(made.root / "lower" / "graph.onnx")
    weights = Weights(Folder(made.root / "export"), Folder(made.root / "checkpoint"))
    write_weights(model, weights, out / "graph.data")
    names = watch(model)
    save_graph(model, out / "graph.onnx")
    signature = IoSignature.load(made.root / "lower" / "io.json")
    tokens = [number % small.VOCAB for number in range(48)]
    ranges = measure(
        open_reference(out / "graph.onnx"), signature, names, tokens, {"seq_len": 4, "ctx_len": small.CONTEXT}
    )
    assert all(least < most for least, most in ranges.values())
    (out / "ranges.json").write_text(json.dumps({"ranges": ranges}))


def test_shared_weights_are_one_binary_that_the_simulator_does_not_load(tmp_path: Path) -> None:
    made = Build(spec(Options(weight_sharing=True)), tmp_path)

    package = made.up_to("package")

    assert [file.name for file in package.glob("*.bin")] == ["prefill_qnn.bin"]
    with pytest.raises(AbsentError) as caught:
        open_session(Package.open(package))
    assert caught.value.hint == "build with backend.weight_sharing=false to run it here"


def test_a_node_that_is_not_placed_is_named(tmp_path: Path) -> None:
    made = Build(spec(), tmp_path)
    lowered = made.up_to("lower") / "graph.onnx"
    model = load_graph(lowered)
    logits = next(value for value in model.graph.outputs if value.name == "logits")
    logits.name = "logits.before"
    strange = ir.node("Erf", [logits], name="strange_one")
    strange.outputs[0].name, strange.outputs[0].shape, strange.outputs[0].type = "logits", logits.shape, logits.type
    model.graph.append(strange)
    model.graph.outputs[list(model.graph.outputs).index(logits)] = strange.outputs[0]
    lowered.chmod(0o644)
    save_graph(model, lowered)

    with pytest.raises(ModelError) as caught:
        made.run("compile[decode]")

    assert caught.value.kind == "onnx.unsupported"
    assert caught.value.message.startswith("Erf (strange_one) is not placed on Hexagon")


def test_logits_that_are_too_far_from_the_processors_fail_the_compile(tmp_path: Path) -> None:
    made = Build(spec(Options(tolerance=1e-9)), tmp_path)

    with pytest.raises(StepError) as caught:
        made.up_to("compile[prefill]")

    assert caught.value.kind == "step.check"


def test_a_graph_with_an_open_size_is_refused() -> None:
    x = ir.Value(name="x", shape=ir.Shape(["seq_len"]), type=ir.TensorType(ir.DataType.FLOAT))
    found = ir.node("NonZero", [x], name="found")
    found.outputs[0].name = "found"
    found.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    found.outputs[0].shape = ir.Shape([1, None])
    model = ir.Model(ir.Graph([x], [], nodes=[found], opset_imports={"": 20}, name="open"), ir_version=10)

    model.graph.outputs.append(found.outputs[0])

    with pytest.raises(ModelError) as caught:
        fix_shapes(model, {"seq_len": 4})

    assert caught.value.message.startswith("found: ")


def test_a_missing_wheel_is_said_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "DISTRIBUTION", "onnxruntime-qnn-of-nobody")

    with pytest.raises(AbsentError) as caught:
        api.build(api.compose(["backend=qnn", "specialization.ctx_len=40"], conf_dirs=()))

    assert (caught.value.kind, caught.value.exit_code) == ("backend.absent", 3)
    assert caught.value.hint == "pip install 'qeffbuild[qnn]' (Linux on x86-64)"


@pytest.mark.slow
def test_the_demo_model_gives_the_tokens_of_the_processor_for_32_tokens(cache: Path) -> None:
    prompt, decoding = "And it came to pass", DecodingSpec(max_new_tokens=32)
    built = {name: api.build(api.compose([f"backend={name}", *DEMO], conf_dirs=())) for name in ("onnxruntime", "qnn")}

    said = {name: Engine.open(made.package).generate([prompt], decoding).outputs[0] for name, made in built.items()}

    assert said["qnn"] == said["onnxruntime"]
    assert len(said["qnn"].token_ids) == 32
    compiled = onnx.load(built["qnn"].package / "decode.onnx", load_external_data=False)
    assert [node.op_type for node in compiled.graph.node] == ["EPContext"]


def test_a_binary_that_is_not_one_is_refused_with_what_to_do(plain: Path, tmp_path: Path) -> None:
    copied = tmp_path / "package"
    copied.mkdir()
    for file in plain.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    size = (copied / "prefill_qnn.bin").stat().st_size
    (copied / "prefill_qnn.bin").write_bytes(bytes(size))

    with pytest.raises(BackendError) as caught:
        open_session(Package.open(copied))

    assert caught.value.kind == "backend.file"
