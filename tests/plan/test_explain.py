from __future__ import annotations

import json
from dataclasses import replace

import pytest

from qeffbuild.plan.explain import distance, explain
from qeffbuild.plan.keys import deep_keys
from qeffbuild.plan.types import Leaf, Plan, Step

STEP = Step(
    name="compile",
    action="backends.qaic.compile",
    params={"ctx_len": 128, "options": {"mos": 1, "flags": ["-a"]}},
    reads={"ctx_len": "specialization.ctx_len", "options": "backend"},
    inputs={"graph": "export"},
    leaves=(Leaf(name="model", path="/m"),),
    code=("qeffbuild.export",),
    tools=("torch",),
    env=("QEFF_MODE",),
)


class World:
    def __init__(self, **said: str) -> None:
        self.said = said

    def leaf(self, leaf: Leaf) -> str:
        return self.said.get("leaf", "0")

    def code(self, module: str) -> str:
        return self.said.get(module.rpartition(".")[2], "0")

    def tool(self, distribution: str) -> str:
        return self.said.get(distribution, "2.12")

    def env(self, name: str) -> str | None:
        return self.said.get(name)


def preimage(step: Step = STEP, export: int = 1, **said: str):
    plan = Plan((Step(name="export", action="actions.export", version=export), step), ("compile",))
    return deep_keys(plan, World(**said))["compile"].preimage


@pytest.mark.parametrize(
    ("new", "line"),
    [
        (preimage(replace(STEP, params={**STEP.params, "ctx_len": 256})), "specialization.ctx_len 128 -> 256"),
        (preimage(replace(STEP, params={**STEP.params, "ctx_len": 128.0})), "specialization.ctx_len 128 -> 128.0"),
        (
            preimage(replace(STEP, params={**STEP.params, "options": {"mos": 2, "flags": ["-a"]}})),
            "backend.mos 1 -> 2",
        ),
        (preimage(replace(STEP, params={"options": STEP.params["options"]})), "specialization.ctx_len 128 -> unset"),
        (preimage(export=2), "inputs.graph changed"),
        (preimage(torch="2.13"), "tool torch 2.12 -> 2.13"),
        (preimage(leaf="1"), "leaf model changed"),
        (preimage(compile="1"), "code backends.qaic.compile changed"),
        (preimage(QEFF_MODE="fast"), "environment QEFF_MODE null -> fast"),
        (preimage(replace(STEP, version=2)), "action backends.qaic.compile version 1 -> 2"),
        (preimage(replace(STEP, narrow={"graph": ("io.json",)})), "files read of inputs.graph changed"),
    ],
)
def test_a_difference_is_told_in_the_users_words(new, line):
    assert explain(STEP, preimage(), new) == (line,)


def test_equal_pre_images_have_nothing_to_explain():
    assert explain(STEP, preimage(), preimage()) == ()


def test_a_step_without_an_earlier_result_was_never_built():
    assert explain(STEP, None, preimage()) == ("never built",)


def test_a_changed_leaf_names_its_changed_files():
    before = {"model": {"config.json": "1", "model.safetensors": "1"}}
    after = {"model": {"config.json": "1", "model.safetensors": "2"}}

    lines = explain(STEP, preimage(), preimage(leaf="1"), before, after)

    assert lines == ("leaf model: model.safetensors changed",)


def test_distance_counts_differences():
    far = replace(STEP, params={"ctx_len": 256}, version=2)

    assert distance(preimage(), preimage()) == 0
    assert distance(preimage(), preimage(leaf="1")) == 1
    assert distance(preimage(), preimage(far, leaf="1")) == 4


def test_a_pre_image_read_back_from_json_is_no_different():
    step = replace(STEP, params={"layers": (1, 2)})

    assert explain(step, json.loads(json.dumps(preimage(step))), preimage(step)) == ()
