"""A package is built again from what it remembers, byte for byte, or the difference is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from qeffbuild.package import MANIFEST, PROVENANCE

Run = Callable[..., "CompletedProcess[str]"]
TINY = ("model=gpt2", "model.scale=tiny", "quantization=int8", "specialization.ctx_len=64")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, qeffbuild: Run) -> Path:
    folder = tmp_path_factory.mktemp("again")
    done = qeffbuild("build", *TINY, "out=pkg", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "pkg"


@pytest.mark.slow
def test_an_empty_cache_gives_the_same_bytes_again(qeffbuild: Run, package: Path, tmp_path: Path) -> None:
    fresh = {"QEFFBUILD_CACHE": str(tmp_path / "cache")}

    done = qeffbuild("build", "--from", str(package), "out=again", cwd=tmp_path, env=fresh)

    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in package.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    assert (tmp_path / "again" / MANIFEST).read_bytes() == (package / MANIFEST).read_bytes()


def test_another_choice_makes_another_package(qeffbuild: Run, package: Path, tmp_path: Path) -> None:
    done = qeffbuild("build", "--from", str(package), "quantization=none", "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    said = json.loads((Path(json.loads(done.stdout)["package"]) / MANIFEST).read_text())
    assert (said["quantization"]["method"], said["specialization"]["ctx_len"]) == ("none", 64)


def forged(package: Path, tmp_path: Path, **choices: object) -> Path:
    """A copy of the package that remembers other choices, whole in itself."""
    from qeffbuild.package import write_manifest

    copy = Path(shutil.copytree(package, tmp_path / "forged"))
    said = json.loads((copy / PROVENANCE).read_text())
    said["predicate"]["buildDefinition"]["externalParameters"]["choices"] |= choices
    (copy / PROVENANCE).write_text(json.dumps(said))
    facts = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).unlink()
    write_manifest(copy, {key: value for key, value in facts.items() if key not in ("files", "digest", "schema")})
    return copy


def test_what_does_not_come_out_the_same_is_named(qeffbuild: Run, package: Path, tmp_path: Path) -> None:
    copy = forged(package, tmp_path, **{"specialization.ctx_len": 32})

    done = qeffbuild("build", "--from", str(copy), cwd=tmp_path)

    assert done.returncode == 6
    assert done.stderr.count("error[lock.differs]: manifest.json: ") == 1


@pytest.mark.parametrize(
    ("choices", "code", "kind"),
    [
        ({"backend.nosuch": 1}, 2, "override.unknown"),
        ({"model.path": "???"}, 2, "spec.missing"),
        ({"model.path": "../../nowhere"}, 2, "model.absent"),
        ({"specialization.ctx_len": "x,y"}, 2, "spec.type"),
    ],
)
def test_choices_of_a_stranger_are_read_like_a_users_words(
    qeffbuild: Run, package: Path, tmp_path: Path, choices: dict[str, object], code: int, kind: str
) -> None:
    done = qeffbuild("build", "--from", str(forged(package, tmp_path, **choices, **{"model.scale": "full"})))

    assert (done.returncode, f"error[{kind}]" in done.stderr) == (code, True), done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3


def test_a_damaged_package_is_no_source(qeffbuild: Run, package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    (copy / PROVENANCE).write_text("{}")

    done = qeffbuild("build", "--from", str(copy))

    assert done.returncode == 6
    assert "error[verify.package]" in done.stderr
