"""A sweep composes each variant as if it were alone, but the choices only once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qeffbuild.errors import QeffBuildError, SpecError
from qeffbuild.spec import compose as composing
from qeffbuild.spec.compose import compose, compose_variants

words = st.sampled_from(
    [
        *("model=gpt2", "model=llama", "model=demo", "quantization=int8", "quantization=none", "recipe=gpt2_int8"),
        *("backend=qaic", "backend.num_cores=4", "backend.threads=2", "specialization=short", "recipe=null"),
        *("specialization.ctx_len=64", "specialization.ctx_len=256", "++specialization.ctx_len=32"),
        *("~specialization.ctx_len", "specialization={batch_size: 2}", "adapters={a: x}", "adapters.b=y"),
        *("+adapters.c=z", "out=${model.name}", "prompts=[a,b]", "+runs=2", "runs=3", "nosuch=1", "device_group=x2"),
    ]
)
several_words = st.lists(words, max_size=4)


@settings(max_examples=20, deadline=None)
@given(base=several_words, variants=st.lists(several_words, min_size=1, max_size=4))
def test_variants_equal_compositions_of_their_own(base, variants):
    together = compose_variants(base, variants)

    assert [_told(composed) for composed in together] == [_alone([*base, *variant]) for variant in variants]


def _alone(said):
    try:
        return _told(compose(said))
    except QeffBuildError as error:
        return str(error)


def _told(composed):
    return str(composed) if isinstance(composed, QeffBuildError) else composed


def test_choices_are_composed_once_for_all_values(monkeypatch):
    composed = []
    once = composing.list_parts
    monkeypatch.setattr(composing, "list_parts", lambda said, sources: composed.append(said) or once(said, sources))

    compose_variants(["model=gpt2"], [[f"specialization.ctx_len={64 + n}"] for n in range(10)])

    assert len(composed) == 1


def test_one_bad_variant_hides_no_other():
    good, bad, good_too = compose_variants([], [["runs=1"], ["rums=1"], ["runs=2"]])

    assert good.values["runs"] == 1
    assert isinstance(bad, SpecError)
    assert good_too.values["runs"] == 2
