from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from qeffbuild.errors import ModelError, QeffBuildError
from qeffbuild.models.weights import read_header, read_tensors


def write(folder: Path, name: str, header: Any, size: int) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / name).write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def refusal(folder: Path) -> QeffBuildError:
    with pytest.raises(QeffBuildError) as caught:
        read_tensors(folder)
    return caught.value


TWICE = b'{"a": {"dtype":"U8","shape":[4],"data_offsets":[0,4]}, "a": {"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ({"a": entry(0, 16, [4]), "b": entry(8, 24, [4])}, 24),
        ({"a": entry(0, 16, [4]), "b": entry(32, 48, [4])}, 48),
        ({"a": entry(0, 16, [4])}, 8),
        ({"a": entry(0, 16, [4])}, 32),
        ({"a": entry(0, 16, [5])}, 16),
        ({"a": entry(16, 0, [4])}, 16),
        ({"a": entry(0, 16, [-4])}, 16),
        ({"a": entry(0, 16, [4], "F31")}, 16),
        ({"a": {"dtype": "F32"}}, 0),
        ({"a": None}, 0),
        (TWICE, 4),
        (b"[1, 2]", 0),
        (b"\xff\xfe", 0),
    ],
    ids=["overlap", "gap", "cut short", "too long", "shape", "backwards", "negative", "dtype", "bare", "null", "twice",
         "list", "bytes"],
)  # fmt: skip
def test_a_header_that_lies_is_refused(header: Any, size: int, tmp_path: Path) -> None:
    write(tmp_path, "model.safetensors", header, size)

    assert refusal(tmp_path).kind == "model.weights"


def test_a_header_of_random_bytes_is_refused_or_covers_the_file(tmp_path: Path) -> None:
    good = json.dumps({"a": entry(0, 16, [4]), "b": entry(16, 24, [2, 2], "F16")}).encode()
    chance = random.Random(0)
    for _ in range(300):
        broken = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            broken[chance.randrange(len(broken))] = chance.randrange(32, 127)
        write(tmp_path, "model.safetensors", bytes(broken), 24)

        try:
            found = read_header(tmp_path, "model.safetensors")
        except ModelError:
            continue
        assert sum(tensor.nbytes for tensor in found.values()) == 24


def test_shards_join_into_one_table(tmp_path: Path) -> None:
    write(tmp_path, "one.safetensors", {"a": entry(0, 16, [4])}, 16)
    write(tmp_path, "two.safetensors", {"b": entry(0, 4, [2], "BF16"), "__metadata__": {"format": "pt"}}, 4)
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))

    found = read_tensors(tmp_path)

    assert {name: (tensor.file, tensor.dtype) for name, tensor in found.items()} == {
        "a": ("one.safetensors", "float32"),
        "b": ("two.safetensors", "bfloat16"),
    }


@pytest.mark.parametrize(
    ("weight_map", "kind"),
    [
        ({"a": "gone.safetensors"}, "model.weights"),
        ({"a": "../secret.safetensors"}, "path.outside"),
        ({"a": "/etc/passwd"}, "path.outside"),
        ({"a": "one.safetensors", "z": "one.safetensors"}, "model.weights"),
        ({"a": "one.safetensors", "b": "same.safetensors"}, "model.weights"),
        (["a"], "model.weights"),
        ({"a": 1}, "model.weights"),
    ],
)
def test_an_index_that_lies_is_refused(weight_map: Any, kind: str, tmp_path: Path) -> None:
    write(tmp_path, "one.safetensors", {"a": entry(0, 16, [4])}, 16)
    write(tmp_path, "same.safetensors", {"a": entry(0, 16, [4]), "b": entry(16, 20, [1])}, 20)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    assert refusal(tmp_path).kind == kind


def test_allowed_pickles_leave_the_table_to_their_conversion(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")

    assert read_tensors(tmp_path, allow_pickle=True) == {}
