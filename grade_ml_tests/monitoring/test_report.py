"""The page of a course shows all given values as text."""

from __future__ import annotations

from datetime import date
from html.parser import HTMLParser

import pytest
from hypothesis import given

from grade_ml.monitoring.report import html
from grade_ml.monitoring.store import Kind, Stored
from grade_ml_tests.core.test_texts import CONTROLS, anything

PAGE, TABLE = {"html", "head", "meta", "title", "style", "body"}, {"table", "tr", "th", "td"}


@pytest.mark.security
@given(anything, anything)
def test_no_course_or_group_brings_an_element_into_its_page(course: str, group: str):
    seen = set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.add(tag)

    body = {"says": group, "groups": [{"group": group, "students": 3, group: None}]}
    page = html(course, [Stored(course, date(2025, 1, 1), Kind.PERFORMANCE, body)], {})
    Reader().feed(page)
    assert seen <= PAGE | TABLE | {"h1", "h2", "p"}
    assert not CONTROLS.search(page)
