"""`grade-ml predict`: what the engine says about one student in one course."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click

from grade_ml.core.settings import Settings
from grade_ml.engine import PredictiveAnalyticsEngine


@click.command()
@click.option("--student", "student_id", required=True, metavar="ID", help="As in the gradebook.")
@click.option("--course", "course_id", required=True, metavar="ID", help="As in the gradebook.")
@click.option(
    "--as-of",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Answer as on this day, from what was known then. Default: GRADE_ML_AS_OF, or today.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of words.")
def command(student_id: str, course_id: str, as_of: datetime | None, as_json: bool) -> None:
    """Predict a student's final grade in a course, and the risk of failing or withdrawing.

    Of several sections of the course, the student's latest counts. Where it has ended, the answer
    is the grade on record.
    """
    settings = Settings.from_environment()
    day = as_of.date() if as_of else settings.date_at(datetime.now(UTC))
    engine = PredictiveAnalyticsEngine(settings)
    try:
        prediction = engine.predict(student_id, course_id, day)
    finally:
        engine.close()
    click.echo(json.dumps(prediction.to_dict()) if as_json else prediction.in_words())
