"""`grade-ml predict`: what the engine says about one student in one course."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grade_ml.core.errors import ConfigurationError
from grade_ml.core.settings import Settings
from grade_ml.engine import GradePrediction, PredictiveAnalyticsEngine

if TYPE_CHECKING:
    from grade_ml.forecasting.student import StudentForecast

_PICTURES = (".png", ".svg")


@click.command()
@click.option("--student", "student_id", required=True, metavar="ID", help="As in the gradebook.")
@click.option("--course", "course_id", required=True, metavar="ID", help="As in the gradebook.")
@click.option(
    "--as-of",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Answer as on this day, from what was known then. Default: GRADE_ML_AS_OF, or today.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of words.")
@click.option(
    "--forecast",
    is_flag=True,
    help="Tell the remaining work instead: each score, the running grade by week, weeks at risk, "
    "and what may be done.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="With --forecast: draw the running grade into this file, .png or .svg.",
)
def command(  # noqa: PLR0913, PLR0917 - one for each option
    student_id: str,
    course_id: str,
    as_of: datetime | None,
    as_json: bool,
    forecast: bool,
    plot: Path | None,
) -> None:
    """Predict a student's final grade in a course, and the risk of failing or withdrawing.

    Of several sections of the course, the student's latest counts. Where it has ended, the answer
    is the grade on record.
    """
    if plot and not forecast:
        raise click.UsageError("--plot draws a forecast: add --forecast.")
    if plot and plot.suffix not in _PICTURES:
        raise click.BadParameter(f"{plot} ends in neither {' nor '.join(_PICTURES)}.")
    settings = Settings.from_environment()
    day = as_of.date() if as_of else settings.date_at(datetime.now(UTC))
    engine = PredictiveAnalyticsEngine(settings)
    answer: GradePrediction | StudentForecast
    try:
        if forecast:
            answer = found = engine.forecast(student_id, course_id, day)
            if plot:
                _draw(found, plot)
        else:
            answer = engine.predict(student_id, course_id, day)
    finally:
        engine.close()
    click.echo(json.dumps(answer.to_dict()) if as_json else answer.in_words())


def _draw(answer: StudentForecast, path: Path) -> None:
    try:
        answer.picture().savefig(path)
    except OSError as error:
        raise ConfigurationError(
            f"The picture cannot be written to {path}: {error.strerror}.",
            "Name a file in a folder that exists and may be written to.",
        ) from error
