"""Adapters in the graph: each answers as the model with it merged in, rows with different ones side by side."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import chain
import numpy as np
import pytest
from adapter_folders import merged, write_adapter
from played_device import Device, generate

from qeffbuild.cloud_ai_100.form import Form
from qeffbuild.cloud_ai_100.lower import lower
from qeffbuild.errors import ModelError, QeffBuildError, RunError
from qeffbuild.graph.files import load_graph
from qeffbuild.graph.weights import Folder, Weights
from qeffbuild.graph.write import write_weights
from qeffbuild.plan import Plan
from qeffbuild.runtime.engine import Engine
from qeffbuild.runtime.scheduler import Row
from qeffbuild.signature import IoSignature

TARGETS = {"llama": (("q_proj", "v_proj"), ("v_proj", "down_proj")), "gpt2": (("c_attn",), ("c_attn", "c_fc"))}


class Family(NamedTuple):
    """The folders of fetch and export, two adapters, and the answers of the model alone and with each."""

    fetch: Path
    export: Path
    adapters: dict[str, Path]
    told: dict[str, list[list[int]]]


@pytest.fixture(scope="module", params=TARGETS)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    root = tmp_path_factory.mktemp(request.param)
    fetch, export = chain.exported(request.param, root)
    model = chain.reference(fetch)
    first, second = TARGETS[request.param]
    adapters = {
        "fr": write_adapter(root / "fr", model, first, seed=1),
        "de": write_adapter(root / "de", model, second, rank=2, seed=2),
        "nl": write_adapter(root / "nl", model, first, seed=3),
    }
    told = {name: chain.by_pytorch(merged(copy.deepcopy(model), folder)) for name, folder in adapters.items()}
    return Family(fetch, export, adapters, {"base": chain.by_pytorch(model), **told})


def asked(form: str, *names: str) -> dict[str, Any]:
    return {"name": "lora", "form": form, "adapters": list(names)}


def leaves(family: Family, *names: str) -> dict[str, Path]:
    return {f"adapter.{name}": family.adapters[name] for name in names}


@pytest.mark.slow
def test_each_adapter_of_a_stack_answers_as_the_merged_model(family: Family, tmp_path: Path) -> None:
    names = ("fr", "de")
    graph = chain.transformed(family.export, tmp_path / "transform", asked("stacked", *names), **leaves(family, *names))

    package = chain.packaged(family.fetch, graph, tmp_path)

    assert len({str(answer) for answer in family.told.values()}) == 4
    assert chain.answers(package) == family.told["fr"]
    for name in ("base", "de", "fr"):
        assert chain.answers(package, adapter=name) == family.told[name]
    with pytest.raises(RunError) as caught:
        chain.answers(package, adapter="dee")
    assert (caught.value.kind, caught.value.hint) == ("run.adapter", "did you mean decoding.adapter=de?")


@pytest.mark.slow
def test_rows_of_one_batch_may_have_different_adapters(family: Family, tmp_path: Path) -> None:
    graph = chain.transformed(
        family.export, tmp_path / "transform", asked("stacked", "fr", "de"), **leaves(family, "fr", "de")
    )
    engine = Engine.open(chain.packaged(family.fetch, graph, tmp_path), threads=1)

    logits = engine.state.run(9, [Row(row, 0, prompt, (2, 0, 1)[row]) for row, prompt in enumerate(chain.PROMPTS)])

    firsts = [int(row.argmax()) for row in logits[:, 0]]
    assert firsts == [family.told[name][row][0] for row, name in enumerate(("de", "base", "fr"))]


@pytest.mark.slow
def test_weights_that_are_inputs_are_changed_between_streams(family: Family, tmp_path: Path) -> None:
    names = ("fr", "nl")
    graph = chain.transformed(family.export, tmp_path / "transform", asked("inputs", *names), **leaves(family, *names))
    engine = Engine.open(chain.packaged(family.fetch, graph, tmp_path), threads=1)

    for name in ("nl", "base", "fr", "nl"):
        decoding = chain.DecodingSpec(max_new_tokens=chain.ANSWER, ignore_eos=True, adapter=name)
        outputs = engine.generate(chain.PROMPTS, decoding).outputs
        assert [list(output.token_ids) for output in outputs] == family.told[name]


@pytest.mark.slow
def test_the_device_answers_the_same_in_both_forms(family: Family, tmp_path: Path) -> None:
    for form, more in (("stacked", {"lora_ids": np.ones((3, 1), np.int64)}), ("inputs", {})):
        folder = tmp_path / form
        graph = chain.transformed(family.export, folder, asked(form, "fr"), **leaves(family, "fr"))
        model = load_graph(graph / "graph.onnx")
        signature = lower(model, IoSignature.load(graph / "io.json"), Form())
        (tmp_path / form / "device").mkdir()
        weights = Weights(Folder(graph), Folder(family.fetch / "model", is_checkpoint=True))
        write_weights(model, weights, tmp_path / form / "device" / "graph.data")
        device = Device(model, signature, 3, tmp_path / form / "device")
        if form == "inputs":
            from safetensors.numpy import load_file

            device.states |= load_file(graph / "adapters" / "fr.safetensors")

        assert generate(device, chain.PROMPTS, 4, **more) == family.told["fr"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"use_dora": True}, "use_dora is True: only plain LoRA is taken"),
        ({"r": 8}, "its rank is 4, but adapter_config.json says 8"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3': only plain LoRA is taken"),
    ],
)
def test_an_adapter_that_is_more_or_less_than_lora_is_refused(
    change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    from torch import nn

    folder = write_adapter(tmp_path / "odd", nn.ModuleDict({"q_proj": nn.Linear(8, 8)}), ["q_proj"], **change)

    with pytest.raises(ModelError) as caught:
        chain.read_adapter(folder)

    assert caught.value.kind == "model.adapter"
    assert says in caught.value.message


@pytest.mark.slow
def test_an_adapter_of_another_model_is_refused(family: Family, tmp_path: Path) -> None:
    from torch import nn

    stranger = write_adapter(tmp_path / "x", nn.ModuleDict({"other": nn.Linear(8, 8)}), ["other"])

    with pytest.raises(ModelError) as caught:
        chain.transformed(family.export, tmp_path / "transform", asked("stacked", "x"), **{"adapter.x": stranger})

    assert (caught.value.kind, caught.value.message) == (
        "model.adapter",
        "adapter x: the model has no linear layer other",
    )


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["adapters={base: x}"], "spec.text"),
        (["adapters={a/b: x}"], "spec.text"),
        (["adapters={a: x}", "decoding.adapter=b"], "spec.choice"),
        (["adapters={a: ''}"], "spec.missing"),
        (
            ["adapters={a: x}", "backend=qaic", "transforms.lora=inputs", "specialization.full_batch_size=2"],
            "spec.conflict",
        ),
    ],
)
def test_what_cannot_be_asked_of_adapters_is_refused(words: list[str], kind: str, spec_of: Callable[..., Any]) -> None:
    with pytest.raises(QeffBuildError) as caught:
        spec_of(*words)

    assert caught.value.kind == kind


def test_the_plan_reads_each_adapter_as_a_leaf(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("adapters={fr: one, de: two}", "transforms.lora=stacked")

    step = plan["transform"]

    assert [(leaf.name, leaf.path) for leaf in step.leaves] == [("adapter.fr", "one"), ("adapter.de", "two")]
    assert json.loads(json.dumps(step.params)) == {"passes": [asked("stacked", "fr", "de")]}
