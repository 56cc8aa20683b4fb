from __future__ import annotations

import os

import pytest

from qeffbuild.errors import PathError, VerificationError
from qeffbuild.store.hand_out import export_tree


def tree(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_has_the_same_files_and_may_be_edited(store, put, tmp_path):
    entry = put(store, graph="the graph", notes__io="io")

    export_tree(store, entry, tmp_path / "deep" / "out")

    copy = tmp_path / "deep" / "out"
    assert tree(copy) == {"graph": "the graph", "notes/io": "io"}
    (copy / "graph").write_text("edited")
    assert (entry.out / "graph").read_text() == "the graph"
    assert os.stat(copy / "notes" / "io").st_nlink == 1


def test_the_same_files_stay_as_they_are(store, put, tmp_path):
    entry = put(store)
    export_tree(store, entry, tmp_path / "out")
    before = (tmp_path / "out" / "graph.onnx").stat()

    export_tree(store, entry, tmp_path / "out")

    assert (tmp_path / "out" / "graph.onnx").stat() == before


def test_other_files_are_replaced_only_on_request(store, put, tmp_path):
    entry = put(store)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")

    with pytest.raises(PathError) as refused:
        export_tree(store, entry, tmp_path / "out")
    assert refused.value.kind == "path.exists"
    assert tree(tmp_path / "out") == {"thesis.txt": "precious"}

    export_tree(store, entry, tmp_path / "out", replace=True)
    assert tree(tmp_path / "out") == {"graph.onnx": "export"}
    assert [path.name for path in tmp_path.iterdir() if "qeffbuild-" in path.name] == []


def test_damaged_bytes_do_not_get_out(store, put, tmp_path):
    entry = put(store)
    (entry.out / "graph.onnx").chmod(0o644)
    (entry.out / "graph.onnx").write_text("exporx")

    with pytest.raises(VerificationError):
        export_tree(store, entry, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_what_an_interrupted_copy_left_is_swept(store, put, tmp_path):
    (tmp_path / ".out.qeffbuild-new").mkdir()
    (tmp_path / ".out.qeffbuild-new" / "half").write_text("")

    export_tree(store, put(store), tmp_path / "out")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]


def test_folders_without_a_file_in_them_are_free(store, put, tmp_path):
    entry = put(store, graph="the graph")
    (tmp_path / "out" / "notes" / "deep").mkdir(parents=True)

    export_tree(store, entry, tmp_path / "out")

    assert tree(tmp_path / "out") == {"graph": "the graph"}


def test_a_link_in_the_way_is_no_free_place(store, put, tmp_path):
    entry = put(store, graph="the graph")
    (tmp_path / "precious").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "precious")

    with pytest.raises(PathError):
        export_tree(store, entry, tmp_path / "out")
