"""The JSON document of a verb -> what a person reads instead: so every table exists as JSON, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from time import localtime, strftime
from typing import Any

from qeffbuild.report.table import Column, Look, duration, seconds, size, table

Document = Mapping[str, Any]
MEBI = 1 << 20


def plan(said: Document, look: Look) -> str:
    """Each step, whether it runs and why, and what it is likely to cost."""
    steps = said["steps"]
    columns: list[Column | str]
    columns = ["STEP", "STATUS", Column("SECONDS", True), Column("MEMORY", True), Column("DISK", True), "BECAUSE"]
    rows = []
    for step in steps:
        expected = step["estimate"] if step["status"] != "hit" else None
        cost = ["", "", ""]
        if expected:
            cost = [seconds(expected["seconds"]), size(expected["rss_mb"] * MEBI), size(expected["disk_mb"] * 1e6)]
        rows.append([step["name"], step["status"].upper(), *cost, "; ".join(step["because"])])
    return f"{table(columns, rows, look)}\n{_sum_of_plan(steps)}"


def _sum_of_plan(steps: Sequence[Document]) -> str:
    counts = Counter(step["status"] for step in steps)
    words = ", ".join(f"{counts[status]} {status}" for status in ("hit", "build", "unknown") if counts[status])
    coming = [step["estimate"] for step in steps if step["status"] != "hit"]
    known = [expected["seconds"] for expected in coming if expected]
    if not coming:
        return f"{count(len(steps), 'step')}: {words}; nothing to do"
    if not known:
        return f"{count(len(steps), 'step')}: {words}"
    at_least = "" if len(known) == len(coming) else "at least "
    return f"{count(len(steps), 'step')}: {words}; {at_least}about {duration(sum(known))}"


def outcomes(steps: Sequence[Document], look: Look) -> str:
    """What became of each step of a build."""
    columns: list[Column | str] = ["STEP", "RESULT", Column("SECONDS", True), Column("MEMORY", True), "BECAUSE"]
    rows = []
    for step in steps:
        ran = step["result"] in ("built", "failed")
        cost = [seconds(step["seconds"]), size(step["peak_rss_mb"] * MEBI)] if ran else ["", ""]
        because = step["because"] if step["result"] != "hit" else []
        rows.append([step["name"], step["result"], *cost, "; ".join(because)])
    return f"{table(columns, rows, look)}\n{sum_of(steps)}"


def sum_of(steps: Sequence[Document]) -> str:
    """One line for a whole build."""
    if all(step["result"] == "hit" for step in steps):
        return f"up to date: {count(len(steps), 'step')}"
    counts = Counter(step["result"] for step in steps)
    words = ", ".join(f"{number} {result}" for result, number in counts.items())
    took = sum(step["seconds"] for step in steps)
    return f"{count(len(steps), 'step')}: {words}, in {duration(took)}"


def variants(said: Document, look: Look) -> str:
    """The variants of a sweep: what sets each apart, how it ended and what came of it."""
    found = said["variants"]
    shared = set.intersection(*(set(variant["overrides"]) for variant in found)) if len(found) > 1 else set()
    names = [
        key for key in ("result", "package", "folder", "steps_to_build") if any(key in variant for variant in found)
    ]
    figures = [name for name in FIGURES if any(name in variant.get("figures", {}) for variant in found)]
    columns: list[Column | str] = [Column("#", True), "VARIANT"]
    columns += [Column(figure.upper(), True) for figure in figures]
    columns += [name.replace("_", " ").upper() for name in names]
    rows = []
    for at, variant in enumerate(found):
        own = " ".join(word for word in variant["overrides"] if word not in shared)
        row = [str(at + 1), own or "(as it is)", *(figure_of(variant.get("figures", {}).get(name)) for name in figures)]
        rows.append([*row, *(str(variant.get(name) or "") for name in names)])
    counts = Counter("failed" if variant["exit_code"] else "done" for variant in found)
    ended = ", ".join(f"{counts[word]} {word}" for word in ("done", "failed") if counts[word])
    return f"{table(columns, rows, look)}\n{count(len(found), 'variant')}: {ended}; {_unique(said['steps'])}"


# Of all the figures that a variant may have, those by which one chooses.
FIGURES = ("ttft_s", "prefill_tokens_per_s", "decode_tokens_per_s", "perplexity", "token_agreement", "kl")


def _unique(steps: Sequence[Document]) -> str:
    if any("status" in step for step in steps):
        new = sum(step["status"] != "hit" for step in steps)
        return f"{count(len(steps), 'unique step')}, {new} to build"
    ran = sum(step.get("result") == "built" for step in steps)
    return f"{count(len(steps), 'unique step')}, {ran} run"


METRICS: Mapping[str, tuple[str, str]] = {
    "ttft_s": ("time to first token", "s"),
    "prefill_tokens_per_s": ("prefill", "tokens/s"),
    "decode_tokens_per_s": ("decode", "tokens/s"),
    "decode_turn_s": ("from token to token", "s"),
    "total_tokens_per_s": ("in total", "tokens/s"),
    "seconds_per_s": ("sound", "s of sound/s"),
    "inputs_per_s": ("inputs", "inputs/s"),
    "tokens_per_s": ("tokens read", "tokens/s"),
    "e2e_s": ("end to end", "s"),
    "load_s": ("loading the package", "s"),
    "peak_rss_mb": ("peak memory", "MB"),
}


def metrics(said: Document, look: Look) -> str:
    """The latency figures of a run, or their median, least and most over several."""
    is_spread = any(isinstance(value, Mapping) for value in said.values())
    parts = ("median", "min", "max") if is_spread else ("value",)
    rows = []
    for name, (words, unit) in METRICS.items():
        if name not in said:
            continue
        values = [said[name][part] for part in parts] if is_spread else [said[name]]
        if unit == "s" and all(value is not None and value < 1 for value in values):
            values, unit = [value * 1000 for value in values], "ms"
        rows.append([words, *map(figure_of, values), unit])
    return table(["FIGURE", *(Column(part.upper(), True) for part in parts), "UNIT"], rows, look)


def evaluation(said: Document, look: Look) -> str:
    words = {
        "perplexity": "perplexity",
        "reference_perplexity": "perplexity of PyTorch",
        "token_agreement": "agreement with PyTorch",
        "kl": "KL against PyTorch",
        "tokens": "tokens scored",
    }
    rows = [[words[name], figure_of(said[name], 5)] for name in words if said.get(name) is not None]
    return table(["FIGURE", Column("VALUE", True)], rows, look)


def why(said: Document, look: Look) -> str:
    """Each step with the reasons for its status, one below the other."""
    width = max(len(step["name"]) for step in said["steps"])
    lines = []
    for step in said["steps"]:
        status = step["status"].upper()
        reasons = step["because"] or ["its key is in the cache"]
        lines.append(f"{step['name']:<{width}}  {look.paint(f'{status:<7}', _colour(status))}  because  {reasons[0]}")
        lines += [f"{'':<{width}}  {'':<7}           {reason}" for reason in reasons[1:]]
    return "\n".join(lines)


def diff(said: Document, look: Look) -> str:
    if said["same"]:
        return "the same build: every key is equal"
    width = max(len(step["name"]) for step in said["steps"])
    lines = []
    for step in said["steps"]:
        word = "same" if step["same"] else "differs"
        for at, reason in enumerate(step["because"] or [""]):
            name, shown = (step["name"], word) if at == 0 else ("", "")
            lines.append(look.paint(f"{name:<{width}}  {shown:<7}  {reason}".rstrip(), "2" if step["same"] else None))
    return "\n".join(lines)


def cache_ls(said: Document, look: Look) -> str:
    if not said["entries"]:
        return f"{said['root']}: empty"
    rows = [
        [entry["step"], entry["key"][:12], size(entry["bytes"]), strftime("%Y-%m-%d %H:%M", localtime(entry["used"]))]
        for entry in said["entries"]
    ]
    return table(["STEP", "KEY", Column("SIZE", True), "LAST USED"], rows, look)


def cache_du(said: Document, look: Look) -> str:
    rows = [[row["step"], str(row["entries"]), size(row["bytes"])] for row in said["steps"]]
    rows += [[f"({part})", "", size(used)] for part, used in said["parts"].items() if part != "entry" and used]
    rows.append(["in all", str(sum(row["entries"] for row in said["steps"])), size(said["bytes"])])
    return f"{table(['STEP', Column('ENTRIES', True), Column('SIZE', True)], rows, look)}\n{said['root']}"


def cache_gc(said: Document) -> str:
    would = "would remove" if said["dry_run"] else "removed"
    removed = count(len(said["removed"]), "entry", "entries")
    return f"{would} {removed}, {size(said['freed'])}; {said['kept']} kept"


def cache_verify(said: Document) -> str:
    if not said["damaged"]:
        return f"{count(said['entries'], 'entry', 'entries')}, every byte as recorded"
    lines = [damage["message"] for damage in said["damaged"]]
    return "\n".join([*lines, f"{len(lines)} of {count(said['entries'], 'entry', 'entries')} damaged"])


def verified(said: Document, look: Look) -> str:
    """A package whose bytes are right, and how far each of its gates found a graph from PyTorch, at most."""
    line = f"{said['path']}: {count(said['files'], 'file')}, every byte as recorded"
    rows = []
    for edge, gate in said["gate"].items():
        found = gate.get("at_most", {})
        figures = [figure_of(found.get(name)) for name in ("error", "noise", "kl", "agreement")]
        rows.append([edge, *figures, gate.get("skipped", "")])
    if not rows:
        return line
    columns: list[Column | str] = ["GATE", *(Column(name, True) for name in ("ERROR", "NOISE", "KL", "SAME TOKEN")), ""]
    return f"{line}\n{table(columns, rows, look)}"


def commands(said: Document) -> str:
    """The vendor's command lines, as one would type them."""
    from shlex import join

    return "\n".join(join(argv) for argv in said["commands"])


def doctor(said: Document, look: Look) -> str:
    marks = {True: look.paint("ok", "32"), False: look.paint("no", "31"), None: look.paint("--", "2")}
    width = max(len(check["name"]) for check in said["checks"])
    lines = []
    for check in said["checks"]:
        lines.append(f"{marks[check['ok']]}  {check['name']:<{width}}  {check['found']}")
        if check["hint"]:
            lines.append(f"    {'':<{width}}  hint: {check['hint']}")
    return "\n".join(lines)


def count(number: int, noun: str, nouns: str | None = None) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {nouns or noun + 's'}"


def figure_of(value: float | None, digits: int = 3) -> str:
    """Three significant digits, without an exponent, zeros that say nothing left out."""
    if value is None:
        return "-"
    if isinstance(value, int) or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"


def _colour(status: str) -> str:
    return {"HIT": "2", "BUILD": "33"}.get(status, "36")


Writer = Callable[[Document, Look], str]
