"""Accuracy of forecasts out of time: fit on past terms, forecast later ones from their cuts.

The protocol is fixed by the benchmarks. Training uses every section of the training terms with its
final scores; nothing of a test term enters it, and a forecast uses nothing after its cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from grade_ml.features import snapshots as features
from grade_ml.features.sequences import score_sequences
from grade_ml.forecasting.bands import crps
from grade_ml.forecasting.contract import Counts, Floats, Panel
from grade_ml.forecasting.held_out import HeldOut
from grade_ml.forecasting.panels import origins, panels
from grade_ml.forecasting.settings import SETTINGS
from grade_ml.forecasting.trajectory import Progress, Trajectory, fit
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS, Institution

#: Even levels at which CRPS is computed.
_LEVELS = (np.arange(50) + 0.5) / 50


@dataclass(frozen=True)
class ForecastReport:
    """What `backtest_forecasts` measured.

    Attributes
    ----------
    figures
        By "all", each cut such as "0.25", and "h1" (the next assignment): n, mae (of the median),
        rmse (of the mean), crps, submit_brier, coverage80, coverage95, width80, width95.
    groups
        The same by course, and by the values of each requested attribute.
    methods
        By forecaster: mae (of the median of the bands' distribution around its answer), rmse,
        submit_brier, share (of rows it counts most in) and fallbacks.
    rows
        One row per forecast: section_id, student_id, assignment_id, fraction, horizon, truth and
        the forecast.
    """

    figures: Mapping[str, Mapping[str, float]]
    groups: Mapping[str, Mapping[str, Mapping[str, float]]]
    methods: Mapping[str, Mapping[str, float]]
    fallbacks: Mapping[str, int]
    degraded: tuple[str, ...]
    train_seconds: float
    seconds: float
    rows: pd.DataFrame
    model: Trajectory

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {
            **self.figures,
            "groups": self.groups,
            "methods": self.methods,
            "fallbacks": dict(self.fallbacks),
            "degraded": list(self.degraded),
            "train_seconds": self.train_seconds,
            "seconds": self.seconds,
        }


def training_panels(
    gradebook: Gradebook,
    terms: Sequence[str],
    institution: Institution = DEFAULTS,
    most: int = SETTINGS.origins,
) -> tuple[list[Panel], pd.DataFrame]:
    """Return the panels of all sections of `terms`, with truth, and their weekly snapshots."""
    end = (gradebook.sections["ends_on"].max() + pd.Timedelta(days=1)).date()
    sections = gradebook.sections[gradebook.sections["term_id"].isin(terms)]
    weekly = features.grade_snapshots(gradebook, features.weekly_cuts(sections, end), end)
    sequences = score_sequences(gradebook, sections["course_id"].unique(), institution)
    return list(panels(sequences, origins(weekly, most), truth_on=end)), weekly


def backtest_forecasts(  # noqa: PLR0913
    known: Gradebook,
    gradebook: Gradebook,
    train_terms: Sequence[str],
    test_terms: Sequence[str],
    *,
    institution: Institution = DEFAULTS,
    fractions: Sequence[float] = (0.25, 0.5, 0.75),
    attributes: Sequence[str] = (),
    seed: int = 0,
    on_progress: Progress = lambda message: None,
) -> ForecastReport:
    """Fit on `train_terms` of `known` and measure on `test_terms` of `gradebook`.

    Parameters
    ----------
    known
        The gradebook without the test terms.
    fractions
        Where in a section to forecast, as shares of its days (0-1).
    attributes
        Columns of snapshots by whose values figures are given, too.
    """
    started = perf_counter()
    on_progress(f"Sequences of the terms {', '.join(train_terms)}")
    model = fit(
        *training_panels(known, train_terms, institution), seed=seed, on_progress=on_progress
    ).model
    trained = perf_counter()
    on_progress(f"Forecasting the terms {', '.join(test_terms)}")
    cuts = features.fraction_cuts(
        gradebook.sections[gradebook.sections["term_id"].isin(test_terms)], fractions
    )
    end = (gradebook.sections["ends_on"].max() + pd.Timedelta(days=1)).date()
    snapshots = features.grade_snapshots(gradebook, cuts, end)
    sequences = score_sequences(
        gradebook, snapshots["course_id"].astype(object).unique(), institution
    )
    tested = list(panels(sequences, snapshots, truth_on=end))
    counts = Counts()
    answers, missing = model.answers(tested, counts, everyone=True)
    rows = HeldOut.of(tested, answers)
    combined, dominant = model.combination.combine(rows.answers, rows.course, rows.horizon)
    bounds = model.bands.bounds(combined, rows.course, rows.horizon)
    quantiles = model.bands.quantiles(combined, _LEVELS)
    seconds = perf_counter() - trained
    forecasts = _keys(tested, cuts, snapshots, attributes).assign(
        truth=rows.truth,
        submitted=rows.submitted,
        method=dominant,
        crps=crps(rows.truth, quantiles, _LEVELS),
        median=model.bands.median(combined),
        **dict(zip(("mean", "submit"), combined.T, strict=True)),
        **dict(zip(("low80", "high80", "low95", "high95"), bounds.T, strict=True)),
    )
    groups = {
        "all": forecasts,
        **{f"{cut:g}": group for cut, group in forecasts.groupby("fraction")},
    }
    groups["h1"] = forecasts[forecasts["horizon"] == 1]
    return ForecastReport(
        figures={name: _figures(group) for name, group in groups.items()},
        groups={
            name: {
                str(value): _figures(group)
                for value, group in forecasts.groupby(name, observed=True)
            }
            for name in ("course_id", *attributes)
            if name in forecasts
        },
        methods={
            str(name): {
                **_method(answer, model.bands.median(answer), rows),
                "share": round(float((dominant == str(name)).mean()), 4),
                "fallbacks": sum(
                    number for reason, number in counts.of.items() if reason.startswith(f"{name}:")
                ),
            }
            for name, answer in rows.answers.items()
        },
        fallbacks=counts.of,
        degraded=tuple(dict.fromkeys([*model.degraded, *missing])),
        train_seconds=round(trained - started, 1),
        seconds=round(seconds, 1),
        rows=forecasts,
        model=model,
    )


def _keys(
    tested: Sequence[Panel], cuts: pd.DataFrame, snapshots: pd.DataFrame, attributes: Sequence[str]
) -> pd.DataFrame:
    """Return the keys of the rows with known truth, in the order of `HeldOut.of`."""
    parts = []
    for panel in tested:
        n, r = panel.shape
        frame = pd.DataFrame(
            {
                "course_id": panel.course_id,
                "section_id": panel.section_id,
                "cut_day": panel.day,
                "student_id": np.repeat(panel.students, r),
                "assignment_id": np.tile(panel.assignments[panel.remaining], n),
                "horizon": np.tile(np.arange(1, r + 1), n),
                "weight": np.tile(panel.weight[panel.remaining], n),
            }
        )
        parts.append(frame[~np.isnan(panel.truth[:, panel.remaining].ravel())])
    frame = pd.concat(parts, ignore_index=True)
    fraction = cuts.set_index(["section_id", "cut_day"])["fraction"]
    frame["fraction"] = fraction.reindex(
        pd.MultiIndex.from_frame(frame[["section_id", "cut_day"]])
    ).to_numpy()
    keys = ["section_id", "student_id"]
    columns = [name for name in attributes if name in snapshots]
    of_student = snapshots[[*keys, *columns]].astype(dict.fromkeys(keys, object))
    return frame.merge(of_student.drop_duplicates(keys), on=keys, how="left")


def _figures(rows: pd.DataFrame) -> dict[str, float]:
    truth = rows["truth"]
    inside = {
        f"coverage{level}": truth.between(rows[f"low{level}"], rows[f"high{level}"]).mean()
        for level in (80, 95)
    }
    width = {
        f"width{level}": (rows[f"high{level}"] - rows[f"low{level}"]).mean() for level in (80, 95)
    }
    figures = {
        "mae": (truth - rows["median"]).abs().mean(),
        "rmse": float(np.sqrt(((truth - rows["mean"]) ** 2).mean())),
        "crps": rows["crps"].mean(),
        "submit_brier": ((rows["submitted"] - rows["submit"]) ** 2).mean(),
        **inside,
        **width,
    }
    return {"n": len(rows), **{name: round(float(value), 4) for name, value in figures.items()}}


def _method(answer: Floats, median: Floats, rows: HeldOut) -> dict[str, float]:
    return {
        "mae": round(float(np.abs(median - rows.truth).mean()), 3),
        "rmse": round(float(np.sqrt(((answer[:, 0] - rows.truth) ** 2).mean())), 3),
        "submit_brier": round(float(((answer[:, 1] - rows.submitted) ** 2).mean()), 4),
    }
