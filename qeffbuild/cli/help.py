"""What `--help` prints."""

from __future__ import annotations

from qeffbuild.cli.verbs import DEFAULT, VERBS
from qeffbuild.cli.words import DEMO, FLAGS, SHORT, Flag

_OF_ONE_VERB = {flag for verb in VERBS.values() for flag in verb.flags}


def help_of(name: str | None) -> str:
    return _of_all() if name is None else _of_verb(name)


def _of_all() -> str:
    verbs = [f"  {verb.name:<11} {verb.does}" for verb in VERBS.values()]
    flags = [_line(flag) for flag in FLAGS.values() if flag.name not in _OF_ONE_VERB]
    return "\n".join(
        [
            "usage: qeffbuild [VERB ...] [KEY=VALUE ...] [FLAG ...]",
            "",
            "A Makefile for models: compose a build, get a package that runs; nothing that is up to date runs twice.",
            f"Words without = are verbs; no verb means {DEFAULT}, and no words at all mean {DEFAULT} {DEMO}.",
            "",
            "verbs:",
            *verbs,
            "",
            "flags:",
            *flags,
            "",
            "examples:",
            "  qeffbuild                                      build the demo model and let it speak",
            "  qeffbuild plan model=hf model.path=DIR         what a build of your own model would do",
            "  qeffbuild build -m quantization=none,int8      a sweep: what variants share is built once",
            "",
            "qeffbuild VERB --help says more of a verb.",
        ]
    )


def _of_verb(name: str) -> str:
    verb = VERBS[name]
    operands = f" {verb.operands}" if verb.operands else ""
    lines = [f"usage: qeffbuild {name}{operands} [KEY=VALUE ...] [FLAG ...]", "", f"{name}: {verb.does}."]
    if verb.more:
        lines.append(verb.more)
    flags = [*verb.flags, *(["--multirun"] if verb.sweeps else []), "--json", "--debug"]
    lines += ["", "flags:", *(_line(FLAGS[flag]) for flag in flags), "", "examples:"]
    return "\n".join([*lines, *(f"  {example}" for example in verb.examples)])


def _line(flag: Flag) -> str:
    short = next((short for short, name in SHORT.items() if name == flag.name), None)
    said = f"{short}, {flag.name}" if short else flag.name
    return f"  {f'{said} {flag.value}' if flag.value else said:<24} {flag.does}"
