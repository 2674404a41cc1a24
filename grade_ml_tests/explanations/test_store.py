"""What is stored is what was explained, and the newest of running sections is what is read."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.explanations import store
from grade_ml.explanations.attribution import explain
from grade_ml.explanations.contract import TOLERANCE, Attributions
from grade_ml.explanations.decision_paths import Path, Step
from grade_ml.gradebook import schema
from grade_ml.registry.registry import ModelVersion

TODAY = date(2024, 2, 5)
VERSION = ModelVersion(
    *("pooled", 3, "run", "sha", {}, {}, [], "data", "code"), datetime(2024, 1, 1, tzinfo=UTC), None
)


@pytest.fixture
def running(engine: Engine) -> Engine:
    """A gradebook in which `section 0` runs and `section 1` has ended."""
    start = date(2024, 1, 8)
    with engine.begin() as connection:
        connection.execute(
            sa.insert(schema.course), [{"course_id": f"course {number}"} for number in (0, 1)]
        )
        connection.execute(
            sa.insert(schema.term).values(
                term_id="t", starts_on=start, ends_on=start + timedelta(days=90)
            )
        )
        connection.execute(
            sa.insert(schema.section),
            [
                {
                    "section_id": f"section {number}",
                    "course_id": f"course {number}",
                    "term_id": "t",
                    "starts_on": start,
                    "ends_on": start + timedelta(days=90 - 80 * number),
                }
                for number in (0, 1)
            ],
        )
    return engine


@pytest.fixture
def explained(ensemble, data) -> tuple[Attributions, pd.DataFrame]:
    rows = data[0]
    chosen = rows["section_id"].astype(str).isin(["section 0", "section 1"])
    sample = rows[chosen & (rows["cut_day"] == 28)].groupby("section_id", observed=True).head(5)
    return explain(ensemble, sample), sample.reset_index(drop=True)


def write(engine: Engine, explained: tuple[Attributions, pd.DataFrame], mark: str = "x") -> None:
    with engine.begin() as connection:
        attributions, rows = explained
        state = rows.assign(
            as_of=rows["cut_on"],
            course_id=rows["course_id"].astype(object),
            model_name=VERSION.name,
            model_version=VERSION.version,
            features_hash=mark,
        )
        described = store.attribution_rows(attributions, state, ["a member is missing"])
        store.write_attributions(connection, described)


def test_what_is_read_adds_up_and_is_what_was_written(running: Engine, explained):
    write(running, explained)
    write(running, explained)
    with running.connect() as connection:
        explanations = store.read_explanations(connection, ["course 0", "course 1"], TODAY)
        of_student = store.read_explanations(connection, ["course 0"], TODAY, ["s3"])
    assert [(row.section_id, row.student_id) for row in explanations] == [
        ("section 0", f"s{place}") for place in range(5)
    ]
    assert [row.student_id for row in of_student] == ["s3"]
    made = explained[0].explanations("pooled 3")
    by_key = {(row.section_id, row.student_id): row for row in made}
    for explanation in explanations:
        before = by_key[explanation.section_id, explanation.student_id]
        assert explanation.grade and before.grade
        assert max(explanation.grade.error, explanation.risk.error) <= TOLERANCE
        assert dict(explanation.grade.largest(3)) == pytest.approx(
            dict(before.grade.largest(3)), abs=1e-6
        )
        assert explanation.grade.predicted == before.grade.predicted
        assert explanation.values["progress"] == pytest.approx(before.values["progress"])
        assert explanation.model == "pooled 3" and explanation.degraded == ("a member is missing",)
        assert explanation.cut_day == 28


def test_the_past_is_read_as_it_was(running: Engine, explained):
    write(running, explained)
    attributions, rows = explained
    later = rows.assign(cut_on=rows["cut_on"] + pd.Timedelta(days=7))
    write(running, (attributions, later), mark="later")
    with running.connect() as connection:
        marks = [
            set(
                store.summary(connection, ["course 0"], TODAY + timedelta(days=days))[
                    "features_hash"
                ]
            )
            for days in (-1, 0, 6, 7)
        ]
        ended = store.summary(connection, ["course 0"], TODAY + timedelta(days=400))
    assert marks == [set(), {"x"}, {"x"}, {"later"}]
    assert ended.empty


def test_contributions_as_a_matrix(running: Engine, explained):
    write(running, explained)
    with running.connect() as connection:
        explanations = store.read_explanations(connection, ["course 0"], TODAY)
    contributions, values = store.matrix_of(explanations, "grade")
    assert contributions.shape == values.shape and len(contributions) == 5
    place = explained[0].features.index("grade_rate_so_far")
    expected = explained[0].grade.contributions[:5, place]
    assert contributions["grade_rate_so_far"].tolist() == pytest.approx(expected, abs=1e-6)


def test_paths_come_back_as_they_were(running: Engine):
    steps = (
        Step("missed_share", 0.25, (), None, True),
        Step("attribute_region", None, ("east", "south"), "east", False),
    )
    path = Path("surrogate", steps, 61.5, 0.8)
    rows = pd.DataFrame(
        {
            "section_id": ["section 0"],
            "student_id": ["s1"],
            "as_of": [pd.Timestamp(TODAY)],
            "tree": ["surrogate"],
            "course_id": ["course 0"],
            "model_name": ["pooled"],
            "model_version": [3],
            "features_hash": ["x"],
            "body": [path.to_json()],
        }
    )
    with running.begin() as connection:
        store.write_paths(connection, rows)
        paths = store.read_paths(connection, ["course 0"], TODAY)
    assert paths == [("course 0", "section 0", "s1", path)]
