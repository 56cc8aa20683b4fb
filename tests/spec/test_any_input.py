"""Whatever is said, the answer is a spec or an error of ours, and the same answer twice."""

from __future__ import annotations

import string

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qeffbuild.errors import QeffBuildError
from qeffbuild.spec.compose import compose
from qeffbuild.spec.load import from_config

keys = st.sampled_from(
    [
        *("model", "model.path", "model.revision", "specialization.ctx_len", "specialization.batch_size", "adapters"),
        *(
            "device_group.devices",
            "quantization",
            "backend",
            "backend.name",
            "hydra.run.dir",
            "out",
            "prompts",
            "recipe",
        ),
    ]
) | st.text(max_size=12)
odd = [
    *("null", "true", "''", "[]", "{}", "../../etc/passwd", "-x", "${oc.env:HOME}", "${a}", "${", "}", "{{7*7}}"),
    *("a\nb", "é", "\u202e", "[0,0]", "[1,2", "{_target_: os.system}", "!!python/name:os.system", "1e400", "???"),
    *("${model}", "${.x}", "${out}", "\\${x}", "\\", "'", '"', "a:b", "{a: {b: [c]}}", "choice(1,2)", "str(1)", "1,2"),
]
values = st.sampled_from(odd) | st.integers().map(str) | st.floats().map(str) | st.text(max_size=20)
words = st.builds("{}{}={}".format, st.sampled_from(["", "+", "++", "~"]), keys, values) | st.text(max_size=30)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.sampled_from(odd)
names = st.sampled_from(["defaults", "name", "path", "hydra", "model", "_target_", "a"]) | st.text(max_size=6)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=10
)
documents = trees.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True)) | st.text(
    alphabet=string.printable + "&*!|>é\u202e", max_size=60
)


def _answer(said, conf_dirs=()):
    try:
        composed = compose(said, conf_dirs=conf_dirs)
        return from_config(composed.values, origins=composed.origins)
    except QeffBuildError as error:
        return error


def _is_ours(answer):
    return not isinstance(answer, QeffBuildError) or (len(str(answer).splitlines()) <= 3 and answer.exit_code in (2, 3))


@settings(max_examples=150, deadline=None)
@given(st.lists(words, max_size=4))
def test_any_words_are_answered(said):
    answer = _answer(said)

    assert _is_ours(answer)
    assert str(_answer(said)) == str(answer)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=documents)
def test_any_file_is_answered(tmp_path, text):
    mine = tmp_path / "model" / "mine.yaml"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text(text, encoding="utf-8", errors="surrogatepass")

    assert _is_ours(_answer(["model=mine"], [tmp_path]))
