"""A package as lm-eval sees it; runs where lm-eval is installed (`pip install 'qeffbuild[lm-eval]'`)."""

from __future__ import annotations

import pytest

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from qeffbuild.runtime.evaluate import continuations
from qeffbuild.runtime.harness import PackageModel
from qeffbuild.spec.types import DecodingSpec


def asked(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=argument, idx=at) for at, argument in enumerate(arguments)]


def test_requests_of_the_harness_are_answered_by_the_engine(toy):
    engine, _, _ = toy(slots=2, prefill_seq_len=4, ctx_len=32)
    model = PackageModel(engine)
    pair, text = ("over the lazy dog", " and then"), "the quick brown fox " * 4

    ((score, _),) = model.loglikelihood(asked("loglikelihood", pair), disable_tqdm=True)
    (whole,) = model.loglikelihood_rolling(asked("loglikelihood_rolling", (text,)), disable_tqdm=True)
    said = {"until": ["e"], "max_gen_toks": 5}
    (answer,) = model.generate_until(asked("generate_until", (pair[0], said)), disable_tqdm=True)

    context, both = model.tok_encode(pair[0]), model.tok_encode("".join(pair))
    assert score == pytest.approx(next(iter(continuations(engine, [(context, both[len(context) :])])))[0])
    assert whole < score
    full = engine.generate([context], DecodingSpec(max_new_tokens=5)).outputs[0].text
    assert answer == full.partition("e")[0]
