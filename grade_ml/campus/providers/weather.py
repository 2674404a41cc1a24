"""Weather in the format of Open-Meteo: temperature follows the campus's condition `heat`.

Any requested place has the weather of the campus.
"""

from __future__ import annotations

from datetime import date, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from grade_ml.campus.providers.answers import Answer, Query, RefusedError, as_json
from grade_ml.campus.providers.world import TIMEZONE, Stream, World, days_between

#: Mean temperature in °C, and its change by one standard deviation of heat.
WARMTH, BY_HEAT = 10.0, 6.0
#: Days by which the archive is behind, as ERA5 is.
ARCHIVE_LAG = 5
ARCHIVE_FROM = date(1940, 1, 1)
FORECAST_BACK, FORECAST_AHEAD = 92, 15
#: Error of a forecast, °C per square root of its lead in days.
FORECAST_ERROR = 0.6

UNITS = {
    "temperature_2m_mean": "°C",
    "temperature_2m_max": "°C",
    "temperature_2m_min": "°C",
    "precipitation_sum": "mm",
    "sunshine_duration": "s",
}
_DECIMALS = {"precipitation_sum": 2, "sunshine_duration": 2}


def observed(world: World, first: date, last: date) -> dict[str, np.ndarray]:
    """Return each variable of `UNITS` per day, from `first` to `last`."""
    heat = world.condition("heat", first, last)
    days = days_between(first, last)
    draws = np.array([_draws(world, day) for day in days]).reshape(len(days), 5)
    mean = WARMTH + BY_HEAT * heat + 0.3 * draws[:, 0]
    swing = 4.0 + np.abs(draws[:, 1])
    daylight = 12 - 4.5 * np.cos(
        2 * np.pi * np.array([day.timetuple().tm_yday for day in days]) / 365.25 + 0.17
    )
    return {
        "temperature_2m_mean": mean,
        "temperature_2m_max": mean + swing,
        "temperature_2m_min": mean - swing,
        "precipitation_sum": np.where(draws[:, 2] > 0.2, draws[:, 3], 0.0),
        "sunshine_duration": 3600 * daylight * draws[:, 4],
    }


def _draws(world: World, day: date) -> list[float]:
    random = world.generator(Stream.WEATHER, day.toordinal())
    return [*random.standard_normal(3), random.gamma(0.8, 5.0), random.beta(1.2, 1.6)]


def archive(world: World, query: Query) -> Answer:
    """Answer `/v1/archive`; the last days have no values yet."""
    first, last = _days(query, ARCHIVE_FROM, world.today)
    known = world.today - timedelta(days=ARCHIVE_LAG)
    values = observed(world, first, last)
    is_known = np.array([day <= known for day in days_between(first, last)])
    return _answer(
        query,
        first,
        last,
        {name: np.where(is_known, series, np.nan) for name, series in values.items()},
    )


def forecast(world: World, query: Query) -> Answer:
    """Answer `/v1/forecast`: three months back and two weeks ahead, with errors that grow."""
    earliest = world.today - timedelta(days=FORECAST_BACK)
    latest = world.today + timedelta(days=FORECAST_AHEAD)
    if "start_date" in query.parameters:
        first, last = _days(query, earliest, latest)
    else:
        first = world.today - timedelta(days=_number(query, "past_days", 0, FORECAST_BACK))
        ahead = _number(query, "forecast_days", 7, FORECAST_AHEAD + 1)
        last = world.today + timedelta(days=ahead - 1)
    values = observed(world, first, last)
    error = np.array([_error(world, day) for day in days_between(first, last)])
    for name in ("temperature_2m_mean", "temperature_2m_max", "temperature_2m_min"):
        values[name] = values[name] + error
    return _answer(query, first, last, values)


def _error(world: World, day: date) -> float:
    """Return the error, in °C, of the forecast for `day` that is issued on the world's day."""
    lead = max((day - world.today).days, 0)
    issued = min(day, world.today)
    random = world.generator(Stream.FORECAST, issued.toordinal(), lead)
    return float(FORECAST_ERROR * (0.3 + np.sqrt(lead)) * random.standard_normal())


def _answer(query: Query, first: date, last: date, values: dict[str, np.ndarray]) -> Answer:
    names = [name for name in query.parameters.get("daily", "").split(",") if name]
    for name in names:
        if name not in UNITS:
            raise _refused(f"Data corrupted at path ''. Cannot initialize daily from {name}.")
    zone = _zone(query)
    days = days_between(first, last)
    answer = {
        "latitude": _coordinate(query, "latitude", 90),
        "longitude": _coordinate(query, "longitude", 180),
        "generationtime_ms": 0.1,
        "utc_offset_seconds": 0,
        "timezone": zone,
        "timezone_abbreviation": "GMT",
        "elevation": 38.0,
    }
    if names:
        answer["daily_units"] = {"time": "iso8601", **{name: UNITS[name] for name in names}}
        answer["daily"] = {
            "time": [day.isoformat() for day in days],
            **{name: _listed(values[name], _DECIMALS.get(name, 1)) for name in names},
        }
    return as_json(answer)


def _listed(values: np.ndarray, decimals: int) -> list[float | None]:
    return [None if np.isnan(value) else round(value, decimals) for value in values.tolist()]


def _zone(query: Query) -> str:
    name = query.parameters.get("timezone", "GMT")
    if name == "auto":
        return TIMEZONE
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise _refused("Invalid timezone") from error
    return name


def _coordinate(query: Query, name: str, limit: int) -> float:
    try:
        value = float(query.parameters[name])
    except (KeyError, ValueError) as error:
        raise _refused(f"Parameter '{name}' is missing or not a number.") from error
    if abs(value) > limit:
        raise _refused(f"{name.capitalize()} must be in range of -{limit} to {limit}°.")
    return value


def _days(query: Query, earliest: date, latest: date) -> tuple[date, date]:
    first, last = (_day(query, name, earliest, latest) for name in ("start_date", "end_date"))
    if last < first:
        raise _refused("End-date must be larger or equals than start-date")
    return first, last


def _day(query: Query, name: str, earliest: date, latest: date) -> date:
    try:
        day = date.fromisoformat(query.parameters[name])
    except (KeyError, ValueError) as error:
        raise _refused(
            f"Invalid date format for '{name}'. Make sure to use 'YYYY-MM-DD'"
        ) from error
    if not earliest <= day <= latest:
        raise _refused(f"Parameter '{name}' is out of allowed range from {earliest} to {latest}")
    return day


def _number(query: Query, name: str, default: int, most: int) -> int:
    text = query.parameters.get(name, str(default))
    if not text.isdigit() or int(text) > most:
        raise _refused(f"Parameter '{name}' is out of allowed range from 0 to {most}")
    return int(text)


def _refused(reason: str) -> RefusedError:
    return RefusedError(as_json({"error": True, "reason": reason}, status=400))
