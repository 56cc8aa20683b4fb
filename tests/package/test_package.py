"""A package says what is in it, notices every change, and is the same bytes whenever the same things are built."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from decoder_steps import build
from neutral_decoder import EOS, POSITIONS, VOCABULARY, make_decoder, signature

from qeffbuild.errors import ModelError, StepError, VerificationError
from qeffbuild.package import MANIFEST, Package, digest_of, members, write_manifest

MEMBERS = ["decoder.data", "decoder.onnx", "provenance.json"] + [
    f"tokenizer/{name}" for name in ("tokenizer.json", "tokenizer_config.json")
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    return build(make_decoder(folder), folder).path


@pytest.fixture
def package(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(built, tmp_path / "package"))


def test_a_package_lists_its_members_and_what_the_runtime_needs(built: Path) -> None:
    package = Package.open(built, verify=True)

    assert list(package.manifest["files"]) == list(members(built)) == MEMBERS
    assert package.signature() == signature()
    assert package.graph() == built / "decoder.onnx"
    assert package.tokenizer == built / "tokenizer"
    assert package.model == {
        "model_type": "hand",
        "name": "HandForCausalLM",
        "vocab_size": VOCABULARY,
        "eos_token_id": [EOS],
        "bos_token_id": None,
        "pad_token_id": None,
        "max_position_embeddings": POSITIONS,
    }
    assert package.manifest["task"] == "causal-lm"
    assert package.manifest["quantization"] == {"method": "none"}
    assert package.specialization["ctx_len"] == 16


def test_provenance_says_what_was_made_from_what(built: Path) -> None:
    statement = json.loads((built / "provenance.json").read_text())

    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    made = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    assert made == {name: digest_of(built / name) for name in MEMBERS if name != "provenance.json"}
    definition = statement["predicate"]["buildDefinition"]
    read = {said["name"]: said["digest"]["sha256"] for said in definition["resolvedDependencies"]}
    model = built.parent / "model"
    assert read == {file.name: digest_of(file) for file in model.iterdir()}
    assert definition["externalParameters"]["specialization"]["ctx_len"] == 16
    assert str(built.parent) not in (built / "provenance.json").read_text()


def test_the_same_build_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    again = build(make_decoder(tmp_path), tmp_path).path

    assert {name: digest_of(again / name) for name in [*MEMBERS, MANIFEST]} == {
        name: digest_of(built / name) for name in [*MEMBERS, MANIFEST]
    }


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("member", MEMBERS)
def test_one_changed_bit_is_found_and_named(package: Path, member: str) -> None:
    flip(package / member)

    with pytest.raises(VerificationError) as refused:
        Package.open(package, verify=True)

    assert refused.value.kind == "verify.package"
    assert refused.value.exit_code == 6
    assert member in refused.value.message


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes() + b"x"),
        lambda file: (file.unlink(), file.symlink_to("/etc/hostname")),
        lambda file: (file.unlink(), file.mkdir()),
    ],
    ids=["missing", "empty", "longer", "link", "folder"],
)
@pytest.mark.parametrize("member", ["decoder.onnx", "tokenizer/tokenizer.json"])
def test_wrong_sizes_and_kinds_are_found_without_reading(
    package: Path, member: str, damage: Callable[[Path], object]
) -> None:
    damage(package / member)

    with pytest.raises(VerificationError) as refused:
        Package.open(package)

    assert member in refused.value.message


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"schema": 2}', b'{"schema": 1}', b"\xff\xfe"], ids=repr)
def test_a_damaged_manifest_is_no_package(package: Path, content: bytes | None) -> None:
    (package / MANIFEST).unlink()
    if content is not None:
        (package / MANIFEST).write_bytes(content)

    with pytest.raises(VerificationError) as refused:
        Package.open(package)

    assert refused.value.kind == "verify.package"
    assert MANIFEST in refused.value.message


def test_a_manifest_changed_by_hand_is_noticed(package: Path) -> None:
    text = (package / MANIFEST).read_text()
    (package / MANIFEST).write_text(text.replace('"batch_size": 2', '"batch_size": 4'))

    with pytest.raises(VerificationError) as refused:
        Package.open(package)

    assert "changed" in refused.value.message


def test_a_stranger_among_the_members_is_named(package: Path) -> None:
    (package / "tokenizer/extra.json").write_text("{}")

    with pytest.raises(VerificationError) as refused:
        Package.open(package, verify=True)

    assert "tokenizer/extra.json" in refused.value.message


def test_a_member_of_another_build_does_not_pass_by_a_new_manifest(package: Path) -> None:
    flip(package / "decoder.data")
    facts = {key: value for key, value in Package.open(package).manifest.items() if key not in ("files", "digest")}
    write_manifest(package, facts)

    with pytest.raises(VerificationError) as refused:
        Package.open(package, verify=True)

    assert "decoder.data" in refused.value.message


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "tokenizer/../../outside"])
def test_a_manifest_that_names_files_outside_is_refused(tmp_path: Path, built: Path, name: str) -> None:
    said = json.loads((built / MANIFEST).read_text())
    facts = {key: value for key, value in said.items() if key not in ("files", "digest")}
    folder = tmp_path / "package"
    folder.mkdir()
    write_manifest(folder, {**facts, "graphs": {"decoder": {**facts["graphs"]["decoder"], "file": name}}})

    with pytest.raises(VerificationError) as refused:
        Package.open(folder)

    assert "leaves the package" in refused.value.message


def test_a_model_that_changed_during_the_build_is_refused(tmp_path: Path) -> None:
    decoder = make_decoder(tmp_path)
    (decoder.checkpoint / "tokenizer.json").write_text('{"other": 1}')

    with pytest.raises(ModelError) as refused:
        build(decoder, tmp_path)

    assert refused.value.kind == "model.changed"


def test_weights_that_overflow_are_not_packaged(tmp_path: Path) -> None:
    decoder = make_decoder(tmp_path)
    said = json.loads((decoder.fetched / "facts.json").read_text())["tensors"]["ln_f.weight"]
    with (decoder.checkpoint / "model.safetensors").open("r+b") as file:
        file.seek(said["offset"])
        file.write(b"\x00\x00\xc0\x7f" * 4)

    with pytest.raises(StepError) as refused:
        build(decoder, tmp_path)

    assert refused.value.kind == "step.check"


def test_a_model_without_tokenizer_makes_a_package_without_one(tmp_path: Path) -> None:
    decoder = make_decoder(tmp_path)
    fetched = json.loads((decoder.fetched / "model.json").read_text())
    fetched["files"] = {name: said for name, said in fetched["files"].items() if "token" not in name}
    (decoder.fetched / "model.json").write_text(json.dumps(fetched))

    package = build(decoder, tmp_path)

    assert package.tokenizer is None
    assert not (package.path / "tokenizer").exists()
