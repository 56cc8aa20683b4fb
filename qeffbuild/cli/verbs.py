"""The verbs of the command line: what each does, what it takes, and an example of it."""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """`operands` are the bare words that may follow it: at least `least`, at most `most`."""

    name: str
    does: str
    more: str = ""
    operands: str = ""
    least: int = 0
    most: int = 0
    examples: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    sweeps: bool = False
    takes_all: bool = False  # whatever stands behind `--`

    @property
    def choices(self) -> tuple[str, ...]:
        """What an operand may be, where it is one of a few words."""
        return () if self.takes_all or "|" not in self.operands else tuple(self.operands.strip("[]").split("|"))


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            name="plan",
            does="print each step: HIT or BUILD and why, expected seconds, memory and disk",
            more="Nothing is built or written. What a step is expected to cost is what one of its name cost before.",
            examples=(
                "qeffbuild plan",
                "qeffbuild plan specialization.ctx_len=256",
                "qeffbuild plan --to export --json",
            ),
            flags=("--to",),
            sweeps=True,
        ),
        Verb(
            name="build",
            does="build up to the package and print its path",
            more="What is in the cache does not run again. `--check STEP` runs a step once more and compares.",
            examples=(
                "qeffbuild build",
                "qeffbuild build --to export",
                "qeffbuild build quantization=int8 out=outputs/demo",
                "qeffbuild build --from outputs/demo out=outputs/again",
            ),
            flags=("--to", "--check", "--allow-outside", "--locked", "--from"),
            sweeps=True,
        ),
        Verb(
            name="run",
            flags=("--locked",),
            does="build what is missing, then generate, stream the text and print latency figures",
            examples=('qeffbuild run prompts=["Once upon a time"]', "qeffbuild run decoding.max_new_tokens=16"),
            sweeps=True,
        ),
        Verb(
            name="emit",
            does="write the vendor's inputs and the exact command lines into a folder; needs no SDK",
            examples=("qeffbuild emit out=outputs/vendor",),
            flags=("--allow-outside",),
            sweeps=True,
        ),
        Verb(
            name="bench",
            flags=("--locked",),
            does="measure time to first token, prefill and decode tokens per second, memory",
            examples=("qeffbuild bench runs=5", "qeffbuild bench -m quantization=none,int8"),
            sweeps=True,
        ),
        Verb(
            name="eval",
            flags=("--locked",),
            does="measure perplexity and token agreement with PyTorch",
            examples=("qeffbuild eval", "qeffbuild eval eval_file=FILE"),
            sweeps=True,
        ),
        Verb(
            name="why",
            does="explain why a step is a hit or has to run, or every step",
            operands="[STEP]",
            most=1,
            examples=("qeffbuild why", "qeffbuild why export model.dtype=bfloat16"),
            flags=("--to",),
        ),
        Verb(
            name="diff",
            does="compare two builds, each given as overrides in one word or as the path of a package",
            operands="A B",
            least=2,
            most=2,
            examples=('qeffbuild diff specialization.ctx_len=128 "specialization.ctx_len=256 quantization=int8"',),
        ),
        Verb(
            name="graph",
            does="print the plan as mermaid, dot or JSON",
            operands="[mermaid|dot|json]",
            most=1,
            examples=("qeffbuild graph", "qeffbuild graph dot backend=onnxruntime"),
            flags=("--to",),
        ),
        Verb(
            name="cache",
            does="look after the cache: list, measure, collect or verify its entries",
            more="gc takes --max-size SIZE (such as 10G), --older AGE (such as 30d), --keep-roots and --dry-run.",
            operands="ls|du|gc|verify",
            least=1,
            most=1,
            examples=("qeffbuild cache ls", "qeffbuild cache gc --max-size 10G --older 30d"),
            flags=("--max-size", "--older", "--keep-roots", "--dry-run"),
        ),
        Verb(
            name="lock",
            does="build, and write what it was made of and what it gave into ./qeffbuild.lock",
            more="Check the file in: `build --locked` with the same words then fails on any difference.",
            examples=("qeffbuild lock recipe=demo",),
        ),
        Verb(
            name="verify",
            does="check every file of a package against its manifest",
            operands="PATH",
            least=1,
            most=1,
            examples=("qeffbuild verify outputs/demo",),
        ),
        Verb(
            name="import",
            does="turn a command line of QEfficient, or its qconfig.json, into a recipe on stdout",
            more="What could not be carried over is said on stderr and in the recipe's first lines.",
            operands="FILE | -- COMMAND LINE",
            least=1,
            most=1,
            examples=("qeffbuild import -- python -m QEfficient.cloud.infer --model_name gpt2 --num_cores 16",),
            takes_all=True,
        ),
        Verb(
            name="doctor",
            does="look at this machine: versions, permissions, space, locks, SDKs",
            examples=("qeffbuild doctor",),
        ),
        Verb(
            name="completion",
            does="print the completion script of a shell",
            operands="bash|zsh|fish",
            least=1,
            most=1,
            examples=('eval "$(qeffbuild completion bash)"',),
        ),
    )
}
DEFAULT = "run"
