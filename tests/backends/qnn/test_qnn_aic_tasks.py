"""Readers, listeners and models that see through the QNN SDK's two tools: a program for each graph, in its own sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_qnn_aic import root

from qeffbuild import api
from qeffbuild.package import Package
from qeffbuild.spec.types import BuildSpec

__all__ = ["root"]  # the tools' stand-ins, which check what they are told
SEES = ("model=llava", "specialization.prefill_seq_len=32")
PREFILL_AND_DECODE = ["model_configuration_1", "model_configuration_2"]


@pytest.fixture
def program(root: Path, spec_of: Callable[..., BuildSpec]) -> Callable[..., Package]:
    """program("model=llava") -> the verified package of a tiny model."""

    def build(*words: str) -> Package:
        built = api.build(spec_of("backend=qnn", "backend.target=aic", "model.scale=tiny", *words))
        return Package.open(built.package, verify=True)

    return build


def settings(package: Package, graph: str) -> dict[str, Any]:
    """What the generator was told of one graph, as its stand-in kept it."""
    return json.loads(package.graph(graph).read_text())["settings"]


@pytest.mark.slow
def test_an_encoder_has_a_set_of_shapes_for_each_length(program: Callable[..., Package]) -> None:
    package = program("model=minilm", "specialization.seq_len=[16,64]")

    (graph,) = package.graphs
    assert package.task == "embedding"
    assert settings(package, graph)["graph_names"] == PREFILL_AND_DECODE
    symbols = json.loads((package.path / "specializations.json").read_text())["specializations"]
    assert [entry["symbols"]["seq_len"] for entry in symbols] == ["16", "64"]


@pytest.mark.slow
def test_sound_is_heard_and_written_by_one_program(program: Callable[..., Package]) -> None:
    package = program("model=whisper", "specialization.ctx_len=32")

    (graph,) = package.graphs
    assert settings(package, graph)["graph_names"] == PREFILL_AND_DECODE
    said = json.loads((package.path / "specializations.json").read_text())["specializations"]
    assert [entry["name"] for entry in said] == ["Encoder", "Decode"]


@pytest.mark.slow
def test_vision_and_language_are_two_programs(program: Callable[..., Package]) -> None:
    package = program(*SEES, "quantization.mxfp6_matmul=true")

    assert package.graphs == ("decoder", "vision")
    assert settings(package, "vision")["graph_names"] == ["model"]
    assert settings(package, "decoder")["graph_names"] == PREFILL_AND_DECODE
    mxfp6 = {graph: settings(package, graph)["compiler_mxfp6_matmul_weights"] for graph in package.graphs}
    assert mxfp6 == {"decoder": True, "vision": False}


@pytest.mark.slow
def test_the_decoder_takes_what_is_seen_in_the_form_in_which_it_comes(
    spec_of: Callable[..., BuildSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = spec_of("backend=qnn", "backend.target=aic", "model.scale=tiny", *SEES, "out=documents")

    api.emit(spec)

    seen, taken = (
        yaml.safe_load((tmp_path / "documents" / folder / "custom_io_config.yaml").read_text())
        for folder in ("vision", ".")
    )
    (out,) = seen["Output Tensor Configuration"]
    held = {entry["Name"]: entry for entry in taken["Input Tensor Configuration"]}
    assert held[out["Name"]]["Desired Model Parameters"]["DataType"] == "float16"
    assert out["Desired Model Parameters"]["DataType"] == "float16"
    made = json.loads((tmp_path / "documents" / "commands.json").read_text())
    assert [Path(argv[0]).name for argv in made] == ["qairt-converter", "qnn-context-binary-generator"] * 2


def test_one_dlc_is_not_two_programs(program: Callable[..., Package], tmp_path: Path) -> None:
    dlc = tmp_path / "own.dlc"
    dlc.write_text("a DLC")

    with pytest.raises(Exception, match=r"backend\.dlc_file: one DLC, but two programs are made"):
        program(*SEES, f"backend.dlc_file={dlc}")
