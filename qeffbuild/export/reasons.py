"""Why a trace failed -> one line that names the construct, its file and its line, and what can be done about it."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from pathlib import Path

from qeffbuild.errors import ModelError

# Where models' own code lies: transformers' folder of families, and its cache of the code that model folders bring.
MODELING = re.compile(r"[/\\](transformers[/\\]models|transformers_modules)[/\\]")
_BY_DATA = re.compile(
    r"data-dependent|DataDependent|GuardOnDataDependent|unbacked|Could not (guard|extract)|\.item\(\)|non-static"
)
_CONSTANT = re.compile(r"Constraints violated.*specialized it to be a constant \((\d+)\)", re.DOTALL)

_NO_WAY = "no way of tracing this model reproduces PyTorch's results; the log of this step lists them all"


def explain(reason: BaseException) -> str:
    """What stopped us, in one line, with the line of the model's own code where it did."""
    reason = _first_cause(reason)
    said = str(reason).strip().splitlines()
    message = said[0] if said else type(reason).__name__
    if constant := _CONSTANT.search(str(reason)):
        message = f"its trace holds only for inputs that are {constant[1]} long: its code goes along them in Python"
    frame = _place(reason)
    if frame is None:
        return message
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{message} ({where}: {frame.line})" if _depends_on_data(reason) and frame.line else f"{message} ({where})"


def unsupported(model_type: str, why: str) -> ModelError:
    return ModelError("model.unsupported", f"{model_type}: {why}", hint=_NO_WAY)


def cannot_export(
    model_type: str, rejected: list[tuple[str, str]], trace: Callable[[], object], *, sees_ahead: bool
) -> ModelError:
    """The error for a model that no recipe can trace: what stopped the first, and the last where that is another.

    `trace` is tried once more: a line that it stops at may well be why results differ, too.
    """
    first, last = rejected[0][1], rejected[-1][1]
    found = first if last == first else f"{first}; and with the whole text computed again: {last}"
    stop = _stop_of(trace)
    if stop is not None and stop not in found:
        found += f"; a trace stops at {stop}"
    if sees_ahead and not _BY_DATA.search(found):
        found = "a token's logits change with what comes behind it, so no cache can go on with a text"
        return ModelError(
            "model.unsupported", f"{model_type}: {found}", hint="take a model whose attention looks back only"
        )
    hint = _NO_WAY
    if _BY_DATA.search(found):
        hint = (
            "that line goes one way or another by a value that only a run knows: write it without the branch "
            "(torch.where, a mask), or put a replacement into qeffbuild/architectures"
        )
    return ModelError("model.unsupported", f"{model_type}: {found}", hint=hint)


def _stop_of(trace: Callable[[], object]) -> str | None:
    try:
        trace()
    except Exception as reason:
        return explain(reason) if _place(_first_cause(reason)) is not None else None
    return None


def _first_cause(reason: BaseException) -> BaseException:
    while reason.__cause__ is not None:
        reason = reason.__cause__
    return reason


def _place(reason: BaseException) -> traceback.FrameSummary | None:
    places = [frame for frame in traceback.extract_tb(reason.__traceback__) if MODELING.search(frame.filename)]
    return places[-1] if places else None


def _depends_on_data(reason: BaseException) -> bool:
    return bool(_BY_DATA.search(f"{type(reason).__name__} {reason}"))
