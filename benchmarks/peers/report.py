"""What was measured -> tables: every figure, then ours beside the best peer with as many bits, and beside the goals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.variants import LARGE, MIDDLE, VARIANTS, Variant

BY_NAME = {variant.name: variant for variant in VARIANTS}
MOST = 1.5  # times what llama.cpp needs: loading and memory


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of ours as a ratio to the best peer, so that more is better; None: no goal is set for it."""

    said: str
    ratio: float
    least: float | None

    def __str__(self) -> str:
        if self.least is None:
            return f"{self.ratio:.2f}"
        return f"{self.ratio:.2f} ({'met' if self.ratio >= self.least else 'missed'}: {self.least:g})"


def table(measured: dict[str, Any]) -> str:
    lengths = measured["lengths"]
    heads = [f"prefill {n}: CPU / wall ms | decode: CPU / wall ms" for n in lengths]
    lines = [
        f"{measured['name']}, medians of {measured['rounds']} rounds",
        "",
        "| | " + " | ".join([*heads, "KL from fp32", "load CPU s", "peak MB"]) + " |",
        "|" + "---|" * (2 * len(heads) + 4),
    ]
    for name, said in measured["variants"].items():
        cells = []
        for length in lengths:
            figures = said["prompts"].get(length)
            for phase, digits in (("prefill", 0), ("decode", 2)):
                pair = (figures[f"{phase}_{clock}"] * 1e3 for clock in ("cpu", "wall")) if figures else ()
                cells.append(" / ".join(f"{value:.{digits}f}" for value in pair))
        cells += [
            _small(said.get("kl")),
            f"{said['load_cpu']:.2f}",
            f"{said['peak_mb']:.0f}" if said["peak_mb"] else "",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [f"\nleft out: {name}: {why}" for name, why in measured["absent"].items()]
    return "\n".join(lines)


def beside_the_best(measured: dict[str, Any]) -> str:
    """Our variants against the quickest peer of each figure; memory and loading against llama.cpp.

    The first token is what comes of loading and reading a prompt: who maps a file pays for it when it is first read.
    """
    clock = "cpu" if measured["threads"] == 1 else "wall"
    heads = ["KL ours / least of peers", "decode", "prefill", "decode at 1000", "prefill at 1000"]
    heads += ["load", "first token", "memory"]
    lines = [
        f"{measured['name']}: how many times as good as the best peer with as many bits ({clock} time)",
        "",
        "| | " + " | ".join(heads) + " |",
        "|" + "---|" * (len(heads) + 1),
    ]
    for name, said in measured["variants"].items():
        variant, peers = BY_NAME[name], _peers(measured, BY_NAME[name])
        if not variant.is_ours or variant.bits == 32 or not peers:
            continue
        goals = {goal.said: str(goal) for goal in _goals(measured, said, peers, clock)}
        known = [peer["kl"] for peer in peers.values() if "kl" in peer]
        kl = ""
        if "kl" in said and known:
            kl = f"{_small(said['kl'])} / {_small(min(known))} ({'met' if said['kl'] <= min(known) else 'missed'})"
        lines.append(f"| {name} | " + " | ".join([kl, *(goals.get(head, "") for head in heads[1:])]) + " |")
    return "\n".join(lines)


def _peers(measured: dict[str, Any], ours: Variant) -> dict[str, Any]:
    variants = measured["variants"].items()
    return {name: said for name, said in variants if not BY_NAME[name].is_ours and BY_NAME[name].bits == ours.bits}


def _goals(measured: dict[str, Any], said: dict[str, Any], peers: dict[str, Any], clock: str) -> Iterator[Goal]:
    model = measured["model"]
    least = {"decode": {LARGE: 1.3, MIDDLE: 1.0}.get(model), "prefill": {LARGE: 2.0, MIDDLE: 1.2}.get(model)}
    for length, figures in said["prompts"].items():
        is_long = int(length) >= 1000
        for phase in ("decode", "prefill"):
            key = f"{phase}_{clock}"
            best = min(peer["prompts"][length][key] for peer in peers.values())
            wanted = (1.2 if phase == "decode" else None) if is_long else least[phase]
            yield Goal(f"{phase} at {length}" if is_long else phase, best / figures[key], wanted)
    llama = next((peer for name, peer in peers.items() if BY_NAME[name].engine == "llama.cpp"), None)
    if llama and measured["threads"] == 1:
        yield Goal("load", llama["load_cpu"] / said["load_cpu"], round(1 / MOST, 2))
        until = [each["load_cpu"] + each["prompts"][measured["lengths"][0]]["prefill_cpu"] for each in (llama, said)]
        yield Goal("first token", until[0] / until[1], None)
        yield Goal("memory", llama["peak_mb"] / said["peak_mb"], round(1 / MOST, 2))


def _small(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"
