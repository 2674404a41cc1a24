"""Accuracy out of time: fit on whole past terms, predict every section of later ones at its cuts.

The protocol is fixed by the benchmarks: training uses every section of the training terms with its
final outcome, even where such a section ended after a test term had begun; nothing of a test
term's sections enters training, and a test row's features use nothing after its cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from time import perf_counter
from typing import Any

import pandas as pd

from grade_ml.core.errors import NotReadyError
from grade_ml.core.process import peak_megabytes
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.ensemble import baseline, pooled
from grade_ml.ensemble.evaluation import Cut, cut_table
from grade_ml.ensemble.groups import grouped
from grade_ml.ensemble.names import BASELINE, POOLED
from grade_ml.ensemble.rows import Model, with_outcomes
from grade_ml.features import snapshots as features
from grade_ml.features.attributes import protected_columns
from grade_ml.gradebook.attributes import declarations
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS, Institution
from grade_ml.gradebook.outcomes import outcomes
from grade_ml.training.terms import require_apart, require_known

#: How each model is fitted, by name; the model that serves is first.
FITS: Mapping[str, Callable[[pd.DataFrame, pd.DataFrame, int, pooled.Progress], Model]] = {
    # Nothing of these models is stored, so there is nothing to hide.
    POOLED: lambda rows, truth, seed, on_progress: pooled.fit(
        rows, truth, seed, Pseudonyms(b"backtest"), on_progress=on_progress
    ),
    BASELINE: lambda rows, truth, seed, on_progress: baseline.fit(rows, truth, seed),
}
_ROW = ["section_id", "student_id", "cut_day"]
_ENROLLMENT = ["section_id", "student_id"]


@dataclass(frozen=True)
class ModelFigures:
    """One model's figures per cut (keyed "0.25", …) and over all of them."""

    cuts: Mapping[str, Cut]
    all: Cut

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {
            "cuts": {name: cut.to_dict() for name, cut in self.cuts.items()},
            "all": self.all.to_dict(),
        }


@dataclass(frozen=True)
class BacktestReport:
    """What `backtest` measured.

    Attributes
    ----------
    models
        Figures by model, the first requested model first; the last is "naive" (the rate of points
        so far; it states no risk and no interval).
    groups
        The first model's figures over all cuts, by "course" and by each protected attribute.
    train_seconds, predict_seconds
        The first model's: features and fit; features and predictions of the test rows.
    peak_mb
        Peak memory of the process so far.
    """

    train_terms: tuple[str, ...]
    test_terms: tuple[str, ...]
    train_seconds: float
    predict_seconds: float
    peak_mb: float
    models: Mapping[str, ModelFigures]
    groups: Mapping[str, Mapping[str, Cut]]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values; the top-level figures are the first model's."""
        return {
            "train_terms": list(self.train_terms),
            "test_terms": list(self.test_terms),
            "train_seconds": self.train_seconds,
            "predict_seconds": self.predict_seconds,
            "peak_mb": self.peak_mb,
            **next(iter(self.models.values())).to_dict(),
            "models": {name: model.to_dict() for name, model in self.models.items()},
            "groups": {
                name: {value: cut.to_dict() for value, cut in cuts.items()}
                for name, cuts in self.groups.items()
            },
        }


def backtest(  # noqa: PLR0913 - the protocol's parameters
    gradebook: Gradebook,
    train_terms: Sequence[str],
    test_terms: Sequence[str],
    *,
    institution: Institution = DEFAULTS,
    models: Sequence[str] = (POOLED,),
    fractions: Sequence[float] = (0.25, 0.5, 0.75),
    seed: int = 0,
    on_progress: pooled.Progress = lambda message: None,
) -> BacktestReport:
    """Fit models on `train_terms` and measure them on `test_terms`.

    Parameters
    ----------
    gradebook
        Whole courses, with all requested terms.
    institution
        By whose pass marks enrollments without a stated outcome are judged, and whose attributes
        models read.
    models
        Some of `FITS`.
    fractions
        Where in a section to predict, as shares of its days (0-1).
    on_progress
        Receives a message for each step.

    Raises
    ------
    NotFoundError
        A term does not exist; the message lists the known terms.
    ConfigurationError
        A term is both a training and a test term.
    NotReadyError
        There is nothing to train on, or nothing finished to test on.
    """
    require_apart(train_terms, test_terms)
    require_known((*train_terms, *test_terms), {*gradebook.sections["term_id"]})
    end = (gradebook.sections["ends_on"].max() + pd.Timedelta(days=1)).date()
    seconds = {}
    known = without_terms(gradebook, test_terms)
    tested = {}
    for name in models:
        started = perf_counter()
        model = _fit(name, known, train_terms, end, institution, seed, on_progress)
        trained = perf_counter()
        on_progress(f"Predicting the terms {', '.join(test_terms)} with {name}")
        tested[name] = _test_rows(gradebook, model, test_terms, fractions, end, institution)
        seconds[name] = trained - started, perf_counter() - trained
    rows = tested[models[0]]
    return BacktestReport(
        train_terms=tuple(train_terms),
        test_terms=tuple(test_terms),
        train_seconds=round(seconds[models[0]][0], 2),
        predict_seconds=round(seconds[models[0]][1], 2),
        peak_mb=round(peak_megabytes(), 1),
        models={
            **{name: _figures(predictions) for name, predictions in tested.items()},
            "naive": _figures(_naive(rows)),
        },
        groups=_groups(rows),
    )


def without_terms(gradebook: Gradebook, terms: Sequence[str]) -> Gradebook:
    """Return `gradebook` without the sections of `terms` and everything that happened in them."""
    sections = gradebook.sections[~gradebook.sections["term_id"].isin(terms)]

    def remaining(frame: pd.DataFrame, key: str, known: pd.Series) -> pd.DataFrame:
        return frame[frame[key].isin(known)].reset_index(drop=True)

    assignments = remaining(gradebook.assignments, "section_id", sections["section_id"])
    return replace(
        gradebook,
        sections=sections.reset_index(drop=True),
        assignments=assignments,
        enrollments=remaining(gradebook.enrollments, "section_id", sections["section_id"]),
        activity=remaining(gradebook.activity, "section_id", sections["section_id"]),
        results=remaining(gradebook.results, "assignment_id", assignments["assignment_id"]),
        earlier_results=remaining(
            gradebook.earlier_results, "assignment_id", assignments["assignment_id"]
        ),
    )


def _fit(  # noqa: PLR0913, PLR0917
    name: str,
    known: Gradebook,
    terms: Sequence[str],
    end: date,
    institution: Institution,
    seed: int,
    on_progress: pooled.Progress,
) -> Model:
    on_progress(f"Features of the terms {', '.join(terms)}")
    sections = known.sections[known.sections["term_id"].isin(terms)]
    cuts, declared = features.weekly_cuts(sections, end), declarations(institution)
    frame = features.grade_snapshots(known, cuts, end, declared)
    on_progress(f"Fitting {name} on {len(frame):,} snapshots")
    return FITS[name](frame, outcomes(known, end, institution), seed, on_progress)


def _test_rows(  # noqa: PLR0913, PLR0917
    gradebook: Gradebook,
    model: Model,
    test_terms: Sequence[str],
    fractions: Sequence[float],
    end: date,
    institution: Institution,
) -> pd.DataFrame:
    sections = gradebook.sections[gradebook.sections["term_id"].isin(test_terms)]
    cuts = features.fraction_cuts(sections, fractions)
    frame = features.grade_snapshots(gradebook, cuts, end, declarations(institution))
    rows = with_outcomes(model, frame, outcomes(gradebook, end, institution))
    if rows.empty:
        raise NotReadyError(
            f"No enrollment of the terms {', '.join(test_terms)} has a result to compare with.",
            "Choose test terms that have ended.",
        )
    return rows.merge(cuts[["section_id", "cut_day", "fraction"]], on=["section_id", "cut_day"])


def _figures(rows: pd.DataFrame) -> ModelFigures:
    return ModelFigures(
        cuts={f"{cut:g}": cut_table(group) for cut, group in rows.groupby("fraction")},
        all=cut_table(rows),
    )


def _naive(rows: pd.DataFrame) -> pd.DataFrame:
    unknown = dict.fromkeys(("lower80", "upper80", "lower95", "upper95", "risk"), float("nan"))
    return rows.assign(grade=rows["naive"], **unknown)


def _groups(rows: pd.DataFrame) -> dict[str, dict[str, Cut]]:
    rows = grouped(rows, "student_id")
    columns = {"course": "course_id", **protected_columns(rows.columns)}
    return {
        name: {str(value): cut_table(group) for value, group in rows.groupby(column, observed=True)}
        for name, column in columns.items()
    }
