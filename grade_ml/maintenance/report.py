"""Writes the installation's health as a single HTML file, so that it can be mailed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from upath import UPath

from grade_ml.core import pages
from grade_ml.core.figures import Picture
from grade_ml.core.storage import write_whole
from grade_ml.core.texts import html as escape
from grade_ml.maintenance import pictures
from grade_ml.maintenance.facts import Facts
from grade_ml.maintenance.health import SystemHealth
from grade_ml.maintenance.pictures import duration

#: Rows of a table.
_SHOWN = 50
#: Steps in the table of the machine: those that took most memory.
_STEPS = 10


def drawn(
    facts: Facts, health: SystemHealth, scores: Sequence[tuple[datetime, float | None]]
) -> dict[str, Picture]:
    """Return the pictures by title; `scores` are the stored scores, oldest first."""
    return {
        "trend": pictures.trend(scores),
        "points": pictures.points(health),
        "durations": pictures.durations(facts.jobs),
    }


def html(facts: Facts, health: SystemHealth, figures: Mapping[str, Picture]) -> str:
    """Return the page; `figures` are its pictures by title (see `drawn`)."""
    title = f"Health of grade_ml, {health.as_of.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    worst = health.worst
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="score">{"?" if health.score is None else f"{health.score:.0f}"} of 100</p>',
        *([f"<p>First, {worst}: {escape(health.parts[worst].remedy)}</p>"] if worst else []),
        pages.table(list(_parts(health))),
        *(f"<p>{pages.image(picture, title)}</p>" for title, picture in figures.items()),
        *_section("Jobs in the last week", _jobs(facts)),
        *_section("Courses that need attention", _courses(facts)),
        *_section("Degraded assets", _degraded(facts)),
        *_section("Machine", _machine(facts)),
    ]
    return pages.page(title, body)


def write(root: str, page: str) -> str:
    """Store the page below the storage's `root`, in place of the last page; return its path."""
    place = UPath(root) / "maintenance" / "system_health.html"
    write_whole(place, page.encode())
    return str(place)


def _section(title: str, rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """Yield a heading and a table, or nothing if there is no row."""
    if shown := list(islice(rows, _SHOWN)):
        yield f"<h2>{escape(title)}</h2>"
        yield pages.table(shown)


def _parts(health: SystemHealth) -> Iterator[dict[str, Any]]:
    for name, part in health.parts.items():
        points = "not yet known" if part.points is None else f"{part.points:.0f}"
        yield {"part": name, "points": points, "weight": part.weight, "says": part.says} | (
            {"to do": part.remedy} if part.lost else {}
        )


def _jobs(facts: Facts) -> Iterator[dict[str, Any]]:
    for name, job in sorted(facts.jobs.items()):
        yield {
            "job": name,
            "succeeded": job.succeeded,
            "failed": job.failed,
            "newest": "failed" if job.newest_failed else "succeeded",
            "took": None if job.seconds is None else duration(job.seconds),
            "usually": None if job.usual_seconds is None else duration(job.usual_seconds),
        }


def _courses(facts: Facts) -> Iterator[dict[str, Any]]:
    need = [
        (course.score, name)
        for name, course in facts.courses.items()
        if course.needs and course.score is not None
    ]
    for score, name in sorted(need):
        drifted = "yes" if facts.courses[name].drifted else ""
        yield {"course": name, "score": score, "drifted": drifted}


def _degraded(facts: Facts) -> Iterator[dict[str, Any]]:
    for name, reasons in sorted(facts.completeness.items()):
        for reason in reasons:
            yield {"asset": name, "because": reason}


def _machine(facts: Facts) -> Iterator[dict[str, Any]]:
    for name, disk in facts.disks.items():
        free = f"{disk.free_bytes / 1e9:.1f} of {disk.size_bytes / 1e9:.0f} GB free"
        yield {"what": f"disk of {name}", "is": free}
    for name, database in facts.databases.items():
        size = "did not answer" if database is None else f"{database.size_bytes / 1e6:,.0f} MB"
        yield {"what": f"database {name}", "is": size}
    steps = sorted(facts.steps.items(), key=lambda step: -step[1].peak_bytes)
    for name, step in steps[:_STEPS]:
        used = f"at most {step.peak_bytes / 1e6:,.0f} MB, {step.cpu_seconds:,.0f} s of CPU"
        yield {"what": f"step {name}", "is": used}
