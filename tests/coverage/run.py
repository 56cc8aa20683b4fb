"""Every model type of transformers' causal language models, one process each -> lines of JSON, and docs/architectures.md.

    python tests/coverage/run.py [--only TYPE ...] [--results FILE] [--page FILE] [--limit SECONDS]

Types that the results already hold are not run again, so that a run which was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT)]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TRANSFORMERS_VERBOSITY"] = "critical"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="TYPE", default=[])
    parser.add_argument("--results", type=Path, default=ROOT / "outputs" / "coverage.jsonl")
    parser.add_argument("--built", type=Path, default=ROOT / "outputs" / "built.jsonl", help="what built.py has found")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one type")
    words = parser.parse_args()

    from qeffbuild.models.tasks import CAUSAL, classes

    types = words.only or list(classes(CAUSAL))
    done = read(words.results)
    import_what_all_need()
    for model_type in types:
        if model_type in done:
            continue
        done[model_type] = said = in_a_process(model_type, words.limit, checked)
        with words.results.open("a") as file:
            file.write(json.dumps(said) + "\n")
        sys.stdout.write(f"{model_type}: {said['stage']} {said['reason']} {said['errors']} {said['seconds']} s\n")
        sys.stdout.flush()
    if words.page:
        from page import written

        words.page.write_text(written(done, classes(CAUSAL), read(words.built)), "utf-8")


def read(results: Path) -> dict[str, dict[str, Any]]:
    """What is known already; the last word on each type."""
    return {said["model_type"]: said for said in read_lines(results)}


def read_lines(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def in_a_process(model_type: str, limit: float, work: Callable[[str], str]) -> dict[str, Any]:
    """A type may hang, fill the memory or bring the process down: none of that reaches the next one."""
    began = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            os.write(writing, work(model_type).encode())
        finally:  # whatever was raised: what comes behind is the parent's
            os._exit(0)
    os.close(writing)
    text = _read_until(reading, began + limit)
    if text is None:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    os.waitpid(child, 0)
    lost = {"stage": "export", "errors": {}, "states": [], "mechanism": "", "model_class": "", "qaic": ""}
    why = f"not done in {limit:.0f} s" if text is None else "its process died"
    said = json.loads(text) if text else {"model_type": model_type, **lost, "reason": why, "tokens_equal": False}
    return {**said, "seconds": round(time.monotonic() - began, 1)}


def checked(model_type: str) -> str:
    from check import as_json, check

    with tempfile.TemporaryDirectory() as folder:
        return as_json(check(model_type, Path(folder)))


def _read_until(reading: int, end: float) -> bytes | None:
    """All that is written before the other side closes; None when the time is over."""
    text = b""
    while (left := end - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0]:
            more = os.read(reading, 1 << 16)
            if not more:
                return text
            text += more
    return None


def import_what_all_need() -> None:
    import logging
    import warnings

    import check  # noqa: F401
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


if __name__ == "__main__":
    main()
