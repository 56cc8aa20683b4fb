"""The pages that are written from code say what the code says now."""

from __future__ import annotations

from qeffbuild.spec import guide, matrix


def test_the_page_of_keys_is_current():
    page = guide.PAGE.read_text(encoding="utf-8")

    assert page == guide.page(page), "write it anew: python -m qeffbuild.spec.guide"


def test_the_page_of_combinations_is_current():
    assert matrix.PAGE.read_text(encoding="utf-8") == matrix.page(), "write it anew: python -m qeffbuild.spec.matrix"


def test_the_page_of_keys_lists_the_variables_that_configuration_may_read():
    from qeffbuild.spec.references import VARIABLES

    opening = guide.PAGE.read_text(encoding="utf-8").partition(guide.MARK)[0]

    assert all(name in opening for name in VARIABLES)


def test_every_key_has_a_meaning():
    from qeffbuild.spec.keys import GROUPS, keys_of, root_keys

    keys = [*root_keys().values(), *(key for cls in GROUPS.values() for key in keys_of(cls).values())]

    assert [key.name for key in keys if not key.doc] == []
