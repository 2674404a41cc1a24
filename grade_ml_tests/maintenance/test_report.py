"""The page of the installation's health shows every given text as text, with its pictures."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser

import pytest
from hypothesis import given

from grade_ml.core.figures import Nothing
from grade_ml.maintenance import report
from grade_ml.maintenance.facts import Course, Facts
from grade_ml.maintenance.health import health
from grade_ml_tests.core.test_texts import CONTROLS, anything
from grade_ml_tests.maintenance.facts import NOON, NOTHING, WELL
from grade_ml_tests.maintenance.test_health import WORSE


class Reader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        self.addresses += [value[:15] for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def page(facts: Facts) -> Reader:
    state = health(facts)
    scores = [(NOON - timedelta(hours=1), 12.0), (NOON, state.score)]
    return Reader(report.html(facts, state, report.drawn(facts, state, scores)))


@pytest.mark.parametrize("facts", [WELL, NOTHING, WORSE["runs"]], ids=["well", "new", "unwell"])
def test_the_page_needs_nothing_else(facts: Facts):
    read = page(facts)
    assert set(read.addresses) == {"data:image/png;"}
    assert len(read.addresses) == (1 if facts is NOTHING else 3)


def test_what_is_not_known_or_has_not_changed_is_stated_and_not_drawn():
    read = page(NOTHING)
    assert "No run has ended in the last week." in read.text
    assert "A picture needs a second hour." in read.text
    steady = [(NOON - timedelta(hours=ago), 80.0) for ago in (2, 1, 0)]
    trend = report.drawn(WELL, health(WELL), steady)["trend"]
    assert isinstance(trend, Nothing) and "without change" in trend.words


def test_the_page_states_what_to_do_first_and_what_is_not_yet_known():
    state = health(WORSE["runs"])
    assert f"First, runs: {state.parts['runs'].remedy}" in page(WORSE["runs"]).text
    assert page(NOTHING).text.count("not yet known") == len(health(NOTHING).unknown)
    assert "First" not in page(WELL).text


@pytest.mark.security
@given(anything, anything)
def test_no_course_or_reason_brings_an_element_into_the_page(course: str, reason: str):
    facts = replace(
        WELL,
        courses={course: Course(41.0, needs=True, drifted=True)},
        completeness={course: (reason,)},
        stale=(course,),
    )
    html = report.html(facts, health(facts), {})
    expected = {"html", "head", "meta", "title", "style", "body", "table", "tr", "th", "td"}
    assert Reader(html).elements <= expected | {"h1", "h2", "p"}
    assert not CONTROLS.search(html)
