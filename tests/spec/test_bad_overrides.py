"""Words of the command line that cannot be meant, by their kind and the next move."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("ctxlen=64", "override.unknown"),
        ("ctx_len=64", "override.unknown"),
        ("specialization.ctxlen=64", "override.unknown"),
        ("+specialization.ctxlen=64", "override.unknown"),
        ("++specialization.ctxlen=64", "override.unknown"),
        ("specialization={ctxlen:64}", "override.unknown"),
        ("specialization.ctx_len.x=64", "override.unknown"),
        ("~specialization.ctxlen", "override.unknown"),
        ("backend.thread=2", "override.unknown"),
        ("nothing/like/this=1", "override.unknown"),
        ("model=nosuch", "override.choice"),
        ("model=3", "override.choice"),
        ("model=[gpt2,mpt]", "override.choice"),
        ("recipe=nosuch", "override.choice"),
        ("+specialization.ctx_len=1", "override.exists"),
        ("+model=gpt2", "override.exists"),
        ("~specialization.ctx_len=5", "override.exists"),
        ("specialization.ctx_len=[1,2", "override.syntax"),
        ("out=${a", "override.syntax"),
        ("specialization.ctx_len=1,2,", "override.syntax"),
        ("specialization.ctx_len=1,2", "override.syntax"),
        ("specialization.ctx_len=range(1,3)", "override.syntax"),
        ("model@other=gpt2", "override.syntax"),
        ("=64", "override.syntax"),
        ("specialization.ctx_len", "override.syntax"),
        ("", "override.syntax"),
        ("out=" + "[" * 300, "override.syntax"),
        ("out=" + "[" * 3000, "spec.size"),
        ("device_group.devices=[" + "0," * 3000 + "0]", "spec.size"),
        ("runs=" + "9" * 5000, "override.syntax"),
        ("model=../../evil/b", "override.path"),
        ("model=/etc/passwd", "override.path"),
        ("model=.", "override.path"),
        ("hydra.searchpath=[/evil]", "override.path"),
        ("hydra.run.dir=../x", "path.outside"),
        ("hydra.sweep.dir=/evil", "path.outside"),
        ("hydra.job.chdir=true", "spec.forbidden"),
        ("hydra/job_logging=default", "spec.forbidden"),
        ("hydra.launcher._target_=os.system", "spec.forbidden"),
        ("+model._target_=os.system", "spec.forbidden"),
        ("adapters={_target_:os.system}", "spec.forbidden"),
        ("adapters={a:{b:[{_target_:os.system}]}}", "spec.forbidden"),
        ("out=${oc.env:SECRET}", "spec.resolver"),
        ("out=${oc.env:SECRET,fallback}", "spec.resolver"),
        ("out=${oc.decode:x}", "spec.resolver"),
        ("out=${now:%Y}", "spec.resolver"),
        ("out=${hydra:runtime.cwd}", "spec.resolver"),
        ("out=${nowhere.at.all}", "spec.resolver"),
        ("out=${out}", "spec.cycle"),
        ("mod\u202eel=gpt2", "spec.text"),
        ("out=a\0b", "spec.text"),
        ("out=\udcff", "spec.text"),
        ("out='a\nb'", "spec.text"),
        ("out=" + "a" * 70_000, "spec.size"),
    ],
)
def test_a_bad_word_is_refused_by_its_kind(refusal, word, kind):
    error = refusal(word)

    assert (error.kind, error.exit_code) == (kind, 2)
    assert error.where == "command line"
    assert error.hint


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("ctxlen=64", "did you mean specialization.ctx_len=64?"),
        ("ctx_len=64", "did you mean specialization.ctx_len=64?"),
        ("quantisation=int8", "did you mean quantization=int8?"),
        ("specialization.ctxlen=64", "did you mean specialization.ctx_len=64?"),
        ("+specialization.ctx_len=1", "write specialization.ctx_len=1"),
        ("+model=gpt2", "write model=gpt2"),
        ("model=gtp2", "did you mean model=gpt2?"),
        ("quantization=nosuch", "choices: auto, awq, dynamic, "),
        ("out=${model.nam}", "did you mean ${model.name}?"),
    ],
)
def test_the_hint_is_what_was_meant(refusal, word, hint):
    assert refusal(word).hint.startswith(hint)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("runs=[1,2", "'runs=[1,2' cannot be read at column 10: the [ of column 6 is not closed"),
        ("out=${a", "'out=${a' cannot be read at column 6: the { of column 6 is not closed"),
        ("runs=1,2,", "'runs=1,2,' cannot be read at column 10: a value is missing at the end"),
        ("out=a)b", "'out=a)b' cannot be read at column 6: ')' is not expected here"),
    ],
)
def test_a_word_that_cannot_be_read_names_the_column(refusal, word, message):
    assert refusal(word).message == message


def test_a_missing_variable_is_refused_unless_it_has_a_default(refusal, spec_of, monkeypatch):
    monkeypatch.delenv("QEFF_HOME", raising=False)

    assert refusal("out=${oc.env:QEFF_HOME}").kind == "spec.resolver"
    assert spec_of("out=${oc.env:QEFF_HOME,here}").out == "here"


def test_keys_that_wait_for_each_other_are_a_cycle(refusal):
    error = refusal("out=${prompts_file}", "prompts_file=${out}")

    assert error.kind == "spec.cycle"


def test_a_secret_is_never_repeated(refusal, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")

    assert "hunter2" not in str(refusal("out=${oc.env:SECRET}"))


def test_a_long_word_makes_a_short_message(refusal):
    assert len(str(refusal("nosuch=" + "x" * 5000))) < 400
