"""What is asked of the machine, and files that options name, are settled before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qeffbuild.backends.qaic.machine import probe_hardware, probe_sdk, settle
from qeffbuild.backends.qaic.options import Options, check
from qeffbuild.errors import AbsentError, BackendError, LimitError, QeffBuildError, StepError
from qeffbuild.spec.types import BuildSpec

SpecOf = Callable[..., BuildSpec]


def utility(folder: Path, body: str) -> Path:
    path = folder / "qaic-util"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("said", "version"), [("FW IMAGE_VARIANT:AIC100_X", "ai100"), ("FW IMAGE_VARIANT: AIC200", "ai200"), ("", "ai100")]
)
def test_the_utility_says_which_cards_there_are(said: str, version: str, tmp_path: Path) -> None:
    assert probe_hardware(utility(tmp_path, f"[ $1 = -q ] && echo '{said}'")) == version


def test_a_utility_that_fails_or_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="no card"):
        probe_hardware(utility(tmp_path, "echo no card >&2; exit 3"))
    with pytest.raises(AbsentError):
        probe_hardware(tmp_path / "gone")


def test_a_utility_that_hangs_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qeffbuild.backends.qaic.machine._PATIENCE_S", 0.2)

    with pytest.raises(LimitError):
        probe_hardware(utility(tmp_path, "exec sleep 60"))


def test_the_sdk_says_its_version(tmp_path: Path) -> None:
    apps = tmp_path / "apps.xml"
    apps.write_text("<versions><ci_build>1.19.6.0</ci_build></versions>")

    assert probe_sdk(apps) == "1.19.6.0"
    with pytest.raises(AbsentError):
        probe_sdk(tmp_path / "gone")


def test_a_probe_becomes_what_was_found_before_a_plan_is_made(spec_of: SpecOf, tmp_path: Path) -> None:
    apps = tmp_path / "apps.xml"
    apps.write_text("<ci_build>1.19.6.0</ci_build>")
    spec = spec_of("backend=qaic", "backend.sdk_version=probe", "backend.aic_hw_version=probe")

    options = settle(spec, apps=apps, utility=utility(tmp_path, "echo FW IMAGE_VARIANT AIC200")).backend.options

    assert (options.sdk_version, options.hw_version, options.form) == ("1.19.6.0", "ai200", "flat")


@pytest.mark.parametrize(("sdk", "form"), [(None, "named"), ("1.20", "named"), ("2.0.1", "named"), ("1.19.9", "flat")])
def test_the_form_of_specializations_follows_the_sdk_unless_it_is_said(sdk: str | None, form: str) -> None:
    assert Options(sdk_version=sdk).form == form
    assert Options(sdk_version=sdk, specialization_form="named").form == "named"


def test_what_is_no_version_is_refused(spec_of: SpecOf) -> None:
    with pytest.raises(BackendError, match=r"sdk_version"):
        spec_of("backend=qaic", "backend.sdk_version=new")


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("node_precision_info", None, "backend.file"),
        ("mdp_load_partition_config", None, "backend.file"),
        ("mdp_load_partition_config", "{", "backend.file"),
        ("mdp_load_partition_config", "[]", "backend.file"),
        ("templates", None, "backend.file"),
        ("templates", "a file", "backend.file"),
        ("compiler", None, "backend.absent"),
    ],
)
def test_a_file_that_an_option_names_is_looked_at_first(
    spec_of: SpecOf, name: str, text: str | None, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "named"
    if text is not None:
        path.write_text(text)
    spec = spec_of("backend=qaic")
    options = replace(spec.backend.options, **{name: str(path)})

    with pytest.raises(QeffBuildError) as caught:
        settle(replace(spec, backend=replace(spec.backend, options=options)))

    assert caught.value.kind == kind
    assert f"backend.{name}" in caught.value.message
    check(spec)
