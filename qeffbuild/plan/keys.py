"""Plan + the world's digests -> the key of every step: what its result depends on, and nothing else.

A deep key is known before anything runs. A shallow key is known when the inputs exist: an input that was rebuilt to the
same bytes leaves it unchanged, which ends a rebuild early.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, TypeVar

from qeffbuild.plan.types import Leaf, Plan, Step

SCHEMA = 1  # of keys; raise it to rebuild everything everywhere

Preimage = Mapping[str, Any]


class World(Protocol):
    """What keys say of things outside the plan. Each call looks anew: a leaf may have changed under a running step."""

    def leaf(self, leaf: Leaf) -> str:
        """The digest of a file's or folder's content."""

    def code(self, module: str) -> str:
        """The digest of a module's source, or of all sources of a package."""

    def tool(self, distribution: str) -> str:
        """The version of an installed distribution."""

    def env(self, name: str) -> str | None:
        """The value of an environment variable."""


class Key(NamedTuple):
    """A digest and the text that it is the digest of."""

    digest: str
    preimage: Preimage

    @property
    def short(self) -> str:
        """Enough of the digest to show; never enough to look something up."""
        return self.digest[:12]


def deep_keys(plan: Plan, world: World) -> dict[str, Key]:
    """The deep key of each step by its name; an input counts with its own deep key."""
    seen = _Seen(world)
    keys: dict[str, Key] = {}
    for step in plan.steps:
        inputs = {role: keys[name].digest for role, name in step.inputs.items()}
        keys[step.name] = _deep_key(step, seen, inputs)
    return keys


def shallow_key(deep: Key, inputs: Mapping[str, str]) -> Key:
    """The same step by content: `inputs` maps each role to the digest of the files that the step reads of it."""
    return _digested({**deep.preimage, "kind": "shallow", "inputs": dict(inputs)})


def canonical(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted, without white space, in NFC, with ints, floats and bools apart.

    Raises ValueError for what JSON cannot say or says in two ways: NaN, infinities, keys that are not text.
    """
    _check((value,))
    return _spell(value)


def _deep_key(step: Step, seen: _Seen, inputs: Mapping[str, str]) -> Key:
    preimage = {
        "schema": SCHEMA,
        "kind": "deep",
        "action": step.action,
        "version": step.version,
        "params": step.params,
        "inputs": inputs,
        "narrow": step.narrow,
        "leaves": {leaf.name: seen.leaf(leaf) for leaf in step.leaves},
        "code": {name: seen.code(name) for name in (step.action, *step.code)},
        "tools": {name: seen.tool(name) for name in step.tools},
        "env": {name: seen.env(name) for name in step.env},
    }
    _check((step.params,))  # all else is made above
    return _digested(preimage)


def _digested(preimage: Preimage) -> Key:
    return Key(sha256(_spell(preimage)).hexdigest(), preimage)


class _Seen:
    """The world, asked once for each thing: a thousand steps share a handful of modules, tools and leaves."""

    def __init__(self, world: World) -> None:
        self.leaf = _once(world.leaf)
        self.code = _once(world.code)
        self.tool = _once(world.tool)
        self.env = _once(world.env)


Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def _once(ask: Callable[[Asked], Answer]) -> Callable[[Asked], Answer]:
    known: dict[Asked, Answer] = {}

    def answer(asked: Asked) -> Answer:
        if asked not in known:
            known[asked] = ask(asked)
        return known[asked]

    return answer


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=dict)
_ATOMS = frozenset({str, int, float, bool, type(None)})


def _spell(value: Any) -> bytes:
    said = _ENCODER.encode(value)
    if not said.isascii():
        said = _ENCODER.encode(_normalised(value))
    return said.encode()


def _check(items: Iterable[Any]) -> None:
    for item in items:
        kind = type(item)
        if kind in _ATOMS:
            continue
        if kind is list or kind is tuple:
            _check(item)
        elif isinstance(item, Mapping):
            _check_names(item)
            _check(item.values())
        else:
            raise ValueError(f"{kind.__name__} has no place in a key")


def _check_names(value: Mapping[Any, Any]) -> None:
    """json would quietly spell the name 1 as "1"."""
    for name in value:
        if type(name) is not str:
            raise ValueError(f"the name {name!r} in a key is not text")


def _normalised(value: Any) -> Any:
    """The same value with all its text in NFC."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, list | tuple):
        return [_normalised(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    normalised = {unicodedata.normalize("NFC", name): _normalised(item) for name, item in value.items()}
    if len(normalised) != len(value):
        raise ValueError("two names in a key are the same text")
    return normalised
