"""This project's packages and other engines, side by side: `python -m benchmarks.peers FOLDER`.

Same weights, same prompts, one process for each engine, all of them (of the largest model, those with as many bits)
loaded at once and asked in turn, so that a busy machine slows them alike. Speeds are medians over rounds, on the CPU
clock (all threads) and the wall clock: with one thread each, then with all cores. Accuracy is measured beside them: KL
of each engine's distributions from PyTorch's in float32, over tokens that are fed to all.

FOLDER keeps environments, converted models and results: what was measured is not measured again unless `--again` is
said, so an interrupted run is gone on with. `--prepare` only makes environments and models.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.peers.models import NAMES, make
from benchmarks.peers.prepare import HERE, NotHere, prepared, python_of
from benchmarks.peers.report import beside_the_best, table
from benchmarks.peers.variants import LARGE, VARIANTS, Job, Variant, jobs

CORES = len(os.sched_getaffinity(0))
LOADED_TWICE = ("qeffbuild", "llama.cpp")  # whose loading is compared: the second time finds the files in memory


class Running:
    """An engine in its process, ready for requests."""

    def __init__(self, variant: Variant, model: Path, folder: Path, threads: int) -> None:
        self.variant = variant
        command = [str(python_of(variant.engine, folder)), str(HERE / "worker.py"), variant.engine, str(model)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self.log = (folder / f"{variant.name.replace(' ', '-')}.log").open("w")
        self.process = subprocess.Popen(
            [*command, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env=environment,
        )  # fmt: skip
        self.loaded = self.answer()

    def ask(self, **asked: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
        except OSError as cause:
            raise NotHere("it ended") from cause
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            said = Path(self.log.name).read_text().strip().splitlines()
            raise NotHere(said[-1][:120] if said else "it ended without a word")
        return json.loads(line)

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.log.close()


def measure(job: Job, folder: Path, words: argparse.Namespace) -> dict[str, Any]:
    source = make(job.model, folder / "models")
    random, absent = np.random.default_rng(5), dict[str, str]()
    prompts = {length: random.integers(3, 2000, length).tolist() for length in job.prompts}
    scored = random.integers(3, 2000, 64 + words.scored).tolist() if job.score else []
    models = {variant: place for variant in wanted(job, words) if (place := ready(variant, source, folder, absent))}
    rows: dict[str, Any] = {}
    exact = None
    for group in together(job, list(models)):
        running = started(group, models, folder, job.threads, absent)
        rows |= {each.variant.name: {**each.loaded, "prompts": {}, "peak_mb": 0} for each in running}
        if scored:
            exact = score(running, scored, folder, rows, exact)
        # PyTorch of a large model is there for what it says, and is ten times as slow.
        asked = [each for each in running if job.model != LARGE or each.variant.engine != "transformers"]
        for length, prompt in prompts.items():
            for name, said in in_turn(asked, prompt, words.tokens, job.rounds).items():
                rows[name]["prompts"][str(length)] = {key: median(one[key] for one in said) for key in said[0]}
                rows[name]["peak_mb"] = said[-1]["peak_mb"]
        for each in running:
            each.end()
    about: dict[str, Any] = {"name": job.name, "model": job.model, "threads": job.threads, "rounds": job.rounds}
    about["lengths"] = [str(length) for length in job.prompts]
    return {**about, "variants": rows, "absent": absent}


def together(job: Job, variants: list[Variant]) -> list[list[Variant]]:
    """Who is loaded at once: all, or of the largest model those with as many bits, that nobody waits for memory."""
    if job.model != LARGE:
        return [variants]
    return [[each for each in variants if each.bits == bits] for bits in dict.fromkeys(each.bits for each in variants)]


def started(
    group: list[Variant], models: dict[Variant, Path], folder: Path, threads: int, absent: dict[str, str]
) -> list[Running]:
    running = []
    for variant in group:
        try:
            if threads == 1 and variant.engine in LOADED_TWICE:
                Running(variant, models[variant], folder, threads).end()
            running.append(Running(variant, models[variant], folder, threads))
        except NotHere as why:
            absent[variant.name] = str(why)
    return running


def ready(variant: Variant, source: Path, folder: Path, absent: dict[str, str]) -> Path | None:
    try:
        python_of(variant.engine, folder)
        return prepared(variant, source, folder)
    except (NotHere, StopIteration) as why:
        absent[variant.name] = str(why)
        return None


def wanted(job: Job, words: argparse.Namespace) -> list[Variant]:
    named = [variant for variant in VARIANTS if job.wants(variant)]
    return [each for each in named if not words.only or any(word in each.name for word in words.only)]


def in_turn(running: list[Running], prompt: list[int], tokens: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Each engine's answers, round by round; the first round warms up and is left out."""
    answers: dict[str, list[dict[str, Any]]] = {each.variant.name: [] for each in running}
    for lap in range(rounds + 1):
        for each in running:
            said = each.ask(prompt=prompt, tokens=tokens if lap else 1)
            if lap:
                answers[each.variant.name].append(said)
    return answers


def score(
    running: list[Running], token_ids: list[int], folder: Path, rows: dict[str, Any], exact: np.ndarray | None
) -> np.ndarray | None:
    """Adds each variant's KL from PyTorch in float32, which is the first one of all: what that said, for the others."""
    for each in running:
        file = folder / "logits.npy"
        each.ask(prompt=token_ids[:64], then=token_ids[64:], save=str(file))
        found = log_shares(np.load(file).astype(np.float64))
        if each.variant.engine == "transformers":
            exact = found
        if exact is not None:
            width = min(exact.shape[-1], found.shape[-1])
            left, right = exact[:, :width], found[:, :width]
            rows[each.variant.name]["kl"] = float((np.exp(left) * (left - right)).sum(-1).mean())
    return exact


def log_shares(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def prepare(chosen: list[Job], folder: Path, words: argparse.Namespace) -> None:
    for model in dict.fromkeys(job.model for job in chosen):
        source = make(model, folder / "models")
        for variant in dict.fromkeys(each for job in chosen if job.model == model for each in wanted(job, words)):
            absent: dict[str, str] = {}
            place = ready(variant, source, folder, absent)
            print(f"{source.name}, {variant.name}: {place or absent[variant.name]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--only", nargs="+", help="variants whose names contain one of these; keep transformers for KL")
    parser.add_argument("--prompts", nargs="+", type=int, default=[128, 1000], help="1,000 is for the middle model")
    parser.add_argument("--tokens", type=int, default=16, help="decoded in each round")
    parser.add_argument("--rounds", type=int, default=5, help="at most 3 of the largest model")
    parser.add_argument("--scored", type=int, default=128, help="tokens whose distributions are compared, behind 64")
    parser.add_argument("--cores", type=int, default=CORES, help="threads of the second part; 1 leaves it out")
    parser.add_argument("--prepare", action="store_true", help="make environments and models, measure nothing")
    parser.add_argument("--again", action="store_true", help="measure what FOLDER has results of, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results; FOLDER/results.json unless told")
    words = parser.parse_args()
    folder = words.folder.resolve()
    chosen = jobs(words.models, words.prompts, words.rounds, words.cores)
    if words.prepare:
        prepare(chosen, folder, words)
        return
    file = words.json or folder / "results.json"
    results = json.loads(file.read_text()) if file.exists() and not words.again else {}
    for job in chosen:
        if job.name not in results:
            results[job.name] = measure(job, folder, words)
            file.write_text(json.dumps(results, indent=1) + "\n")
        print(table(results[job.name]), beside_the_best(results[job.name]), sep="\n\n", end="\n\n", flush=True)


if __name__ == "__main__":
    main()
