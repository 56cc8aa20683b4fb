"""Every model type of the other tasks, one process each -> lines of JSON, and docs/task_architectures.md.

    python tests/coverage/run_tasks.py [--only TASK[:TYPE] ...] [--results FILE] [--page FILE] [--limit SECONDS]

Those that the results already hold are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT)]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TRANSFORMERS_VERBOSITY"] = "critical"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="TASK[:TYPE]", default=[])
    parser.add_argument("--results", type=Path, default=ROOT / "outputs" / "coverage_tasks.jsonl")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for one type")
    parser.add_argument("--page", type=Path)
    words = parser.parse_args()

    import run

    done = {(said["task"], said["model_type"]) for said in run.read_lines(words.results)}
    run.import_what_all_need()
    for task, model_type in entries():
        if (words.only and not {task, f"{task}:{model_type}"} & set(words.only)) or (task, model_type) in done:
            continue
        said = run.in_a_process(f"{task}:{model_type}", words.limit, checked)
        said |= {"model_type": model_type, "task": task}
        with words.results.open("a") as file:
            file.write(json.dumps(said) + "\n")
        sys.stdout.write(
            f"{task} {model_type}: {said['stage']} {said['reason']} {said['errors']} {said['seconds']} s\n"
        )
        sys.stdout.flush()
    if words.page:
        from page_tasks import written

        words.page.write_text(written(run.read_lines(words.results), entries()), "utf-8")


def entries() -> Iterator[tuple[str, str]]:
    """Task and type: of those that embed, the types that read text."""
    from qeffbuild.models.tasks import CLASSIFICATION, CTC, EMBEDDING, SPEECH, TEXT, classes, task_of_type

    for task in (CTC, SPEECH, TEXT, CLASSIFICATION, EMBEDDING):
        yield from ((task, model_type) for model_type in classes(task) if task_of_type(model_type, task))


def checked(name: str) -> str:
    from check_reading import EMBEDDING, POOLINGS, as_line, check_reading

    task, _, model_type = name.partition(":")
    # Pooling is the same behind every model; each type is asked for one of its kinds.
    pooling = POOLINGS[sum(map(ord, model_type)) % len(POOLINGS)] if task == EMBEDDING else ""
    with tempfile.TemporaryDirectory() as folder:
        return as_line(check_reading(model_type, task, Path(folder), pooling))


if __name__ == "__main__":
    main()
