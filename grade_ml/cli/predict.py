"""`grade-ml predict`: prints the engine's answer about one student in one course."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grade_ml.cli.first_day import advised
from grade_ml.cli.help import example, prose
from grade_ml.cli.parameters import DAY, IDENTIFIER, Number, pass_clock
from grade_ml.core.clock import Clock
from grade_ml.core.errors import ConfigurationError, NotFoundError, NotReadyError
from grade_ml.core.settings import Settings
from grade_ml.engine import ModelExplanation, Pair, PredictiveAnalyticsEngine
from grade_ml.explanations.messages import Reader, languages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from grade_ml.explanations.contract import Explanation

_PICTURES = (".png", ".svg")
#: The number of printed pairs of features; further pairs are noise.
PAIRS = 5


@click.command(
    epilog=example(
        "grade-ml predict --student s1042 --course MATH101",
        "grade-ml predict --student s1042 --course MATH101 --explain --reader student",
        "grade-ml predict --student s1042 --course MATH101 --forecast --plot plot.png",
    )
)
@click.option(
    "--student",
    "student_id",
    type=IDENTIFIER,
    metavar="ID",
    help="Id of the student, as in the gradebook. Without student and course: an example of the "
    "simulated campus.",
)
@click.option(
    "--course",
    "course_id",
    type=IDENTIFIER,
    metavar="ID",
    help="Id of the course, as in the gradebook.",
)
@click.option(
    "--as-of",
    type=DAY,
    help="Answer as on this day, from what was known then. Default: GRADE_ML_AS_OF, or today.",
)
@click.option("--explain", "explains", is_flag=True, help="Explain the prediction.")
@click.option(
    "--reader",
    type=click.Choice([str(reader) for reader in Reader]),
    help="With --explain: the reader of the sentences. Default: adviser.",
)
@click.option(
    "--language",
    type=click.Choice(languages()),
    help="With --explain or --goal: the language of the sentences. Default: en.",
)
@click.option(
    "--interactions",
    is_flag=True,
    help="With --explain: name the pairs of features that move the grade together.",
)
@click.option(
    "--goal",
    type=Number(0, 100),
    metavar="POINTS",
    help="Show what could still be done to bring the forecast to this final grade (0-100).",
)
@click.option(
    "--forecast",
    is_flag=True,
    help="Forecast the remaining work instead: each score, the running grade by week, weeks at "
    "risk, and what may be done.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="With --explain or --forecast: draw the contributions of features, or the running grade, "
    "into this file, .png or .svg.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@pass_clock
def command(  # noqa: PLR0913, PLR0917 - one for each option
    clock: Clock,
    student_id: str | None,
    course_id: str | None,
    as_of: date | None,
    explains: bool,
    reader: str | None,
    language: str | None,
    interactions: bool,
    goal: float | None,
    forecast: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Predict a student's final grade in a course, and the risk of failing or withdrawing.

    If the student takes several sections of the course, the latest counts. If it has ended, the
    answer is the grade on record, and there is nothing to explain.
    """
    _require_fitting(
        sentences={"--interactions": interactions, "--reader": reader},
        explains=explains,
        language=language,
        goal=goal,
        forecast=forecast,
        plot=plot,
    )
    if (student_id is None) is not (course_id is None):
        raise click.UsageError("--student and --course belong together: give both or neither.")
    settings = Settings.from_environment()
    day = settings.date_at(clock.now(), as_of)
    student_id, course_id = _enrollment(settings, day, student_id, course_id)
    engine = PredictiveAnalyticsEngine(settings, clock=clock)
    try:
        if forecast:
            outlook = engine.generate_time_series_forecast(student_id, course_id, as_of=day)
            values, lines = outlook.to_dict(), [outlook.in_words()]
            picture = outlook.picture() if plot else None
        else:
            if explains or goal is not None:
                answer = engine.get_model_explanations(
                    student_id,
                    course_id,
                    as_of=day,
                    reader=reader or Reader.ADVISER,
                    language=language or "en",
                    pairs=PAIRS if interactions else 0,
                    goal=goal,
                )
            else:
                prediction = engine.predict_final_grade(student_id, course_id, as_of=day)
                answer = ModelExplanation(prediction, reader or Reader.ADVISER, language or "en")
            explanation = answer.explanation if explains else None
            values = _values(answer, explains, interactions, goal is not None)
            lines = _lines(answer, explains)
            picture = _waterfall(explanation) if plot and explanation else None
    except NotReadyError as error:
        raise type(error)(error.message, advised(error.remedy, settings)) from error
    finally:
        engine.close()
    click.echo(json.dumps(values) if as_json else prose(advised("\n".join(lines), settings)))
    if plot and picture:
        _save(picture, plot)


def _require_fitting(  # noqa: PLR0913 - the options that depend on each other
    *,
    sentences: Mapping[str, object],
    explains: bool,
    language: str | None,
    goal: float | None,
    forecast: bool,
    plot: Path | None,
) -> None:
    """Refuse options that do not fit together; `sentences` are those of explanations alone."""
    for option, value in sentences.items():
        if value and not explains:
            raise click.UsageError(f"{option} belongs to an explanation: add --explain.")
    if language and not explains and goal is None:
        raise click.UsageError("--language belongs to sentences: add --explain or --goal.")
    if forecast and (explains or goal is not None):
        raise click.UsageError(
            "--forecast is an answer of its own: leave out --explain and --goal."
        )
    if plot and explains == forecast:
        raise click.UsageError("--plot draws one thing: add either --explain or --forecast.")
    if plot and plot.suffix not in _PICTURES:
        raise click.BadParameter(f"{plot} ends in neither {' nor '.join(_PICTURES)}.")
    if plot and not os.access(plot.parent, os.W_OK):
        raise click.BadParameter(f"{plot.parent} is not a folder that can be written.")


def _enrollment(
    settings: Settings, day: date, student_id: str | None, course_id: str | None
) -> tuple[str, str]:
    """Return student and course; without both, name an example of the simulated campus."""
    if student_id is not None and course_id is not None:
        return student_id, course_id
    from grade_ml.campus.simulated import example
    from grade_ml.core import database

    gradebook = database.migrated(database.start(settings).grade_ml)
    try:
        with database.reachable(gradebook) as connection:
            pair = example(connection, day)
    finally:
        gradebook.dispose()
    if pair is None:
        raise NotFoundError(
            f"The gradebook has no simulated student who takes a course on {day}.",
            "Name one of your students: --student ID --course ID.",
        )
    student_id, course_id = pair
    click.echo(f"For example: --student {student_id} --course {course_id}", err=True)
    return student_id, course_id


def _values(
    answer: ModelExplanation, explains: bool, interactions: bool, goal: bool
) -> dict[str, Any]:
    """Return the answer as plain values, with the requested parts only."""
    plain = answer.to_dict()
    values: dict[str, Any] = plain["prediction"]
    if explains:
        names = ("reader", "language", "text", "stored")
        narrative = {name: plain[name] for name in names} if answer.narratives else None
        values |= {"explanation": plain["explanation"], "narrative": narrative}
    if interactions:
        values |= {"interactions": plain["interactions"] or ()}
    if goal:
        values |= {"what_if": plain["what_if"]}
    return values


def _lines(answer: ModelExplanation, explains: bool) -> list[str]:
    lines = [answer.prediction.in_words()]
    if explains and answer.text and answer.explanation:
        lines += ["", answer.text, "", *_words(answer.explanation, answer.interactions or ())]
    if answer.what_if:
        sentences = answer.what_if.in_words(answer.language)
        several = len(sentences) > 1
        lines += ["", *(f"- {sentence}" if several else sentence for sentence in sentences)]
    return lines


def _waterfall(explanation: Explanation) -> Figure:
    from grade_ml.explanations.pictures import waterfall

    return waterfall(explanation)


def _save(picture: Figure, path: Path) -> None:
    try:
        picture.savefig(path)
        click.echo(f"The picture is in {path}.", err=True)
    except OSError as error:
        raise ConfigurationError(
            f"The picture cannot be written to {path}: {error.strerror}.",
            "Name a file in a folder that exists and may be written to.",
        ) from error


def _words(explanation: Explanation, pairs: Sequence[Pair]) -> list[str]:
    from grade_ml.explanations.words import described, in_words

    together = [f"  {value:+7.2f}  {described(a)}, {described(b)}" for a, b, value in pairs]
    head = ["Pairs that move the grade together, beyond what each does alone:"] if pairs else []
    return [*in_words(explanation), *head, *together]
