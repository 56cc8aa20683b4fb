"""QEfficient's spellings are read, typed and required as there; a slip of the fingers is caught."""

from __future__ import annotations

import pytest

from qeffbuild.compat.flags import FLAGS, rows
from qeffbuild.compat.words import read_words
from qeffbuild.errors import SpecError

NEEDED = ["--model_name", "gpt2", "--num_cores", "16"]


def test_dashes_and_underscores_are_one_sign() -> None:
    one = read_words(
        "infer", [*NEEDED, "--batch-size", "2", "--prompt-len=8", "--device-group", "[0,1]", "--mxfp6-matmul"]
    )
    other = read_words("infer", [*NEEDED, "--batch_size=2", "--prompt_len", "8", "--device_group", "[0, 1]", "--mxfp6"])

    assert one == other
    assert one.values["device_group"] == [0, 1]


def test_values_are_what_the_flags_take() -> None:
    words = ["--prompt", "one|two words", "--comp-ctx-lengths-prefill", "512,1024", "--enable_qnn", "-v"]

    said = read_words("infer", [*NEEDED, *words]).values

    assert (said["prompt"], said["comp_ctx_lengths_prefill"]) == (["one", "two words"], [512, 1024])
    assert (said["enable_qnn"], said["verbose"], said["mos"]) == (True, True, 1)
    assert read_words("infer", [*NEEDED, "--enable_qnn", "own.json"]).values["enable_qnn"] == "own.json"


def test_other_words_are_options_of_the_compiler_and_keys_of_ours() -> None:
    said = read_words("infer", [*NEEDED, "--stats-level", "70", "--time-passes", "-sdp", "launch.jobs=2"])

    assert said.others == {"stats_level": "70", "time_passes": True}
    assert (said.stray, said.overrides) == (("-sdp",), ("launch.jobs=2",))


@pytest.mark.parametrize(
    ("words", "kind", "hint"),
    [
        ([*NEEDED, "--ctx_lenn", "3"], "flag.unknown", "did you mean --ctx_len?"),
        ([*NEEDED, "--prefil-seq-len", "64"], "flag.unknown", "did you mean --prompt_len?"),
        ([*NEEDED, "--ctx_len", "long"], "spec.type", "a whole number"),
        ([*NEEDED, "--ctx_len"], "flag.value", None),
        ([*NEEDED, "--mxfp6=yes"], "flag.value", "write --mxfp6 alone"),
        ([*NEEDED, "--device_group", "[0,a]"], "spec.type", "such as --device_group [0,1]"),
        (["--num_cores", "16"], "spec.missing", None),
        (["--model_name", "gpt2"], "spec.missing", None),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], kind: str, hint: str | None) -> None:
    with pytest.raises(SpecError) as caught:
        read_words("infer", words)

    assert caught.value.kind == kind
    assert hint is None or caught.value.hint == hint


def test_every_row_of_the_table_has_a_spelling_and_a_meaning() -> None:
    assert len(list(rows())) == len(FLAGS)
    assert all(typed.startswith("-") and does for typed, _, _, does in rows())
