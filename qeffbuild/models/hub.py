"""A model's address -> a local folder; hub models lie in Hugging Face's own cache, at a pinned commit."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from qeffbuild.errors import ModelError
from qeffbuild.models import files
from qeffbuild.models.config import number, read_config
from qeffbuild.spec.types import ModelSpec

_HUB = "hub:"
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What the hub itself accepts: ORG/NAME, or a bare NAME for the oldest models, of letters, digits, - _ and .
_ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?")
_REVISION = re.compile(r"[A-Za-z0-9_][\w./-]{0,200}")


def locate(ref: str, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of a leaf: a path, or hub:ID@COMMIT, fetched into the hub's cache when it is not there yet."""
    if not ref.startswith(_HUB):
        folder = Path(ref)
        if not folder.is_dir():
            raise ModelError("model.absent", f"no such model folder: {ref}", hint="model.path names a local folder")
        return folder
    name, _, commit = ref.removeprefix(_HUB).partition("@")
    _check_id(name)
    if not _COMMIT.fullmatch(commit):
        raise ModelError("model.revision", f"{name}: revision {commit!r} is no commit of 40 hex digits")
    snapshot = _repository(name, environ) / "snapshots" / commit
    return snapshot if _is_complete(snapshot) else _download(name, commit)


def pin(model: ModelSpec, environ: Mapping[str, str] = os.environ) -> ModelSpec:
    """The same model with its revision as a commit: as said, else by the cache's refs, else by asking the hub."""
    if model.id is None or model.scale == "tiny":
        return model
    _check_id(model.id)
    revision = model.revision or "main"
    if _COMMIT.fullmatch(revision):
        return model
    if not _REVISION.fullmatch(revision) or ".." in revision.split("/"):
        raise ModelError("model.revision", f"model.revision: {revision!r:.60} is no branch, tag or commit")
    ref = _repository(model.id, environ) / "refs" / revision
    commit = ref.read_text("ascii", "replace").strip() if ref.is_file() else _ask(model.id, revision)
    if not _COMMIT.fullmatch(commit):
        raise ModelError("model.revision", f"{model.id}: {revision} names no commit: {commit!r:.60}", where=str(ref))
    return replace(model, revision=commit)


def fetched(model: ModelSpec, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The folder of a pinned model, where all of it has arrived before."""
    snapshot = _snapshot(model, environ)
    return snapshot if _is_complete(snapshot) else None


def positions(model: ModelSpec, *, may_ask: bool, environ: Mapping[str, str] = os.environ) -> int | None:
    """How long a text of a pinned model can be by its config.json, which the hub `may` be `asked` for.

    None where it cannot be read: whoever fetches the model says why.
    """
    folder = _snapshot(model, environ)
    try:
        if may_ask and not (folder / files.CONFIG).is_file():
            folder = _download_config(model.id or "", folder.name)
        return number(read_config(folder), "max_position_embeddings")
    except ModelError:
        return None


def _snapshot(model: ModelSpec, environ: Mapping[str, str]) -> Path:
    assert model.id is not None
    assert model.revision is not None, "it is pinned"
    return _repository(model.id, environ) / "snapshots" / model.revision


def _check_id(name: str) -> None:
    if not _ID.fullmatch(name) or ".." in name or "--" in name:
        hint = "write ORG/NAME; for a folder of this machine use model=hf model.path=FOLDER"
        raise ModelError("model.name", f"model.id: {name!r:.80} is no name of a hub model", hint=hint)


def _repository(name: str, environ: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps a model, by its documented rules."""
    home = environ.get("HF_HOME") or Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    cache = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE") or Path(home) / "hub"
    return Path(cache).expanduser() / f"models--{name.replace('/', '--')}"


def _is_complete(snapshot: Path) -> bool:
    """Whether everything that a build reads has arrived; an interrupted download leaves some files out."""
    if not (snapshot / files.CONFIG).is_file():
        return False
    try:
        wanted = files.listing(snapshot, allow_pickle=True)
    except ModelError:
        return True  # it arrived and is bad: reading the facts says how
    has_weights = any(name == files.WEIGHTS or name == files.INDEX or name.endswith(".bin") for name in wanted)
    return has_weights and all((snapshot / name).exists() for name in wanted)


def _ask(name: str, revision: str) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().model_info(name, revision=revision).sha)
    except Exception as problem:
        _refuse(name, revision, problem)


def _download(name: str, commit: str) -> Path:
    """Fetch what a build may read. Pickles come only where nothing else does; who may read them is decided later."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=commit, allow_patterns=list(files.WANTED)))
        if not any((folder / weights).exists() for weights in (files.WEIGHTS, files.INDEX)):
            snapshot_download(name, revision=commit, allow_patterns=list(files.PICKLES))
    except Exception as problem:
        _refuse(name, commit, problem)
    if not _is_complete(folder):  # offline, huggingface_hub gives what there is
        hint = "fetch the rest where there is a network; the hub's model must have a config.json and weights"
        raise ModelError("model.absent", f"{name}: only a part of it is in the Hugging Face cache", hint=hint)
    return folder


def _download_config(name: str, commit: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, files.CONFIG, revision=commit)).parent
    except Exception as problem:
        _refuse(name, commit, problem)


def _refuse(name: str, revision: str, problem: Exception) -> NoReturn:
    """Say in one line what huggingface_hub says in many; what is no matter of hub or network goes on as it is."""
    from huggingface_hub import errors

    if isinstance(problem, errors.RevisionNotFoundError):
        raise ModelError("model.revision", f"{name}: the hub has no revision {revision}") from problem
    if isinstance(problem, errors.GatedRepoError):
        hint = "ask for access on the model's page, then log in: hf auth login"
        raise ModelError("model.absent", f"{name}: the hub wants a login for this model", hint=hint) from problem
    if isinstance(problem, errors.RepositoryNotFoundError):
        hint = "look for a typing error; for a private model log in: hf auth login"
        raise ModelError("model.absent", f"{name}: the hub has no such model", hint=hint) from problem
    if not isinstance(problem, (OSError, *_network_errors())):
        raise problem
    offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE")
    why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
    raise ModelError(
        "model.absent",
        f"{name}@{revision}: not in the Hugging Face cache, and {why}",
        hint="fetch it where there is a network, or give a local folder: model=hf model.path=FOLDER",
    ) from problem


def _network_errors() -> tuple[type[Exception], ...]:
    """The base errors of huggingface_hub's own HTTP library, whichever its version uses."""
    from huggingface_hub import errors

    bases: Any = getattr(errors.HfHubHTTPError, "__mro__", ())
    named = [base for base in bases if base.__module__.startswith(("httpx", "requests")) and base is not Exception]
    return (*named, errors.LocalEntryNotFoundError)
