from __future__ import annotations

import math
from dataclasses import replace
from hashlib import sha256

import pytest

from qeffbuild.plan.keys import canonical, deep_keys, shallow_key
from qeffbuild.plan.types import Leaf, Plan, Step


class World:
    """A world whose answers can be chosen, and which counts how often it is asked."""

    def __init__(self, **said: str) -> None:
        self.said = said
        self.asked: list[str] = []

    def leaf(self, leaf: Leaf) -> str:
        return self._answer(f"leaf_{leaf.name}")

    def code(self, module: str) -> str:
        return self._answer(f"code_{module.rpartition('.')[2]}")

    def tool(self, distribution: str) -> str:
        return self._answer(f"tool_{distribution}")

    def env(self, name: str) -> str | None:
        return self.said.get(f"env_{name}")

    def _answer(self, name: str) -> str:
        self.asked.append(name)
        return self.said.get(name, "0")


FETCH = Step(name="fetch", action="actions.fetch", leaves=(Leaf(name="model", path="/a/model"),))
EXPORT = Step(
    name="export",
    action="actions.export",
    params={"opset": 20, "layers": [1, 2]},
    inputs={"model": "fetch"},
    narrow={"model": ("facts.json",)},
    code=("export",),
    tools=("torch",),
    env=("QEFF_MODE",),
)
COMPILE = Step(name="compile", action="actions.compile", params={"mos": 1}, inputs={"graph": "export"})
PLAN = Plan((FETCH, EXPORT, COMPILE), ("compile",))


def digests(plan: Plan = PLAN, world: World | None = None) -> dict[str, str]:
    return {name: key.digest for name, key in deep_keys(plan, world or World()).items()}


def changed(plan: Plan = PLAN, world: World | None = None) -> list[str]:
    before, after = digests(), digests(plan, world)
    return [name for name in before if before[name] != after[name]]


def with_export(**fields: object) -> Plan:
    return Plan((FETCH, replace(EXPORT, **fields), COMPILE), ("compile",))


@pytest.mark.parametrize(
    "world",
    [World(code_export="1"), World(tool_torch="2.13"), World(env_QEFF_MODE="fast")],
    ids=["code", "tool", "environment"],
)
def test_what_a_step_names_of_the_world_reaches_its_key_and_those_below(world):
    assert changed(world=world) == ["export", "compile"]


def test_a_changed_leaf_reaches_every_step_that_depends_on_it():
    assert changed(world=World(leaf_model="1")) == ["fetch", "export", "compile"]


def test_what_no_step_names_is_not_in_a_key():
    assert changed(world=World(tool_numpy="9", env_HOME="/root", code_other="1")) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"params": {"opset": 21, "layers": [1, 2]}},
        {"params": {"opset": 20.0, "layers": [1, 2]}},
        {"params": {"opset": 20, "layers": [2, 1]}},
        {"params": {"opset": 20, "layers": [1, 2], "more": None}},
        {"params": {"opset": 20, "layers": [True, 2]}},
        {"version": 2},
        {"action": "actions.other"},
        {"narrow": {}},
        {"env": ()},
    ],
)
def test_every_part_of_a_step_reaches_its_key(fields):
    assert changed(with_export(**fields)) == ["export", "compile"]


@pytest.mark.parametrize(
    "fields",
    [
        {"params": {"layers": (1, 2), "opset": 20}},
        {"after": ("fetch",)},
        {"reads": {"opset": "backend.opset"}},
        {"isolated": True},
    ],
)
def test_order_of_names_and_how_a_step_is_run_are_not_in_its_key(fields):
    assert changed(with_export(**fields)) == []


def test_names_of_steps_and_paths_of_leaves_are_not_in_a_key():
    fetch = replace(FETCH, name="get", leaves=(Leaf(name="model", path="/elsewhere"),))
    export = replace(EXPORT, name="trace", inputs={"model": "get"})
    compile_ = replace(COMPILE, name="make", inputs={"graph": "trace"})

    renamed = digests(Plan((fetch, export, compile_), ("make",)))

    assert list(renamed.values()) == list(digests().values())


def test_a_shallow_key_depends_on_the_bytes_of_inputs_and_not_on_how_they_came_about():
    deep = deep_keys(PLAN, World())["compile"]
    other_deep = deep_keys(with_export(version=2), World())["compile"]

    assert shallow_key(deep, {"graph": "1"}).digest == shallow_key(other_deep, {"graph": "1"}).digest
    assert shallow_key(deep, {"graph": "1"}).digest != shallow_key(deep, {"graph": "2"}).digest
    assert shallow_key(deep, dict(deep.preimage["inputs"])).digest != deep.digest


def test_the_world_is_asked_once_for_each_thing():
    world = World()
    steps = [replace(EXPORT, name=f"export[{n}]", action="export", inputs={}, params={"n": n}) for n in range(5)]

    deep_keys(Plan(tuple(steps), ()), world)

    assert sorted(world.asked) == ["code_export", "tool_torch"]


def test_a_key_is_the_digest_of_its_pre_image():
    key = deep_keys(PLAN, World())["export"]

    assert key.digest == sha256(canonical(key.preimage)).hexdigest()
    assert key.short == key.digest[:12]


def test_canonical_json_has_one_spelling_for_equal_values():
    assert canonical({"b": [1, (2.5, True)], "a": None}) == b'{"a":null,"b":[1,[2.5,true]]}'
    assert canonical({"b": 1, "a": 2}) == canonical({"a": 2, "b": 1})


def test_canonical_json_keeps_ints_floats_and_bools_apart():
    assert len({canonical(value) for value in (1, 1.0, True, "1")}) == 4


def test_text_that_looks_the_same_is_the_same():
    composed, decomposed = "caf\u00e9", "cafe\u0301"

    assert canonical({composed: [composed]}) == canonical({decomposed: [decomposed]})


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [math.inf],
        {1: "a"},
        {"a": {None: 1}},
        {"a": b"bytes"},
        {"a": {1, 2}},
        {"caf\u00e9": 1, "cafe\u0301": 2},
    ],
    ids=["nan", "inf", "int name", "none name", "bytes", "set", "names that look the same"],
)
def test_what_json_cannot_say_or_says_twice_is_refused(value):
    with pytest.raises(ValueError):
        canonical(value)
