"""Page views in the format of Wikimedia; they have no effect on grades."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import numpy as np

from grade_ml.campus.providers.answers import Answer, Query, RefusedError, as_json
from grade_ml.campus.providers.world import Stream, World, days_between, number

FIRST_DAY = date(2015, 7, 1)


def per_article(world: World, query: Query) -> Answer:
    """Answer `{project}/{access}/{agent}/{title}/daily/{from}/{to}`, up to yesterday."""
    match query.parts:
        case (project, access, agent, title, "daily", start, end):
            first, last = _day(start), _day(end)
        case _:
            raise _refused(404, "Invalid route (simulated)")
    article = title.replace(" ", "_")
    days = days_between(max(first, FIRST_DAY), min(last, world.today - timedelta(days=1)))
    if not days:
        raise _refused(404, "No data for the date(s) you used (simulated)")
    items = [
        {
            "project": project,
            "article": article,
            "granularity": "daily",
            "timestamp": f"{day:%Y%m%d}00",
            "access": access,
            "agent": agent,
            "views": views,
        }
        for day, views in zip(days, _views(world, article, days), strict=True)
    ]
    return as_json({"items": items})


def _views(world: World, article: str, days: list[date]) -> list[int]:
    place = number(article)
    years = np.array([day.toordinal() / 365.25 for day in days])
    level = np.log(200) + 3 * (place % 1000) / 1000
    noise = np.array(
        [world.generator(Stream.VIEWS, place, day.toordinal()).standard_normal() for day in days]
    )
    weekend = np.array([day.weekday() >= 5 for day in days])
    log = level + 0.3 * world.slow(article, years) - 0.25 * weekend + 0.1 * noise
    return [int(views) for views in np.exp(log)]


def _day(text: str) -> date:
    try:
        return datetime.strptime(text[:8], "%Y%m%d").date()
    except ValueError as error:
        raise _refused(400, f"{text} is not a valid date (simulated)") from error


def _refused(status: int, detail: str) -> RefusedError:
    answer = {"type": "about:blank", "title": "Not found.", "status": status, "detail": detail}
    return RefusedError(as_json(answer, status=status))
