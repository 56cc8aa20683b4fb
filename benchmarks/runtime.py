"""What the runtime adds to a token: microseconds of Python around the session's call, and the time that imports take.

    python benchmarks/runtime.py                 a session that does nothing: only the runtime is timed
    python benchmarks/runtime.py PACKAGE         the same around a real package, against its bare decode call

Each figure is a median over runs, on the CPU clock (imports: wall clock); `--json` makes it one document.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np

from qeffbuild.package import Package
from qeffbuild.runtime.engine import Engine
from qeffbuild.runtime.request import Limits
from qeffbuild.runtime.session import open_session
from qeffbuild.runtime.state import GRAPH, PADDING
from qeffbuild.runtime.tokenizer import open_tokenizer
from qeffbuild.signature import IoSignature, Tensor
from qeffbuild.spec.types import DecodingSpec

VOCAB, PROMPT, TOKENS, RUNS = 32_000, 8, 300, 5
MOST_TURNS = 200  # of a real package


class IdleSession:
    """Gives the same logits at once, whatever it is fed."""

    def __init__(self, slots: int) -> None:
        # Spread as a language model's: a few dozen tokens hold nine tenths of the probability.
        logits = np.random.default_rng(0).normal(0, 3, (slots, 1, VOCAB))
        self._logits = {"logits": logits.astype(np.float32)}

    def signature(self, graph: str) -> IoSignature:
        names = ("input_ids", "position_ids", "logits_index")
        inputs = tuple(Tensor(name=name, dtype="int64", axes=("batch_size", "seq_len")) for name in names)
        return IoSignature(graph=graph, inputs=inputs, outputs=())

    def allocate(self, graph: str, batch_size: int, ctx_len: int) -> None:
        return None

    def run(self, graph: str, inputs: Mapping[str, np.ndarray], states: Any) -> Mapping[str, np.ndarray]:
        return self._logits


def seconds(work: Callable[[], Any], clock: Callable[[], float]) -> float:
    work()
    spent = []
    for _ in range(RUNS):
        since = clock()
        work()
        spent.append(clock() - since)
    return median(spent)


def added_by(engine: Engine, decoding: DecodingSpec, prompts: int) -> float:
    """Microseconds per decoded turn: a long answer less a short one, so that the prompt's share falls out."""
    asked = [[1] * PROMPT] * prompts

    def answer(tokens: int) -> float:
        said = replace(decoding, max_new_tokens=tokens)
        return seconds(lambda: engine.generate(asked, said), process_time)

    return (answer(TOKENS) - answer(1)) / (TOKENS - 1) * 1e6


def idle() -> dict[str, float]:
    greedy = DecodingSpec(ignore_eos=True)
    sampled = DecodingSpec(ignore_eos=True, temperature=0.8, top_k=50, top_p=0.95)
    figures = {}
    for slots in (1, 8):
        limits = Limits(slots=slots, prefill_seq_len=32, ctx_len=PROMPT + TOKENS, vocab_size=VOCAB)
        engine = Engine(IdleSession(slots), limits, None)
        figures[f"greedy, {slots} rows: us per turn"] = added_by(engine, greedy, slots)
        figures[f"top-k and top-p, {slots} rows: us per turn"] = added_by(engine, sampled, slots)
    return figures


def real(path: Path) -> dict[str, float]:
    """CPU microseconds per decoded token on one thread: the engine's, and the graph alone, bound and called.

    Both go in turn, over the same positions. Of each position the fastest of all runs counts, for whatever else runs
    on the machine can only add to it; then the median over positions.
    """
    package = Package.open(path)
    limits = Limits.from_manifest(package.manifest)
    session = open_session(package, threads=1)
    engine = Engine(session, limits, open_tokenizer(package.tokenizer) if package.tokenizer else None)
    turns = min(limits.ctx_len - PROMPT, MOST_TURNS)
    token = np.ones((limits.slots, 1), np.int64)
    feed = {"input_ids": token, "position_ids": np.full_like(token, PROMPT), "logits_index": np.zeros_like(token)}

    def whole() -> list[float]:
        events = iter(engine.stream([[1] * PROMPT], DecodingSpec(ignore_eos=True, max_new_tokens=turns)))
        return clocked(lambda: next(events, None), turns)[1:]  # the first is of the prompt's turns

    def bare() -> list[float]:
        session.run(GRAPH, feed, engine.state.states)
        binding = next(reversed(engine.state.states.bindings.values()))
        position, call = binding.inputs["position_ids"], session._graphs[GRAPH].session.run_with_iobinding
        position[...] = PADDING
        position[0, 0] = PROMPT - 1

        def once() -> None:
            position[0, 0] += 1
            call(binding.io)

        return clocked(once, turns - 1)

    runs = [(whole(), bare()) for _ in range(4 * RUNS)]
    engines, calls = (np.min([run[place] for run in runs], axis=0) for place in (0, 1))
    return {
        "bare call: us per token": float(np.median(calls)),
        "engine: us per token": float(np.median(engines)),
        "added: us per token": float(np.median(engines - calls)),
    }


def clocked(step: Callable[[], Any], times: int) -> list[float]:
    """CPU microseconds of each call."""
    spent = []
    for _ in range(times):
        since = process_time()
        step()
        spent.append((process_time() - since) * 1e6)
    return spent


def imports() -> dict[str, float]:
    def start(statement: str) -> float:
        command = [sys.executable, "-c", statement]
        return seconds(lambda: subprocess.run(command, check=True), perf_counter) * 1e3

    bare = start("pass")
    return {
        "import numpy: ms": start("import numpy") - bare,
        "import qeffbuild.runtime.engine: ms": start("import qeffbuild.runtime.engine") - bare,
        "... and tokenizers: ms": start("import qeffbuild.runtime.engine, tokenizers") - bare,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, nargs="?")
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    figures = real(said.package) if said.package else {**idle(), **imports()}
    if said.json:
        print(json.dumps(figures, indent=1))
        return
    for name, value in figures.items():
        print(f"{value:10.1f}  {name}")


if __name__ == "__main__":
    main()
