"""`grade-ml backtest`: measures accuracy out of time, on the gradebook's own terms."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import click
import sqlalchemy as sa

from grade_ml.cli.help import example
from grade_ml.cli.parameters import IDENTIFIER
from grade_ml.cli.progress import Steps
from grade_ml.core import database
from grade_ml.core.settings import Settings
from grade_ml.core.texts import readable
from grade_ml.gradebook import institution, schema
from grade_ml.training.terms import require_apart, require_known

if TYPE_CHECKING:
    from grade_ml.ensemble.evaluation import Cut
    from grade_ml.gradebook.frames import Gradebook
    from grade_ml.training.backtest import BacktestReport
    from grade_ml.training.forecast_backtest import ForecastReport


def _terms(context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    terms = tuple(term.strip() for term in value.split(",") if term.strip())
    if not terms:
        raise click.BadParameter("name at least one term")
    return terms


def _fractions(context: click.Context, option: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        fractions = tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 0.25,0.5") from error
    if not all(0 < fraction <= 1 for fraction in fractions):
        raise click.BadParameter("each share lies above 0 and not above 1")
    return fractions


@click.command(
    epilog=example(
        "grade-ml backtest --train-terms 2025-1,2025-2 --test-terms 2026-1",
        "grade-ml backtest --train-terms 2025-2 --test-terms 2026-1 --no-forecasts",
    )
)
@click.option(
    "--train-terms",
    type=IDENTIFIER,
    callback=_terms,
    required=True,
    metavar="TERM[,TERM…]",
    help="The terms whose sections models are fitted on.",
)
@click.option(
    "--test-terms",
    type=IDENTIFIER,
    callback=_terms,
    required=True,
    metavar="TERM[,TERM…]",
    help="The terms whose students are predicted.",
)
@click.option(
    "--at",
    "fractions",
    callback=_fractions,
    default="0.25,0.5,0.75",
    show_default=True,
    metavar="SHARE[,SHARE…]",
    help="Where in a section to predict, as shares of its days.",
)
@click.option(
    "--model",
    "models",
    type=click.Choice(["pooled", "baseline"]),
    multiple=True,
    default=["pooled"],
    show_default=True,
    help="Which models; may be repeated, and the figures of the first model are on top.",
)
@click.option(
    "--forecasts/--no-forecasts",
    default=True,
    help="Also forecast every remaining assignment (minutes; the default).",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Of everything random in the fit.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def command(  # noqa: PLR0913, PLR0917 - one per option
    train_terms: tuple[str, ...],
    test_terms: tuple[str, ...],
    fractions: tuple[float, ...],
    models: tuple[str, ...],
    forecasts: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Measure how well models predict terms that they have not seen.

    Each model is fitted on every section of the training terms with their final outcomes, and
    predicts every student still enrolled at each cut of the test terms, from what was known at the
    cut. Then every assignment that is due after a cut is forecast in the same way.
    """
    require_apart(train_terms, test_terms)
    settings = Settings.from_environment()
    decided = institution.read(settings.institution)
    with Steps() as say:
        say("Reading the gradebook")
        gradebook = _gradebook(settings, (*train_terms, *test_terms))
        from grade_ml.training.backtest import backtest, without_terms
        from grade_ml.training.forecast_backtest import backtest_forecasts

        report = backtest(
            gradebook,
            train_terms,
            test_terms,
            institution=decided,
            models=models,
            fractions=fractions,
            seed=seed,
            on_progress=say,
        )
        remaining = None
        if forecasts:
            remaining = backtest_forecasts(
                without_terms(gradebook, test_terms),
                gradebook,
                train_terms,
                test_terms,
                institution=decided,
                fractions=fractions,
                seed=seed,
                on_progress=say,
            )
    if as_json:
        added = {"forecasts": remaining.to_dict()} if remaining else {}
        click.echo(json.dumps(report.to_dict() | added))
    else:
        tables = [_tables(report), *([_forecasts(remaining)] if remaining else [])]
        click.echo(readable("\n\n".join(tables)))


def _gradebook(settings: Settings, terms: tuple[str, ...]) -> Gradebook:
    """Read all records of the courses that are taught in `terms`."""
    engine = database.migrated(database.start(settings).grade_ml)
    section = schema.section.c
    try:
        with database.reachable(engine) as connection:
            taught = connection.execute(
                sa.select(section.term_id, section.course_id).distinct()
            ).all()
            require_known(terms, {term for term, _ in taught})
            from grade_ml.gradebook import frames

            return frames.read(connection, {course for term, course in taught if term in terms})
    finally:
        engine.dispose()


def _tables(report: BacktestReport) -> str:
    parts = [
        f"Trained on {', '.join(report.train_terms)} in {report.train_seconds:.0f} s, "
        f"tested on {', '.join(report.test_terms)}; peak memory {report.peak_mb:.0f} MB."
    ]
    figures = {name: {**model.cuts, "all": model.all} for name, model in report.models.items()}
    figures |= {
        f"{next(iter(report.models))} by {name}": dict(cuts) for name, cuts in report.groups.items()
    }
    parts += [
        _table(f"{title}: {kind}", cuts, kind)
        for title, cuts in figures.items()
        for kind in _COLUMNS
    ]
    return "\n\n".join([*parts, _LEGEND])


#: By kind: the heading of each column, its key and its digits.
_COLUMNS = {
    "grade": {
        "RMSE": ("rmse", 2),
        "MAE": ("mae", 2),
        "in 80%": ("coverage80", 3),
        "in 95%": ("coverage95", 3),
        "width": ("width80", 1),
    },
    "risk": {"AUC": ("auc", 4), "AP": ("ap", 4), "Brier": ("brier", 4), "ECE": ("ece", 4)},
}
_LEGEND = """\
n: predictions. RMSE, MAE, width (of the 80% interval): points of 100.
in 80%, in 95%: share of the grades inside the interval, 0-1.
AUC, AP (average precision): 1 is best. Brier score, ECE (calibration): 0 is
best. -: not known."""
#: A terminal of 80 columns shows the longest table.
_FIRST, _NUMBER, _OTHERS = 24, 7, 6


def _table(title: str, cuts: Mapping[str, Cut], kind: str) -> str:
    columns = _COLUMNS[kind]
    lines = [title, _row("", "n", columns)]
    for name, cut in cuts.items():
        figures = cut.to_dict()[kind]
        cells = (
            "-" if figures[key] is None else f"{figures[key]:.{digits}f}"
            for key, digits in columns.values()
        )
        lines.append(_row(name, str(cut.n), cells))
    return "\n".join(lines)


def _row(first: str, number: str, others: Iterable[str]) -> str:
    cut = first if len(first) < _FIRST else f"{first[: _FIRST - 2]}…"
    cells = "".join(f" {cell:>{_OTHERS}}" for cell in others)
    return f"{cut:<{_FIRST}}{number:>{_NUMBER}}{cells}"


def _forecasts(report: ForecastReport) -> str:
    """Return the accuracy of remaining scores by cut, and by forecaster over all cuts."""
    columns = {
        "MAE": ("mae", 2),
        "RMSE": ("rmse", 2),
        "CRPS": ("crps", 2),
        "Brier": ("submit_brier", 4),
        "in 80%": ("coverage80", 3),
        "in 95%": ("coverage95", 3),
        "share": ("share", 3),
    }
    lines = [_row("remaining scores", "n", columns)]
    for name, figures in {**report.figures, **report.methods}.items():
        cells = [
            f"{figures[key]:.{digits}f}" if key in figures else "-"
            for key, digits in columns.values()
        ]
        number = f"{figures.get('n', report.figures['all']['n']):.0f}"
        lines.append(_row(name, number, cells))
    return "\n".join([*lines, *(f"degraded: {reason}" for reason in report.degraded)])
