"""From a lowered graph to a package by way of a stand-in compiler, and what happens when a compiler misbehaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import by_hand
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import small_decoder as small

from qeffbuild.backends.qaic import plan, session
from qeffbuild.backends.qaic.compiler import find_compiler
from qeffbuild.backends.qaic.options import Options
from qeffbuild.errors import AbsentError, BackendError, QeffBuildError, StepError
from qeffbuild.package import Package
from qeffbuild.spec.types import (
    BuildSpec,
    DeviceGroupSpec,
)

# Twenty lines in the place of a compiler: it reads what it is told to read, and leaves what a compiler leaves.
STAND_IN = f"""#!{sys.executable}
import json, os, pathlib, sys
import onnx
said = dict(a.partition("=")[::2] for a in sys.argv[1:])
assert sys.argv[1] == "-aic-hw", sys.argv
graph = onnx.load(said["-m"])  # with its weights
json.load(open(said["-network-specialization-config"]))
assert open(said["-custom-IO-list-file"]).read().startswith(" - IOName: ")
out = pathlib.Path(said["-aic-binary-dir"])
out.mkdir()
if "-mdp-dump-partition-config" in said:
    pathlib.Path(said["-mdp-dump-partition-config"]).write_text("{{}}")
program = {{"argv": sys.argv[1:], "files": sorted(os.listdir("."))}}
(out / "programqpc.bin").write_text(json.dumps(program))
"""


spec = partial(by_hand.spec, "qaic")


class Build(by_hand.Build):
    def documents(self) -> Path:
        return self.up_to("render")

    def compiled(self) -> Path:
        return self.up_to("compile")


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Build]:
    monkeypatch.delenv("QEFFBUILD_QAIC_COMPILE", raising=False)

    def make(asked: BuildSpec | None = None, compiler: str | None = STAND_IN, **leaves: Path) -> Build:
        path = tmp_path / "qaic-compile"
        if compiler is not None:
            path.write_text(compiler)
            path.chmod(0o755)
        return Build(asked or spec(), tmp_path / "store", {"compiler": path, **leaves})

    return make


def raised(kind: str, call: Callable[[], Any]) -> QeffBuildError:
    with pytest.raises(QeffBuildError) as caught:
        call()
    assert caught.value.kind == kind
    return caught.value


def test_the_rendered_folder_holds_all_that_the_compiler_reads(build: Callable[..., Build]) -> None:
    folder = build(spec(device_group=DeviceGroupSpec(devices=(0, 1)))).documents()

    (argv,) = json.loads((folder / "commands.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == [
        *("commands.json", "compile.sh", "custom_io.yaml", "graph.onnx", "io.json"),
        *("mdp_ts_2.json", "specializations.json"),
    ]
    assert argv == [
        *("/opt/qti-aic/exec/qaic-compile", "-aic-hw", "-aic-hw-version=ai100", "-m=graph.onnx", "-retained-state"),
        *("-convert-to-fp16", "-aic-num-cores=16", "-mdp-load-partition-config=mdp_ts_2.json"),
        *("-network-specialization-config=specializations.json", "-custom-IO-list-file=custom_io.yaml"),
        "-aic-binary-dir=qpc",
    ]


def test_the_script_compiles_the_folder_once_the_weights_are_there(build: Callable[..., Build], tmp_path: Path) -> None:
    asked = spec(options=Options(extra_args=("-label=it's $HOME",)))
    folder = build(asked).documents()
    environ = {**os.environ, "QEFFBUILD_QAIC_COMPILE": str(tmp_path / "qaic-compile")}
    folder.chmod(0o755)

    without = subprocess.run([folder / "compile.sh"], env=environ, capture_output=True, text=True, check=False)
    (folder / "model.safetensors").write_bytes((tmp_path / "store/checkpoint/model.safetensors").read_bytes())
    subprocess.run([folder / "compile.sh"], env=environ, check=True)

    assert (without.returncode, without.stderr) == (3, "put the model's model.safetensors into this folder first\n")
    (argv,) = json.loads((folder / "commands.json").read_text())
    assert json.loads((folder / "qpc" / "programqpc.bin").read_text())["argv"] == argv[1:]
    assert "-label=it's $HOME" in argv


def test_the_compiler_gets_the_emitted_command_and_whole_weights(build: Callable[..., Build]) -> None:
    made = build()
    compiled = made.compiled()

    program = json.loads((compiled / "qpc" / "programqpc.bin").read_text())
    (argv,) = json.loads((made.root / "render" / "commands.json").read_text())
    assert program["argv"] == argv[1:]
    assert "graph.data" in program["files"]
    assert sorted(path.name for path in compiled.iterdir()) == ["compile.json", "qpc"]


def test_the_compiler_reads_the_weights_that_pytorch_has(
    build: Callable[..., Build], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeps = STAND_IN + "import shutil; shutil.copytree('.', os.environ['KEEP'], dirs_exist_ok=True)\n"
    monkeypatch.setenv("KEEP", str(tmp_path / "kept"))

    build(compiler=keeps).compiled()

    kept = tmp_path / "kept" / "graph.onnx"
    onnx.checker.check_model(str(kept), full_check=True)
    device = ort.InferenceSession(kept, providers=["CPUExecutionProvider"])
    shape = (1, small.KV_HEADS, small.CONTEXT, small.WIDTH)
    states = {value.name: np.zeros(shape, np.float32) for value in device.get_inputs() if "past" in value.name}
    feed = {"input_ids": np.array([[3, 1, 4]]), "position_ids": np.array([[0, 1, 2]]), **states}
    assert int(device.run(["logits"], feed)[0].argmax()) == small.SmallDecoder().greedy([3, 1, 4], 1)[0]


def test_stages_list_nodes_of_the_graph_that_is_compiled(build: Callable[..., Build]) -> None:
    folder = build(spec(device_group=DeviceGroupSpec(num_devices=4, mdp_num_partitions=2))).documents()

    said = json.loads((folder / "mdp_disagg_4d_2p.json").read_text())
    graph = onnx.load(folder / "graph.onnx", load_external_data=False)
    names = {node.name for node in graph.graph.node}
    listed = [node for stage in said["partitions"] for node in stage["nodeList"]]
    assert [stage["devices"] for stage in said["partitions"]] == [
        [{"deviceId": device, "numCores": 16} for device in devices] for devices in ((0, 1), (2, 3))
    ]
    assert {node.rpartition("/")[0] if node not in names else node for node in listed} <= names
    assert len(listed) == len(set(listed))


def test_stages_keep_the_nodes_that_a_dump_of_the_compiler_has(build: Callable[..., Build], tmp_path: Path) -> None:
    stages = DeviceGroupSpec(num_devices=4, mdp_num_partitions=2)
    whole = json.loads((build(spec(device_group=stages)).documents() / "mdp_disagg_4d_2p.json").read_text())
    kept = [node for stage in whole["partitions"] for node in stage["nodeList"]][::2]
    dump = tmp_path / "dump.json"
    dump.write_text(json.dumps({"partitions": [{"nodeList": [*kept, "renamed_by_the_compiler"]}]}))
    shutil.rmtree(tmp_path / "store")

    asked = spec(options=Options(mdp_strategy="intersection", mdp_compiler_dump_path=str(dump)), device_group=stages)
    said = json.loads((build(asked, mdp_compiler_dump_path=dump).documents() / "mdp_disagg_4d_2p.json").read_text())

    listed = [stage.pop("nodeList") for stage in said["partitions"]]
    assert [node for nodes in listed for node in nodes] == kept
    assert all(
        set(nodes) <= set(stage.pop("nodeList")) for nodes, stage in zip(listed, whole["partitions"], strict=True)
    )
    assert said == whole


def test_a_dump_of_another_graph_is_refused(build: Callable[..., Build], tmp_path: Path) -> None:
    dump = tmp_path / "dump.json"
    dump.write_text('{"partitions": [{"nodeList": ["layers.0/Somebody_3"]}]}')
    stages = DeviceGroupSpec(num_devices=2, mdp_num_partitions=2)
    asked = spec(options=Options(mdp_strategy="intersection", mdp_compiler_dump_path=str(dump)), device_group=stages)

    error = raised("backend.file", build(asked, mdp_compiler_dump_path=dump).documents)

    assert "it has no node of Partition0" in error.message


def test_partitions_of_a_users_own_come_along(build: Callable[..., Build], tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text('{"connections": [], "partitions": [{"name": "a", "devices": []}]}')
    asked = spec(options=Options(mdp_load_partition_config=str(mine)), device_group=DeviceGroupSpec(devices=(0, 1)))

    folder = build(asked, mdp_load_partition_config=mine).documents()

    (argv,) = json.loads((folder / "commands.json").read_text())
    assert argv[4] == "-mdp-load-partition-config=mine.json"
    assert (folder / "mine.json").read_text() == mine.read_text()
    assert not (folder / "mdp_ts_2.json").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is no file"),
        ("{", "is not a partition file"),
        ('{"partitions": [1]}', "is not a partition file"),
        ('{"partitions": [{"nodeList": ["layers.0/Nobody_1"]}]}', "are not in the graph, 'layers.0/Nobody_1' first"),
    ],
)
def test_partitions_that_do_not_fit_are_refused(
    build: Callable[..., Build], tmp_path: Path, text: str | None, said: str
) -> None:
    mine = tmp_path / "mine.json"
    if text is not None:
        mine.write_text(text)
    made = build(spec(options=Options(mdp_load_partition_config=str(mine))), mdp_load_partition_config=mine)

    error = raised("backend.file", made.documents)

    assert isinstance(error, BackendError)
    assert said in error.message


def test_a_users_template_makes_the_document(build: Callable[..., Build], tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    (folder / "qaic").mkdir(parents=True)
    (folder / "qaic" / "compile.sh.j2").write_text("echo {{ arguments | length }}\n")

    made = build(spec(options=Options(templates=str(folder))), templates=folder)

    assert (made.documents() / "compile.sh").read_text() == "echo 9\n"


def test_partitions_that_were_asked_for_are_kept(build: Callable[..., Build]) -> None:
    compiled = build(spec(options=Options(mdp_dump_partition_config="parts.json"))).compiled()

    assert (compiled / "parts.json").read_text() == "{}"


def test_without_a_compiler_the_build_says_what_to_install(build: Callable[..., Build]) -> None:
    error = raised("backend.absent", build(compiler=None).compiled)

    assert isinstance(error, AbsentError)
    assert "install the Cloud AI Apps SDK" in (error.hint or "")


def test_the_environment_names_a_compiler_unless_an_option_does(tmp_path: Path) -> None:
    default, other = tmp_path / "default", tmp_path / "other"
    for path in (default, other):
        path.write_text("")
        path.chmod(0o755)
    environ = {"QEFFBUILD_QAIC_COMPILE": str(other)}

    assert find_compiler(default, is_named=False, environ={}) == default
    assert find_compiler(default, is_named=False, environ=environ) == other
    assert find_compiler(default, is_named=True, environ=environ) == default


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("echo no space for you; exit 7", "step.command", "no space for you"),
        ("exit 0", "step.output", "left no programqpc.bin"),
        ("mkdir qpc; : > qpc/programqpc.bin", "step.output", "left an empty programqpc.bin"),
        ("mkdir qpc; ln -s /etc/hostname qpc/programqpc.bin", "step.output", "left no programqpc.bin"),
        ("kill -9 $$", "step.command", "killed by signal 9"),
    ],
)
def test_a_compiler_that_fails_makes_the_step_fail(
    build: Callable[..., Build], body: str, kind: str, said: str
) -> None:
    error = raised(kind, build(compiler=f"#!/bin/sh\n{body}\n").compiled)

    assert isinstance(error, StepError)
    assert said in error.message


def test_the_package_runs_without_the_store_and_says_when_it_cannot(build: Callable[..., Build]) -> None:
    made = build()
    made.compiled()
    package = Package.open(made.up_to("package"), verify=True)

    assert package.graph().name == "programqpc.bin"
    assert package.signature().states[0].output == "past_key.0_RetainedState"
    assert package.model["eos_token_id"] == [2]
    error = raised("backend.absent", lambda: session.open_session(package))
    assert (error.exit_code, "qaicrt" in error.message) == (3, True)


def test_a_changed_core_count_leaves_the_graph_alone(build: Callable[..., Build]) -> None:
    one, other = (plan.steps(spec(options=Options(num_cores=cores)), "export") for cores in (16, 8))

    changed = [a.name for a, b in zip(one, other, strict=True) if a != b]

    assert changed == ["render"]  # what follows it reads its documents


def test_only_the_number_of_devices_matters(build: Callable[..., Build]) -> None:
    steps = [plan.steps(spec(device_group=DeviceGroupSpec(devices=devices)), "export") for devices in ((0, 1), (6, 7))]

    assert steps[0] == steps[1]


def test_the_plan_names_every_file_that_an_option_names() -> None:
    named = Options(compiler="c", templates="t", node_precision_info="n", mdp_load_partition_config="m")
    leaves = {leaf.name: leaf.path for step in plan.steps(spec(options=named), "export") for leaf in step.leaves}

    expected = {"compiler": "c", "templates": "t", "node_precision_info": "n", "mdp_load_partition_config": "m"}
    assert {name: leaves[name] for name in expected} == expected
