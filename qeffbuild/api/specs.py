"""Overrides -> a spec whose model is seen to fit; its plan, and the store that it is built in."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from qeffbuild import backends, paths
from qeffbuild.errors import ModelError, PathError
from qeffbuild.plan import Goal, Plan, resolve
from qeffbuild.quantizers import needs_text
from qeffbuild.spec.checks import check
from qeffbuild.spec.for_task import check_task
from qeffbuild.spec.load import from_config
from qeffbuild.spec.types import BuildSpec, ModelSpec, QuantizationSpec
from qeffbuild.store import Store

if TYPE_CHECKING:
    from qeffbuild.models import Facts

    Stamp = tuple[str, int, int]  # name, bytes, time of the last change


log = logging.getLogger(__name__)


def compose(overrides: Sequence[str] = (), *, conf_dirs: Sequence[Path] | None = None) -> BuildSpec:
    """The spec that a command line with these overrides means; `conf_dirs` None: the user's own."""
    from qeffbuild.spec.compose import compose as read_choices

    composed = read_choices(overrides, conf_dirs=paths.user_conf_dirs(Path.cwd()) if conf_dirs is None else conf_dirs)
    return from_config(composed.values, origins=composed.origins)


_TASK_OF_GGUF = "causal-lm"  # such files are read as nothing else


def open_store(spec: BuildSpec, say: Callable[[str], None] | None = None) -> Store:
    root = Path(spec.cache.root) if spec.cache.root else paths.cache_root()
    return Store(root, verify=spec.cache.verify, **({"say": say} if say else {}))


def steps_of(spec: BuildSpec, goal: Goal) -> Plan:
    return resolve(spec, goal, backends.room(spec.backend.name, "plan").steps)


def admit(spec: BuildSpec, *, frozen: bool = False, may_ask: bool = False) -> BuildSpec:
    """The spec with its model pinned, once the model is seen to fit: before anything heavy is imported.

    A model of the hub that was never fetched is not known, unless its config.json `may` be `asked` for.
    """
    settle = getattr(import_module(backends.package_of(spec.backend.name)), "settle", None)
    spec = settle(spec) if settle is not None else spec
    model = spec.model
    _check_calibration(spec.quantization)
    if spec.adapters:
        from qeffbuild.models.adapters import read_adapter

        for folder in spec.adapters.values():
            read_adapter(Path(folder))
    if model.scale == "tiny":
        return _admit_tiny(spec)
    if model.path is None:
        return _admit_of_hub(replace(spec, model=_pinned(model, frozen)), may_ask=may_ask)
    file = _gguf_of(model.path)
    if file is not None:  # the rest is known once it is a folder: the check step looks at that
        from qeffbuild.models.gguf_header import context_length

        check_task(spec, _TASK_OF_GGUF)
        return bounded(spec, context_length(file))
    from qeffbuild.models.adapters import fit_adapter
    from qeffbuild.models.tokenizer import refuse_missing

    facts = _facts_of(model, model.path)
    spec = _fitted(spec, facts)
    for name, folder in spec.adapters.items():
        fit_adapter(name, Path(folder), facts.tensors)
    refuse_missing(Path(model.path))
    return spec


def _check_calibration(asked: QuantizationSpec) -> None:
    if needs_text(asked) and not Path(asked.calibration).is_file():
        found = f"quantization.calibration: there is no file {asked.calibration}"
        raise ModelError("model.calibration", found, hint="check the path")


def _admit_of_hub(spec: BuildSpec, *, may_ask: bool) -> BuildSpec:
    """A model that was fetched before is known as a folder is; of another one, its config.json says the least."""
    from qeffbuild.models import hub

    if (folder := hub.fetched(spec.model)) is not None:
        return _fitted(spec, _facts_of(spec.model, str(folder)))
    return bounded(spec, hub.positions(spec.model, may_ask=may_ask))


def _fitted(spec: BuildSpec, facts: Facts) -> BuildSpec:
    from qeffbuild.models.fit import fit

    check_task(spec, facts.task)
    spec = bounded(spec, None if facts.task == "ctc" else facts.max_position_embeddings)
    fit(spec, facts)
    return spec


def bounded(spec: BuildSpec, highest: int | None) -> BuildSpec:
    """The spec with a context as long as the model has positions, where nobody said how long it is to be."""
    shapes = spec.specialization
    if spec.is_ctx_len_asked or highest is None or shapes.ctx_len <= highest:
        return spec
    log.warning("specialization.ctx_len: %s, all the positions that the model has", highest)
    shorter = replace(shapes, ctx_len=highest, prefill_seq_len=min(shapes.prefill_seq_len, highest))
    made = replace(spec, specialization=shorter, is_ctx_len_asked=True)
    check(made, {})
    return made


def known_task(spec: BuildSpec) -> str | None:
    """What the model does, as far as that is known without fetching it."""
    model = spec.model
    if model.scale == "tiny":
        from qeffbuild.models.tasks import task_of_type

        return task_of_type(model.model_type or "", model.task)
    if model.path is None:
        return None if model.task == "auto" else model.task
    if _gguf_of(model.path) is not None:
        return _TASK_OF_GGUF
    return _facts_of(model, model.path).task


def _gguf_of(path: str) -> Path | None:
    from qeffbuild.models.files import gguf_of

    return gguf_of(Path(path))


def _admit_tiny(spec: BuildSpec) -> BuildSpec:
    """A tiny model is as its type says; what is unknown here, the step that makes it refuses with suggestions."""
    from qeffbuild.models.tasks import task_of_type

    model_type, asked = spec.model.model_type or "", spec.model.task
    task = task_of_type(model_type, asked)
    if task is None and (known := task_of_type(model_type)) is not None:
        raise ModelError("model.task", f"model.task: {model_type} has no {asked} class", hint=f"model.task={known}")
    if task is not None:
        check_task(spec, task)
    return spec


def check_out(spec: BuildSpec, *, allow_outside: bool) -> None:
    """A build writes below the working folder unless it is told that it may write elsewhere."""
    if spec.out is None or allow_outside:
        return
    here = Path.cwd().resolve()
    if not Path(spec.out).resolve().is_relative_to(here):
        raise PathError(
            "path.outside", f"out: {spec.out} is not below {here}", hint="add --allow-outside if it is meant"
        )


def _pinned(model: ModelSpec, frozen: bool) -> ModelSpec:
    """The same hub model at a commit; its id is looked at even where nothing has to be asked."""
    if model.id is None:
        raise ModelError("model.absent", "no model is named", hint="model.path=DIR, or model.id=ORG/NAME")
    if frozen and not _is_commit(model.revision):
        raise ModelError(
            "model.revision",
            f"model.revision: {model.revision or 'main'} can move, and --frozen was asked for",
            hint="name a commit of 40 hex digits: model.revision=COMMIT",
        )
    from qeffbuild.models.hub import pin

    return pin(model)


def _is_commit(revision: str | None) -> bool:
    return revision is not None and len(revision) == 40 and set(revision) <= set("0123456789abcdef")


def _stamps(path: str) -> tuple[Stamp, ...]:
    if not Path(path).is_dir():
        return ()
    with os.scandir(path) as entries:
        found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in found))


def _facts_of(model: ModelSpec, folder: str) -> Facts:
    """The facts of a model that lies here."""
    code = (model.allow_pickle, model.trust_remote_code)
    return _facts(folder, _stamps(folder), model.task, model.pooling, *code)


@lru_cache(maxsize=64)
def _facts(
    path: str, stamps: tuple[Stamp, ...], task: str, pooling: str, allow_pickle: bool, trust_remote_code: bool
) -> Facts:
    """Read once, however many variants of a sweep share the model, for as long as its files are as they were."""
    from qeffbuild.models.facts import read_facts

    return read_facts(
        Path(path), task=task, pooling=pooling, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code
    )
