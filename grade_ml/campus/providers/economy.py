"""Economy and jobs in the formats of the World Bank, FRED and BLS; they have no effect on grades.

A figure appears some time after its period and is revised later, so answers depend on the world's
today.
"""

from __future__ import annotations

import json
import math
import re
from calendar import month_name
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from grade_ml.campus.providers.answers import Answer, Query, RefusedError, as_json, as_text
from grade_ml.campus.providers.world import Stream, World, number


@dataclass(frozen=True)
class Series:
    """The properties of a published series.

    Parameters
    ----------
    title
        What it measures.
    mean, swing
        Its mean and standard deviation.
    lag
        Days from the end of a period to its first figure.
    settled
        Days from the first figure to the final one.
    """

    title: str
    mean: float
    swing: float
    lag: int
    settled: int
    decimals: int = 1


@dataclass(frozen=True)
class Figure:
    """A published value; preliminary until its last revision."""

    value: float
    preliminary: bool


#: Annual figures come on 1 July or so and are revised a year later.
INDICATORS = {
    "SL.UEM.TOTL.ZS": Series("Unemployment, total (% of total labor force)", 5.0, 1.0, 181, 365, 3),
    "SL.UEM.1524.ZS": Series("Unemployment, youth total (% ages 15-24)", 13.0, 2.5, 181, 365, 3),
    "FP.CPI.TOTL.ZG": Series("Inflation, consumer prices (annual %)", 2.5, 1.0, 181, 365, 3),
    "NY.GDP.MKTP.KD.ZG": Series("GDP growth (annual %)", 1.8, 1.2, 181, 365, 3),
    "NY.GDP.PCAP.KD.ZG": Series("GDP per capita growth (annual %)", 1.2, 1.2, 181, 365, 3),
    "SE.XPD.TOTL.GD.ZS": Series(
        "Government expenditure on education (% of GDP)", 5.2, 0.3, 181, 365, 3
    ),
}
MONTHLY = {
    "UNRATE": Series("Unemployment rate", 4.8, 0.9, 7, 60),
    "CPIAUCSL": Series("Consumer price index", 300.0, 6.0, 13, 60, 3),
    "UMCSENT": Series("Consumer sentiment", 80.0, 9.0, 1, 30),
    "LNS14000000": Series("Unemployment rate", 4.8, 0.9, 7, 60),
    "LNS14000024": Series("Unemployment rate, 20 years and over", 4.4, 0.9, 7, 60),
    "LNS14000036": Series("Unemployment rate, 20 to 24 years", 7.9, 1.4, 7, 60),
    "LNS14027662": Series("Unemployment rate, bachelor's degree and higher", 2.4, 0.4, 7, 60),
    "CES0000000001": Series("All employees, total nonfarm", 155000.0, 2500.0, 7, 60, 0),
    "CES6000000001": Series("All employees, professional services", 22500.0, 500.0, 7, 60, 0),
    "CES6054150001": Series("All employees, computer systems design", 2450.0, 90.0, 7, 60, 0),
    "JTS000000000000000JOL": Series("Job openings, total nonfarm", 8000.0, 1200.0, 35, 60, 0),
    "JTS000000000000000JOR": Series("Job openings rate, total nonfarm", 4.8, 0.7, 35, 60),
}
#: The error of a first figure, as a share of the series' standard deviation.
REVISION = 0.25
_FIRST_YEAR = 1960


def figure(world: World, name: str, series: Series, start: date, end: date) -> Figure | None:
    """Return the published figure of the period from `start` to `end` (exclusive), if any."""
    released = end + timedelta(days=series.lag)
    if world.today < released:
        return None
    middle = (start.toordinal() + end.toordinal()) / 2
    value = series.mean + series.swing * float(world.slow(name, np.array([middle / 365.25]))[0])
    preliminary = world.today < released + timedelta(days=series.settled)
    if preliminary:
        random = world.generator(Stream.REVISION, number(name), start.toordinal())
        value += REVISION * series.swing * random.standard_normal()
    return Figure(round(value, series.decimals), preliminary)


def world_bank(world: World, query: Query) -> Answer:
    """Answer `/v2/country/{codes}/indicator/{id}?format=json`, newest year first, in pages."""
    match query.parts:
        case ("v2", "country", codes, "indicator", name):
            pass
        case _:
            raise _invalid_value()
    if query.parameters.get("format") != "json" or name not in INDICATORS:
        raise _invalid_value()
    years = _years(query, world.today.year - 1)
    rows = [(code.upper(), year) for code in codes.split(";") for year in years]
    page, per_page = (
        _positive(query, key, default) for key, default in (("page", 1), ("per_page", 50))
    )
    shown = rows[(page - 1) * per_page : page * per_page]
    meta = {
        "page": page,
        "pages": math.ceil(len(rows) / per_page),
        "per_page": per_page,
        "total": len(rows),
        "sourceid": "2",
        "lastupdated": _last_release(world.today).isoformat(),
    }
    return as_json([meta, [_observation(world, name, *row) for row in shown]])


def _observation(world: World, name: str, code: str, year: int) -> dict[str, object]:
    series = INDICATORS[name]
    published = figure(world, f"{code} {name}", series, date(year, 1, 1), date(year + 1, 1, 1))
    return {
        "indicator": {"id": name, "value": f"{series.title}, simulated"},
        "country": {"id": code[:2], "value": f"{code} (simulated)"},
        "countryiso3code": code,
        "date": str(year),
        "value": published and published.value,
        "unit": "",
        "obs_status": "E" if published and published.preliminary else "",
        "decimal": 1,
    }


def _last_release(today: date) -> date:
    release = date(today.year, 1, 1) + timedelta(days=181)
    return release if release <= today else date(today.year - 1, 1, 1) + timedelta(days=181)


def _years(query: Query, last: int) -> list[int]:
    """Return the requested years that exist, newest first."""
    match = re.fullmatch(r"(\d{4})(?::(\d{4}))?", query.parameters.get("date", f"1960:{last}"))
    if not match:
        raise _invalid_value()
    first, until = int(match[1]), int(match[2] or match[1])
    return list(range(min(until, last), max(first, _FIRST_YEAR) - 1, -1))


def _positive(query: Query, name: str, default: int) -> int:
    text = query.parameters.get(name, str(default))
    if not text.isdigit() or int(text) < 1:
        raise _invalid_value()
    return int(text)


def _invalid_value() -> RefusedError:
    """Return the World Bank's refusal, which comes under status 200."""
    message = {
        "id": "120",
        "key": "Invalid value",
        "value": "The provided parameter value is not valid (simulated)",
    }
    return RefusedError(as_json([{"message": [message]}]))


def fred(world: World, query: Query) -> Answer:
    """Answer `/graph/fredgraph.csv?id&cosd&coed`: a column per series, a row per month."""
    names = query.parameters.get("id", "").split(",")
    if query.parts != ("graph", "fredgraph.csv") or not set(names) <= set(MONTHLY):
        raise RefusedError(as_text("<html>Not found (simulated)</html>", "text/html", 404))
    first = _requested_date(query, "cosd", date(_FIRST_YEAR, 1, 1))
    last = _requested_date(query, "coed", world.today)
    lines = [",".join(["observation_date", *names])]
    for month in _months(first, last):
        figures = [figure(world, name, MONTHLY[name], month, _next_month(month)) for name in names]
        if any(figures):
            values = ("" if published is None else f"{published.value}" for published in figures)
            lines.append(",".join([month.isoformat(), *values]))
    return as_text("\n".join(lines) + "\n", "application/csv")


def _requested_date(query: Query, name: str, default: date) -> date:
    text = query.parameters.get(name, default.isoformat())
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        message = f"<html>{name} is not a date (simulated)</html>"
        raise RefusedError(as_text(message, "text/html", 400)) from error


def bls(world: World, query: Query) -> Answer:
    """Answer a POST to `/publicAPI/v2/timeseries/data/`, newest month first.

    Without a registration key it answers at most 10 years and 25 series, with a key 20 and 50.
    """
    try:
        request = json.loads(query.body)
        names, first, last = request["seriesid"], int(request["startyear"]), int(request["endyear"])
    except (ValueError, KeyError, TypeError):
        return _bls_answer("REQUEST_NOT_PROCESSED", ["Your request is not valid (simulated)."], [])
    most_years, most_series = (20, 50) if request.get("registrationkey") else (10, 25)
    if len(names) > most_series:
        return _bls_answer("REQUEST_NOT_PROCESSED", ["Too many series (simulated)."], [])
    messages = []
    if last - first >= most_years:
        last = first + most_years - 1
        messages.append(
            f"Year range has been reduced to the system-allowed limit of {most_years} years."
        )
    results = []
    for name in names:
        if name in MONTHLY:
            data = _bls_data(world, name, first, min(last, world.today.year))
        else:
            data = []
            messages.append(f"Series does not exist for Series {name}")
        results.append({"seriesID": name, "data": data})
    return _bls_answer("REQUEST_SUCCEEDED", messages, results)


def _bls_data(world: World, name: str, first: int, last: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    series = MONTHLY[name]
    for month in reversed(_months(date(first, 1, 1), date(last, 12, 31))):
        published = figure(world, name, series, month, _next_month(month))
        if published is None:
            continue
        footnotes = [{"code": "S", "text": "simulated"}]
        if published.preliminary:
            footnotes.append({"code": "P", "text": "preliminary"})
        rows.append(
            {
                "year": str(month.year),
                "period": f"M{month.month:02d}",
                "periodName": month_name[month.month],
                **({} if rows or last < world.today.year else {"latest": "true"}),
                "value": f"{published.value:.{series.decimals}f}",
                "footnotes": footnotes,
            }
        )
    return rows


def _bls_answer(status: str, messages: list[str], series: list[dict[str, object]]) -> Answer:
    return as_json(
        {
            "status": status,
            "responseTime": 1,
            "message": messages,
            "Results": {"series": series},
        }
    )


def _months(first: date, last: date) -> list[date]:
    """Return the first days of the months that begin from `first` to `last`."""
    month = first if first.day == 1 else _next_month(first)
    months = []
    while month <= last:
        months.append(month)
        month = _next_month(month)
    return months


def _next_month(day: date) -> date:
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)
