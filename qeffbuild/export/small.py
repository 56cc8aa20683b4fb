"""The model of the self-check: the first of the smaller ones of its kind that can be made and that PyTorch runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from qeffbuild.errors import ModelError, QeffBuildError
from qeffbuild.export import skeleton
from qeffbuild.export.reasons import explain
from qeffbuild.export.shrink import MOST_PARAMETERS

log = logging.getLogger(__name__)

Proven = TypeVar("Proven")
Candidates = Iterable[tuple[Mapping[str, Any], float]]  # configurations, and how many parameters each may have


def limited(configurations: Iterable[Mapping[str, Any]]) -> Candidates:
    """None of them may be large."""
    return ((said, MOST_PARAMETERS) for said in configurations)


def first_that_runs(
    model_type: str,
    candidates: Candidates,
    prove: Callable[[Any], Proven],
    make: Callable[[Any], Any] = skeleton.causal,
    code: Path | None = None,
) -> Proven:
    """What `prove` makes of the first small model that it does not fail with.

    `code` is the folder of the model's own Python. Raises ModelError with what stopped the first of them.
    """
    problems: list[Exception] = []
    for said, most in candidates:
        try:
            config = skeleton.configuration(said, code)
            if skeleton.number_of_parameters(config, make) > most:
                raise ValueError("it cannot be made small enough")
            return prove(skeleton.small_model(config, make))
        except QeffBuildError:
            raise
        except Exception as reason:  # whatever a family's classes say to sizes that do not go together
            log.debug("no small model", exc_info=True)
            problems.append(reason)
    raise ModelError(
        "model.unsupported",
        f"{model_type}: no small model of this kind can be built: {explain(problems[0])}",
        hint="the export trusts no trace that it could not compare with PyTorch",
    ) from problems[0]
