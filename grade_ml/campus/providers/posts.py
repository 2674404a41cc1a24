"""Posts, in the formats of Hacker News search (Algolia) and GDELT's tone timeline.

The mood of both follows the campus's condition `sentiment`. Posts are about any requested topic.
"""

from __future__ import annotations

import math
import operator
import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np

from grade_ml.campus.providers.answers import Answer, Query, RefusedError, as_json, as_text
from grade_ml.campus.providers.world import Stream, World, days_between, number

POSTS_PER_DAY = 8.0
#: Standard deviation of one post's mood around the day's.
SPREAD = 0.7
#: As in the real search, only the first so many hits of a query can be reached by pages.
REACHABLE = 1000
FIRST_DAY = date(2007, 1, 1)
#: Posts are written within these hours (UTC), so that nearby time zones agree on their day.
FROM_HOUR, HOURS = 6, 14

#: Moods above these bounds (SD) get the next, kinder wording.
_BOUNDS = (-1.2, -0.3, 0.3, 1.2)
_WORDINGS = (
    (
        "students furious after a terrible week of failed logins",
        "disaster: exams ruined by a horrible error",
        "worst term ever, students angry and exhausted",
        "outrage and despair over an awful timetable",
        "hateful mess: broken heating and miserable lectures",
        "catastrophe feared as stress and anxiety get worse",
    ),
    (
        "students worried about workload",
        "complaints about slow marking",
        "a disappointing start to the week",
        "poor attendance and tired faces",
        "confusion over a delayed timetable",
        "problems with the library printers",
    ),
    (
        "minutes of the Tuesday meeting",
        "new opening hours for the library",
        "timetable for the next four weeks",
        "how marks are recorded",
        "notes from the seminar on databases",
        "the map of lecture rooms",
    ),
    (
        "a good week for study groups",
        "students like the new library hours",
        "helpful feedback on coursework",
        "a pleasant start to the week",
        "improved timetable welcomed",
        "nice turnout at the seminar",
    ),
    (
        "students delighted by a wonderful, inspiring week",
        "excellent results celebrated with joy",
        "best term ever: happy students, great lectures",
        "fantastic success and proud, cheerful winners",
        "amazing support makes everyone love the library",
        "brilliant exhibition wins praise and delight",
    ),
)
#: The end of 2100; a filter beyond it means the same.
_LAST_MOMENT = 4133980799
_COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}


def search_by_date(world: World, query: Query) -> Answer:
    """Answer `/api/v1/search_by_date`: stories that pass the filters, newest first, in pages."""
    parameters = query.parameters
    filters = _filters(parameters.get("numericFilters", ""))
    page = _number(parameters.get("page", "0"))
    per_page = min(_number(parameters.get("hitsPerPage", "20")), REACHABLE)
    first, last = _bounds(filters, world.today)
    hits: list[dict[str, Any]] = []
    if "story" in parameters.get("tags", "story"):
        hits = [
            hit
            for hit in _posts(world, parameters.get("query", ""), first, last)
            if all(_COMPARE[sign](hit[name], value) for name, sign, value in filters)
        ]
    reachable = hits[:REACHABLE]
    return as_json(
        {
            "hits": reachable[page * per_page : (page + 1) * per_page],
            "nbHits": len(hits),
            "page": page,
            "nbPages": math.ceil(len(reachable) / per_page) if per_page else 0,
            "hitsPerPage": per_page,
            "exhaustiveNbHits": True,
            "query": parameters.get("query", ""),
            "params": "simulated",
            "processingTimeMS": 1,
        }
    )


def _posts(world: World, subject: str, first: date, last: date) -> list[dict[str, Any]]:
    """Return the posts of a range of days, newest first."""
    days = days_between(first, last)
    if not days:
        return []
    moods = world.condition("sentiment", first, last)
    posts = [
        post
        for day, mood in zip(days, moods, strict=True)
        for post in _posts_of_day(world, subject, day, mood)
    ]
    return posts[::-1]


def _posts_of_day(world: World, subject: str, day: date, mood: float) -> list[dict[str, Any]]:
    place = number(subject.lower())
    random = world.generator(Stream.POSTS, place, day.toordinal())
    count = int(random.poisson(POSTS_PER_DAY))
    moods = mood + SPREAD * random.standard_normal(count)
    seconds = np.sort(random.integers(0, HOURS * 3600, count))
    choices = random.integers(0, len(_WORDINGS[0]), count)
    points = random.geometric(0.05, count)
    comments = random.geometric(0.1, count) - 1
    start = datetime.combine(day, time(FROM_HOUR), UTC)
    posts = []
    for n in range(count):
        wording = _WORDINGS[int(np.searchsorted(_BOUNDS, moods[n]))][choices[n]]
        created = start + timedelta(seconds=int(seconds[n]))
        name = f"{(day.toordinal() * 1000 + place % 1000) * 100 + n}"
        posts.append(
            {
                "objectID": name,
                "story_id": int(name),
                "title": f"{subject or 'Campus'}: {wording} (simulated)",
                "url": None,
                "author": "simulated",
                "points": int(points[n]),
                "num_comments": int(comments[n]),
                "created_at": f"{created:%Y-%m-%dT%H:%M:%SZ}",
                "created_at_i": int(created.timestamp()),
                "_tags": ["story", "author_simulated", f"story_{name}"],
            }
        )
    return posts


def _filters(text: str) -> list[tuple[str, str, int]]:
    """Return field, comparison and value of each filter."""
    filters = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"(created_at_i|points|num_comments)(<=|>=|<|>|=)(-?\d+)", part)
        if not match:
            raise _refused(f"invalid numericFilters: {part} (simulated)")
        filters.append((match[1], match[2], int(match[3])))
    return filters


def _bounds(filters: list[tuple[str, str, int]], today: date) -> tuple[date, date]:
    """Return the first and last day on which a post may pass."""
    first, last = FIRST_DAY, today
    for name, sign, value in filters:
        if name == "created_at_i":
            day = datetime.fromtimestamp(min(max(value, 0), _LAST_MOMENT), UTC).date()
            first = max(first, day) if sign in (">", ">=", "=") else first
            last = min(last, day) if sign in ("<", "<=", "=") else last
    return first, last


def _number(text: str) -> int:
    if not text.isdigit():
        raise _refused(f"{text} is not a number (simulated)")
    return int(text)


def _refused(message: str) -> RefusedError:
    return RefusedError(as_json({"message": message, "status": 400}, status=400))


def tone(world: World, query: Query) -> Answer:
    """Answer `/api/v2/doc/doc?mode=timelinetone`: mean tone per day, of the last three months."""
    parameters = query.parameters
    if parameters.get("mode", "").lower() != "timelinetone" or parameters.get("format") != "json":
        raise RefusedError(as_text("Invalid mode or format (simulated).", "text/html"))
    earliest = world.today - timedelta(days=90)
    first = max(_moment(parameters.get("startdatetime"), earliest), earliest)
    last = min(_moment(parameters.get("enddatetime"), world.today), world.today)
    days = days_between(first, last)
    data = []
    if days:
        moods = world.condition("sentiment", first, last)
        for day, mood in zip(days, moods.tolist(), strict=True):
            random = world.generator(Stream.TONE, day.toordinal())
            value = 1.5 * mood + 0.3 * random.standard_normal()
            data.append({"date": f"{day:%Y%m%d}T000000Z", "value": round(value, 4)})
    return as_json(
        {
            "query_details": {
                "title": f"{parameters.get('query', '')} (simulated)",
                "date_resolution": "day",
            },
            "timeline": [{"series": "Average Tone", "data": data}],
        }
    )


def _moment(text: str | None, default: date) -> date:
    if text is None:
        return default
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%S").date()
    except ValueError as error:
        message = f"Invalid date {text} (simulated)."
        raise RefusedError(as_text(message, "text/html")) from error
