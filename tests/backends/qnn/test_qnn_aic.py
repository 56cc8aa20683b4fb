"""The QNN SDK's way: documents to the letter, the two tools by stand-ins, and what is refused before they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import by_hand
import pytest
import small_decoder as small
import yaml
from by_hand import Build

from qeffbuild.backends import qnn
from qeffbuild.backends.qnn.aic import sdk
from qeffbuild.backends.qnn.aic.overrides import Overrides, read_overrides
from qeffbuild.backends.qnn.options import Options
from qeffbuild.backends.qnn.session import open_session
from qeffbuild.errors import AbsentError, QeffBuildError
from qeffbuild.package import Package
from qeffbuild.spec.types import DeviceGroupSpec, QuantizationSpec, SpecializationSpec

spec = partial(by_hand.spec, "qnn")
GOLDEN = Path(__file__).parent / "golden"
LONG = SpecializationSpec(
    prefill_seq_len=128, ctx_len=4096, comp_ctx_lengths_prefill=(4064,), comp_ctx_lengths_decode=(1024, 2048, 4096)
)

# In the place of both tools: each reads what it is told to read, and leaves what a tool leaves.
CONVERTER = f"""#!{sys.executable}
import pathlib, sys
import onnx, yaml
said = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert sys.argv[1:11:2] == ["--input_network", "--output_path", "--config", "--float_bias_bitwidth", "--float_bitwidth"]
assert sys.argv[11:15] == ["--preserve_io_datatype", "--onnx_skip_simplification", "--target_backend", "AIC"]
graph = onnx.load(said["--input_network"])  # with its weights
listed = yaml.safe_load(open(said["--config"]))["Input Tensor Configuration"]
assert {{item["Name"] for item in listed}} == {{value.name for value in graph.graph.input}}
pathlib.Path(said["--output_path"]).write_text("a DLC")
"""
GENERATOR = f"""#!{sys.executable}
import json, pathlib, sys
said = dict(zip(sys.argv[1::2], sys.argv[2::2]))
settings = json.load(open(json.load(open(said["--config_file"]))["backend_extensions"]["config_file_path"]))
assert pathlib.Path(said["--dlc_path"]).read_text()
assert pathlib.Path(said["--backend"]).is_file()
assert pathlib.Path(said["--output_dir"]).is_dir()
program = {{"argv": sys.argv[1:], "settings": settings, "dlc": pathlib.Path(said["--dlc_path"]).read_text()}}
pathlib.Path(said["--output_dir"], said["--backend_binary"]).write_text(json.dumps(program))
"""


def options(**said: Any) -> Options:
    return Options(target="aic", **said)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like the SDK's, its tools stand-ins; the environment names it."""
    folder = tmp_path / "qairt" / "2.31.0.250130"
    for name, text in (
        (sdk.CONVERTER, CONVERTER),
        (sdk.GENERATOR, GENERATOR),
        (sdk.BACKEND, ""),
        (sdk.EXTENSIONS, ""),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv(sdk.SDK_ENV, str(folder))
    return folder


def rendered(tmp_path: Path, asked: Options | None = None, **parts: Any) -> Path:
    return Build(spec(asked or options(), **parts), tmp_path / "steps").up_to("render")


def raised(kind: str, call: Callable[[], Any]) -> QeffBuildError:
    with pytest.raises(QeffBuildError) as caught:
        call()
    assert caught.value.kind == kind
    return caught.value


DOCUMENTS = {
    "custom_io_config.yaml": {},
    "qnn_compile_backend.json": {},
    "qnn_compiler_config.json": {},
    "qnn_data_format_config.json": {"quantization": QuantizationSpec(mxint8_kv_cache=True)},
    "specializations.json": {},
    "tensor_slicing.json": {"device_group": DeviceGroupSpec(devices=(0, 1))},
    "compile.sh": {},
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_the_golden_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv(sdk.SDK_ENV, "/sdk")
    text = (rendered(tmp_path, **DOCUMENTS[name]) / name).read_text()

    if request.config.getoption("--write-golden"):
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


def test_the_folder_is_whole_without_an_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(sdk.SDK_ENV, raising=False)

    folder = rendered(tmp_path)

    converter, generator = json.loads((folder / "commands.json").read_text())
    assert converter[0] == f"{sdk.DEFAULT_SDK}/bin/x86_64-linux-clang/qairt-converter"
    assert generator[-2:] == ["--log_level", "error"]
    assert sorted(path.name for path in folder.iterdir()) == [
        *("commands.json", "compile.sh", "custom_io_config.yaml", "graph.onnx", "io.json"),
        *("qnn_compile_backend.json", "qnn_compiler_config.json", "specializations.json"),
    ]


def test_every_specialization_reaches_the_converter(tmp_path: Path) -> None:
    folder = rendered(tmp_path, specialization=LONG)

    text = (folder / "custom_io_config.yaml").read_text()
    names = json.loads((folder / "qnn_compile_backend.json").read_text())["graph_names"]
    assert "Name: comp_ctx_lengths\n" in text
    assert "Shape: (4064), (1024), (2048), (4096)\n" in text
    assert "Shape: (1, 128), (1, 1), (1, 1), (1, 1)\n" in text
    assert names == [f"model_configuration_{number}" for number in (1, 2, 3, 4)]


def test_a_single_specialization_is_called_model(tmp_path: Path) -> None:
    folder = rendered(tmp_path, specialization=SpecializationSpec(prefill_seq_len=1, ctx_len=small.CONTEXT))

    assert json.loads((folder / "qnn_compile_backend.json").read_text())["graph_names"] == ["model"]
    assert "Shape: (1, 1)\n" in (folder / "custom_io_config.yaml").read_text()


def test_what_was_asked_of_the_compiler_is_in_its_settings(tmp_path: Path) -> None:
    asked = options(mos=2, aic_enable_depth_first=True, num_cores=14, stats_level=70, allow_mxint8_mdp_io=True)
    folder = rendered(
        tmp_path,
        asked,
        quantization=QuantizationSpec(mxfp6_matmul=True),
        device_group=DeviceGroupSpec(devices=(0, 1, 2, 3)),
    )

    said = json.loads((folder / "qnn_compile_backend.json").read_text())
    assert said["compiler_max_out_channel_split"] == "2"
    assert said["compiler_enable_depth_first"] is True
    assert (said["compiler_num_of_cores"], said["compiler_stat_level"]) == (14, 70)
    assert (said["compiler_mxint8_mdp_io"], said["compiler_mxfp6_matmul_weights"]) == (True, True)
    assert said["compiler_mdp_load_partition_config"] == "tensor_slicing.json"


def test_an_mxint8_cache_is_said_in_both_documents(tmp_path: Path) -> None:
    folder = rendered(tmp_path, quantization=QuantizationSpec(mxint8_kv_cache=True))

    generator = json.loads((folder / "commands.json").read_text())[1]
    assert "DataType: uint8" in (folder / "custom_io_config.yaml").read_text()
    assert generator[generator.index("--data_format_config") + 1] == "qnn_data_format_config.json"


def test_states_of_sliding_layers_are_as_long_as_their_window(tmp_path: Path) -> None:
    made = Build(spec(options()), tmp_path / "steps")
    said = json.loads((made.root / "export" / "io.json").read_text())
    for state in said["states"]:
        state["window"] = 8 if state["layer"] else None
    (made.root / "export" / "io.json").write_text(json.dumps(said))

    folder = made.up_to("render")

    listed = (folder / "custom_io_config.yaml").read_text()
    shapes = {
        each["Name"]: each["Desired Model Parameters"]["Shape"]
        for each in yaml.safe_load(listed)["Input Tensor Configuration"]
    }
    assert (shapes["past_key.0"], shapes["past_key.1"]) == ("(1, 2, 16, 8)", "(1, 2, 8, 8)")
    sizes = [each["symbols"] for each in json.loads((folder / "specializations.json").read_text())["specializations"]]
    assert {each["sliding_window"] for each in sizes} == {"8"}


def test_both_tools_run_and_leave_a_package(root: Path, tmp_path: Path) -> None:
    made = Build(spec(options()), tmp_path / "steps")

    package = Package.open(made.up_to("package"), verify=True)

    program = json.loads((package.path / "qpc" / "programqpc.bin").read_text())
    said = json.loads((tmp_path / "steps" / "compile" / "compile.json").read_text())
    assert program["argv"] == said["commands"][1][1:]
    assert program["settings"]["compiler_num_of_cores"] == 16
    assert said["sdk_version"] == "2.31.0.250130"
    assert sorted(said["tools_sha256"]) == ["qairt-converter", "qnn-context-binary-generator"]
    assert raised("backend.absent", lambda: open_session(package)).exit_code == 3


def test_the_script_runs_both_tools_once_the_weights_are_there(root: Path, tmp_path: Path) -> None:
    folder = rendered(tmp_path)
    folder.chmod(0o755)

    without = subprocess.run([folder / "compile.sh"], capture_output=True, text=True, check=False)
    weights = tmp_path / "steps" / "checkpoint" / "model.safetensors"
    (folder / "model.safetensors").write_bytes(weights.read_bytes())
    subprocess.run([folder / "compile.sh"], check=True)

    assert (without.returncode, without.stderr) == (3, "put the model's model.safetensors into this folder first\n")
    assert json.loads((folder / "qpc" / "programqpc.bin").read_text())["dlc"] == "a DLC"


def test_a_dlc_of_ones_own_takes_the_converters_place(root: Path, tmp_path: Path) -> None:
    mine, config = tmp_path / "mine.dlc", tmp_path / "config.json"
    mine.write_text("my DLC")
    config.write_text('{"SKIP_QNN_CONVERTER_STEP": true}')
    asked = spec(options(config=str(config), dlc_file=str(mine)))

    made = Build(asked, tmp_path / "steps", {"config": config, "dlc": mine})

    program = json.loads((made.up_to("compile") / "qpc" / "programqpc.bin").read_text())
    assert program["dlc"] == "my DLC"
    assert len(json.loads((tmp_path / "steps" / "render" / "commands.json").read_text())) == 1


def test_overrides_reach_the_commands_and_the_settings(root: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "converter_args_extension": "--onnx_defer_loading --label 'two words'",
                "context_binary_generator_args_extension": "--log_level debug",
                "qnn_compilation_backend": {"compiler_stat_level": 50, "compiler_new_word": [1, 2]},
            }
        )
    )

    made = Build(spec(options(config=str(config))), tmp_path / "steps", {"config": config})
    folder = made.up_to("render")

    converter, generator = json.loads((folder / "commands.json").read_text())
    said = json.loads((folder / "qnn_compile_backend.json").read_text())
    assert converter[-3:] == ["--onnx_defer_loading", "--label", "two words"]
    assert [word for word in generator if "log_level" in word] == ["--log_level"]
    assert generator[-1] == "debug"
    assert (said["compiler_stat_level"], said["compiler_new_word"]) == (50, [1, 2])


@pytest.mark.parametrize(
    ("text", "kind", "named"),
    [
        (None, "backend.file", "is no file"),
        ("{", "backend.file", "is not JSON"),
        ("[]", "backend.file", "holds no mapping"),
        ('{"converter_arg_extension": ""}', "backend.option", "converter_arg_extension is unknown"),
        ('{"converter_args_extension": 3}', "backend.option", "3 is not text"),
        ('{"converter_args_extension": "--config x"}', "backend.option", "--config is written by us"),
        ('{"converter_args_extension": "--float_bitwidth=32"}', "backend.option", "--float_bitwidth=32 is written"),
        ('{"context_binary_generator_args_extension": "--dlc_path x"}', "backend.option", "--dlc_path is written"),
        ('{"converter_args_extension": "--a \'b"}', "backend.option", "No closing quotation"),
        ('{"converter_args_extension": "--a\\nb"}', "backend.option", "unprintable"),
        ('{"qnn_compilation_backend": {"a": {}}}', "backend.option", "is not a value"),
        ('{"SKIP_QNN_CONVERTER_STEP": true}', "backend.file", "there is no DLC"),
    ],
)
def test_a_bad_override_file_is_refused_before_the_first_step(
    text: str | None, kind: str, named: str, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    if text is not None:
        config.write_text(text)
    error = raised(kind, lambda: qnn.settle(spec(options(config=str(config)))))

    assert named in error.message
    assert "\n" not in error.message


def test_no_file_changes_nothing() -> None:
    assert read_overrides(None) == Overrides()


@pytest.mark.parametrize("missing", [sdk.CONVERTER, sdk.GENERATOR, sdk.BACKEND, sdk.EXTENSIONS])
def test_what_is_missing_of_the_sdk_is_named_in_one_line(missing: str, root: Path) -> None:
    (root / missing).unlink()

    error = raised("backend.absent", lambda: sdk.find_sdk(None))

    assert error.message == f"{root}: of the QNN SDK {missing} is missing"
    assert error.exit_code == 3


def test_an_sdk_says_its_version_in_its_own_file_or_by_its_folders_name(root: Path) -> None:
    by_name = sdk.find_sdk(None).version
    (root / "sdk.yaml").write_text("name: qairt\nversion: 2.40.1\n")

    assert (by_name, sdk.find_sdk(None).version) == ("2.31.0.250130", "2.40.1")


def test_an_option_comes_before_the_environment(root: Path) -> None:
    with pytest.raises(AbsentError) as caught:
        sdk.find_sdk("/nowhere", os.environ)

    assert caught.value.message == "/nowhere: the QNN SDK is not there"


@pytest.mark.parametrize(
    ("tool", "body", "kind", "said"),
    [
        (sdk.CONVERTER, "", "step.output", "qairt-converter ended well but left no model.dlc"),
        (sdk.GENERATOR, "", "step.output", "qnn-context-binary-generator ended well but left no programqpc.bin"),
        (sdk.GENERATOR, ": > qpc/programqpc.bin", "step.output", "left an empty programqpc.bin"),
        (sdk.CONVERTER, "echo 'no such operator' >&2; exit 3", "step.command", "no such operator"),
    ],
)
def test_a_tool_that_fails_or_leaves_nothing_fails_the_step(
    tool: str, body: str, kind: str, said: str, root: Path, tmp_path: Path
) -> None:
    (root / tool).write_text(f"#!/bin/sh\n{body}\n")
    made = Build(spec(options()), tmp_path / "steps")

    error = raised(kind, lambda: made.up_to("compile"))

    assert said in error.message


def test_a_users_template_makes_the_document(tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    (folder / "qnn").mkdir(parents=True)
    (folder / "qnn" / "compile.sh.j2").write_text("echo {{ commands | length }}\n")

    made = Build(spec(options(templates=str(folder))), tmp_path / "steps", {"templates": folder})

    assert (made.up_to("render") / "compile.sh").read_text() == "echo 2\n"
