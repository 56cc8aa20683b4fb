"""A parsed document and the shape that it should have -> what differs, in words."""

from __future__ import annotations

from typing import Any

# A type: a value of it.  [shape]: a list of such items.  {"key": shape, "key?": shape}: exactly these keys, the
# second may be missing.  {str: shape}: any keys.  None: anything.
Shape = Any


def mismatch(value: Any, shape: Shape, where: str = "$") -> str | None:
    """The first difference ("$.partitions[0].name: a number, not text"), or None."""
    if shape is None:
        return None
    if isinstance(shape, type):
        fits = type(value) is shape  # exact: True is no number here
        return None if fits else f"{where}: {_said(type(value))}, not {_said(shape)}"
    if isinstance(shape, list):
        return _list_mismatch(value, shape[0], where)
    return _dict_mismatch(value, shape, where)


def _list_mismatch(value: Any, item_shape: Shape, where: str) -> str | None:
    if not isinstance(value, list):
        return f"{where}: {_said(type(value))}, not a list"
    faults = (mismatch(item, item_shape, f"{where}[{index}]") for index, item in enumerate(value))
    return next(filter(None, faults), None)


def _dict_mismatch(value: Any, shape: dict[Any, Shape], where: str) -> str | None:
    if not isinstance(value, dict):
        return f"{where}: {_said(type(value))}, not a mapping"
    if str in shape:
        faults = (mismatch(item, shape[str], f"{where}.{key}") for key, item in value.items())
        return next(filter(None, faults), None)
    known = {key.removesuffix("?"): item_shape for key, item_shape in shape.items()}
    required = [key for key in shape if not key.endswith("?")]
    if missing := [key for key in required if key not in value]:
        return f"{where}: {missing[0]} is missing"
    if surplus := [key for key in value if key not in known]:
        return f"{where}: {surplus[0]} is unknown here"
    faults = (mismatch(item, known[key], f"{where}.{key}") for key, item in value.items())
    return next(filter(None, faults), None)


def _said(kind: type) -> str:
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping"}
    return {**words, list: "a list", type(None): "nothing"}.get(kind, kind.__name__)
