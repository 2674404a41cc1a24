"""Metadata of the installation's health: the score and its parts over time, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagster import MetadataValue

from grade_ml.orchestration import plots

if TYPE_CHECKING:
    from grade_ml.core.figures import Picture
    from grade_ml.maintenance.health import SystemHealth

#: The event log stores them 24 times a day: plots that the UI draws itself are left out.
_EMBEDDED = ("trend", "durations")


def of_health(
    health: SystemHealth, figures: Mapping[str, Picture], page: str, metrics: str
) -> dict[str, Any]:
    """Return numbers that the UI plots over time, a table of the parts, and pictures.

    Parameters
    ----------
    figures
        By title.
    page, metrics
        The paths of the page and of the figures for Prometheus.
    """
    points = {f"points_{name}": part.points for name, part in health.parts.items()}
    known = {name: value for name, value in points.items() if value is not None}
    worst = health.worst
    return {
        **({} if health.score is None else {"score": health.score}),
        **({"to_do_first": f"{worst}: {health.parts[worst].remedy}"} if worst else {}),
        "parts": plots.table(_rows(health)),
        "page": MetadataValue.path(page),
        "metrics": MetadataValue.path(metrics),
        **{title: plots.embed(figures[title], title) for title in _EMBEDDED},
        **known,
    }


def _rows(health: SystemHealth) -> list[dict[str, Any]]:
    """Return the parts; a part without points is not yet known."""
    return [
        {
            "part": name,
            "points": part.points,
            "weight": part.weight,
            "says": part.says,
            "to_do": part.remedy if part.lost else "",
        }
        for name, part in health.parts.items()
    ]
