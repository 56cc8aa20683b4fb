"""Heads of the cache, each kept twice: more of them, the same answers, and no weight stored twice in the graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import chain
import onnx_ir as ir
import pytest

from qeffbuild.errors import ModelError
from qeffbuild.graph.files import load_graph
from qeffbuild.plan import Plan
from qeffbuild.signature import IoSignature, State

TWICE = {"name": "replicate_kv", "times": 2}
FAMILIES = (
    "llama",
    "phi3",  # one projection for queries, keys and values
    "olmo2",  # a norm over all heads at once
    "gpt_oss",  # its own attention, which counts heads itself
    "lfm2",  # layers that keep something else
    "diffllama",  # values of two heads at once
)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path, Path]:
    """The name, and the folders of fetch, export and transform."""
    root = tmp_path_factory.mktemp(request.param)
    fetch, export = chain.exported(request.param, root)
    return request.param, fetch, export, chain.transformed(export, root / "transform", TWICE)


@pytest.mark.slow
def test_heads_are_kept_twice_and_the_answers_stay(family: tuple[str, Path, Path, Path], tmp_path: Path) -> None:
    _, fetch, export, twice = family
    heads = [{s.axes[1] for s in states_of(folder) if s.kind in ("key", "value")} for folder in (export, twice)]

    package = chain.packaged(fetch, twice, tmp_path)

    assert heads == [{4}, {8}]
    assert others(twice) == others(export)
    assert chain.answers(package) == chain.by_pytorch(chain.reference(fetch))


@pytest.mark.slow
def test_weights_are_repeated_by_reference(family: tuple[str, Path, Path, Path]) -> None:
    _, _, export, twice = family
    (said,) = json.loads((twice / "transform.json").read_text())["passes"]

    stored = [
        {value.name for value in load_graph(folder / "graph.onnx").graph.initializers.values() if is_stored(value)}
        for folder in (export, twice)
    ]

    assert (said["weights"] > 0, said["activations"]) == (True, 0)
    assert stored[0] == stored[1]
    assert not (twice / "transform.data").exists()


def states_of(folder: Path) -> tuple[State, ...]:
    return IoSignature.load(folder / "io.json").states


def others(folder: Path) -> list[State]:
    return [state for state in states_of(folder) if state.kind not in ("key", "value")]


def is_stored(value: ir.Value) -> bool:
    return isinstance(value.const_value, ir.ExternalTensor)


def test_the_plan_names_the_pass_and_only_where_it_is_asked_for(plan_of: Callable[..., Plan]) -> None:
    plain = plan_of("model=llama", "model.scale=tiny")
    twice = plan_of("model=llama", "model.scale=tiny", "model.kv_head_replication=2")

    assert "transform" not in [step.name for step in plain]
    assert twice["transform"].params == {"passes": [TWICE]}
    assert twice["lower"].inputs == {"graph": "transform"}
    assert plain["export"] == twice["export"]


def test_a_graph_without_heads_is_refused(tmp_path: Path) -> None:
    _, export = chain.exported("llama", tmp_path)
    io = json.loads((export / "io.json").read_text())
    for state in io["states"]:
        state["kind"] = "conv"
    (export / "io.json").write_text(json.dumps(io))

    with pytest.raises(ModelError) as caught:
        chain.transformed(export, tmp_path / "transform", TWICE)

    assert (caught.value.kind, caught.value.hint) == ("onnx.unsupported", "leave model.kv_head_replication out")
