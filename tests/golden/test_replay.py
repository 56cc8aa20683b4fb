"""Every recorded request of QEfficient, asked of us: the same options, documents, configurations and graph inputs.

A case is one compilation by QEfficient 1.23.0.dev0 with stand-in compilers (docs/cloud_ai_100.md): its request, the
graph's inputs and outputs, the arguments of each tool and the files that it read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from qeffbuild import api
from qeffbuild.errors import QeffBuildError
from tests.golden.compare import differences
from tests.golden.models import config_of, write_model
from tests.golden.replay import overrides_of, read_case

CASES = Path(__file__).parent / "cases"
NAMES = sorted(path.stem for path in CASES.glob("*.json"))

# What we do otherwise on purpose: the reasons stand in docs/cloud_ai_100.md.
NO_WINDOW = (  # no axis of this graph is called so; the recorded size is one that was written whatever the model said
    "command 0: specializations.json: .specializations[0].symbols.sliding_window is None instead of 128",
)
FOUR = [f"model_configuration_{number}" for number in (1, 2, 3, 4)]
ALL_SHAPES = (  # recorded were the first two of four specializations: docs/qnn.md
    "command 0: custom_io_config.yaml: .Input Tensor Configuration[0].Desired Model Parameters.Shape is "
    "(1, 128), (1, 128), (1, 1), (1, 1) instead of (1, 128), (1, 128)",
    f"command 1: qnn_compile_backend.json: .graph_names is {FOUR} instead of {FOUR[:2]}",
)
OWN_WINDOW = ("command 0: specializations.json: .specializations[0].symbols.sliding_window is 64 instead of 128",)
NO_POOLER = ("graph.onnx outputs lack 305",)  # a second output without a name, that nobody asked for
DIFFERENT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("arch_gpt_oss", "cb_gpt_oss"), OWN_WINDOW),
    "gpt_oss_decode_fullkv": NO_WINDOW,
    "qnn_ccl_3spec": ALL_SHAPES,
    **dict.fromkeys(("bert_basic", "bert_multiseq"), NO_POOLER),
}

# Not replayed yet, and why. A case that replays has to leave this list.
NOT_YET: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one request: its folder, or why there is none."""

    folder: Path
    error: Exception | None = None


@pytest.fixture(scope="module")
def replayed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Replayed]:
    """All requests as one build: a model that several cases share is exported once, and torch is imported once."""
    root = tmp_path_factory.mktemp("replay")
    results: dict[str, Replayed] = {}
    specs = {}
    chosen = [item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")]
    for name in (name for name in NAMES if name in chosen):
        folder = root / name
        try:
            case = read_case(CASES / f"{name}.json")
            specs[name] = api.compose(overrides_of(case, _model(root, case), folder), conf_dirs=())
            api.admit(specs[name])
        except Exception as error:
            specs.pop(name, None)
            results[name] = Replayed(folder, error)
    built = api.build_together(list(specs.values()), "render", allow_outside=True).builds
    for name, build in zip(specs, built, strict=True):
        try:
            api.hand_out(build)
            results[name] = Replayed(root / name)
        except QeffBuildError as error:
            results[name] = Replayed(root / name, error)
    return results


def _model(root: Path, case: dict) -> Path:
    """The model of a case; equal configurations share one."""
    config = config_of(case)
    folder = root / hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    if not folder.is_dir():
        write_model(folder, config)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_request_gives_what_was_recorded(name: str, replayed: dict[str, Replayed]) -> None:
    made = replayed[name]
    if name in NOT_YET:
        assert made.error is not None or list(_differences(name, made)), f"{name} replays: take it off the list"
        return
    if made.error is not None:
        raise made.error

    assert tuple(_differences(name, made)) == DIFFERENT.get(name, ())


def _differences(name: str, made: Replayed) -> Iterator[str]:
    yield from differences(read_case(CASES / f"{name}.json"), made.folder)
