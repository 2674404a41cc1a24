from dataclasses import replace
from datetime import UTC, date, datetime

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.core import database
from grade_ml.registry.registry import ModelVersion
from grade_ml.serving.predictions import (
    read_predictions,
    read_shadows,
    write_predictions,
    write_shadows,
)
from grade_ml_tests.conftest import database_of

MODEL = ModelVersion(
    name="baseline",
    version=3,
    run_id="r",
    manifest_sha256="0",
    metrics={},
    parameters={},
    features=(),
    data_version="d",
    code_version="c",
    trained_at=datetime(2026, 1, 1, tzinfo=UTC),
    secret=None,
)
FRAME = pd.DataFrame(
    {
        "section_id": ["A", 'B, "2"'],
        "student_id": ["s1", "s2"],
        "grade": [61.5, None],
        "lower80": [50.0, None],
        "upper80": [70.0, None],
        "lower95": [40.0, None],
        "upper95": [80.0, None],
        "risk": [0.25, 0.5],
    }
)


def write(engine: Engine, frame: pd.DataFrame, as_of: date, **changes: object) -> None:
    with engine.begin() as connection:
        write_predictions(
            connection, frame, as_of=as_of, model=replace(MODEL, **changes), degraded=["no deep"]
        )


def read(engine: Engine, as_of: date, **keywords: object) -> pd.DataFrame:
    with engine.begin() as connection:
        return read_predictions(connection, as_of=as_of, **keywords)


def test_predictions_come_back_and_writing_again_changes_nothing(engine: Engine) -> None:
    day = date(2026, 3, 1)
    write(engine, FRAME, day)
    once = read(engine, day)
    write(engine, FRAME, day)
    pd.testing.assert_frame_equal(read(engine, day), once)
    assert once["section_id"].tolist() == ["A", 'B, "2"']
    assert once["grade"].tolist()[0] == 61.5
    assert once["grade"].isna().tolist() == [False, True]
    assert once["degraded"].tolist() == ['["no deep"]'] * 2
    assert once["model_version"].tolist() == [3, 3]


def test_the_newest_prediction_not_later_than_the_date_is_read(engine: Engine) -> None:
    write(engine, FRAME, date(2026, 3, 1))
    write(engine, FRAME.assign(risk=0.9)[:1], date(2026, 3, 8))
    assert read(engine, date(2026, 3, 7))["risk"].tolist() == [0.25, 0.5]
    assert read(engine, date(2026, 3, 8))["risk"].tolist() == [0.9, 0.5]
    assert read(engine, date(2026, 3, 8), sections=["A"])["student_id"].tolist() == ["s1"]
    assert read(engine, date(2026, 2, 1)).empty


def test_a_newer_version_replaces_the_rows_of_the_day(engine: Engine) -> None:
    day = date(2026, 3, 1)
    write(engine, FRAME, day)
    write(engine, FRAME.assign(risk=0.1), day, version=4)
    rows = read(engine, day)
    assert rows["model_version"].tolist() == [4, 4]
    assert rows["risk"].tolist() == [0.1, 0.1]


def test_shadows_are_stored_beside_what_was_served(engine: Engine) -> None:
    days = [date(2026, 3, 1), date(2026, 3, 8)]
    write(engine, FRAME, days[0])
    ours, other = MODEL, replace(MODEL, version=4)
    with engine.begin() as connection:
        for day in days:
            shadows = FRAME.assign(as_of=pd.Timestamp(day), implied=[55.0, None])
            write_shadows(connection, shadows, model=ours)
            write_shadows(connection, shadows.assign(risk=0.7), model=other)
            write_shadows(connection, shadows.assign(risk=0.7), model=other)
        stored = {
            version.version: read_shadows(connection, version, as_of=days[0])
            for version in (ours, other)
        }
        newest = read_shadows(connection, other, as_of=date(2026, 4, 1), sections=["A"])
        absent = read_shadows(connection, replace(MODEL, version=5), as_of=days[1])
    assert [rows["risk"].tolist() for rows in stored.values()] == [[0.25, 0.5], [0.7, 0.7]]
    assert stored[4]["implied"].tolist()[0] == 55 and stored[4]["implied"].isna().tolist()[1]
    assert newest["as_of"].tolist() == [pd.Timestamp(days[1])]
    assert absent.empty
    assert read(engine, days[1])["as_of"].tolist() == [pd.Timestamp(days[0])] * 2


def test_challengers_of_the_time_before_shadows_keep_their_predictions(server) -> None:
    with database_of(server, "0017") as engine:
        with engine.begin() as connection:
            insert = (
                "insert into ensemble.grade_prediction (section_id, student_id, as_of, stage, "
                "model_name, model_version, grade, risk) "
                "values ('A', 's1', '2026-03-01', :stage, 'pooled', :version, :grade, .5)"
            )
            for row in (("champion", 1, 60), ("challenger", 2, 70)):
                values = dict(zip(("stage", "version", "grade"), row, strict=True))
                connection.execute(sa.text(insert), values)
        database.migrate(engine)
        with engine.begin() as connection:
            served = read_predictions(connection, as_of=date(2026, 3, 2))
            model = replace(MODEL, name="pooled", version=2)
            shadow = read_shadows(connection, model, as_of=date(2026, 3, 2))
    assert served[["model_version", "grade"]].to_numpy().tolist() == [[1, 60]]
    assert shadow[["model_version", "grade"]].to_numpy().tolist() == [[2, 70]]
    assert shadow["implied"].isna().all()
