"""Each provider's format, its pages, its delays and its refusals."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from grade_ml.campus.providers.server import ProviderServer
from grade_ml_tests.campus.providers.conftest import TODAY, Client

Days = dict[str, str]
MARCH: Days = {"start_date": "2026-03-01", "end_date": "2026-03-10"}


def moment(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def test_archive_weather_is_columnar_and_its_last_days_are_not_known_yet(client: Client):
    answer = client.weather(**MARCH).json()
    daily = answer["daily"]
    assert answer["daily_units"]["temperature_2m_mean"] == "°C"
    assert set(daily) == set(answer["daily_units"])
    assert daily["time"] == [f"2026-03-{day:02d}" for day in range(1, 11)]
    assert [value is None for value in daily["temperature_2m_mean"]] == [False] * 5 + [True] * 5
    assert all(0 <= value <= 86400 for value in daily["sunshine_duration"][:5])
    assert all(value >= 0 for value in daily["precipitation_sum"][:5])


@pytest.mark.parametrize(
    "first, last",
    [("2024-02-28", "2024-03-01"), ("2025-03-29", "2025-03-31"), ("2025-10-25", "2025-10-27")],
    ids=["leap day", "clocks forward", "clocks back"],
)
def test_every_day_is_there_once(client: Client, first: str, last: str):
    daily = client.weather(start_date=first, end_date=last).json()["daily"]
    start = date.fromisoformat(first)
    assert daily["time"] == [f"{start + timedelta(days=n)}" for n in range(3)]
    assert None not in daily["temperature_2m_mean"]


def test_forecasts_go_two_weeks_ahead_and_come_nearer_to_what_is_observed(
    client: Client, server: ProviderServer
):
    later = {"start_date": "2026-03-11", "end_date": "2026-03-25"}
    far = client.weather("forecast", **later).json()["daily"]["temperature_2m_mean"]
    server.today = date(2026, 3, 30)
    seen = client.weather("forecast", **later).json()["daily"]["temperature_2m_mean"]
    actual = client.weather(**later).json()["daily"]["temperature_2m_mean"]

    def error(temperatures: list[float]) -> float:
        return sum((a - b) ** 2 for a, b in zip(temperatures, actual, strict=True))

    assert None not in far
    assert error(seen) < error(far) / 4
    week = client.weather("forecast", past_days=3).json()["daily"]["time"]
    assert (week[0], week[-1]) == ("2026-03-27", "2026-04-05")


@pytest.mark.parametrize(
    "days",
    [
        {**MARCH, "end_date": "2026-03-11"},
        {**MARCH, "end_date": "2026-02-11"},
        {**MARCH, "start_date": "yesterday"},
        {**MARCH, "daily": "happiness"},
        {**MARCH, "timezone": "Europe/Nowhere"},
        {**MARCH, "latitude": 91},
        {},
    ],
    ids=str,
)
def test_weather_that_cannot_be_known_is_refused_with_a_reason(client: Client, days: Days):
    answer = client.weather(**days)
    assert answer.status_code == 400
    assert answer.json()["error"] is True
    assert answer.json()["reason"]


def test_indicators_come_in_pages_newest_first(client: Client):
    rows = []
    for page in (1, 2, 3):
        meta, page_rows = client.indicator(date="2010:2025", per_page=6, page=page).json()
        assert {name: meta[name] for name in ("page", "pages", "per_page", "total")} == {
            "page": page,
            "pages": 3,
            "per_page": 6,
            "total": 16,
        }
        rows += page_rows
    assert [row["date"] for row in rows] == [str(year) for year in range(2025, 2009, -1)]
    assert rows[0]["value"] is None
    assert all(isinstance(row["value"], float) for row in rows[1:])
    assert rows[0]["countryiso3code"] == "GBR"


def test_an_annual_figure_comes_in_july_and_is_revised_a_year_later(
    client: Client, server: ProviderServer
):
    def value(today: date) -> float | None:
        server.today = today
        (row,) = client.indicator(date="2024").json()[1]
        return row["value"]

    first = value(date(2025, 7, 1))
    assert value(date(2025, 6, 30)) is None
    assert first == value(date(2026, 6, 30))
    revised = value(date(2026, 7, 1))
    assert revised not in (None, first)
    assert revised == value(date(2030, 1, 1))


def test_an_unknown_indicator_is_refused_under_status_200(client: Client):
    answer = client.indicator("NO.SUCH.ONE")
    assert answer.status_code == 200
    assert answer.json()[0]["message"][0]["key"] == "Invalid value"


def test_fred_is_csv_with_a_column_per_series(client: Client):
    parameters = {"id": "UNRATE,UMCSENT", "cosd": "2025-11-01", "coed": "2026-03-01"}
    answer = client.get("/fred/graph/fredgraph.csv", **parameters)
    lines = [line.split(",") for line in answer.text.splitlines()]
    assert lines[0] == ["observation_date", "UNRATE", "UMCSENT"]
    months = ["2025-11-01", "2025-12-01", "2026-01-01", "2026-02-01"]
    assert [line[0] for line in lines[1:]] == months
    assert all(float(value) for line in lines[1:] for value in line[1:])
    assert client.get("/fred/graph/fredgraph.csv", id="NOTHING").status_code == 404
    assert client.get("/fred/graph/fredgraph.csv", id="UNRATE", cosd="x").status_code == 400


def test_job_figures_are_monthly_text_preliminary_at_first(client: Client, server: ProviderServer):
    server.today = date(2026, 3, 6)
    early = client.jobs("LNS14000036").json()["Results"]["series"][0]["data"]
    server.today = date(2026, 3, 8)
    answer = client.jobs("LNS14000036").json()
    data = answer["Results"]["series"][0]["data"]
    assert answer["status"] == "REQUEST_SUCCEEDED"
    assert (early[0]["period"], data[0]["period"]) == ("M01", "M02")
    assert [data[0]["year"], data[0]["periodName"], data[-1]["year"]] == [
        "2026",
        "February",
        "2024",
    ]
    assert all(isinstance(row["value"], str) and float(row["value"]) for row in data)
    assert {"code": "P", "text": "preliminary"} in data[0]["footnotes"]
    server.today = date(2026, 12, 31)
    final = {
        row["period"]: row
        for row in client.jobs("LNS14000036").json()["Results"]["series"][0]["data"]
        if row["year"] == "2026"
    }
    assert final["M02"]["footnotes"] == [{"code": "S", "text": "simulated"}]
    assert final["M02"]["value"] != data[0]["value"]


def test_jobs_say_what_they_do_not_answer(client: Client):
    unknown = client.jobs("NOSUCH", "LNS14000036").json()
    assert unknown["message"] == ["Series does not exist for Series NOSUCH"]
    assert [bool(series["data"]) for series in unknown["Results"]["series"]] == [False, True]
    long = client.jobs("LNS14000036", startyear="2000", endyear="2026").json()
    assert "limit of 10 years" in long["message"][0]
    assert long["Results"]["series"][0]["data"][0]["year"] == "2009"
    long = client.jobs("LNS14000036", startyear="2007", endyear="2026", registrationkey="k").json()
    assert long["message"] == []
    assert client.jobs("X", startyear="soon").json()["status"] == "REQUEST_NOT_PROCESSED"


def test_posts_come_newest_first_in_pages(client: Client):
    between = f"created_at_i>={moment(date(2026, 3, 1))},created_at_i<{moment(date(2026, 3, 8))}"
    whole = client.posts(numericFilters=between).json()
    times = [hit["created_at_i"] for hit in whole["hits"]]
    assert times == sorted(times, reverse=True)
    assert moment(date(2026, 3, 1)) <= times[-1] <= times[0] < moment(date(2026, 3, 8))
    assert whole["nbHits"] == len(times) > 20
    pages = [client.posts(numericFilters=between, hitsPerPage=10, page=n).json() for n in range(9)]
    hits = [hit for page in pages for hit in page["hits"]]
    assert hits == whole["hits"]
    assert pages[0]["nbPages"] == -(-len(times) // 10)
    assert len({hit["objectID"] for hit in hits}) == len(hits)
    few = client.posts(numericFilters=f"{between},points>40").json()["hits"]
    assert 0 < len(few) < len(hits)
    assert all(hit["points"] > 40 for hit in few)


def test_only_a_thousand_posts_of_a_query_can_be_reached(client: Client):
    year = f"created_at_i>{moment(date(2025, 3, 1))}"
    first = client.posts(numericFilters=year).json()
    assert first["nbHits"] > 1000
    assert (len(first["hits"]), first["nbPages"]) == (1000, 1)
    assert client.posts(numericFilters=year, page=1).json()["hits"] == []


def test_nothing_of_tomorrow_is_answered(client: Client, server: ProviderServer):
    tomorrow = f"created_at_i>={moment(TODAY + timedelta(days=1))}"
    assert client.posts(numericFilters=tomorrow).json()["hits"] == []
    assert client.posts(tags="comment").json()["hits"] == []
    assert client.posts(numericFilters="mood>1").status_code == 400
    assert client.views("Data_science", "20260310", "20260320").status_code == 404


def test_tone_reaches_back_three_months(client: Client):
    (series,) = client.tone().json()["timeline"]
    days = [point["date"][:8] for point in series["data"]]
    assert (days[0], days[-1], len(days)) == ("20251210", "20260310", 91)
    assert client.get("/gdelt/api/v2/doc/doc", query="x").headers["Content-Type"].startswith("text")


def test_page_views_are_daily_up_to_yesterday(client: Client):
    items = client.views("Data science", "2026030100", "2026033100").json()["items"]
    assert [item["timestamp"] for item in items] == [f"202603{day:02d}00" for day in range(1, 10)]
    assert {item["article"] for item in items} == {"Data_science"}
    assert all(item["views"] > 0 for item in items)
    assert client.views("X", "2026-03-01", "20260301").status_code == 400
