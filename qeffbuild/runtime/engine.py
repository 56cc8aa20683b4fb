"""An opened package -> generated text: an engine answers prompts in a loop of schedule, run, take in.

engine = Engine.open(Path("package"))
stream = engine.stream(["Hi there!!"], DecodingSpec(max_new_tokens=20))
for event in stream:
    ...
stream.result().metrics
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from qeffbuild.errors import RunError
from qeffbuild.models.tasks import IMAGE_TEXT
from qeffbuild.package import Package
from qeffbuild.runtime import speculation
from qeffbuild.runtime.adapters import Adapters
from qeffbuild.runtime.metrics import Metrics, Tally
from qeffbuild.runtime.prompt_scores import PromptScores, last_of
from qeffbuild.runtime.request import Event, Finish, Limits, Output, Request
from qeffbuild.runtime.sampling import Sampler, choose, choose_one
from qeffbuild.runtime.scheduler import Answer, Row, Scheduler, Turn
from qeffbuild.runtime.session import Session, open_session
from qeffbuild.runtime.speculation import Drafter
from qeffbuild.runtime.state import State
from qeffbuild.runtime.tokenizer import TextStream, Tokenizer, open_tokenizer
from qeffbuild.spec.types import DecodingSpec

if TYPE_CHECKING:
    from qeffbuild.runtime.seeing import Eyes

Prompt = str | Sequence[int]  # text, or token ids as they are


@dataclass(frozen=True, slots=True)
class Generation:
    """The answers, in the order of the prompts, and how long they took."""

    outputs: tuple[Output, ...]
    metrics: Metrics

    def as_json(self) -> dict[str, Any]:
        return {"outputs": [output.as_json() for output in self.outputs], "metrics": self.metrics.as_json()}


class Engine:
    """A package loaded and ready. It answers one stream at a time; its cache is used again by the next one."""

    def __init__(
        self,
        session: Session,
        limits: Limits,
        tokenizer: Tokenizer | None,
        *,
        adapters: Adapters = Adapters(),  # noqa: B008 - frozen
        threads: int | None = None,
        state: State | None = None,
        eyes: Eyes | None = None,
        load_s: float = 0.0,
    ) -> None:
        self.eyes = eyes
        self.limits = limits
        self.tokenizer = tokenizer
        self.adapters = adapters
        self.load_s = load_s
        self._threads = threads
        self._drafter: tuple[tuple[str | None, int], Drafter] | None = None
        self._loaded = 0  # the adapter whose weights are in the inputs
        self.state = State(session, limits) if state is None else state
        self.current: Stream | None = None

    @classmethod
    def open(cls, path: Path, *, threads: int | None = None, devices: Sequence[int] = ()) -> Engine:
        began = perf_counter()
        package = Package.open(path)
        limits = Limits.from_manifest(package.manifest)
        tokenizer = open_tokenizer(package.tokenizer) if package.tokenizer else None
        session = open_session(package, threads=threads, devices=devices)
        seeing = _seeing(package, session, limits) if package.task == IMAGE_TEXT else {}
        engine = cls(session, limits, tokenizer, adapters=Adapters.of(package), threads=threads, **seeing)
        engine.load_s = perf_counter() - began
        return engine

    def generate(
        self, prompts: Prompt | Sequence[Prompt], decoding: DecodingSpec, images: Sequence[str] = ()
    ) -> Generation:
        """Answers every prompt."""
        return self.stream(prompts, decoding, images).result()

    def stream(self, prompts: Prompt | Sequence[Prompt], decoding: DecodingSpec, images: Sequence[str] = ()) -> Stream:
        """Answers every prompt, token by token as they come; all prompts are checked before anything runs."""
        tally = Tally()
        asked = _listed(prompts)
        adapter = self.adapters.id_of(decoding.adapter)
        if self.eyes is not None:
            requests = self.eyes.requests(asked, images, decoding)
        else:
            requests = [
                Request(id=place, token_ids=tuple(self.encode(prompt, place)), decoding=decoding, adapter=adapter)
                for place, prompt in enumerate(asked)
            ]
        if not requests:
            raise RunError("run.prompt", "there is no prompt", hint='give one: prompts=["Hi there!!"]')
        for request in requests:
            request.check(self.limits)
        self._load(adapter)
        self.current = Stream(self, asked, requests, tally)
        return self.current

    def _load(self, adapter: int) -> None:
        """Where one adapter at a time is in the inputs, makes it this one."""
        if self.adapters.folder is not None and adapter != self._loaded:
            self.state.load_adapter(self.adapters.weights(adapter))
            self._loaded = adapter

    def drafter_for(self, decoding: DecodingSpec) -> Drafter | None:
        """Who drafts, if the package verifies drafts; a draft model stays loaded for the next call."""
        if not self.limits.draft_lengths:
            if decoding.draft is not None:
                raise RunError(
                    "run.speculation",
                    "decoding.draft: the package verifies no drafts",
                    hint="build it with specialization.num_speculative_tokens=4",
                )
            return None
        key = (decoding.draft, decoding.max_ngram_size)
        if self._drafter is None or self._drafter[0] != key:
            self._drafter = (key, speculation.drafter(decoding, self.limits, self._threads))
        return self._drafter[1]

    def encode(self, prompt: Prompt, place: int = 0) -> Sequence[int]:
        """Token ids of a prompt; `place` names it in errors."""
        if not isinstance(prompt, str):
            return prompt
        if not prompt:
            raise RunError("run.prompt", f"prompt {place + 1} is empty", hint="give some text")
        if self.tokenizer is None:
            raise RunError(
                "run.prompt",
                f"prompt {place + 1} is text, but the package has no tokenizer",
                hint="give token ids, or build from a model folder that has a tokenizer",
            )
        return self.tokenizer.encode(prompt)


class Stream:
    """The events of one call as they happen; `result` is what they come to, and runs what is left to run."""

    def __init__(self, engine: Engine, prompts: Sequence[Prompt], requests: Sequence[Request], tally: Tally) -> None:
        self._engine = engine
        self._prompts = prompts
        self._tally = tally
        drafter = engine.drafter_for(requests[0].decoding)
        self._drafts = drafter is not None
        self._scheduler = Scheduler(requests, engine.limits, drafter.propose if drafter else None)
        self._kept = engine.limits.logits_to_keep
        self._seen = PromptScores(requests) if self._kept != 1 else None
        self._samplers: dict[int, Sampler] = {}  # of the answers under way, by request
        self._texts: dict[int, TextStream] = {}
        self._outputs: dict[int, Output] = {}
        self._events = self._run()

    def __iter__(self) -> Iterator[Event]:
        return self._events

    def result(self) -> Generation:
        for _ in self._events:
            pass
        outputs = tuple(self._outputs[place] for place in range(len(self._prompts)))
        return Generation(outputs, self._tally.metrics(self._engine.load_s))

    def _run(self) -> Iterator[Event]:
        while turn := self._scheduler.schedule():
            if self._engine.current is not self:
                raise RunError(
                    "run.stream",
                    "another call has taken over the engine's cache",
                    hint="finish one stream before the next, or give all prompts in one call",
                )
            since = perf_counter()
            if turn.width > 1 and not turn.is_prefill:
                yield from self._verify(turn, since)
                continue
            for answer in turn.entering:
                self._engine.state.begin(answer.slot, answer.request.seen)
            logits_BNV = self._engine.state.run(turn.width, turn.rows, keep=self._kept if turn.is_prefill else 1)
            if turn.is_prefill and self._seen is not None:
                self._seen.add(turn, logits_BNV)
            token_ids = self._choose(turn, last_of(turn, logits_BNV)) if turn.ready else []
            finishes = self._scheduler.advance(turn, token_ids)
            if turn.is_prefill:
                self._tally.prefilled(since, sum(len(row.token_ids) for row in turn.rows), len(token_ids))
            else:
                self._tally.decoded(since, len(token_ids))
                for _ in turn.ready if self._drafts else ():
                    self._tally.verified_drafts(0, 1)
            for answer, token_id, finish in zip(turn.ready, token_ids, finishes, strict=True):
                yield self._tell(answer, token_id, finish)

    def _verify(self, turn: Turn, since: float) -> Iterator[Event]:
        """Each row's tokens as the target chooses them, for as long as its draft foresaw them; then one more."""
        state, wrong, events = self._engine.state, list[Row](), list[Event]()
        state.keep(row.slot for row in turn.rows)
        logits_BNV = state.run(turn.width, turn.rows, keep=0)
        for answer, row in zip(turn.ready, turn.rows, strict=True):
            sampler, draft = self._samplers[answer.request.id], row.token_ids[1:]
            before, finish = len(events), None
            for place in range(len(row.token_ids)):
                token_id = choose_one(logits_BNV[answer.slot, place], sampler)
                finish = self._scheduler.accept(answer, token_id)
                events.append(self._tell(answer, token_id, finish))
                if finish is not None or place == len(draft) or token_id != draft[place]:
                    break
            right = len(events) - before  # of the tokens that were fed
            is_again = finish is None and right < len(row.token_ids) and bool(state.replaced)
            if is_again:
                wrong.append(row._replace(token_ids=row.token_ids[:right]))
            self._tally.verified_drafts(len(draft), right, runs=1 + is_again)
        if wrong:
            state.put_back(row.slot for row in wrong)
            state.run(turn.width, wrong, keep=0)
        self._tally.decoded(since, len(events))
        yield from events

    def _choose(self, turn: Turn, logits_BV: Any) -> list[int]:
        if turn.is_prefill:
            self._begin(turn.ready)
        samplers = [self._samplers[answer.request.id] for answer in turn.ready]
        return choose(logits_BV, [answer.slot for answer in turn.ready], samplers)

    def _begin(self, answers: Sequence[Answer]) -> None:
        limits, tokenizer = self._engine.limits, self._engine.tokenizer
        for answer in answers:
            request, rules = answer.request, limits.rules
            said = request.decoding, request.token_ids, limits.vocab_size
            self._samplers[request.id] = Sampler(*said, rules, answer.most_tokens)
            if tokenizer is not None:
                self._texts[request.id] = TextStream(tokenizer)

    def _tell(self, answer: Answer, token_id: int, finish: Finish | None) -> Event:
        place = answer.request.id
        text = self._texts[place].push(token_id) if self._texts else ""
        if finish is not None:
            text += self._finish(answer, finish)
        return Event(request=place, token_id=token_id, text=text, finish=finish)

    def _finish(self, answer: Answer, finish: Finish) -> str:
        place, tokenizer = answer.request.id, self._engine.tokenizer
        prompt, token_ids = self._prompts[place], answer.token_ids[len(answer.request.token_ids) :]
        self._outputs[place] = Output(
            prompt=prompt if isinstance(prompt, str) else None,
            text=tokenizer.decode(token_ids) if tokenizer else "",
            token_ids=tuple(token_ids),
            finish=finish,
            prompt_logprobs=None if self._seen is None else self._seen.of(answer.request),
        )
        del self._samplers[place]
        return self._texts.pop(place).flush() if tokenizer else ""


def _seeing(package: Package, session: Session, limits: Limits) -> dict[str, Any]:
    """What an engine of a model that sees has beyond another's."""
    from qeffbuild.runtime.image_state import VISION, ImageState
    from qeffbuild.runtime.seeing import Eyes

    eyes = Eyes(package)
    return {"eyes": eyes, "state": ImageState(session, limits, eyes.facts, has_vision=VISION in package.graphs)}


def _listed(prompts: Prompt | Sequence[Prompt]) -> Sequence[Prompt]:
    """One prompt, text or token ids, is a list of one."""
    is_one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
    return [prompts] if is_one else prompts  # type: ignore[list-item,return-value]
