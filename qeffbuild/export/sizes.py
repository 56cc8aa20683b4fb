"""What a trace took for granted about sizes -> up to which context it holds; FixedAxis where it holds for some only.

Code that counts its way along a text, or goes one way where it is short and another where it is long, is traced for the
text of the trace. Nothing in the graph says so: another text would fail in a session, or be answered wrongly.
"""

from __future__ import annotations

import contextlib
import itertools
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sympy
import torch
from torch._dynamo.exc import UserError
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from qeffbuild.export.reasons import MODELING
from qeffbuild.signature import Axis

CTX_LEN = "ctx_len"
# Sizes at which it is tried: primes, powers of two, and their neighbours. (PyTorch takes no size to be one unless that
# is one in the trace; every export is run with it.)
_CONTEXTS = (16, 17, 63, 64, 65, 128, 257, 1024, 4099, 65536)
_OTHERS = (2, 3, 7, 64, 129)
_SHORTEST = _CONTEXTS[0]


class FixedAxis(Exception):
    """The trace holds for some sizes only; the message says for which, and whose line of code made it so."""


@contextlib.contextmanager
def named_constants() -> Iterator[None]:
    """Inside the block, a trace that fails because a size became a number says by whose line of code it did."""
    plain, found = ShapeEnv._set_replacement, list[tuple[int, str]]()

    def noted(env: Any, symbol: Any, size: Any, message: str) -> None:
        if size.is_Integer:
            lines = [frame for frame in traceback.extract_stack() if MODELING.search(frame.filename)]
            found.extend((int(size), _said(frame)) for frame in lines[-1:])
        plain(env, symbol, size, message)

    ShapeEnv._set_replacement = noted  # type: ignore[method-assign,assignment]
    try:
        yield
    except UserError:
        if not found:
            raise
        size, place = found[0]
        why = f"its trace holds only for inputs that are {size} long: its code goes along them in Python{place}"
        raise FixedAxis(why) from None
    finally:
        ShapeEnv._set_replacement = plain  # type: ignore[method-assign]


def contexts(most: int | None) -> dict[str, Sequence[int]]:
    """The lengths of a context to try, where a model has so many positions."""
    tried = _CONTEXTS if most is None else (*(size for size in _CONTEXTS if size < most), most)
    return {CTX_LEN: tried}


def longest_context(
    program: torch.export.ExportedProgram, axes: Sequence[Sequence[Axis]], tried: Mapping[str, Sequence[int]]
) -> tuple[int | None, str]:
    """Up to which context the trace holds and by whose line, None where it holds for all that are `tried`.

    `axes` are those of the program's inputs, in order; a name stands for a size that is free.
    """
    first: dict[str, Any] = {}
    same: dict[Any, Any] = {}
    for name, size in _named(program, axes):
        if not isinstance(size, torch.SymInt) or not size.node.expr.is_Symbol:
            raise FixedAxis(f"the model's code counts along {name} in Python, which fixes it to {size}")
        same[size.node.expr] = first.setdefault(name, size.node.expr)
        env = size.node.shape_env
    names = {symbol: name for name, symbol in first.items()}
    found: list[tuple[int, str]] = []
    for guard in env.guards if names else ():
        asked = env.replace(guard.expr).xreplace(same)
        if asked.free_symbols and asked.free_symbols <= names.keys() and not _holds(asked, names, tried):
            said = asked.xreplace({symbol: sympy.Symbol(name) for symbol, name in names.items()})
            why = f"its trace holds only where {said}{_place(guard)}"
            found.append((_most(asked, names, tried[CTX_LEN], why), why))
    return min(found, default=(None, ""))


def _named(program: torch.export.ExportedProgram, axes: Sequence[Sequence[Axis]]) -> Iterator[tuple[str, Any]]:
    made = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    for name, wanted in zip(program.graph_signature.user_inputs, axes, strict=True):
        for axis, size in zip(wanted, made[name].shape, strict=True):
            if isinstance(axis, str):
                yield axis, size


def _holds(asked: Any, names: Mapping[Any, str], tried: Mapping[str, Sequence[int]]) -> bool:
    """Whether it is true of all sizes, or of all but a few that the same road serves: multiples, a table's whole."""
    symbols = sorted(asked.free_symbols, key=names.__getitem__)
    said = [names[symbol] for symbol in symbols]
    for sizes in itertools.product(*(tried.get(name, _OTHERS) for name in said)):
        # No more tokens are run at once than a context has room for.
        is_possible = max(sizes) <= dict(zip(said, sizes, strict=True)).get(CTX_LEN, max(sizes))
        if is_possible and not any(_is_true(asked, symbols, near) for near in (sizes, *_next_to(asked, sizes))):
            return False
    return True


def _next_to(asked: Any, sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """One more of each; one less, too, where all that is asked is that something is not so."""
    for place, size in enumerate(sizes):
        for near in (size + 1, size - 1) if isinstance(asked, sympy.Ne) else (size + 1,):
            yield (*sizes[:place], near, *sizes[place + 1 :])


def _is_true(asked: Any, symbols: Sequence[Any], sizes: Sequence[int]) -> bool:
    try:
        return bool(asked.xreplace({symbol: sympy.Integer(size) for symbol, size in zip(symbols, sizes, strict=True)}))
    except ZeroDivisionError:  # of a part that has no tokens
        return False


def _most(asked: Any, names: Mapping[Any, str], tried: Sequence[int], why: str) -> int:
    """The longest context for which it holds, where it holds for all that are shorter."""
    symbols = list(asked.free_symbols)
    if [names[symbol] for symbol in symbols] != [CTX_LEN] or not _is_true(asked, symbols, [_SHORTEST]):
        raise FixedAxis(why)
    holds, fails = _SHORTEST, next(size for size in tried if not _is_true(asked, symbols, [size]))
    while fails - holds > 1:
        middle = (holds + fails) // 2
        holds, fails = (middle, fails) if _is_true(asked, symbols, [middle]) else (holds, middle)
    return holds


def _place(guard: Any) -> str:
    frame = guard.sloc.framework_loc
    return _said(frame) if hasattr(frame, "filename") else ""


def _said(frame: Any) -> str:
    return f" ({Path(frame.filename).name}:{frame.lineno}: {frame.line})"
