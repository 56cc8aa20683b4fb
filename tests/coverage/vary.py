"""Draws of configurations, each exported and run beside PyTorch in a process of its own -> lines of JSON.

    python tests/coverage/vary.py [--only TYPE ...] [--numbers FIRST LAST] [--results FILE] [--limit SECONDS]

A draw is named TYPE#NUMBER; those that the results already hold are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT)]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TRANSFORMERS_VERBOSITY"] = "critical"

IMPOSSIBLE = ("configuration", "model", "reference")
NOT_CAUSAL = "a token's logits change with what comes behind it"  # by what a switch does in transformers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="TYPE", default=[])
    parser.add_argument("--numbers", nargs=2, type=int, default=[0, 0], metavar=("FIRST", "LAST"))
    parser.add_argument("--results", type=Path, default=ROOT / "outputs" / "varied.jsonl")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one draw")
    words = parser.parse_args()

    import run

    from qeffbuild.models.tasks import CAUSAL, classes

    done = run.read(words.results)
    run.import_what_all_need()
    failed = 0
    for number in range(words.numbers[0], words.numbers[1] + 1):
        for model_type in words.only or list(classes(CAUSAL)):
            name = f"{model_type}#{number}"
            if name in done:
                continue
            said = run.in_a_process(name, words.limit, varied)
            with words.results.open("a") as file:
                file.write(json.dumps(said) + "\n")
            failed += not passes(said) and said["stage"] not in IMPOSSIBLE
            sys.stdout.write(f"{name}: {said['stage']} {said['reason']} {said['errors']} {said['seconds']} s\n")
            sys.stdout.flush()
    sys.exit(1 if failed else 0)


def passes(said: dict[str, Any]) -> bool:
    from page import TOLERANCE

    most = max(TOLERANCE, 2 * said.get("noise", 0.0))
    return said["stage"] == "done" and said["tokens_equal"] and max(said["errors"].values()) < most


def varied(name: str) -> str:
    from check import as_json
    from draw import TRIES

    model_type, _, number = name.partition("#")
    for attempt in range(TRIES):  # type, number and attempt say which configuration it was
        said = varied_once(model_type, int(number), attempt)
        if said.stage not in IMPOSSIBLE and NOT_CAUSAL not in said.reason:
            break
    tried = {**json.loads(as_json(said)), "model_type": name, "attempt": attempt}
    return json.dumps(tried, default=str)


def varied_once(model_type: str, number: int, attempt: int) -> Any:
    from check import Check, check_configuration
    from draw import drawn, made

    try:
        said, text = drawn(model_type, number, attempt)
    except Exception as problem:  # not even the configuration that is varied can be made
        return Check(model_type, reason=f"{type(problem).__name__}: {problem}".partition("\n")[0])
    with tempfile.TemporaryDirectory() as folder:
        return check_configuration(
            model_type,
            lambda: made(model_type, number, attempt),
            Path(folder),
            text,
            as_packaged=True,
            written=said,
        )


if __name__ == "__main__":
    main()
