"""Writes one course's reports as a single HTML file, so that it can be mailed.

It is written from the stored reports; pictures are embedded, and no student is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from sqlalchemy import Connection
from upath import UPath

from grade_ml.core import pages, quantities
from grade_ml.core.figures import Picture
from grade_ml.core.storage import file_name, write_whole
from grade_ml.core.texts import html as escape
from grade_ml.monitoring import pictures, store
from grade_ml.monitoring.store import Kind, Stored

#: Days of history: about a term.
HISTORY_DAYS = 120


def history(connection: Connection, course: str, as_of: date) -> list[Stored]:
    """Return the course's reports of the last term, oldest first."""
    return store.read(connection, as_of, days=HISTORY_DAYS, courses=[course])


def newest(reports: Sequence[Stored], kind: Kind) -> Mapping[str, Any]:
    """Return the body of the newest report of a kind; empty if there is none."""
    return next((report.body for report in reversed(reports) if report.kind is kind), {})


def drawn(reports: Sequence[Stored]) -> dict[str, Picture]:
    """Return the pictures of one course by title."""
    of_kind = {kind: [report for report in reports if report.kind is kind] for kind in Kind}
    drift = newest(reports, Kind.DRIFT)
    by_title = {
        "health": pictures.scores(of_kind[Kind.HEALTH]),
        "error": pictures.errors(of_kind[Kind.PERFORMANCE]),
        "scores_and_predictions": pictures.stream(newest(reports, Kind.CONCEPT)),
        "drifted_features": pictures.shapes(drift),
        "most_unlike_before": pictures.significance(drift),
    }
    # If nothing was tested, both pictures are the same sentence with the reason.
    if by_title["most_unlike_before"] == by_title["drifted_features"]:
        del by_title["most_unlike_before"]
    return by_title


def html(course: str, reports: Sequence[Stored], figures: Mapping[str, Picture]) -> str:
    """Return the page of one course.

    Parameters
    ----------
    reports
        Of the course, oldest first (see `history`).
    figures
        Their pictures by title (see `drawn`).
    """
    health, drift, performance, concept = (
        newest(reports, kind) for kind in (Kind.HEALTH, Kind.DRIFT, Kind.PERFORMANCE, Kind.CONCEPT)
    )
    as_of = max((report.as_of for report in reports), default=None)
    score = health.get("score")
    decision = health.get("decision") or {}
    parts = [
        {
            "part": name,
            "points": "not known" if part["points"] is None else part["points"],
            "weight": part["weight"],
            "says": part["says"],
        }
        for name, part in sorted(
            (health.get("parts") or {}).items(), key=lambda part: (-part[1]["weight"], part[0])
        )
    ]
    summary = [
        ("Drift", drift.get("says") or drift.get("reason") or "nothing drifted"),
        ("Assignments", "; ".join(drift.get("redesigned") or ["no redesign noticed"])),
        ("Error", performance.get("says") or performance.get("reason") or "not risen"),
        ("Labels", concept.get("says") or concept.get("reason") or "as predictions imply"),
        (
            "Training again",
            ("yes: " if decision.get("retrain") else "no: ")
            + str(decision.get("reason", "not decided")),
        ),
    ]
    body = [
        f"<h1>{escape(course)}</h1>",
        f"<p>As of {as_of}, model {escape(str(drift.get('model', '')))}</p>",
        f'<p class="score">{"?" if score is None else f"{score:.0f}"} of 100</p>',
        pages.table(parts),
        "<h2>Summary</h2>",
        pages.table([{"about": name, "says": text} for name, text in summary]),
        *(
            f"<h2>{escape(title.replace('_', ' ').capitalize())}</h2>{pages.image(picture, title)}"
            for title, picture in figures.items()
        ),
        "<h2>Errors by group</h2>",
        pages.table([_group(group) for group in performance.get("groups") or []]),
    ]
    return pages.page(course, body)


def _group(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group's errors, each with its interval and the error on record in one cell."""
    return {name: row.get(name) for name in ("kind", "group", "students")} | {
        quantities.title(name): _error(name, row) for name in ("rmse", "brier")
    }


def _error(name: str, row: Mapping[str, Any]) -> str:
    value, low, high, record = (
        quantities.text(name, row.get(key))
        for key in (name, f"{name}_low", f"{name}_high", f"baseline_{name}")
    )
    interval = f" ({low} to {high})" if low and high else ""
    return f"{value}{interval}{f', on record {record}' if record else ''}" if value else ""


def write(root: str, course: str, page: str) -> str:
    """Store the page, which replaces the course's last page; return its path."""
    place = UPath(root) / "monitoring" / f"{file_name(course)}.html"
    write_whole(place, page.encode())
    return str(place)
