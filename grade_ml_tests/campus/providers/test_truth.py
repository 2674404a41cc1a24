"""The campus's truth about its surroundings can be recovered from the providers' answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import icalendar
import numpy as np
import pandas as pd
import pytest
import recurring_ical_events
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from grade_ml.campus.providers.server import ProviderServer
from grade_ml.campus.providers.world import World, days_between
from grade_ml.campus.simulated import Campus, CampusConfig, conditions, gradebook
from grade_ml.campus.simulated.laws import LAWS
from grade_ml.gradebook.frames import Gradebook
from grade_ml_tests.campus.providers.conftest import CONFIG, TODAY, Client

#: As many students as the effects take to be seen; their world is that of `CONFIG`.
CAMPUS = replace(CONFIG, students=1500)
FIRST, LAST = date(2025, 1, 1), date(2025, 12, 31)


def truth(first: date = FIRST, last: date = LAST) -> pd.DataFrame:
    frame = conditions(CONFIG.seed, np.datetime64(first, "D"), np.datetime64(last, "D"))
    return frame.set_index("day")


def temperature(client: Client, first: date, last: date) -> pd.Series:
    days = {"start_date": first.isoformat(), "end_date": last.isoformat()}
    daily = client.weather(**days).json()["daily"]
    return pd.Series(daily["temperature_2m_mean"], index=pd.to_datetime(daily["time"]))


def mood(client: Client, first: date, last: date) -> pd.Series:
    """Return the mean sentiment of each day's posts."""
    analyzer = SentimentIntensityAnalyzer()
    start = int(datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp())
    end = start + 86400 * ((last - first).days + 1)
    rows = []
    while hits := client.posts(numericFilters=f"created_at_i>={start},created_at_i<{end}").json()[
        "hits"
    ]:
        rows += [
            (hit["created_at"][:10], analyzer.polarity_scores(hit["title"])["compound"])
            for hit in hits
        ]
        end = hits[-1]["created_at_i"]
    posts = pd.DataFrame(rows, columns=["day", "mood"])
    return posts.groupby(pd.to_datetime(posts["day"]))["mood"].mean()


def event_counts(client: Client, first: date, last: date) -> list[int]:
    """Return the events per day, as a reader of iCalendar that knows all of it counts them."""
    calendar = icalendar.Calendar.from_ical(client.get("/calendar/events.ics").content)
    counts: Counter[date] = Counter()
    for event in recurring_ical_events.of(calendar).between(first, last + timedelta(days=1)):
        if event.get("STATUS") == "CANCELLED":
            continue
        start, end = event.start, event.end
        if isinstance(start, datetime):
            counts[start.date()] += 1
        else:
            counts.update(days_between(start, end - timedelta(days=1)))
    return [counts[day] for day in days_between(first, last)]


def test_heat_is_the_temperature(client: Client):
    heat = truth()["heat"]
    assert np.corrcoef(heat, temperature(client, FIRST, LAST))[0, 1] > 0.99


def test_the_feed_has_as_many_events_as_the_campus(client: Client):
    counts = event_counts(client, FIRST, LAST)
    assert counts == World(CONFIG, TODAY).event_counts(FIRST, LAST).tolist()
    assert np.corrcoef(truth()["campus_events"], counts)[0, 1] > 0.95


def test_the_feed_has_every_shape_of_event(client: Client):
    feed = client.get("/calendar/events.ics").text
    for part in (
        "RRULE:FREQ=WEEKLY",
        "EXDATE;TZID=Europe/London",
        "RECURRENCE-ID;TZID=Europe/London",
        "STATUS:CANCELLED",
        "DTSTART;VALUE=DATE",
        "DTSTART;TZID=Europe/London",
        "DURATION:PT1H30M",
        "BEGIN:VTIMEZONE",
    ):
        assert part in feed, part
    assert feed.count("BEGIN:VEVENT") == feed.count("END:VEVENT")
    assert max(len(line.encode()) for line in feed.split("\r\n")) <= 75


def test_a_cancellation_shows_three_days_before(client: Client, server: ProviderServer):
    def cancelled() -> int:
        return client.get("/calendar/academic.ics").text.count("STATUS:CANCELLED")

    (open_day,) = [
        term.starts_on + timedelta(days=75)
        for term in World(CONFIG, TODAY).terms
        if term.number % 3 == 0 and term.starts_on.year == 2025
    ]
    server.today = open_day - timedelta(days=4)
    before = cancelled()
    server.today = open_day - timedelta(days=3)
    assert cancelled() == before + 1


def test_terms_exams_and_holidays_are_in_the_academic_calendar(client: Client):
    calendar = icalendar.Calendar.from_ical(client.get("/calendar/academic.ics").content)
    events = recurring_ical_events.of(calendar).between(date(2020, 1, 1), date(2027, 12, 31))
    entries = [
        (str(event["CATEGORIES"].cats[0]), event.start, event.end - timedelta(days=1))
        for event in events
    ]
    for term in World(CONFIG, TODAY).terms:
        assert ("TERM", term.starts_on, term.ends_on) in entries
        exams = [
            (first, last)
            for kind, first, last in entries
            if kind == "EXAM" and term.starts_on < first and last < term.ends_on
        ]
        due = term.ends_on - timedelta(days=14)
        assert any(first <= due <= last for first, last in exams)
    holidays = {first for kind, first, _ in entries if kind == "HOLIDAY"}
    assert {date(2020, 2, 29), date(2024, 2, 29), date(2020, 5, 8), date(2026, 5, 4)} <= holidays
    assert not {date(2021, 2, 28), date(2025, 2, 28), date(2020, 5, 4)} & holidays


def test_posts_have_the_sign_of_the_mood(client: Client):
    sentiment = truth()["sentiment"]
    moods = mood(client, FIRST, LAST).reindex(sentiment.index)
    clear = (sentiment.abs() > 0.5) & moods.notna()
    assert (np.sign(moods[clear]) == np.sign(sentiment[clear])).mean() > 0.97
    assert sentiment.corr(moods) > 0.9


def test_tone_has_the_sign_of_the_mood(client: Client):
    points = client.tone().json()["timeline"][0]["data"]
    tone = pd.Series(
        [point["value"] for point in points],
        index=pd.to_datetime([point["date"][:8] for point in points]),
    )
    assert truth(tone.index[0].date(), TODAY)["sentiment"].corr(tone) > 0.9


def test_work_is_due_within_two_days_of_the_calendar(client: Client, records: Gradebook):
    feed = icalendar.Calendar.from_ical(client.get("/calendar/academic.ics").content)
    deadlines = pd.DataFrame(
        [
            (str(event["UID"]).split("@")[0], pd.Timestamp(event.start))
            for event in feed.walk("VEVENT")
            if str(event["CATEGORIES"].cats[0]) == "DEADLINE"
        ],
        columns=["uid", "planned"],
    )
    work = records.assignments
    section = work["section_id"].str.replace("_", "-")
    work = work.assign(uid="due-" + section + "-" + work["title"].str.replace(" ", "-"))
    both = work.merge(deadlines, on="uid")
    assert len(both) == len(work)
    assert (both["due_on"] - both["planned"]).abs().max() <= pd.Timedelta(days=2)


@pytest.fixture(scope="module")
def records() -> Gradebook:
    return gradebook(CAMPUS, TODAY)


def test_effects_on_scores_are_recovered(client: Client, records: Gradebook):
    """By least squares within students and assignments; what 0 and 100 cut off weakens it."""
    first, last = records.terms["starts_on"].min().date(), TODAY - timedelta(days=5)
    known = truth(first, last)
    moods = mood(client, first, last).reindex(known.index)
    slope = np.polyfit(known["sentiment"][moods.notna()], moods.dropna(), 1)[0]
    results = records.results.dropna(subset=["score"])
    results = results.assign(
        heat=(temperature(client, first, last) / 6).reindex(results["submitted_on"]).to_numpy(),
        sentiment=(moods / slope).reindex(results["submitted_on"]).to_numpy(),
    ).dropna(subset=["heat", "sentiment"])
    columns = ["score", "heat", "sentiment"]
    for _ in range(8):
        for key in ("assignment_id", "student_id"):
            means = results.groupby(key)[columns].transform("mean")
            results = results.assign(**{name: results[name] - means[name] for name in columns})
    effects, *_ = np.linalg.lstsq(
        results[["heat", "sentiment"]].to_numpy(), results["score"].to_numpy(), rcond=None
    )
    assert effects[0] == pytest.approx(LAWS.conditions["heat"].score, rel=0.3)
    assert effects[1] == pytest.approx(LAWS.conditions["sentiment"].score, rel=0.45)


@pytest.mark.slow
def test_effects_on_submitting_are_recovered(client: Client, records: Gradebook):
    """By logistic regression; that engagement differs between students weakens it."""
    first, last = records.terms["starts_on"].min().date(), TODAY - timedelta(days=40)
    days = pd.date_range(first, last, freq="D")
    events = pd.Series((np.array(event_counts(client, first, last)) - 4) / 1.5, index=days)
    moods = mood(client, first, last).reindex(days).fillna(0)
    work = records.assignments.merge(records.sections, on="section_id")
    work = work[work["due_on"] <= pd.Timestamp(last)]
    stopped = Campus(CAMPUS, TODAY).truth().enrollments[["section_id", "student_id", "stopped_on"]]
    expected = work[["assignment_id", "section_id", "due_on", "starts_on"]].merge(stopped)
    expected = expected[~(expected["stopped_on"] <= expected["due_on"])].merge(
        records.results[["assignment_id", "student_id", "submitted_on"]], how="left"
    )
    due = expected["due_on"]
    design = np.column_stack(
        [
            np.ones(len(due)),
            (due - expected["starts_on"]).dt.days / 238,
            events.reindex(due),
            (moods / moods.std()).reindex(due),
        ]
    )
    effects = logistic(design, expected["submitted_on"].notna().to_numpy("float64"))
    laws = LAWS.conditions
    assert effects[2] == pytest.approx(laws["campus_events"].submission, rel=0.35)
    assert effects[3] == pytest.approx(laws["sentiment"].submission, rel=0.5)


def logistic(design: np.ndarray, happened: np.ndarray) -> np.ndarray:
    """Return the coefficients of a logistic regression, by Newton's method."""
    coefficients = np.zeros(design.shape[1])
    for _ in range(12):
        chance = 1 / (1 + np.exp(-design @ coefficients))
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design
        coefficients += np.linalg.solve(curvature, design.T @ (happened - chance))
    return coefficients


def test_the_truth_states_what_has_no_effect():
    parameters = Campus(CampusConfig(students=20, courses=1, terms=1), TODAY).truth().parameters
    assert parameters["without_effect"] == ["economy", "jobs", "page_views"]
    assert not set(parameters["without_effect"]) & set(parameters["laws"]["conditions"])
