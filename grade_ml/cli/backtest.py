"""`grade-ml backtest`: honest accuracy, out of time, on the gradebook's own terms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click
import sqlalchemy as sa

from grade_ml.cli.parameters import IDENTIFIER
from grade_ml.core import database
from grade_ml.core.settings import Settings
from grade_ml.core.texts import readable
from grade_ml.gradebook import institution, schema

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


@click.command()
@click.option(
    "--train-terms",
    type=IDENTIFIER,
    callback=_terms,
    required=True,
    metavar="TERM[,TERM…]",
    help="Fit on these.",
)
@click.option(
    "--test-terms",
    type=IDENTIFIER,
    callback=_terms,
    required=True,
    metavar="TERM[,TERM…]",
    help="Predict these.",
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
    help="Which models; may be repeated, and the first one's figures stand on top.",
)
@click.option(
    "--forecasts/--no-forecasts",
    default=True,
    help="Also forecast every remaining assignment (minutes; the default).",
)
@click.option("--seed", type=int, default=0, show_default=True)
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

    Each is fitted on every section of the training terms with their final outcomes and predicts
    every student still enrolled at each cut of the test terms, from what was known at the cut.
    Then every assignment that is due after a cut is forecast in the same way.
    """
    from grade_ml.training.backtest import backtest, without_terms
    from grade_ml.training.forecast_backtest import backtest_forecasts

    def say(message: str) -> None:
        click.echo(f"{message} …", err=True)

    settings = Settings.from_environment()
    decided = institution.read(settings.institution)
    gradebook = _gradebook(settings, (*train_terms, *test_terms))
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
        told = {"forecasts": remaining.to_dict()} if remaining else {}
        click.echo(json.dumps(report.to_dict() | told))
    else:
        tables = [_tables(report), *([_forecasts(remaining)] if remaining else [])]
        click.echo(readable("\n\n".join(tables)))


def _gradebook(settings: Settings, terms: tuple[str, ...]) -> Gradebook:
    """Read the courses that are taught in `terms`, whole."""
    from grade_ml.gradebook import frames

    engine = database.migrated(database.start(settings).grade_ml)
    section = schema.section.c
    try:
        with database.reachable(engine) as connection:
            courses = connection.execute(
                sa.select(section.course_id).where(section.term_id.in_(terms)).distinct()
            ).scalars()
            # No such term: read all, so that the error can name the terms there are.
            return frames.read(connection, set(courses) or None)
    finally:
        engine.dispose()


def _tables(report: BacktestReport) -> str:
    parts = [
        f"Trained on {', '.join(report.train_terms)} in {report.train_seconds:.0f} s, "
        f"tested on {', '.join(report.test_terms)}; peak memory {report.peak_mb:.0f} MB."
    ]
    parts += [
        _table(name, {**model.cuts, "all": model.all}) for name, model in report.models.items()
    ]
    parts += [
        _table(f"{next(iter(report.models))} by {name}", cuts)
        for name, cuts in report.groups.items()
    ]
    return "\n\n".join(parts)


def _table(title: str, cuts: Mapping[str, Cut]) -> str:
    columns = {
        "RMSE": ("grade", "rmse", 2),
        "MAE": ("grade", "mae", 2),
        "in 80%": ("grade", "coverage80", 3),
        "in 95%": ("grade", "coverage95", 3),
        "width 80": ("grade", "width80", 1),
        "AUC": ("risk", "auc", 4),
        "AP": ("risk", "ap", 4),
        "Brier": ("risk", "brier", 4),
        "ECE": ("risk", "ece", 4),
    }
    lines = [f"{title:<30}{'n':>8}" + "".join(f"{name:>10}" for name in columns)]
    for name, cut in cuts.items():
        figures = cut.to_dict()
        cells = [
            "-" if figures[kind][key] is None else f"{figures[kind][key]:.{digits}f}"
            for kind, key, digits in columns.values()
        ]
        lines.append(f"{name[:29]:<30}{cut.n:>8}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def _forecasts(report: ForecastReport) -> str:
    """Return the accuracy of remaining scores by cut, and that of each forecaster over all."""
    columns = {
        "MAE": ("mae", 2),
        "RMSE": ("rmse", 2),
        "CRPS": ("crps", 2),
        "Brier": ("submit_brier", 4),
        "in 80%": ("coverage80", 3),
        "in 95%": ("coverage95", 3),
        "share": ("share", 3),
    }
    lines = [f"{'remaining scores':<30}{'n':>8}" + "".join(f"{name:>10}" for name in columns)]
    for name, figures in {**report.figures, **report.methods}.items():
        cells = [
            f"{figures[key]:.{digits}f}" if key in figures else "-"
            for key, digits in columns.values()
        ]
        number = f"{figures.get('n', report.figures['all']['n']):.0f}"
        lines.append(f"{name[:29]:<30}{number:>8}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join([*lines, *(f"degraded: {reason}" for reason in report.degraded)])
