"""How good predictions are: errors, ranking, calibration, coverage, and what a plot of them needs.

Rows are predictions beside what came true; how either was made is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

#: Thirds of a section, by the share of its days that has passed (0-1).
PHASES = {"early": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "late": (2 / 3, 1.0)}

Metrics = dict[str, float | None]

#: Columns of the errors of sections.
OF_SECTION = {"section_id": "object", "rows": "int64", "mse": "float64", "brier": "float64"}

_RESAMPLES = 200


@dataclass(frozen=True)
class Evaluation:
    """What one set of predictions is worth.

    Attributes
    ----------
    metrics
        Per phase ("early", "middle", "late", "all") the figures of `grade_metrics` and
        `risk_metrics`, and "naive_rmse" and "naive_mae", the same errors of the naive forecast.
    calibration
        Columns predicted, observed (0-1) and n: the reliability curve of the risk.
    sample
        Columns predicted and actual (0-100) of at most 2,000 rows, without ids.
    """

    metrics: Mapping[str, Metrics]
    calibration: pd.DataFrame
    sample: pd.DataFrame

    def flat(self) -> dict[str, float]:
        """Return the known figures as one level of names, such as "all_rmse"."""
        return {
            f"{phase}_{name}": float(value)
            for phase, figures in self.metrics.items()
            for name, value in figures.items()
            if value is not None
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "metrics": {phase: dict(figures) for phase, figures in self.metrics.items()},
            "calibration": self.calibration.to_dict("list"),
            "sample": self.sample.to_dict("list"),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_dict` described."""
        return cls(
            values["metrics"],
            pd.DataFrame(values["calibration"]),
            pd.DataFrame(values["sample"]),
        )


@dataclass(frozen=True)
class Cut:
    """Figures of one group of rows: how many, the grade's and the risk's."""

    n: int
    grade: Metrics
    risk: Metrics

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return asdict(self)


def evaluate(rows: pd.DataFrame, seed: int) -> Evaluation:
    """Evaluate predictions.

    Parameters
    ----------
    rows
        Columns grade, lower80, upper80, lower95, upper95, risk (predicted), final_grade (0-100,
        NaN: unknown), at_risk (bool), progress (0-1) and naive (points, 0-100).
    seed
        Chooses the sample.
    """
    metrics = {name: _phase_metrics(rows[in_phase(rows["progress"], name)]) for name in PHASES}
    known = rows[rows["final_grade"].notna()]
    sample = known.sample(min(2000, len(known)), random_state=seed)
    return Evaluation(
        metrics={**metrics, "all": _phase_metrics(rows)},
        calibration=calibration_curve(rows["risk"], rows["at_risk"]),
        sample=pd.DataFrame(
            {
                "predicted": sample["grade"].to_numpy(float),
                "actual": sample["final_grade"].to_numpy(float),
            }
        ),
    )


def in_phase(progress: pd.Series, phase: str) -> pd.Series:
    """Return which rows lie in `phase`; progress is 0-1."""
    low, high = PHASES[phase]
    after = progress > low if low else progress >= low
    return after & (progress <= high)


def phases(progress: pd.Series) -> pd.Series:
    """Return the third of its section in which each row lies, by name."""
    thirds = pd.Series("", index=progress.index, dtype=object)
    for name in PHASES:
        thirds = thirds.mask(in_phase(progress, name), name)
    return thirds


def _phase_metrics(rows: pd.DataFrame) -> Metrics:
    naive = point_errors(rows["naive"], rows["final_grade"])
    return {
        "n": len(rows),
        **grade_metrics(rows),
        **risk_metrics(rows["risk"], rows["at_risk"]),
        "naive_rmse": naive["rmse"],
        "naive_mae": naive["mae"],
    }


def cut_table(rows: pd.DataFrame) -> Cut:
    """Return the figures of `rows` (columns as for `evaluate`)."""
    return Cut(len(rows), grade_metrics(rows), risk_metrics(rows["risk"], rows["at_risk"]))


def by_section(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean errors of each section's rows.

    Parameters
    ----------
    rows
        Columns section_id, grade, risk, final_grade and at_risk.

    Returns
    -------
    pandas.DataFrame
        `OF_SECTION`: section_id (text), rows, mse (points²; NaN where no grade is known) and brier.
    """
    errors = pd.DataFrame(
        {
            "section_id": rows["section_id"].astype(str),
            "mse": (rows["grade"] - rows["final_grade"]) ** 2,
            "brier": (rows["risk"] - rows["at_risk"].astype(float)) ** 2,
        }
    )
    means = errors.groupby("section_id").mean()
    return means.assign(rows=errors.groupby("section_id").size()).reset_index()[[*OF_SECTION]]


def by_group(rows: pd.DataFrame, columns: Mapping[str, str], seed: int) -> pd.DataFrame:
    """Return errors of groups of rows with 95% intervals, resampled by student.

    Parameters
    ----------
    rows
        Columns grade, risk, final_grade, at_risk, student_id and those of `columns`.
    columns
        What the groups of a column are called, such as {"course": "course_id"}.

    Returns
    -------
    pandas.DataFrame
        kind, group, students, rmse (points), rmse_low, rmse_high, brier, brier_low, brier_high; a
        group without a known grade has no rmse.
    """
    errors = {
        "rmse": (rows["grade"] - rows["final_grade"]) ** 2,
        "brier": (rows["risk"] - rows["at_risk"].astype(float)) ** 2,
    }
    rows_of_groups = []
    for kind, column in columns.items():
        # As objects, so that categories come in the order of their names, not of their appearance.
        for value, indices in rows.groupby(rows[column].astype("object")).indices.items():
            places = np.asarray(indices)
            student = pd.factorize(rows["student_id"].iloc[places].astype("object"))[0]
            row: dict[str, Any] = {"kind": kind, "group": str(value)}
            row["students"] = int(student.max()) + 1
            for name, error in errors.items():
                row |= _resampled(name, error.iloc[places].to_numpy(float), student, seed)
            rows_of_groups.append(row)
    return pd.DataFrame(rows_of_groups)


def _resampled(name: str, error: Any, student: Any, seed: int) -> dict[str, float]:
    known = ~np.isnan(error)
    if not known.any():
        return {}
    total, size = np.bincount(student[known], error[known]), np.bincount(student[known])
    random = np.random.default_rng(seed)
    draws = random.integers(0, len(size), (_RESAMPLES, len(size)))
    means = total[draws].sum(axis=1) / np.maximum(size[draws].sum(axis=1), 1)
    figures = np.array([error[known].mean(), *np.quantile(means, [0.025, 0.975])])
    low_high = np.sqrt(figures) if name == "rmse" else figures
    return dict(zip((name, f"{name}_low", f"{name}_high"), low_high.tolist(), strict=True))


def point_errors(predicted: pd.Series, actual: pd.Series) -> Metrics:
    """Return rmse and mae in points over the rows where both are known; None without any."""
    error = (predicted - actual).dropna().to_numpy(float)
    if not error.size:
        return {"rmse": None, "mae": None}
    return {"rmse": float(np.sqrt(np.mean(error**2))), "mae": float(np.mean(np.abs(error)))}


def grade_metrics(rows: pd.DataFrame) -> Metrics:
    """Return rmse, mae (points), coverage80/95 (0-1) and width80/95 (points); None if unknown."""
    figures = point_errors(rows["grade"], rows["final_grade"])
    known = rows[rows["final_grade"].notna() & rows["lower80"].notna()]
    for level in (80, 95):
        lower, upper = known[f"lower{level}"], known[f"upper{level}"]
        inside = known["final_grade"].between(lower, upper)
        figures[f"coverage{level}"] = float(inside.mean()) if len(known) else None
        figures[f"width{level}"] = float((upper - lower).mean()) if len(known) else None
    return figures


def risk_metrics(risk: pd.Series, at_risk: pd.Series) -> Metrics:
    """Return auc, ap (average precision), brier and ece, each 0-1.

    auc and ap are None where only one kind of outcome is present; all are None without rows.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    known = risk.notna()
    risk, at_risk = risk[known], at_risk[known]
    predicted, actual = risk.to_numpy(float), at_risk.to_numpy(bool)
    if not actual.size:
        return {"auc": None, "ap": None, "brier": None, "ece": None}
    mixed = 0 < actual.sum() < actual.size
    return {
        "auc": float(roc_auc_score(actual, predicted)) if mixed else None,
        "ap": float(average_precision_score(actual, predicted)) if mixed else None,
        "brier": float(np.mean((predicted - actual) ** 2)),
        "ece": expected_calibration_error(risk, at_risk),
    }


def calibration_curve(risk: pd.Series, at_risk: pd.Series, bins: int = 15) -> pd.DataFrame:
    """Return mean predicted risk, observed share and n of `bins` groups of equal size.

    Rows with equal predictions stay in the order given; fewer rows make fewer groups.
    """
    order = np.argsort(risk.to_numpy(float), kind="stable")
    groups = [group for group in np.array_split(order, bins) if group.size]
    predicted, actual = risk.to_numpy(float), at_risk.to_numpy(float)
    return pd.DataFrame(
        {
            "predicted": [float(predicted[group].mean()) for group in groups],
            "observed": [float(actual[group].mean()) for group in groups],
            "n": [group.size for group in groups],
        }
    )


def expected_calibration_error(risk: pd.Series, at_risk: pd.Series) -> float:
    """Return the mean distance between predicted and observed risk over 15 equal-mass bins."""
    curve = calibration_curve(risk, at_risk)
    return float(np.average((curve["predicted"] - curve["observed"]).abs(), weights=curve["n"]))
