"""A folder that a replay wrote, held against the record of the same request: every difference in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import yaml

Case = Mapping[str, Any]

_OMITTED = re.compile(r"\(omitted: \d+ characters\)")
_MADE_UP = re.compile(r".*_dim_\d+$")  # the exporter's own names; only their places mean something
BYTE_FOR_BYTE = "qaic-compile"  # no library of ours stands between a document and this reader


def differences(case: Case, folder: Path) -> list[str]:
    """Nothing where ours says what the record says."""
    commands = json.loads((folder / "commands.json").read_text())
    calls = case["calls"]
    if len(commands) != len(calls):
        return [f"{len(commands)} commands instead of {len(calls)}"]
    found: list[str] = []
    for number, (call, argv) in enumerate(zip(calls, commands, strict=True)):
        found += [f"command {number}: {said}" for said in _of_call(call, argv, folder)]
    return [*found, *_of_graphs(case["io"], calls, commands, folder)]


def _of_call(call: Mapping[str, Any], argv: Sequence[str], folder: Path) -> Iterator[str]:
    ours, theirs = _options(argv), _options(call["argv"])
    for option in sorted(theirs - ours):
        yield f"lacks {' '.join(option)}"
    for option in sorted(ours - theirs):
        yield f"adds {' '.join(option)}"
    written = {path.name: path for path in folder.iterdir() if path.is_file()}  # one document may name another
    written |= {Path(path).name: folder / path for path in _paths(argv) if (folder / path).is_file()}
    for name, text in call["files"].items():
        if name not in written:
            yield f"{name} is not there"
        elif not _OMITTED.match(text):
            ours = written[name].read_text()
            found = list(_of_data(name, _parsed(name, text), _parsed(name, ours)))
            yield from found
            if not found and call["tool"] == BYTE_FOR_BYTE and ours != text:
                yield f"{name} says the same in another form"


def _options(argv: Sequence[str]) -> set[tuple[str, ...]]:
    """Options as a set. Of files only the name counts, and of graphs and folders not even that: they are named freely."""
    return {_option(word) for word in _joined(argv[1:])} | {(Path(argv[0]).name,)}


def _joined(words: Sequence[str]) -> Iterator[str]:
    """`--name value` as `--name=value`."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--") and rest and not rest[0].startswith("-"):
            yield f"{word}={rest.pop(0)}"
        else:
            yield word


_FREE = ("-m", "-aic-binary-dir", "--input_network", "--output_path", "--output_dir", "--dlc_path", "--backend")


def _option(word: str) -> tuple[str, ...]:
    name, equals, value = word.partition("=")
    if not equals:
        return (name,)
    return (name, "") if name in _FREE else (name, Path(value).name)


def _paths(argv: Sequence[str]) -> list[str]:
    return [word.partition("=")[2] for word in _joined(argv[1:]) if "=" in word]


def _parsed(name: str, text: str) -> Any:
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


def _of_data(name: str, theirs: Any, ours: Any) -> Iterator[str]:
    theirs, ours = _comparable(theirs), _comparable(ours)
    if theirs != ours:
        yield f"{name}: {_first_difference(theirs, ours)}"


def _comparable(said: Any) -> Any:
    """Absolute folders are of the machine that recorded; lists of named things have no order."""
    if isinstance(said, dict):
        return {key: _comparable(value) for key, value in said.items() if key != "nodeList"}
    if isinstance(said, list):
        items = [_comparable(item) for item in said]
        return sorted(items, key=str) if any(isinstance(item, dict) and "IOName" in item for item in items) else items
    if isinstance(said, str) and said.startswith(("{", "/")):
        return Path(said).name
    return said


def _first_difference(theirs: Any, ours: Any, at: str = "") -> str:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in dict.fromkeys((*theirs, *ours)):
            if theirs.get(key) != ours.get(key):
                return _first_difference(theirs.get(key), ours.get(key), f"{at}.{key}")
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for number, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            if one != other:
                return _first_difference(one, other, f"{at}[{number}]")
    return f"{at or 'all'} is {ours} instead of {theirs}"[:300]


def _of_graphs(
    io: Mapping[str, Any], calls: Sequence[Mapping[str, Any]], commands: Sequence[Sequence[str]], folder: Path
) -> Iterator[str]:
    """Of two graphs a record may hold one: each is the one that a command of its names."""
    recorded = [io] if "inputs" in io else [graph for graph in io.values() if isinstance(graph, dict)]
    names = [Path(path).name for call in calls for path in _graphs(call["argv"])]
    graphs = [path for argv in commands for path in _graphs(argv)]
    if len(graphs) != len(names):
        yield f"{len(graphs)} graphs instead of {len(names)}"
        return
    for said in recorded:
        path = graphs[names.index(said["onnx"])]
        graph = onnx.load(folder / path, load_external_data=False).graph
        for side, values in (("inputs", graph.input), ("outputs", graph.output)):
            ours = {value.name: _tensor(value) for value in values}
            theirs = {tensor["name"]: (tensor["dtype"], tensor["shape"]) for tensor in said[side]}
            yield from _of_tensors(f"{path} {side}", theirs, ours)


def _graphs(argv: Sequence[str]) -> Iterator[str]:
    for word in _joined(argv[1:]):
        name, _, value = word.partition("=")
        if name in ("-m", "--input_network"):
            yield value


def _tensor(value: onnx.ValueInfoProto) -> tuple[str, list[Any]]:
    kind = value.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in kind.shape.dim]
    return onnx.TensorProto.DataType.Name(kind.elem_type), dims


def _of_tensors(where: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*theirs} - {*ours}):
        yield f"{where} lack {name}"
    for name in sorted({*ours} - {*theirs}):
        yield f"{where} add {name}"
    for name in sorted({*ours} & {*theirs}):
        (dtype, shape), (our_dtype, our_shape) = theirs[name], ours[name]
        is_same = len(shape) == len(our_shape) and all(
            said == found or (isinstance(said, str) and _MADE_UP.match(said))
            for said, found in zip(shape, our_shape, strict=True)
        )
        if dtype != our_dtype or not is_same:
            yield f"{where}: {name} is {our_dtype} {our_shape} instead of {dtype} {shape}"
