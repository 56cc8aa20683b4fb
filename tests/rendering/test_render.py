"""A template becomes a document, or an error that says where; nothing else can come of it."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import pytest
import yaml

from qeffbuild.errors import LimitError, TemplateError
from qeffbuild.rendering import render
from qeffbuild.rendering.bounded import Limits, run_bounded


@pytest.fixture
def written(tmp_path: Path):
    """A function: template text, values, how to read the result -> the document."""

    def document(text: str, result: str = "text", shape=None, limits: Limits | None = None, **values: object) -> str:
        (tmp_path / "it.j2").write_text(text)
        return render("it.j2", values, result=result, shape=shape, own=tmp_path, limits=limits)

    return document


def raised(kind: str, call, *args, **kwargs) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        call(*args, **kwargs)
    assert caught.value.kind == kind
    return caught.value


def test_a_template_is_the_document_that_it_makes(written):
    text = '{\n    {% for key in keys %}\n    {{ key | json }}:1{{ "" if loop.last else "," }}\n    {% endfor %}\n}\n'

    assert written(text, "json", keys=["a", "b"]) == '{\n    "a":1,\n    "b":1\n}'


def test_a_missing_value_is_named_with_file_and_line(written, tmp_path):
    error = raised("template.undefined", written, "first\nsecond {{ nobody }}\n")

    assert error.where == f"{tmp_path}/it.j2:2"
    assert "nobody" in error.message


def test_an_undefined_attribute_is_an_error_too(written):
    raised("template.undefined", written, "{{ value.missing }}", value={"present": 1})


def test_a_syntax_error_is_named_with_file_and_line(written, tmp_path):
    error = raised("template.syntax", written, "fine\n{% for %}\n")

    assert error.where == f"{tmp_path}/it.j2:2"


@pytest.mark.parametrize(
    "attack",
    [
        "{{ cycler.__init__.__globals__ }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ self.__init__ }}",
        "{{ values.append(1) }}",
        "{{ (lipsum | attr('__globals__')).os }}",
        "{{ '{0.__class__}'.format(1) }}",
    ],
)
def test_a_template_cannot_reach_into_python(written, attack):
    raised("template.forbidden", written, attack, values=[0])


@pytest.mark.parametrize("name", ["/etc/hostname", "../conftest.py", "it.j2/../../x"])
def test_a_template_includes_only_templates(written, name):
    raised("template.unknown", written, "{% include '" + name + "' %}")


def test_a_document_has_a_largest_size(written):
    endless = "{% for a in range(90000) %}{% for b in range(90000) %}x{% endfor %}{% endfor %}"

    raised("template.size", written, endless, limits=Limits(output_bytes=1 << 12))


def test_a_template_that_calls_itself_is_stopped(written):
    raised("template.size", written, "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}")


def test_a_silent_endless_template_runs_into_the_time_limit(written):
    silent = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"

    with pytest.raises(LimitError) as caught:
        written(silent, limits=Limits(seconds=0.3))

    assert (caught.value.kind, caught.value.exit_code) == ("limit.time", 7)


class Lasting:
    """What only the process that made it may take away, and which nobody holds any more."""

    def __init__(self) -> None:
        self.me, self.made_by = self, os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.made_by:
            os._exit(1)


def test_what_a_process_has_left_over_is_not_taken_away_beside_a_document() -> None:
    gc.disable()
    try:
        Lasting()
        assert run_bounded(lambda: f"{gc.collect() >= 0}", "document", Limits()) == "True"
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "greedy", ["{{ 'x' * 9000000000 }}", "{{ '%9000000000d' % 1 }}", "{{ 'x' | center(9000000000) }}"]
)
def test_one_huge_value_is_stopped_as_well(written, greedy):
    raised("template.size", written, greedy)


def test_an_expression_that_fails_is_the_templates_fault(written, tmp_path):
    error = raised("template.value", written, "\n{{ 1 + 'a' }}")

    assert error.where == f"{tmp_path}/it.j2:2"


ODD = ['a"b', "two\nlines", "back\\slash", "tab\t", "ünï", "</script>", ": - #", "null", "1e3", ""]


@pytest.mark.parametrize("value", ODD)
def test_any_text_survives_the_escaping_of_its_document(written, value):
    as_json = written('{"v":{{ v | json }}}', "json", v=value)
    as_yaml = written("- v: {{ v | yaml }}\n", "yaml", v=value)

    assert json.loads(as_json) == {"v": value}
    assert yaml.safe_load(as_yaml) == [{"v": value}]


def test_a_shell_word_stays_one_word(written):
    assert written("echo {{ v | sh }}", v="a; rm -rf $HOME") == "echo 'a; rm -rf $HOME'"


@pytest.mark.parametrize(("text", "result"), [('{"v":"{{ v }}"}', "json"), ("v: {{ v }}", "yaml")])
def test_a_value_that_breaks_the_document_is_found_on_reading_it_back(written, text, result):
    error = raised("template.result", written, text, result, v='"]: {')

    assert f"| {result}" in (error.hint or "")


@pytest.mark.parametrize(("text", "result"), [("[" * 100_000, "json"), ("[" * 5000, "yaml"), ("2020-99-99", "yaml")])
def test_a_document_that_no_reader_can_take_is_found_too(written, text, result):
    raised("template.result", written, text, result)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"name":1}', "$.name: a whole number, not text"),
        ("{}", "$.name is missing"),
        ('{"name":"a","b":1}', "b is unknown"),
        ('{"name":"a","sizes":[1,true]}', "$.sizes[1]: true or false, not a whole number"),
    ],
)
def test_a_document_of_another_shape_is_refused(written, text, fault):
    error = raised("template.result", written, text, "json", shape={"name": str, "sizes?": [int]})

    assert fault.removeprefix("$.name is") in error.message


def test_a_users_template_comes_first_and_says_so_once(tmp_path, caplog):
    (tmp_path / "qaic").mkdir()
    (tmp_path / "qaic" / "custom_io.yaml.j2").write_text("- mine\n")

    text = render("qaic/custom_io.yaml.j2", {}, result="yaml", own=tmp_path)

    assert text == "- mine\n"
    assert [record.message for record in caplog.records if "instead of the packaged one" in record.message] == [
        f"template qaic/custom_io.yaml.j2: {tmp_path}/qaic/custom_io.yaml.j2 is used instead of the packaged one"
    ]


def test_an_unknown_template_is_named():
    error = raised("template.unknown", render, "qaic/nosuch.j2", {})

    assert "qaic/nosuch.j2" in error.message
