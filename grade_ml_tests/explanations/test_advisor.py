"""Second opinions, what-ifs and narratives of a whole small campus, in the database."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from grade_ml.core.settings import Settings
from grade_ml.explanations.advisor import Advisor, advice
from grade_ml.explanations.explainer import Explainer
from grade_ml.explanations.messages import languages
from grade_ml.explanations.narratives import Reader
from grade_ml.registry.registry import Registry
from grade_ml_tests.monitoring import world as campuses

pytestmark = pytest.mark.slow


@pytest.fixture
def campus(settings: Settings, engine: Engine) -> Registry:
    return campuses.fill(settings, engine, campuses.world())


@pytest.fixture
def connection(campus: Registry, engine: Engine) -> Iterator[Connection]:
    del campus
    with engine.begin() as opened:
        yield opened


def test_advice_is_given_once_and_again_only_where_something_changed(
    campus: Registry, connection: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    courses = campuses.world().courses[:1]
    known = (connection, campus, settings.storage_root, campuses.TODAY)
    Explainer(*known).attributions(courses)

    told = Advisor(*known).narratives(courses)[courses[0]]
    assert told.fresh == len(told.bodies) > 20
    for body in told.bodies:
        assert body["problems"] == []
        told_to = {reader: sorted(texts) for reader, texts in body["texts"].items()}
        assert told_to == {str(reader): list(languages()) for reader in Reader}

    opinions = Advisor(*known).second_opinions(courses)[courses[0]]
    assert 0 < opinions.fresh == len(opinions.bodies)
    for body in opinions.bodies:
        assert body["reason"] and (bool(body["effects"]) != bool(body["hidden"]))

    answers = Advisor(*known).what_ifs(courses)[courses[0]]
    assert 0 < answers.fresh == len(answers.bodies)
    for body in answers.bodies:
        assert body["words"]["en"] and body["words"]["de"]
        assert all(one["grade"] >= body["goal"] for one in body["what_ifs"])

    again = Advisor(*known)
    assert again.narratives(courses)[courses[0]].fresh == 0
    assert again.narratives(courses)[courses[0]].bodies == told.bodies
    assert again.second_opinions(courses)[courses[0]].fresh == 0
    one = connection.execute(sa.select(advice).limit(1)).one()
    connection.execute(
        sa.update(advice)
        .where(advice.c.student_id == one.student_id, advice.c.kind == "narrative")
        .values(features_hash="old")
    )
    assert Advisor(*known).narratives(courses)[courses[0]].fresh == 1

    monkeypatch.setitem(sys.modules, "lime", None)
    (without,) = Advisor(*known).second_opinions(courses).values()
    assert without.bodies == () and "lime is not installed" in without.degraded[0]


def test_no_student_is_named_in_what_is_told(
    campus: Registry, connection: Connection, settings: Settings
):
    courses = campuses.world().courses[1:2]
    known = (connection, campus, settings.storage_root, campuses.TODAY)
    Explainer(*known).attributions(courses)
    told = Advisor(*known).narratives(courses)[courses[0]]
    students = set(campuses.world().gradebook.students["student_id"])
    text = json.dumps(told.bodies)
    assert not [name for name in students if f'"{name}"' in text or f" {name} " in text]
