"""`grade-ml predict`: what the engine says about one student in one course."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grade_ml.cli.parameters import DAY, IDENTIFIER, pass_clock
from grade_ml.core.clock import Clock
from grade_ml.core.errors import ConfigurationError
from grade_ml.core.settings import Settings
from grade_ml.core.texts import readable
from grade_ml.engine import ModelExplanation, Pair, PredictiveAnalyticsEngine
from grade_ml.explanations.messages import languages
from grade_ml.explanations.narratives import Reader

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from grade_ml.explanations.contract import Explanation

_PICTURES = (".png", ".svg")
#: Pairs of features that are named; more are noise.
PAIRS = 5


@click.command()
@click.option(
    "--student",
    "student_id",
    type=IDENTIFIER,
    required=True,
    metavar="ID",
    help="As in the gradebook.",
)
@click.option(
    "--course",
    "course_id",
    type=IDENTIFIER,
    required=True,
    metavar="ID",
    help="As in the gradebook.",
)
@click.option(
    "--as-of",
    type=DAY,
    help="Answer as on this day, from what was known then. Default: GRADE_ML_AS_OF, or today.",
)
@click.option("--explain", "explains", is_flag=True, help="Say what makes the difference.")
@click.option(
    "--reader",
    type=click.Choice([str(one) for one in Reader]),
    help="With --explain: for whom it is told in sentences. Default: adviser.",
)
@click.option(
    "--language",
    type=click.Choice(languages()),
    default="en",
    show_default=True,
    help="With --explain or --goal: the language of the sentences.",
)
@click.option(
    "--interactions",
    is_flag=True,
    help="With --explain: name the pairs of features that move the grade together.",
)
@click.option(
    "--goal",
    type=float,
    metavar="POINTS",
    help="Say what could still be done to bring the forecast to this final grade (0-100).",
)
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
    help="With --explain or --forecast: draw what makes the difference, or the running grade, into "
    "this file, .png or .svg.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of words.")
@pass_clock
def command(  # noqa: PLR0913, PLR0917 - one for each option
    clock: Clock,
    student_id: str,
    course_id: str,
    as_of: date | None,
    explains: bool,
    reader: str | None,
    language: str,
    interactions: bool,
    goal: float | None,
    forecast: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Predict a student's final grade in a course, and the risk of failing or withdrawing.

    Of several sections of the course, the student's latest counts. Where it has ended, the answer
    is the grade on record, and there is nothing to explain.
    """
    if interactions and not explains:
        raise click.UsageError("--interactions belongs to an explanation: add --explain.")
    if reader and not explains:
        raise click.UsageError("--reader belongs to an explanation: add --explain.")
    if plot and explains == forecast:
        raise click.UsageError("--plot draws one thing: add either --explain or --forecast.")
    if plot and plot.suffix not in _PICTURES:
        raise click.BadParameter(f"{plot} ends in neither {' nor '.join(_PICTURES)}.")
    if forecast and (explains or goal is not None):
        raise click.UsageError("--forecast tells the remaining work instead: ask for it alone.")
    settings = Settings.from_environment()
    day = as_of or settings.date_at(clock.now())
    engine = PredictiveAnalyticsEngine(settings, clock=clock)
    try:
        if forecast:
            found = engine.generate_time_series_forecast(student_id, course_id, as_of=day)
            values, lines = found.to_dict(), [found.in_words()]
            picture = found.picture() if plot else None
        else:
            if explains or goal is not None:
                answer = engine.get_model_explanations(
                    student_id,
                    course_id,
                    as_of=day,
                    reader=reader or Reader.ADVISER,
                    language=language,
                    pairs=PAIRS if interactions else 0,
                    goal=goal,
                )
            else:
                prediction = engine.predict_final_grade(student_id, course_id, as_of=day)
                answer = ModelExplanation(prediction, reader or Reader.ADVISER, language)
            told = answer.explanation if explains else None
            values = _values(answer, explains, interactions, goal is not None)
            lines = _lines(answer, explains)
            picture = _waterfall(told) if plot and told else None
    finally:
        engine.close()
    click.echo(json.dumps(values) if as_json else readable("\n".join(lines)))
    if plot and picture:
        _save(picture, plot)


def _values(
    answer: ModelExplanation, explains: bool, interactions: bool, goal: bool
) -> dict[str, Any]:
    """Return the answer as plain values; what was not asked is not there."""
    plain = answer.to_dict()
    values: dict[str, Any] = plain["prediction"]
    if explains:
        told = ("reader", "language", "text", "stored")
        narrative = {name: plain[name] for name in told} if answer.narratives else None
        values |= {"explanation": plain["explanation"], "narrative": narrative}
    if interactions:
        values |= {"interactions": plain["interactions"] or ()}
    if goal:
        values |= {"what_if": plain["what_if"]}
    return values


def _lines(answer: ModelExplanation, explains: bool) -> list[str]:
    lines = [answer.prediction.in_words()]
    if explains and answer.text and answer.explanation:
        lines.append(answer.text)
        lines += _words(answer.explanation, answer.interactions or ())
    if answer.what_if:
        lines += answer.what_if.in_words(answer.language)
    return lines


def _waterfall(told: Explanation) -> Figure:
    from grade_ml.explanations.pictures import waterfall

    return waterfall(told)


def _save(picture: Figure, path: Path) -> None:
    try:
        picture.savefig(path)
    except OSError as error:
        raise ConfigurationError(
            f"The picture cannot be written to {path}: {error.strerror}.",
            "Name a file in a folder that exists and may be written to.",
        ) from error


def _words(told: Explanation, pairs: Sequence[Pair]) -> list[str]:
    from grade_ml.explanations.words import described, in_words

    together = [f"  {value:+7.2f}  {described(a)}, {described(b)}" for a, b, value in pairs]
    head = ["Pairs that move the grade together, beyond what each does alone:"] if pairs else []
    return [*in_words(told), *head, *together]
