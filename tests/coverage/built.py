"""Every model type as a checkpoint in a folder, built, verified and run by the command line -> lines of JSON.

    python tests/coverage/built.py [TYPE ...] [--words WORD ...] [--to GOAL] [--dtype DTYPE] [--init] [--results FILE]

The words are those that a user would add; what `run` says is held against transformers on the same folder. One Python
imports once, and a fork of it builds a type, steps included. Types that the results hold for the same words are left out.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT)]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TRANSFORMERS_VERBOSITY"] = "critical"
os.environ["HF_HUB_OFFLINE"] = "1"

WORDS = ("w6 w17 w9", "w30 w8 w12 w12 w7 w21 w29 w10 w11 w16 w31 w5")
PROMPTS = ("In the beginning", "And it came to pass, when he had looked upon him, he sent")
NEW_TOKENS = 8
OTHERWISE = "generate counts otherwise than the model"  # transformers says two things: then the model's own counts


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
    parser.add_argument("--words", nargs="+", metavar="WORD", default=[])
    parser.add_argument("--to", default="package", metavar="GOAL", help="build so far only")
    parser.add_argument("--dtype", default="float32", help="of the checkpoint")
    parser.add_argument("--init", action="store_true", help="weights as transformers draws them")
    parser.add_argument("--drawn", type=int, metavar="NUMBER", help="a configuration of draw.py")
    parser.add_argument("--results", type=Path, default=ROOT / "outputs" / "built.jsonl")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one type")
    said = parser.parse_args()

    import run

    from qeffbuild.models.tasks import CAUSAL, classes

    asked = Asked(words=said.words, goal=said.to, dtype=said.dtype, init=said.init, drawn=said.drawn)
    done = {(line["model_type"], line["asked"]) for line in run.read_lines(said.results)}
    import_what_all_need()
    for model_type in said.types or list(classes(CAUSAL)):
        if (model_type, str(asked)) in done:
            continue
        found = built_apart(model_type, asked, said.limit)
        with said.results.open("a") as file:
            file.write(json.dumps(found) + "\n")
        sys.stdout.write(f"{model_type}: {found['stage']} {found['reason']} {found['seconds']} s\n")
        sys.stdout.flush()


def import_what_all_need() -> None:
    import run

    run.import_what_all_need()
    import qeffbuild.cli.obey
    import qeffbuild.spec.compose  # noqa: F401


def built_apart(model_type: str, asked: Asked, limit: float) -> dict[str, Any]:
    """What became of a type, in a process of its own: `stage` is the last one that was begun, or "done"."""
    import run

    found = run.in_a_process(model_type, limit, lambda name: json.dumps(_built(name, asked)))
    kept = {name: found[name] for name in ("stage", "reason", "seconds")}
    return {"model_type": model_type, "asked": str(asked), **kept}


def _built(model_type: str, asked: Asked) -> dict[str, str]:
    said = {"stage": "write", "reason": ""}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["QEFFBUILD_CACHE"] = f"{folder}/cache"
        os.chdir(folder)
        _work_here()
        try:
            said["reason"] = _through(said, model_type, Path(folder, "model"), asked)
            said["stage"] = "done"
        except Exception as problem:
            said["reason"] = f"{type(problem).__name__}: {problem}"
    return said


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


def _through(said: dict[str, str], model_type: str, folder: Path, asked: Asked) -> str:
    """Something to be told of it, where all is well."""
    if asked.drawn is None:
        _write(folder, model_type, asked)
    else:
        _write_drawn(folder, model_type, asked.drawn)
    words = [f"model.path={folder}", *asked.words]
    said["stage"] = "build"
    built = _command("build", *words, "--to", asked.goal)
    if asked.goal != "package":
        return ""
    said["stage"] = "verify"
    _command("verify", built["package"])
    said["stage"] = "run"
    prompts = "prompts=[" + ",".join(f'"{prompt}"' for prompt in _prompts(asked)) + "]"
    answer = _command("run", *words, prompts, f"decoding.max_new_tokens={NEW_TOKENS}")
    said["stage"] = "compare"
    return _compare([list(output["token_ids"]) for output in answer["outputs"]], folder, _prompts(asked))


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


def _compare(ours: list[list[int]], folder: Path, prompts: Sequence[str]) -> str:
    """Raises where transformers says other tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = [tokenizer(prompt).input_ids for prompt in prompts]
    with torch.no_grad():
        try:
            theirs, told = [_generated(model, row) for row in rows], ""
        except Exception as problem:  # some types cannot
            theirs, told = [], f"generate cannot: {type(problem).__name__}"
        if ours != theirs:
            alone = [_one_by_one(model, row) for row in rows]
            told = told or OTHERWISE
            assert ours == alone, f"{ours}, generate says {theirs}, the model {alone}"
    return told


def _generated(model: Any, row: list[int]) -> list[int]:
    import torch

    ids = torch.tensor([row])
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False)
    return made[0, len(row) :].tolist()


def _one_by_one(model: Any, row: list[int]) -> list[int]:
    """The likeliest token behind the whole text, again and again."""
    import torch

    from qeffbuild.export.decoder import without_cache

    eos = model.generation_config.eos_token_id
    ends = eos if isinstance(eos, list) else [eos]
    said: list[int] = []
    while len(said) < NEW_TOKENS and not set(said[-1:]) & set(ends):
        logits = model(input_ids=torch.tensor([[*row, *said]]), **without_cache(model)).logits
        said.append(int(logits[0, -1].argmax()))
    return said


if __name__ == "__main__":
    main()
