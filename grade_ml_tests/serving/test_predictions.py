from dataclasses import replace
from datetime import UTC, date, datetime

import pandas as pd
from sqlalchemy import Engine

from grade_ml.registry.registry import Alias, ModelVersion
from grade_ml.serving.predictions import read_predictions, write_predictions

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


def test_a_challenger_speaks_beside_the_champion(engine: Engine) -> None:
    day = date(2026, 3, 1)
    write(engine, FRAME, day)
    with engine.begin() as connection:
        write_predictions(
            connection, FRAME.assign(risk=0.7), as_of=day, model=MODEL, stage=Alias.CHALLENGER
        )
    assert read(engine, day)["risk"].tolist() == [0.25, 0.5]
    assert read(engine, day, stage=Alias.CHALLENGER)["risk"].tolist() == [0.7, 0.7]


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
