"""Configuration files that nobody should read, by their kind and the line that is named."""

from __future__ import annotations

import pytest

MINE = "model/mine.yaml"


def _bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "kind", "where"),
    [
        ("name: mine\nmodle_type: gpt2\n", "spec.unknown", "2"),
        ("name: mine\npath: [a]\n", "spec.type", "2"),
        ("name: mine\nkv_head_replication: 0\n", "spec.range", "2"),
        ("name: mine\npath: a\npath: b\n", "spec.duplicate", "3"),
        ("name: mine\npath: !!python/object/apply:os.system [id]\n", "spec.tag", "2"),
        ("name: !!str mine\n", "spec.tag", "1"),
        ("!!python/name:os.system : x\n", "spec.tag", "1"),
        ("name: mine\n_target_: os.system\n", "spec.forbidden", "2"),
        ("name: mine\npath: {a: [{_target_: os.system}]}\n", "spec.forbidden", "2"),
        (_bomb(), "spec.size", "5"),
        ("path: " + "[" * 100 + "]" * 100, "spec.size", "1"),
        ("a: &a [*a]\n", "spec.cycle", "1"),
        ("name: *nowhere\n", "spec.cycle", "1"),
        (b"name: mine\npath: \xff\xfe\n", "spec.text", "2"),
        ("name: mine\npath: a\0b\n", "spec.text", "2"),
        ("name: mine\npath: a\u202eb\n", "spec.text", "2"),
        ("name: mine\npath: [a, b\n", "spec.syntax", "3:1"),
        ("name: mine\n\tpath: a\n", "spec.syntax", "2:1"),
        ("name: mine\n---\nname: yours\n", "spec.syntax", "2"),
        ("- a\n- b\n", "spec.type", None),
        ("? [a, b]\n: c\n", "spec.type", "1"),
        ("just words\n", "spec.type", None),
        ("name: mine\ntrust_remote_code: no\n", "spec.type", "2"),
        ("name: mine\ntrust_remote_code: on\n", "spec.type", "2"),
        ("name: mine\nkv_head_replication: 1e0\n", "spec.type", "2"),
        ("name: mine\nkv_head_replication: 012\n", "spec.type", "2"),
        ("name: mine\nkv_head_replication: 1:30\n", "spec.type", "2"),
        ("name: mine\npath: ${oc.env:SECRET}\n", "spec.resolver", "2"),
        ("defaults:\n  - hf\n  - ../../evil\n", "override.path", "3"),
        ("defaults:\n  - hf\n  - /other: ../../evil\n", "override.path", "3"),
        ("defaults:\n  - hf\n  - override hydra/launcher: joblib\n", "spec.forbidden", "3"),
        ("defaults:\n  - nosuch\n", "override.choice", "2"),
        ("defaults: gpt2\n", "spec.type", "1"),
        ("defaults:\n  - 3\n", "spec.type", "2"),
    ],
)
def test_a_bad_file_is_refused_by_its_line(refusal, text, kind, where):
    error = refusal("model=mine", files={MINE: text})

    assert (error.kind, error.exit_code) == (kind, 2)
    assert error.where.endswith(f"conf/{MINE}" + (f":{where}" if where else ""))


def test_a_file_of_more_than_a_mebibyte_is_refused(refusal):
    error = refusal("model=mine", files={MINE: "#" * (1 << 20) + "\nname: mine\n"})

    assert error.kind == "spec.size"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("hydra: {run: {dir: ../x}}\n", "path.outside"),
        ("hydra: {searchpath: [/evil]}\n", "override.path"),
        ("hydra: {job: {chdir: true}}\n", "spec.forbidden"),
    ],
)
def test_a_recipe_does_not_say_how_hydra_behaves(refusal, text, kind):
    error = refusal("recipe=mine", files={"recipe/mine.yaml": f"# @package _global_\n{text}"})

    assert error.kind == kind


def test_a_recipe_that_chooses_what_is_not_there_names_its_line(refusal):
    recipe = "# @package _global_\ndefaults:\n  - override /model: nosuch\n  - _self_\n"

    error = refusal("recipe=mine", files={"recipe/mine.yaml": recipe})

    assert error.kind == "override.choice"
    assert error.where.endswith("conf/recipe/mine.yaml:3")


def test_choices_that_name_each_other_are_a_cycle(refusal):
    files = {"model/a.yaml": "defaults: [b]\n", "model/b.yaml": "defaults: [a]\n"}

    assert refusal("model=a", files=files).kind == "spec.cycle"


def test_an_alias_that_does_not_multiply_is_read(tmp_path, spec_of):
    from qeffbuild.spec.documents import read

    file = tmp_path / "a.yaml"
    file.write_text("first: &one [a, b]\nsecond: *one\n")

    assert read(file, "a.yaml").values == {"first": ["a", "b"], "second": ["a", "b"]}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("1", 1),
        ("-7", -7),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("no", "no"),
        ("012", "012"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("'1'", "1"),
    ],
)
def test_a_plain_scalar_means_what_it_looks_like(tmp_path, said, meant):
    from qeffbuild.spec.documents import read

    file = tmp_path / "a.yaml"
    file.write_text(f"value: {said}\n")
    value = read(file, "a.yaml").values["value"]

    assert (type(value), value) == (type(meant), meant)
