"""A package as a model of lm-eval (the Language Model Evaluation Harness; extra `lm-eval`), by its Python interface.

lm_eval.simple_evaluate(model=PackageModel("pkg"), tasks=["lambada_openai"])
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qeffbuild.errors import AbsentError, RunError
from qeffbuild.runtime.engine import Engine
from qeffbuild.runtime.evaluate import continuations
from qeffbuild.spec.types import DecodingSpec

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as cause:
    raise AbsentError(
        "lm_eval.absent", "lm_eval cannot be imported", hint="pip install 'qeffbuild[lm-eval]'"
    ) from cause

_MOST_NEW_TOKENS = 256  # the harness's own, where a task says nothing


class PackageModel(TemplateLM):
    """Scores and answers with the package's own graphs, as many requests at a time as it has rows."""

    def __init__(self, package: str | Path | Engine, *, threads: int | None = None) -> None:
        super().__init__()
        self.engine = package if isinstance(package, Engine) else Engine.open(Path(package), threads=threads)
        if self.engine.tokenizer is None:
            raise RunError("run.tokenizer", "the package has no tokenizer", hint="build it from a model that has one")
        self._around = self.engine.tokenizer.encode("")  # special tokens that every text gets

    @property
    def eot_token_id(self) -> int:
        return min(self.engine.limits.eos_token_ids, default=0)

    @property
    def prefix_token_id(self) -> int:
        return self._around[0] if self._around else self.eot_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        assert self.engine.tokenizer is not None
        token_ids = self.engine.tokenizer.encode(string)
        return token_ids[len(self._around) :] if add_special_tokens is False else token_ids

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        return list(continuations(self.engine, ((context, wanted) for _, context, wanted in requests)))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        found = []
        for (text,) in (request.args for request in requests):
            token_ids = self.tok_encode(text, add_special_tokens=False)
            pieces = get_rolling_token_windows(
                token_list=token_ids,
                prefix_token=self.prefix_token_id,
                max_seq_len=self.engine.limits.ctx_len,
                context_len=1,
            )
            found.append(sum(score for score, _ in continuations(self.engine, map(make_disjoint_window, pieces))))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        return [self._answer(*request.args) for request in requests]

    def _answer(self, context: str, said: dict[str, Any]) -> str:
        most = min(int(said.get("max_gen_toks", _MOST_NEW_TOKENS)), self.engine.limits.ctx_len // 2)
        token_ids = self.tok_encode(context)[-(self.engine.limits.ctx_len - most) :]
        temperature = float(said.get("temperature", 0)) if said.get("do_sample") else 0.0
        decoding = DecodingSpec(max_new_tokens=most, temperature=temperature)
        text = self.engine.generate([token_ids], decoding).outputs[0].text
        ends = said.get("until") or []
        for end in [ends] if isinstance(ends, str) else ends:
            text = text.partition(end)[0] if end else text
        return text
