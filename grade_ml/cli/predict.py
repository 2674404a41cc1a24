"""`grade-ml predict`: what the engine says about one student in one course."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from grade_ml.core.settings import Settings
from grade_ml.engine import PredictiveAnalyticsEngine

if TYPE_CHECKING:
    from grade_ml.explanations.contract import Explanation


@click.command()
@click.option("--student", "student_id", required=True, metavar="ID", help="As in the gradebook.")
@click.option("--course", "course_id", required=True, metavar="ID", help="As in the gradebook.")
@click.option(
    "--as-of",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Answer as on this day, from what was known then. Default: GRADE_ML_AS_OF, or today.",
)
@click.option("--explain", "explains", is_flag=True, help="Say what makes the difference.")
@click.option(
    "--interactions",
    is_flag=True,
    help="With --explain: name the pairs of features that move the grade together.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True),
    help="With --explain: draw it into this file (.png, .svg, .pdf).",
)
@click.option(
    "--goal",
    type=float,
    metavar="POINTS",
    help="Say what could still be done to bring the forecast to this final grade (0-100).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of words.")
def command(  # noqa: PLR0913, PLR0917 - the command's options
    student_id: str,
    course_id: str,
    as_of: datetime | None,
    explains: bool,
    interactions: bool,
    plot: str | None,
    goal: float | None,
    as_json: bool,
) -> None:
    """Predict a student's final grade in a course, and the risk of failing or withdrawing.

    Of several sections of the course, the student's latest counts. Where it has ended, the answer
    is the grade on record, and there is nothing to explain.
    """
    if (plot or interactions) and not explains:
        raise click.UsageError("--plot and --interactions belong to an explanation: add --explain.")
    settings = Settings.from_environment()
    day = as_of.date() if as_of else settings.date_at(datetime.now(UTC))
    engine = PredictiveAnalyticsEngine(settings)
    told, answer = None, None
    try:
        if goal is not None:
            prediction, answer = engine.what_if(student_id, course_id, goal, day)
        if explains:
            prediction, told = engine.explain(student_id, course_id, day)
        elif goal is None:
            prediction = engine.predict(student_id, course_id, day)
        pairs = engine.interactions(student_id, course_id, day) if interactions and told else []
    finally:
        engine.close()
    if as_json:
        values = prediction.to_dict()
        values |= {"explanation": _plain(told)} if explains else {}
        values |= {"interactions": pairs} if explains and interactions else {}
        values |= {} if goal is None else {"what_if": answer.to_dict() if answer else None}
        click.echo(json.dumps(values))
    else:
        lines = [*(_words(told, pairs) if told else []), *(answer.in_words("en") if answer else [])]
        click.echo("\n".join([prediction.in_words(), *lines]))
    if plot and told:
        from grade_ml.explanations.pictures import waterfall

        waterfall(told).savefig(plot)


def _words(told: Explanation, pairs: list[tuple[str, str, float]]) -> list[str]:
    from grade_ml.explanations.words import described, in_words

    together = [f"  {value:+7.2f}  {described(a)}, {described(b)}" for a, b, value in pairs]
    head = ["Pairs that move the grade together, beyond what each does alone:"] if pairs else []
    return [*in_words(told), *head, *together]


def _plain(told: Explanation | None) -> dict[str, Any] | None:
    """Return the explanation as plain values, the risk as log-odds and as a probability."""
    if told is None:
        return None
    return {**asdict(told), "risk_probability": asdict(told.risk.in_probability())}
