"""The latency figures of a run: what is counted while it goes on, and what each figure means in the end."""

from __future__ import annotations

import resource
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import median
from time import perf_counter


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Figures of one run over one or several prompts. Seconds are wall clock; padding and idle rows never count."""

    ttft_s: float  # from the call, tokenising and waiting for a slot included, to the first token: mean over prompts
    prefill_tokens_per_s: float  # prompt tokens over the seconds of prefill turns
    decode_tokens_per_s: float | None  # tokens of decode turns, all rows, over their seconds; None: there were none
    decode_turn_s: float | None  # median over decode turns: what a reader waits between tokens
    total_tokens_per_s: float  # all generated tokens over e2e_s
    e2e_s: float  # from the call to the last token
    load_s: float  # opening the package: session, weights, tokenizer
    draft_acceptance: float | None  # drafted tokens that the target chose too, over all drafted; None: none were
    tokens_per_target_run: float | None  # of one answer, where drafts are verified: 1 would be no gain
    peak_rss_mb: float  # the most memory that this process has had so far, in units of 2**20 bytes

    def as_json(self) -> dict[str, float | None]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(slots=True)
class Tally:
    """What a run counts as it goes. `began` is when its prompts came in."""

    began: float = field(default_factory=perf_counter)
    prefill_tokens: int = 0
    prefill_s: float = 0.0
    decode_tokens: int = 0
    decode_turns_s: list[float] = field(default_factory=list)
    drafted: int = 0
    accepted: int = 0
    verified: int = 0  # rows of runs that verified drafts, or fed anew what was right of one
    first_tokens_s: list[float] = field(default_factory=list)  # of each prompt, since `began`
    ended: float = 0.0

    def prefilled(self, since: float, tokens_in: int, tokens_out: int) -> None:
        """A prefill turn that began at `since` is over; each token out is the first of its prompt."""
        self.ended = perf_counter()
        self.prefill_s += self.ended - since
        self.prefill_tokens += tokens_in
        self.first_tokens_s += [self.ended - self.began] * tokens_out

    def decoded(self, since: float, tokens_out: int) -> None:
        """A decode turn that began at `since` is over."""
        self.ended = perf_counter()
        self.decode_turns_s.append(self.ended - since)
        self.decode_tokens += tokens_out

    def verified_drafts(self, drafted: int, tokens_out: int, *, runs: int = 1) -> None:
        """One row of a turn had a draft of so many tokens, and gave so many: those accepted, and one more."""
        self.verified += runs
        self.drafted += drafted
        self.accepted += tokens_out - 1

    def metrics(self, load_s: float) -> Metrics:
        e2e_s = self.ended - self.began
        return Metrics(
            ttft_s=sum(self.first_tokens_s) / len(self.first_tokens_s),
            prefill_tokens_per_s=self.prefill_tokens / self.prefill_s,
            decode_tokens_per_s=self.decode_tokens / sum(self.decode_turns_s) if self.decode_tokens else None,
            decode_turn_s=median(self.decode_turns_s) if self.decode_turns_s else None,
            total_tokens_per_s=(len(self.first_tokens_s) + self.decode_tokens) / e2e_s,
            e2e_s=e2e_s,
            load_s=load_s,
            draft_acceptance=self.accepted / self.drafted if self.drafted else None,
            tokens_per_target_run=self.decode_tokens / self.verified if self.verified else None,
            peak_rss_mb=peak_rss_mb(),
        )


def peak_rss_mb() -> float:
    """The most resident memory this process has had, in MB."""
    # ru_maxrss survives exec and so may be the parent's; the kernel's own high-water mark starts anew.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
