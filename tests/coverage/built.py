"""Every model type as a checkpoint in a folder, built, verified and run by the command line -> lines of JSON.

    python tests/coverage/built.py [TYPE ...] [--with "WORD ..."] ... [--to GOAL] [--dtype DTYPE] [--init] [--results FILE]

The words are those that a user would add; each --with is a build of its own, of one checkpoint and in one cache, so that steps
which builds share are done once. What a package says is held against transformers on the same folder (judged.py). One
Python imports once, and a fork of it builds a type, steps included. Builds that the results hold are left out.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judged import ROUNDING, Reference

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT)]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TRANSFORMERS_VERBOSITY"] = "critical"
os.environ["HF_HUB_OFFLINE"] = "1"

WORDS = ("w6 w17 w9", "w30 w8 w12 w12 w7 w21 w29 w10 w11 w16 w31 w5")
PROMPTS = ("In the beginning", "And it came to pass, when he had looked upon him, he sent")
NEW_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is built of each type: `words` are overrides, `init` asks for the weights that transformers draws.

    `drawn` is the number of a draw (draw.py), which is then its configuration.
    """

    words: Sequence[str] = ()
    goal: str = "package"
    dtype: str = "float32"
    init: bool = False
    drawn: int | None = None

    def __str__(self) -> str:
        return " ".join([*self.words, self.goal, self.dtype, *(["init"] if self.init else []), *self._draw])

    @property
    def _draw(self) -> list[str]:
        return [] if self.drawn is None else [f"draw {self.drawn}"]


class Failed(Exception):
    """A command that did not end with 0."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    parser.add_argument("--with", action="append", dest="words", metavar="WORDS", help="overrides of one more build")
    parser.add_argument("--to", default="package", metavar="GOAL", help="build so far only")
    parser.add_argument("--dtype", default="float32", help="of the checkpoint")
    parser.add_argument("--init", action="store_true", help="weights as transformers draws them")
    parser.add_argument("--drawn", type=int, metavar="NUMBER", help="a configuration of draw.py")
    parser.add_argument("--results", type=Path, default=ROOT / "outputs" / "built.jsonl")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one type")
    said = parser.parse_args()

    import run

    from qeffbuild.models.tasks import CAUSAL, classes

    more = {"goal": said.to, "dtype": said.dtype, "init": said.init, "drawn": said.drawn}
    every = [Asked(words=tuple(shlex.split(words)), **more) for words in said.words or [""]]
    done = {(line["model_type"], line["asked"]) for line in run.read_lines(said.results)}
    import_what_all_need()
    for model_type in said.types or list(classes(CAUSAL)):
        left = [asked for asked in every if (model_type, str(asked)) not in done]
        for found in built_apart(model_type, left, said.limit) if left else ():
            with said.results.open("a") as file:
                file.write(json.dumps(found) + "\n")
            told = f"{found['asked']}: {found['stage']} {found['reason']} {found['seconds']} s"
            sys.stdout.write(f"{model_type}: {told}\n")
            sys.stdout.flush()


def import_what_all_need() -> None:
    import run

    run.import_what_all_need()
    import qeffbuild.cli.obey
    import qeffbuild.spec.compose  # noqa: F401


def built_apart(model_type: str, every: Sequence[Asked], limit: float) -> list[dict[str, Any]]:
    """What became of each build of a type, in a process of its own: `stage` is the last one begun, or "done"."""
    import run

    lost = run.in_a_process(model_type, limit * len(every), lambda name: json.dumps({"found": _built(name, every)}))
    found = lost.get("found") or [{name: lost[name] for name in ("stage", "reason", "seconds")} for _ in every]
    return [{"model_type": model_type, "asked": str(asked), **said} for asked, said in zip(every, found, strict=True)]


def _built(model_type: str, every: Sequence[Asked]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["QEFFBUILD_CACHE"] = f"{folder}/cache"
        os.chdir(folder)
        _work_here()
        type_ = Type(model_type, Path(folder, "model"))
        return [_one(type_, asked) for asked in every]


def _one(of: Type, asked: Asked) -> dict[str, Any]:
    began, said = time.monotonic(), {"stage": "write", "reason": ""}
    try:
        said["reason"] = _through(said, of, asked)
        said["stage"] = "done"
    except Exception as problem:
        said["reason"] = f"{type(problem).__name__}: {problem}"
    return {**said, "seconds": round(time.monotonic() - began, 1)}


class Type:
    """The checkpoint of a type, written once, and what transformers makes of it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self._reference: Reference | None = None

    def written(self, asked: Asked) -> Path:
        if not self.folder.exists():
            if asked.drawn is None:
                _write(self.folder, self.name, asked)
            else:
                _write_drawn(self.folder, self.name, asked.drawn)
        return self.folder

    def reference(self, asked: Asked) -> Reference:
        if self._reference is None:
            self._reference = Reference(self.folder, _prompts(asked), NEW_TOKENS)
        return self._reference


def _work_here() -> None:
    """Steps run in this process, which is one for them already."""
    from qeffbuild.executor import process, worker

    def run(self: Any, request: Mapping[str, Any], *, progress: Any, **limits: Any) -> int:
        with open(request["log"], "a") as file, redirect_stdout(file), redirect_stderr(file):
            try:
                worker.run_action(json.loads(json.dumps(request)), progress)
            except Exception as problem:
                raise process.revive(worker.describe(problem, request)) from problem
        return 0

    process.Worker.run = run  # type: ignore[method-assign]
    _play_a_card()


def _play_a_card() -> None:
    """For backend=qaic: a compiler whose programs are graphs, and a card that ONNX Runtime plays."""
    played = ROOT / "tests" / "backends" / "qaic"
    compiler = Path("qaic-compile").resolve()
    compiler.write_text(f'#!/bin/sh\nexec {sys.executable} {played / "played_compiler.py"} "$@"\n')
    compiler.chmod(0o755)
    os.environ["QEFFBUILD_QAIC_COMPILE"] = str(compiler)
    sys.path[:0] = [str(played), str(played / "played_sdk")]


def _through(said: dict[str, str], of: Type, asked: Asked) -> str:
    """Something to be told of it, where all is well."""
    words = [f"model.path={of.written(asked)}", *asked.words]
    said["stage"] = "build"
    built = _command("build", *words, "--to", asked.goal)
    if asked.goal != "package":
        return ""
    said["stage"] = "verify"
    verified = _command("verify", built["package"])
    said["stage"] = "run"
    prompts = "prompts=[" + ",".join(f'"{prompt}"' for prompt in _prompts(asked)) + "]"
    answer = _command("run", *words, prompts, f"decoding.max_new_tokens={NEW_TOKENS}")
    tokens = [list(output["token_ids"]) for output in answer["outputs"]]
    said["stage"] = "compare"
    reference = of.reference(asked)
    if not any(word.startswith(ROUNDING) for word in asked.words):
        return reference.holds(tokens)
    return reference.holds_about(tokens, Path(built["package"]), _loosest(verified["gate"]))


def _loosest(gates: Mapping[str, Any]) -> dict[str, float]:
    """A package may have forms of a graph that are rounded unlike: any of them may be what runs."""
    every = [gate["limits"] for gate in gates.values()]
    return {name: max(limits[name] for limits in every) for name in every[0]}


def _prompts(asked: Asked) -> Sequence[str]:
    return PROMPTS if asked.drawn is None else WORDS


def _command(*words: str) -> Any:
    from qeffbuild.cli import main as answer

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = answer([*words, "--json"])
    document = json.loads(out.getvalue() or "{}")
    if code:
        error = document.get("error") or {"kind": "?", "message": err.getvalue()[-1000:], "hint": ""}
        raise Failed(f"exit {code}, {error['kind']}: {error['message']} (hint: {error['hint']})")
    return document


def _write(folder: Path, model_type: str, asked: Asked) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from qeffbuild.models import DEMO
    from qeffbuild.models.tiny import tiny_config, write_tiny

    if asked.init:
        tokenizer = AutoTokenizer.from_pretrained(DEMO)
        torch.manual_seed(1)
        config = tiny_config(model_type, len(tokenizer), tokenizer.eos_token_id)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    else:
        write_tiny(folder, model_type, seed=1, tokenizer=DEMO, task="causal-lm")
    if asked.dtype != "float32":
        AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, asked.dtype)).save_pretrained(folder)


def _write_drawn(folder: Path, model_type: str, number: int) -> None:
    """The first attempt that transformers makes and runs; with a tokenizer of a few words."""
    import torch
    from check import _stored
    from draw import TRIES, drawn

    from qeffbuild.export.skeleton import configuration, small_model

    for attempt in range(TRIES):
        try:
            said, text = drawn(model_type, number, attempt)
            model = small_model(configuration(said))
            with torch.no_grad():
                model(torch.tensor([text.rows[0]]))
            break
        except Exception as problem:
            last = problem
    else:
        raise last
    _stored(model, getattr(torch, said["dtype"])).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**said, "architectures": [type(model).__name__]}))
    _write_words(folder)


def _write_words(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(33)}, unk_token="w3"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w3", eos_token="w2").save_pretrained(folder)


if __name__ == "__main__":
    main()
