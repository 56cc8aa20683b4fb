"""The words of one command line -> a Command. Words without `=` are verbs, as in make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, NoReturn, cast

from qeffbuild.cli.verbs import DEFAULT, VERBS
from qeffbuild.errors import PathError, SpecError
from qeffbuild.plan.types import GOALS, Goal


class Flag(NamedTuple):  # a dataclass would load `inspect`, which takes longer than a misspelt word may
    """A flag and, when it takes one, the word for its value."""

    name: str
    does: str
    value: str | None = None
    short: str | None = None


FLAGS: dict[str, Flag] = {
    flag.name: flag
    for flag in (
        Flag(name="--multirun", short="-m", does="sweep: every combination of values such as quantization=none,int8"),
        Flag(name="--json", does="one JSON document on stdout"),
        Flag(name="--to", value="GOAL", does=f"stop at {', '.join(GOALS)}"),
        Flag(name="--jobs", short="-j", value="N", does="steps at a time (launch.jobs=N)"),
        Flag(name="--keep-going", short="-k", does="after a failure, build what does not depend on it"),
        Flag(name="--check", value="STEP", does="run STEP twice and compare the results"),
        Flag(name="--frozen", does="refuse a model revision that can move (a branch, a tag)"),
        Flag(name="--locked", does="fail on any difference from what ./qeffbuild.lock says of these words"),
        Flag(name="--from", value="PACKAGE", does="the words that PACKAGE was built by; it must come out the same"),
        Flag(name="--offline", does="do not use the network"),
        Flag(name="--allow-outside", does="let out=DIR lie outside the working folder"),
        Flag(name="--max-size", value="SIZE", does="cache gc: collect until the cache is this small, such as 10G"),
        Flag(name="--older", value="AGE", does="cache gc: collect what nobody has used for this long, such as 30d"),
        Flag(name="--keep-roots", does="cache gc: spare what qeffbuild lock has built"),
        Flag(name="--dry-run", does="cache gc: only say what would go"),
        Flag(name="--debug", does="show tracebacks"),
        Flag(name="--version", does="print the version"),
        Flag(name="--help", short="-h", does="print this, or the help of a verb"),
        Flag(name="--cfg", short="-c", value="job|hydra|all", does="Hydra: print the composed configuration"),
        Flag(
            name="--info",
            short="-i",
            value="WHAT",
            does="Hydra: all, config, defaults, defaults-tree, plugins, searchpath",
        ),
        Flag(name="--package", short="-p", value="PACKAGE", does="Hydra: the part that --cfg prints"),
        Flag(name="--resolve", does="Hydra: resolve interpolations for --cfg"),
        Flag(name="--hydra-help", does="Hydra: its own help"),
    )
}
SHORT = {flag.short: flag.name for flag in FLAGS.values() if flag.short}
# Hydra's answers about a configuration: these words are handed over to Hydra as they are.
TO_HYDRA = ("--cfg", "--info", "--package", "--resolve", "--hydra-help")
# The answers that Hydra has; to another word its own parser would answer with a page of usage.
CHOICES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
# Hydra's flags that would let a command line leave the configuration that this program stands on.
REFUSED = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--experimental-rerun")

DEMO = "recipe=demo"  # what is meant by no words at all


class Call(NamedTuple):
    """One verb and the bare words that belong to it."""

    verb: str
    operands: tuple[str, ...] = ()


class Command(NamedTuple):
    """What was asked for."""

    calls: tuple[Call, ...] = (Call(DEFAULT),)
    overrides: tuple[str, ...] = ()
    flags: Mapping[str, str | None] = MappingProxyType({})
    hydra: tuple[str, ...] = ()

    def has(self, flag: str) -> bool:
        return flag in self.flags

    def value(self, flag: str) -> str | None:
        return self.flags.get(flag)

    @property
    def is_sweep(self) -> bool:
        return "--multirun" in self.flags

    @property
    def asks_hydra(self) -> bool:
        return any(flag in self.flags for flag in ("--cfg", "--info", "--hydra-help"))

    @property
    def goal(self) -> Goal:
        return cast(Goal, self.flags.get("--to") or "package")  # `_checked` has looked


def parse(words: Sequence[str]) -> Command:
    """Raise SpecError on a word that nobody knows; the values of overrides are Hydra's to read."""
    calls: list[Call] = []
    overrides: list[str] = []
    flags: dict[str, str | None] = {}
    hydra: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--" and calls and VERBS[calls[-1].verb].takes_all:
            calls[-1] = Call(calls[-1].verb, (*calls[-1].operands, *rest))
            break
        if word.startswith("-") and word != "-":
            flag, value = _flag(word, rest)
            flags[flag.name] = value
            if flag.name in TO_HYDRA:
                hydra += [flag.name] if value is None else [flag.name, value]
        elif "=" in word or word.startswith(("~", "+")):
            overrides.append(word)
        else:
            calls.append(_call(word, rest))
    if not calls and not overrides:
        overrides.append(DEMO)
    command = Command(calls=tuple(calls), overrides=tuple(overrides), flags=flags, hydra=tuple(hydra))
    if command.has("--help") or command.has("--version"):
        return command
    return _checked(command._replace(calls=command.calls or (Call(DEFAULT),)))


def _flag(word: str, rest: list[str]) -> tuple[Flag, str | None]:
    name, equals, value = word.partition("=")
    if name in REFUSED:
        raise PathError(
            "override.path",
            f"{name}: the configuration that this program stands on is its own",
            hint="put your files in ./conf or ~/.config/qeffbuild/conf: they come before the packaged ones",
        )
    flag = FLAGS.get(SHORT.get(name, name))
    if flag is None:
        raise SpecError(
            "flag.unknown", f"{name}: no such flag", hint=_nearest(name, FLAGS) or "qeffbuild --help lists them"
        )
    if flag.value is None:
        if equals:
            raise SpecError("flag.value", f"{flag.name} takes no value, found {value}", hint=f"write {flag.name} alone")
        return flag, None
    if not equals:
        if not rest or (rest[0].startswith("-") and len(rest[0]) > 1):
            raise SpecError("flag.value", f"{flag.name} needs a value", hint=f"{flag.name} {flag.value}: {flag.does}")
        value = rest.pop(0)
    return flag, value


def _call(word: str, rest: list[str]) -> Call:
    """The verb `word` with the operands that follow it in `rest`, which loses them."""
    verb = VERBS.get(word)
    if verb is None:
        _unknown_verb(word)
    operands: list[str] = []
    while rest and len(operands) < verb.most and _is_operand(rest[0], required=len(operands) < verb.least):
        operands.append(rest.pop(0))
    return Call(word, tuple(operands))


def _is_operand(word: str, *, required: bool) -> bool:
    if word.startswith("-"):
        return False
    return required or ("=" not in word and word not in VERBS and not word.startswith(("~", "+")))


def _unknown_verb(word: str) -> NoReturn:
    hint = _nearest(word, VERBS) or f"verbs: {' '.join(VERBS)}; an override has a value: {word}=VALUE"
    raise SpecError("verb.unknown", f"{word}: no such verb", hint=hint)


def _nearest(word: str, known: dict) -> str | None:
    from difflib import get_close_matches  # 3 ms that only a mistake has to pay

    near = get_close_matches(word, known, 1, 0.6)
    return f"did you mean {near[0]}?" if near else None


def _checked(command: Command) -> Command:
    """`command`, once the flags, verbs and operands are seen to fit each other."""
    for call in command.calls:
        verb = VERBS[call.verb]
        if len(call.operands) < verb.least and not command.asks_hydra:
            raise SpecError("verb.operand", f"{verb.name} needs {verb.operands}", hint=f"such as: {verb.examples[0]}")
        if call.operands and verb.choices and call.operands[0] not in verb.choices:
            hint = f"one of: {', '.join(verb.choices)}"
            raise SpecError("verb.operand", f"{verb.name} {call.operands[0]}: no such choice", hint=hint)
        if command.is_sweep and not verb.sweeps:
            sweeping = " ".join(name for name, verb in VERBS.items() if verb.sweeps)
            raise SpecError("sweep.verb", f"{verb.name} cannot be swept with -m", hint=f"these can: {sweeping}")
    for flag in (
        "--to",
        "--check",
        "--max-size",
        "--older",
        "--keep-roots",
        "--dry-run",
        "--allow-outside",
        "--locked",
        "--from",
    ):
        takers = [name for name, verb in VERBS.items() if flag in verb.flags]
        if command.has(flag) and not any(call.verb in takers for call in command.calls):
            raise SpecError(
                "flag.verb",
                f"{flag} means nothing to {command.calls[0].verb}",
                hint=f"it goes with: {' '.join(takers)}",
            )
    for flag in ("--locked", "--from"):
        if command.has(flag) and (command.is_sweep or command.has("--check")):
            other = "-m" if command.is_sweep else "--check"
            raise SpecError("flag.verb", f"{flag} means nothing to {other}", hint="build one variant at a time")
    for flag, choices in {"--to": GOALS, **CHOICES}.items():
        said = command.value(flag)
        if said is not None and said not in choices:
            raise SpecError("flag.value", f"{flag} {said}: no such choice", hint=f"one of: {', '.join(choices)}")
    return command._replace(overrides=command.overrides + _shorthand(command))


def _shorthand(command: Command) -> tuple[str, ...]:
    """The overrides that some flags stand for."""
    overrides = []
    if (jobs := command.value("--jobs")) is not None:
        if not jobs.isascii() or not jobs.isdigit() or int(jobs) < 1:
            raise SpecError("flag.value", f"--jobs {jobs}: not a number of steps", hint="--jobs 2")
        overrides.append(f"launch.jobs={jobs}")
    if command.has("--keep-going"):
        overrides.append("launch.keep_going=true")
    return tuple(overrides)
