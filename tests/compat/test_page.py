"""The page for those who come from QEfficient lists every flag of the table."""

from __future__ import annotations

from qeffbuild.compat.guide import PAGE, page


def test_the_page_is_as_the_table_says() -> None:
    text = PAGE.read_text("utf-8")

    assert page(text) == text, "run `make docs`"
