"""The four modules take QEfficient's own command lines, and end as the rest of the program does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from qeffbuild import paths
from qeffbuild.cloud.door import main

DEMO = str(paths.HERE / "models" / "demo")

COMPILER = f"""#!{sys.executable}
import json, pathlib, sys
said = dict(a.partition("=")[::2] for a in sys.argv[1:])
assert pathlib.Path(said["-m"]).is_file()
out = pathlib.Path(said["-aic-binary-dir"])
out.mkdir()
(out / "programqpc.bin").write_text(json.dumps(sys.argv[1:]))
"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A graph with one state."""
    tensors = [("input_ids", TensorProto.INT64, ["batch_size", "seq_len"])]
    state = ("past_key.0", TensorProto.FLOAT, ["batch_size", 2, "ctx_len", 8])
    inputs = [helper.make_tensor_value_info(*said) for said in (*tensors, state)]
    outputs = [helper.make_tensor_value_info("past_key.0_RetainedState", *state[1:])]
    nodes = [helper.make_node("Identity", ["past_key.0"], ["past_key.0_RetainedState"])]
    path = tmp_path / "graph.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", inputs, outputs)), path)
    return path


def words(graph: Path, out: Path, *more: str) -> list[str]:
    shapes = [
        "--batch_size",
        "1",
        "--prompt_len",
        "8",
        "--ctx_len",
        "64",
        "--num_cores",
        "14",
        "--device_group",
        "[0,1]",
    ]
    return ["--onnx_path", str(graph), "--qpc-path", str(out), *shapes, *more]


def test_compile_writes_the_documents_and_runs_the_compiler(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    monkeypatch.setenv("QEFFBUILD_QAIC_COMPILE", str(compiler))

    code = main("compile", words(graph, tmp_path / "out", "--mxfp6", "--mos", "-1"))

    argv = json.loads((tmp_path / "out" / "qpcs" / "programqpc.bin").read_text())
    assert code == 0
    assert {"-mxfp6-matmul", "-aic-num-cores=14", "-mdp-load-partition-config=mdp_ts_2.json"} <= set(argv)
    assert not any(word.startswith("-mos") for word in argv)
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'out' / 'qpcs'}\n")


def test_compile_refuses_precisions_of_tensors_that_the_graph_has_not(
    graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "io.yaml"
    mine.write_text(" - IOName: past_key.7\n   Precision: float16\n")

    code = main("compile", words(graph, tmp_path / "out", "--custom_io_file_path", str(mine)))

    assert code == 2
    assert "error[backend.file]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("module", "said", "code", "kind"),
    [
        ("infer", ["--model_name", "x", "--num_cors", "4"], 2, "flag.unknown"),
        ("infer", ["--model_name", "x", "--num_cores", "4", "-sdp"], 2, "flag.unknown"),
        ("execute", ["--model_name", "x", "--qpc_path", "gone", "--prompt", "hi"], 2, "model.absent"),
        (
            "compile",
            ["--onnx_path", "gone", "--qpc_path", "q", "--num_cores", "4", "--device_group", "[0]"],
            2,
            "model.absent",
        ),
        ("export", ["--model_name", "no such/name"], 2, "model.name"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    module: str, said: list[str], code: int, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(module, said) == code
    assert capsys.readouterr().err.startswith(f"error[{kind}]")


def test_a_flag_is_listed_by_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("infer", ["--help"]) == 0
    assert "--device-group" in capsys.readouterr().out


@pytest.mark.slow
def test_a_command_line_runs_on_this_machine_and_its_package_again(capfd: pytest.CaptureFixture[str]) -> None:
    line = ["--model_name", DEMO, "--num_cores", "16", "--generation_len", "6", "--mxfp6", "--prompt", "Once|In the"]

    assert main("infer", [*line, "backend=onnxruntime"]) == 0
    answers = capfd.readouterr().out
    from qeffbuild import api

    made = api.build(api.compose([f"model.path={DEMO}", "model=hf", "prompts=[Once,In the]"])).package
    assert (
        main(
            "execute",
            ["--model_name", DEMO, "--qpc_path", str(made), "--prompt", "Once|In the", "--generation_len", "6"],
        )
        == 0
    )

    assert capfd.readouterr().out == answers
    assert answers.count("\n") == 2
