"""One course's reports as one HTML file that needs nothing else, so that it can be mailed.

Written from the stored reports; pictures are embedded, and no student is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection
from upath import UPath

from grade_ml.core import pages
from grade_ml.core.storage import file_name, write_whole
from grade_ml.core.texts import html as escape
from grade_ml.monitoring import pictures, store
from grade_ml.monitoring.store import Kind, Stored

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Days of history: about a term.
HISTORY_DAYS = 120


def history(connection: Connection, course: str, as_of: date) -> list[Stored]:
    """Return the course's reports of the last term, oldest first."""
    return store.read(connection, as_of, days=HISTORY_DAYS, courses=[course])


def newest(reports: Sequence[Stored], kind: Kind) -> Mapping[str, Any]:
    """Return the body of the newest report of a kind; empty where there is none."""
    return next((one.body for one in reversed(reports) if one.kind is kind), {})


def drawn(reports: Sequence[Stored]) -> dict[str, Figure]:
    """Return the pictures of one course by title."""
    of_kind = {kind: [one for one in reports if one.kind is kind] for kind in Kind}
    return {
        "health": pictures.scores(of_kind[Kind.HEALTH]),
        "error": pictures.errors(of_kind[Kind.PERFORMANCE]),
        "scores_and_predictions": pictures.stream(newest(reports, Kind.CONCEPT)),
        "drifted_features_shown": pictures.shapes(newest(reports, Kind.DRIFT)),
        "features_by_p": pictures.significance(newest(reports, Kind.DRIFT)),
    }


def html(course: str, reports: Sequence[Stored], figures: Mapping[str, Figure]) -> str:
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
    as_of = max((one.as_of for one in reports), default=None)
    score = health.get("score")
    decision = health.get("decision") or {}
    parts = [
        {"part": name, "points": one["points"], "weight": one["weight"], "says": one["says"]}
        for name, one in (health.get("parts") or {}).items()
    ]
    told = [
        ("Drift", drift.get("says") or drift.get("reason") or "nothing drifted"),
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
        "<h2>What it says</h2>",
        pages.table([{"about": name, "says": text} for name, text in told]),
        *(
            f"<h2>{escape(title.replace('_', ' ').capitalize())}</h2>{pages.image(one, title)}"
            for title, one in figures.items()
        ),
        "<h2>Errors by group</h2>",
        pages.table(performance.get("groups") or []),
    ]
    return pages.page(course, body)


def write(root: str, course: str, page: str) -> str:
    """Store the page in the place of the course's last one; return where."""
    place = UPath(root) / "monitoring" / f"{file_name(course)}.html"
    write_whole(place, page.encode())
    return str(place)
