"""Damaged, foreign and hostile ONNX files are refused with the right kind, and nothing outside is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from neutral_decoder import make_decoder

from qeffbuild.errors import ModelError
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.weights import Folder, Weights


def external(location: str, offset: int | None = 0, length: int | None = 16, shape: tuple[int, ...] = (4,)) -> Any:
    return ir.ExternalTensor(location, offset, length, ir.DataType.FLOAT, shape=ir.Shape(shape), name="w")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with a weights file of 4 floats, and a secret beside it."""
    (tmp_path / "secret").write_bytes(bytes(16))
    made = tmp_path / "model"
    made.mkdir()
    (made / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    return made


def test_a_reference_inside_the_folder_gives_the_values(folder: Path) -> None:
    assert Weights(Folder(folder)).array(external("w.bin")).tolist() == [0, 1, 2, 3]
    assert Weights(Folder(folder)).array(external("w.bin", 4, 8, (2,))).tolist() == [1, 2]


@pytest.mark.parametrize(
    "tensor",
    [
        external("../secret"),
        external("sub/../../secret"),
        external("/etc/hostname"),
        external(""),
        external("."),
        external("w.bin\0"),
        external("..\\secret"),
        external("absent.bin"),
        external("w.bin", offset=1),
        external("w.bin", offset=-4),
        external("w.bin", offset=2**63),
        external("w.bin", length=2**62, shape=(2**60,)),
        external("w.bin", length=8),
        external("link.bin"),
        external("hard.bin"),
        external("sub/secret"),
    ],
    ids=lambda tensor: f"{str(tensor.location)!r}-{tensor.offset}-{tensor.length}",
)
def test_references_that_leave_the_folder_or_the_file_are_refused(folder: Path, tensor: Any) -> None:
    (folder / "link.bin").symlink_to("../secret")
    (folder / "sub").symlink_to("..")
    os.link(folder.parent / "secret", folder / "hard.bin")

    with pytest.raises(ModelError) as refused:
        Weights(Folder(folder)).array(tensor)

    assert refused.value.kind == "onnx.external"
    assert refused.value.exit_code == 2


def test_a_hub_snapshot_links_into_its_own_blobs_and_nowhere_else(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "repo/snapshots/abc", tmp_path / "repo/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "123").write_bytes(bytes(16))
    (tmp_path / "secret").write_bytes(bytes(16))
    (snapshot / "w.bin").symlink_to("../../blobs/123")
    (snapshot / "bad.bin").symlink_to("../../../secret")

    weights = Weights(Folder(snapshot, is_checkpoint=True))

    assert weights.array(external("w.bin")).tolist() == [0, 0, 0, 0]
    with pytest.raises(ModelError):
        weights.array(external("bad.bin"))
    with pytest.raises(ModelError):
        Weights(Folder(snapshot)).array(external("w.bin"))


def test_a_graph_is_read_and_written_back_unchanged(tmp_path: Path) -> None:
    exported = make_decoder(tmp_path).exported / "graph.onnx"

    save_graph(load_graph(exported), tmp_path / "again.onnx")

    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_graph_is_invalid(tmp_path: Path, share: float) -> None:
    whole = (make_decoder(tmp_path).exported / "graph.onnx").read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(whole[: int(len(whole) * share)])

    with pytest.raises(ModelError) as refused:
        load_graph(cut)

    assert refused.value.kind == "onnx.invalid"


@pytest.mark.parametrize("content", [b"\x00", b"not a graph at all", b"\xff" * 100, b"{}"])
def test_other_content_is_invalid(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "graph.onnx").write_bytes(content)

    with pytest.raises(ModelError) as refused:
        load_graph(tmp_path / "graph.onnx")

    assert refused.value.kind == "onnx.invalid"


def test_a_missing_file_is_invalid(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        load_graph(tmp_path / "none.onnx")

    assert refused.value.kind == "onnx.invalid"


def write_model(path: Path, domain: str = "", opset: int = 20, reads: str = "x") -> Path:
    helper, tensor = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, tensor, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", [reads], ["y"], domain=domain)], "g", ends[:1], ends[1:])
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    path.write_bytes(helper.make_model(graph, opset_imports=imports).SerializeToString())
    return path


@pytest.mark.parametrize("said", [{"opset": 999}, {"domain": "com.example"}], ids=str)
def test_newer_opsets_and_foreign_operators_are_unsupported(tmp_path: Path, said: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as refused:
        load_graph(write_model(tmp_path / "graph.onnx", **said))

    assert refused.value.kind == "onnx.unsupported"


def test_a_value_that_nothing_makes_is_invalid(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        load_graph(write_model(tmp_path / "graph.onnx", reads="nowhere"))

    assert refused.value.kind == "onnx.invalid"
    assert "nowhere" in refused.value.message


def test_a_file_that_one_message_cannot_hold_is_unsupported(tmp_path: Path) -> None:
    sparse = tmp_path / "graph.onnx"
    with sparse.open("wb") as file:
        file.truncate(1 << 31)

    with pytest.raises(ModelError) as refused:
        load_graph(sparse)

    assert refused.value.kind == "onnx.unsupported"
