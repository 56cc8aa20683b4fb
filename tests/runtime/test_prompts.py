"""A prompts file is plain lines or JSON lines, and a bad one says so."""

from __future__ import annotations

import pytest

from qeffbuild.errors import RunError
from qeffbuild.runtime.prompts import read_prompts


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        ("Hi there!!\n\n  indented stays\nlast", ("Hi there!!", "  indented stays", "last")),
        ("one\r\ntwo\r\n", ("one", "two")),
        ("\ufeffwith a byte order mark", ("with a byte order mark",)),
        ('{"prompt": "two\\nlines"}\n\n{"prompt": "é", "id": 7}\n', ("two\nlines", "é")),
        ("{ is a brace\n{}\n", ("{ is a brace", "{}")),
        ('["a"]\n', ('["a"]',)),
        ("one\u2028prompt\x0cstill", ("one\u2028prompt\x0cstill",)),
    ],
)
def test_each_line_is_a_prompt(tmp_path, content, prompts):
    path = tmp_path / "prompts"
    path.write_bytes(content.encode())

    assert read_prompts(path) == prompts


@pytest.mark.parametrize("content", [b"", b"\n \n", b"caf\xe9"])
def test_a_file_without_prompts_or_not_utf_8_is_refused(tmp_path, content):
    path = tmp_path / "prompts"
    path.write_bytes(content)

    with pytest.raises(RunError) as error:
        read_prompts(path)

    assert error.value.kind == "run.prompt"
    assert str(path) in error.value.message


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(RunError) as error:
            read_prompts(path)
        assert error.value.kind == "run.prompt"


def test_a_line_that_breaks_the_json_lines_names_its_number(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n{"text": "b"}\n')

    with pytest.raises(RunError) as error:
        read_prompts(path)

    assert error.value.where == f"{path}:2"
