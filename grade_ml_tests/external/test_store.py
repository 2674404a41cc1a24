"""Revisions, what was known when, and the settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from grade_ml.core.errors import ConfigurationError
from grade_ml.external import features, store
from grade_ml.external.frames import observations
from grade_ml.external.protocol import (
    About,
    Observation,
    Place,
    ProviderError,
    RateLimit,
    Series,
    Window,
)
from grade_ml.external.settings import PREFIX, ExternalSettings
from grade_ml_tests import REPOSITORY

PLACE = Place(51.5, -0.1, "GBR", "Europe/London")
START = date(2024, 3, 25)
ABOUT = About(
    name="test",
    title="Test",
    terms="",
    series=(Series("x", "units", keep=3, low=0, high=100),),
    lookback=0,
    ttl=timedelta(hours=1),
    settles=timedelta(),
    limit=RateLimit(every=timedelta(), burst=1),
    freshness=timedelta(days=1),
)


def moment(day: int, hour: int = 12) -> datetime:
    return datetime(2024, 3, 25, hour, tzinfo=UTC) + timedelta(days=day)


def add(engine: Engine, fetched: datetime, *rows: tuple[int, datetime, float | None]) -> int:
    """Store values about days (numbers from `START`) with the moments of their availability."""
    made = [Observation("x", START + timedelta(days=day), at, value) for day, at, value in rows]
    with engine.begin() as connection:
        return store.add(connection, observations(ABOUT, made, PLACE, fetched))


def known(engine: Engine, first: int, last: int, now: datetime) -> pd.DataFrame:
    window = Window(START + timedelta(days=first), START + timedelta(days=last))
    with engine.begin() as connection:
        return features.known(connection, [ABOUT], window, PLACE, now)


def test_only_what_is_new_is_stored(engine: Engine):
    assert add(engine, moment(1), (0, moment(0), 1.0), (1, moment(1), None)) == 2
    assert add(engine, moment(2), (0, moment(0), 1.0), (1, moment(1), None)) == 0
    assert add(engine, moment(3), (0, moment(0), 1.5), (1, moment(1), 2.0)) == 2
    assert add(engine, moment(4), (0, moment(0), 1.0)) == 1


def test_a_value_that_was_not_yet_available_is_replaced(engine: Engine):
    assert add(engine, moment(0), (0, moment(9), 1.0)) == 1
    assert add(engine, moment(1), (0, moment(9), 2.0)) == 1
    (row,) = known(engine, 9, 9, moment(20)).itertuples()
    assert row.value != 1.0


def test_value_age_status_and_reason(engine: Engine):
    add(engine, moment(0, 20), (0, moment(0, 20), 7.0), (1, moment(3), None))
    values = known(engine, -1, 8, moment(20)).set_index("day")
    values_of_day = {n: values.loc[START + timedelta(days=n)] for n in range(-1, 9)}
    assert values_of_day[-1]["status"] == "not available"
    assert values_of_day[-1]["reason"] == features.NOTHING_KNOWN
    assert (
        values_of_day[0]["status"],
        values_of_day[0]["value"],
        values_of_day[0]["age_hours"],
    ) == ("observed", 7.0, 0.0)
    assert (values_of_day[1]["status"], values_of_day[1]["age_hours"]) == ("carried forward", 24.0)
    assert values_of_day[3]["value"] == 7.0
    assert values_of_day[4]["status"] == "not available"
    assert "2024-03-25, more than 3 days ago" in values_of_day[4]["reason"]
    assert pd.isna(values_of_day[4]["value"])
    # Clocks went forward on 31 March.
    assert values_of_day[6]["age_hours"] == 6 * 24 - 1


def test_a_value_that_is_withdrawn_is_no_longer_used(engine: Engine):
    add(engine, moment(0), (0, moment(0), 7.0))
    add(engine, moment(1), (0, moment(0), None))
    values = known(engine, 0, 1, moment(9))
    assert list(values["status"]) == ["observed", "not available"]
    assert values["reason"].iloc[1] == features.NO_VALUE


def test_today_is_described_as_of_now(engine: Engine):
    add(engine, moment(0, 20), (0, moment(0, 18), 7.0))
    assert known(engine, 0, 0, moment(0, 17))["status"].item() == "not available"
    assert known(engine, 0, 0, moment(0, 19))["status"].item() == "observed"


values = st.one_of(st.none(), st.integers(0, 5).map(float))
fetches = st.lists(
    st.tuples(st.integers(0, 8), st.lists(st.tuples(st.integers(0, 8), values), max_size=5)),
    max_size=6,
)


@pytest.mark.slow
@given(before=fetches, after=fetches, cut=st.integers(0, 8))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_nothing_that_is_fetched_later_changes_a_day_that_was_known(
    engine: Engine, before: list, after: list, cut: int
):
    """Whatever a provider answers for days whose values it had already given."""
    with engine.begin() as connection:
        connection.exec_driver_sql("delete from external.observation")
    given_days = set()
    for day, rows in sorted(before, key=lambda group: group[0]):
        unique = dict(rows)
        add(engine, moment(day, 23), *((n, moment(n), value) for n, value in unique.items()))
        given_days |= set(unique)
    described = known(engine, 0, cut, moment(30))
    for day, rows in sorted(after, key=lambda group: group[0]):
        unique = {n: value for n, value in rows if n in given_days}
        add(engine, moment(10 + day), *((n, moment(n), value) for n, value in unique.items()))
    pd.testing.assert_frame_equal(known(engine, 0, cut, moment(30)), described)


def test_wide_rows_and_digests(engine: Engine):
    add(engine, moment(0), (0, moment(0), 7.0), (1, moment(1), 8.0))
    window = Window(START, START + timedelta(days=1))

    def refresh() -> tuple[pd.DataFrame, dict]:
        with engine.begin() as connection:
            assert features.refresh(connection, [ABOUT], window, PLACE, moment(9)) == 2
            return features.read_wide(connection, window), features.digests(connection, window)

    wide, digests = refresh()
    assert list(wide.columns) == [
        "day",
        "place",
        "test_x",
        "test_x_age_hours",
        "test_x_reason",
        "test_x_status",
    ]
    assert list(wide["test_x"]) == [7.0, 8.0]
    assert wide["test_x"].dtype == wide["test_x_age_hours"].dtype == "float64"
    add(engine, moment(5), (0, moment(0), 1.0))
    again, same = refresh()
    pd.testing.assert_frame_equal(again, wide)
    assert same == digests


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (Observation("x", START, moment(0), 300.0), "x"),
        (Observation("x", START, moment(0), float("inf")), "x"),
        (Observation("y", START, moment(0), 3.0), "series"),
    ],
)
def test_an_impossible_observation_is_refused(row: Observation, field: str):
    with pytest.raises(ProviderError) as caught:
        observations(ABOUT, [row], PLACE, moment(0))
    assert caught.value.field == field


def test_two_observations_of_the_same_are_refused():
    row = Observation("x", START, moment(0), 3.0)
    with pytest.raises(ProviderError):
        observations(ABOUT, [row, row], PLACE, moment(0))


def test_every_setting_is_documented():
    text = (REPOSITORY / "docs/external-data.md").read_text()
    listed = set(re.findall(rf"^\| `{PREFIX}(\w+)` \|", text, re.MULTILINE))
    assert listed == {name.upper() for name in ExternalSettings.model_fields}


def test_where_urls_come_from():
    none = ExternalSettings(_env_file=None)
    assert none.url("weather_archive_url").startswith("https://archive-api.open-meteo.com")
    with pytest.raises(ConfigurationError, match="GRADE_ML_EXTERNAL_EVENTS_URL"):
        none.url("events_url")
    own = "http://feeds.example.edu/events.ics"
    external = ExternalSettings(_env_file=None, providers_url="http://localhost:1/", events_url=own)
    assert external.url("events_url") == own
    assert external.url("calendar_url") == "http://localhost:1/calendar/academic.ics"


@pytest.mark.parametrize(
    ("name", "value"), [("LATITUDE", "91"), ("TIMEZONE", "Mars/North"), ("SUBJECTS", "cats")]
)
def test_a_bad_setting_is_named(name: str, value: str, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(ConfigurationError, match=f"(?i){name}"):
        ExternalSettings.from_environment()


def test_the_source_of_the_documentation_works(engine: Engine, providers, client: Callable):
    text = (REPOSITORY / "docs/external-data.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    names: dict = {"__name__": __name__}
    exec(compile(code, "external-data.md", "exec", dont_inherit=True), names)
    source = names["Sentiment"](f"{providers.url}/fred/graph/fredgraph.csv")
    window = Window(date(2024, 1, 1), date(2024, 6, 30))
    rows = list(source.fetch(client(), window, PLACE, moment(300)))
    assert len(rows) == 6
    assert len(observations(source.about, rows, PLACE, moment(300))) == 6
    assert len(code.splitlines()) <= 45
