"""What is secret in the environment or in an address stays there: no plan, message, log, cache or package repeats it."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import Call, Row, expect_refusal, plan

TOKEN = "hunter2hunter2"
VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "MY_PASSWORD")


def files_with(text: str, folder: Path) -> list[str]:
    """Which files below `folder` hold `text`, in their bytes or in their name."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in found if text in str(path) or text.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_build_repeats_nothing_of_the_environment(qeffbuild, tmp_path: Path) -> None:
    secrets = dict.fromkeys(VARIABLES, TOKEN)
    environment = {**secrets, "QEFFBUILD_CACHE": str(tmp_path / "cache"), "QEFFBUILD_CONFIG": TOKEN}
    words = ("model=gpt2", "model.scale=tiny", "backend=onnxruntime", "out=package")

    said = [
        qeffbuild(*verb.split(), *words, cwd=tmp_path, env=environment)
        for verb in ("build", "plan --json", "why --json", "doctor --json", "build --debug")
    ]

    assert [done.returncode for done in said] == [0, 0, 0, 0, 0], said
    assert (tmp_path / "package" / "provenance.json").is_file()
    assert all(TOKEN not in done.stdout + done.stderr for done in said)
    assert files_with(TOKEN, tmp_path) == []


REFUSED = [
    plan("remote", f"cache.remote=https://user:{TOKEN}@host/store", kind="remote.absent", exit_code=3),
    plan("hub", "model=hf", f"model.id=https://user:{TOKEN}@host/model", kind="model.name"),
    plan("choice", f"model='https://user:{TOKEN}@host/m'", kind="override.path"),
    plan("searchpath", f"hydra.searchpath=['https://{TOKEN}@host/m']", kind="override.path"),
    plan("unknown", f"remote='https://user:{TOKEN}@host/m'", kind="override.unknown"),
    plan("resolver", "out=${oc.env:HF_TOKEN}", kind="spec.resolver"),
    plan("default", "out=${oc.env:HF_TOKEN,none}", kind="spec.resolver"),
    plan("select", "out=${oc.select:HF_TOKEN}", kind="spec.resolver"),
]


@pytest.mark.parametrize("row", REFUSED, ids=str)
def test_a_refusal_repeats_no_password(row: Row, call: Call, cache: Path, tmp_path: Path) -> None:
    said = expect_refusal(row, call, tmp_path)

    assert TOKEN not in said.stdout + said.stderr
    assert files_with(TOKEN, cache) == []
