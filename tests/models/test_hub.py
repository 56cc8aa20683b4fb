from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qeffbuild.errors import ModelError
from qeffbuild.models import hub, locate, pin
from qeffbuild.spec.types import ModelSpec

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path) -> Path:
    """A cache as huggingface_hub leaves it: one model, its main branch at COMMIT."""
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"")
    return tmp_path / "hub"


def offline(program: str, cache: Path) -> dict[str, object]:
    """The ModelError of a program that runs with this cache and without a network."""
    body = f"import json\nfrom qeffbuild.errors import ModelError\n{program}"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=True, env=env)
    return json.loads(done.stdout)


def test_a_branch_becomes_the_commit_that_the_cache_has_for_it(hub_cache: Path) -> None:
    environ = {"HF_HUB_CACHE": str(hub_cache)}

    assert pin(ModelSpec(id="org/name"), environ).revision == COMMIT
    assert pin(ModelSpec(id="org/name", revision="main"), environ).revision == COMMIT


def test_a_commit_is_kept_as_it_is_and_asks_nobody(tmp_path: Path) -> None:
    model = ModelSpec(id="org/name", revision=COMMIT)

    assert pin(model, {"HF_HOME": str(tmp_path)}) == model


def test_a_local_or_tiny_model_has_nothing_to_pin() -> None:
    for model in (ModelSpec(path="somewhere"), ModelSpec(scale="tiny", model_type="llama", id="org/name")):
        assert pin(model) == model


def test_a_pinned_model_is_found_where_huggingface_hub_keeps_it(hub_cache: Path) -> None:
    found = locate(f"hub:org/name@{COMMIT}", {"HF_HUB_CACHE": str(hub_cache)})

    assert found == hub_cache / "models--org--name" / "snapshots" / COMMIT


def test_what_has_arrived_is_known_and_of_the_rest_its_positions(hub_cache: Path, tmp_path: Path) -> None:
    model, environ = ModelSpec(id="org/name", revision=COMMIT), {"HF_HUB_CACHE": str(hub_cache)}
    snapshot = hub_cache / "models--org--name" / "snapshots" / COMMIT
    (snapshot / "config.json").write_text('{"n_positions": 77}')

    assert hub.fetched(model, environ) == snapshot
    (snapshot / "model.safetensors").unlink()  # a download that was cut short
    assert hub.fetched(model, environ) is None
    assert hub.positions(model, may_ask=False, environ=environ) == 77
    assert hub.positions(model, may_ask=False, environ={"HF_HOME": str(tmp_path / "no")}) is None


def test_the_cache_is_where_huggingface_hub_says(tmp_path: Path) -> None:
    program = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    from qeffbuild.models.hub import _repository

    for said in ({"HF_HOME": str(tmp_path / "a")}, {"XDG_CACHE_HOME": str(tmp_path / "b")}, {"HF_HUB_CACHE": "/c"}):
        bare = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
        env = {**bare, **said}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
        assert _repository("org/name", env).parent == Path(done.stdout.strip())


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "a/b/c", "org/..", "-x/y", "org/na me", "org/x\n", ""])
def test_a_name_that_is_no_hub_name_is_refused(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        pin(ModelSpec(id=name))

    assert (caught.value.kind, caught.value.exit_code) == ("model.name", 2)


@pytest.mark.parametrize("revision", ["../../x", "-f", "a b", "\n"])
def test_a_revision_that_is_no_revision_is_refused(revision: str) -> None:
    with pytest.raises(ModelError) as caught:
        pin(ModelSpec(id="org/name", revision=revision))

    assert caught.value.kind == "model.revision"


def test_a_branch_is_no_address(hub_cache: Path) -> None:
    with pytest.raises(ModelError) as caught:
        locate("hub:org/name@main", {"HF_HUB_CACHE": str(hub_cache)})

    assert caught.value.kind == "model.revision"


def test_a_missing_folder_is_said_in_our_words(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        locate(str(tmp_path / "nowhere"))

    assert (caught.value.kind, caught.value.exit_code) == ("model.absent", 2)
    assert "hub" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        "from qeffbuild.models import pin; from qeffbuild.spec.types import ModelSpec\n"
        "def ask(): pin(ModelSpec(id='org/other'))",
        f"from qeffbuild.models import locate\ndef ask(): locate('hub:org/other@{COMMIT}')",
    ],
    ids=["pin", "locate"],
)
def test_without_a_network_one_line_says_what_to_do(call: str, hub_cache: Path) -> None:
    said = offline(f"{call}\ntry: ask()\nexcept ModelError as problem: print(json.dumps(problem.as_json()))", hub_cache)

    assert said["kind"] == "model.absent"
    assert "HF_HUB_OFFLINE is set" in str(said["message"])
    assert "model.path=" in str(said["hint"])


def test_a_download_that_was_cut_short_is_not_taken_for_the_model(hub_cache: Path) -> None:
    snapshot = hub_cache / "models--org--name" / "snapshots" / COMMIT
    (snapshot / "model.safetensors").unlink()
    program = f"from qeffbuild.models import locate\ntry: print(json.dumps(str(locate('hub:org/name@{COMMIT}'))))\n"

    said = offline(f"{program}except ModelError as problem: print(json.dumps(problem.as_json()))", hub_cache)

    assert isinstance(said, dict)
    assert said["kind"] == "model.absent"
