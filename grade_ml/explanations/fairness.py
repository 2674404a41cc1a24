"""Fairness between groups of students: errors, calibration, selection for help, false negatives.

Groups come from protected attributes, which no model reads. Figures are those of fairlearn's
`MetricFrame`, on predictions of training terms that the predicting model had not seen; intervals
resample whole students. A gap exceeds its limit only if it does so significantly, with a correction
for the number of groups and figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.errors import NotReadyError
from grade_ml.core.optional import absence, installed, remedy
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.ensemble.groups import Bands, grouped
from grade_ml.explanations.settings import SETTINGS
from grade_ml.features.attribute_columns import attribute_columns
from grade_ml.features.attributes import protected_columns
from grade_ml.gradebook.attributes import Declarations

Floats = npt.NDArray[np.float64]
#: Per row: numerator and denominator, whose sums over a group give its figure.
Ratio = tuple[Floats, Floats]

#: The largest gap that is allowed, by figure.
LIMITS: Mapping[str, float] = {
    "mae": SETTINGS.most_gap_mae,
    "bias": SETTINGS.most_gap_bias,
    "calibration": SETTINGS.most_gap_calibration,
    "selection_rate": SETTINGS.most_gap_selection,
    "false_negative_rate": SETTINGS.most_gap_false_negatives,
}
COLUMNS = [
    *("attribute", "group_name", "metric", "students", "value", "low", "high"),
    *("gap", "gap_low", "gap_high", "most", "exceeds"),
]


def with_attributes(
    held_out: pd.DataFrame,
    students: pd.DataFrame,
    enrollments: pd.DataFrame,
    pseudonyms: Pseudonyms,
    declared: Declarations,
) -> pd.DataFrame:
    """Return held-out rows with the protected attributes of their students.

    Parameters
    ----------
    held_out
        Of a pooled model: section_id and student (one of `pseudonyms`).
    students, enrollments
        As the gradebook's tables have them.
    """
    attributes = attribute_columns(students, enrollments, declared)
    known = protected_columns(attributes.columns).values()
    rows = attributes[list(known)].assign(
        section_id=enrollments["section_id"].astype(str).to_numpy(),
        student=pseudonyms.of(enrollments["student_id"]).to_numpy(),
    )
    return held_out.merge(rows, on=["section_id", "student"])


def fairness(rows: pd.DataFrame, seed: int, bands: Bands = MappingProxyType({})) -> pd.DataFrame:
    """Return the figures of each group of each protected attribute, and its gaps to all others.

    Parameters
    ----------
    rows
        grade, risk, final_grade (0-100 or NaN), at_risk (bool), student, and `protected_…`.
    bands
        Of attributes that are numbers; they are computed if there are none.

    Returns
    -------
    pandas.DataFrame
        `COLUMNS`, one row per attribute, group and figure. mae and bias (predicted minus actual)
        are in points; calibration is mean risk minus share at risk; selection_rate is the share
        with a risk of at least `selected_risk`; false_negative_rate is the share of those at risk
        who are not selected. low and high are a 95% interval; those of the gap hold for all gaps
        together. Groups of few students are left out.

    Raises
    ------
    NotReadyError
        fairlearn is not installed.
    """
    metrics = _metrics()
    parts = []
    rows = grouped(rows, "student", bands)
    for name, column in protected_columns(rows.columns).items():
        group_rows = rows[_large_enough(rows, column)].reset_index(drop=True)
        if group_rows[column].nunique() > 1:
            parts.append((name, group_rows.assign(group=group_rows[column])))
    comparisons = sum(group_rows["group"].nunique() for _, group_rows in parts) * len(LIMITS)
    figures = [
        row
        for name, group_rows in parts
        for row in _of_attribute(name, group_rows, metrics, comparisons, seed)
    ]
    return pd.DataFrame(figures, columns=COLUMNS)


def _large_enough(rows: pd.DataFrame, column: str) -> pd.Series:
    sizes = rows.groupby(column, observed=True)["student"].nunique()
    large = sizes.index[sizes >= SETTINGS.least_students]
    return rows[column].isin(large)


def lacks() -> str:
    """Return the reason if the library of the comparison is not installed, else an empty text."""
    if installed("fairlearn"):
        return ""
    return f"{absence('fairlearn')}; groups are not compared"


def _metrics() -> Mapping[str, Callable[[Floats, Floats], float]]:
    if why := lacks():
        raise NotReadyError(f"Groups cannot be compared: {why}.", remedy("explain"))
    from fairlearn.metrics import false_negative_rate, mean_prediction, selection_rate

    return {
        "mae": lambda actual, predicted: float(np.abs(actual - predicted).mean()),
        "bias": lambda actual, predicted: float(
            mean_prediction(actual, predicted) - mean_prediction(actual, actual)
        ),
        "calibration": lambda actual, predicted: float(
            mean_prediction(actual, predicted) - mean_prediction(actual, actual)
        ),
        "selection_rate": selection_rate,
        "false_negative_rate": false_negative_rate,
    }


def _pairs(rows: pd.DataFrame) -> Iterator[tuple[str, Floats, Floats, Ratio]]:
    """Yield each figure's name, the truth and the prediction it compares, and its ratio of sums."""
    grade, actual = (rows[name].to_numpy(np.float64) for name in ("grade", "final_grade"))
    risk, at_risk = rows["risk"].to_numpy(np.float64), rows["at_risk"].to_numpy(np.float64)
    selected = (risk >= SETTINGS.selected_risk).astype(np.float64)
    known = (~np.isnan(grade) & ~np.isnan(actual)).astype(np.float64)
    # Rows of an unknown grade weigh 0 by `known`; NaN times 0 would be NaN.
    error, ones = np.nan_to_num(grade - actual), np.ones(len(rows))
    yield "mae", actual, grade, (np.abs(error), known)
    yield "bias", actual, grade, (error, known)
    yield "calibration", at_risk, risk, (risk - at_risk, ones)
    yield "selection_rate", at_risk, selected, (selected, ones)
    yield "false_negative_rate", at_risk, selected, (at_risk * (1 - selected), at_risk)


def _of_attribute(
    name: str,
    rows: pd.DataFrame,
    metrics: Mapping[str, Callable[[Floats, Floats], float]],
    comparisons: int,
    seed: int,
) -> Iterator[dict[str, object]]:
    from fairlearn.metrics import MetricFrame

    groups, labels = pd.factorize(rows["group"], sort=True)
    student, students = pd.factorize(rows["student"])
    drawn = np.random.default_rng(seed).multinomial(
        len(students), np.full(len(students), 1 / len(students)), SETTINGS.resamples
    )
    member = pd.crosstab(student, groups).to_numpy() > 0
    for metric, actual, predicted, ratio in _pairs(rows):
        usable = ratio[1] > 0
        if not all((groups[usable] == place).any() for place in range(len(labels))):
            continue
        frame = MetricFrame(
            metrics=metrics[metric],
            y_true=actual[~np.isnan(actual) & ~np.isnan(predicted)],
            y_pred=predicted[~np.isnan(actual) & ~np.isnan(predicted)],
            sensitive_features=rows["group"][~np.isnan(actual) & ~np.isnan(predicted)],
        )
        top, bottom = (_sums(values, student, groups, member.shape) for values in ratio)
        value, others = _figures(top[None].sum(axis=1), bottom[None].sum(axis=1))
        draws, other_draws = _figures(np.tensordot(drawn, top, 1), np.tensordot(drawn, bottom, 1))
        low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
        gap, gaps = (value - others)[0], draws - other_draws
        # Normal tails from the spread: a few hundred resamples do not contain the rare quantiles.
        margin = _quantile(comparisons) * np.nanstd(gaps, axis=0)
        most = LIMITS[metric]
        for place, label in enumerate(labels):
            beyond = max(abs(gap[place]) - margin[place], 0.0)
            yield {
                "attribute": name,
                "group_name": str(label),
                "metric": metric,
                "students": int(member[:, place].sum()),
                "value": float(frame.by_group[label]),
                "low": float(low[place]),
                "high": float(high[place]),
                "gap": float(gap[place]),
                "gap_low": float(gap[place] - margin[place]),
                "gap_high": float(gap[place] + margin[place]),
                "most": most,
                "exceeds": bool(beyond > most),
            }


def _sums(
    values: Floats,
    student: npt.NDArray[np.intp],
    groups: npt.NDArray[np.intp],
    shape: tuple[int, ...],
) -> Floats:
    """Return the sum of each student's values in each group: shape (students, groups)."""
    place = student * shape[1] + groups
    summed = np.bincount(place, values, shape[0] * shape[1])
    return np.asarray(summed, dtype=np.float64).reshape(shape)


def _figures(top: Floats, bottom: Floats) -> tuple[Floats, Floats]:
    """Return the ratio of each group (last axis), and of all other groups together."""
    with np.errstate(invalid="ignore", divide="ignore"):
        rest_top = top.sum(axis=-1, keepdims=True) - top
        rest_bottom = bottom.sum(axis=-1, keepdims=True) - bottom
        return top / bottom, rest_top / rest_bottom


def _quantile(comparisons: int) -> float:
    from scipy.stats import norm

    return float(norm.ppf(1 - SETTINGS.alpha / (2 * max(comparisons, 1))))
