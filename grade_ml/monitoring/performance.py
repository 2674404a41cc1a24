"""Compares the errors of predictions with those on record when their model was promoted.

There are three sources, from the most reliable to the earliest: outcomes of sections that have
ended, scores that arrived since a prediction implied them, and, if there are neither, an estimate
of the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.ensemble.evaluation import by_group, expected_calibration_error, phases
from grade_ml.ensemble.groups import grouped
from grade_ml.features.attributes import protected_columns
from grade_ml.monitoring.champion import Champion
from grade_ml.monitoring.estimation import ErrorEstimate
from grade_ml.monitoring.records import Records

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PerformanceSettings:
    """The settings of performance, each with its reason."""

    #: A smaller rise is not worth a training: the corrections of courses gain about as much.
    rise: float = 0.10
    #: Scores of the last so many days measure the present error: about one assignment.
    score_days: int = 14
    #: Standard errors by which an error must exceed that rise: two-sided 99%, because every course
    #: is tested every week.
    sure: float = 2.576
    #: The fewest students from whom a loss is computed.
    least_students: int = 20
    resamples: int = 300


SETTINGS = PerformanceSettings()


class Basis(StrEnum):
    """The source of a loss."""

    OUTCOMES = "outcomes"
    """Final grades of sections that ended, and that the champion has not learned from."""
    SCORES = "scores"
    """Scores of the last weeks, compared with those that earlier predictions implied."""
    ESTIMATE = "estimate"
    """No label yet: the error that predictions of this kind had on held-out rows."""


@dataclass(frozen=True)
class Loss:
    """A mean absolute error in points, and its baseline: the mean absolute error on held-out rows.

    `low` and `high` bound `value` with 95% confidence (students resampled). `risen` is true if even
    the lower bound with 99% confidence lies more than `SETTINGS.rise` above the baseline.
    """

    basis: Basis
    value: float
    low: float
    high: float
    baseline: float
    students: int
    risen: bool

    def __str__(self) -> str:
        return f"error {self.value / self.baseline - 1:+.0%} against the record ({self.basis})"


@dataclass(frozen=True, kw_only=True)
class Unmeasured:
    """A course without any measured error, and the reason."""

    model: str
    status: str = "not ready"
    reason: str


@dataclass(frozen=True, kw_only=True)
class Performance(Unmeasured):
    """How good a course's predictions are.

    Attributes
    ----------
    loss, says
        The loss that represents the course, and its description if it has risen.
    losses
        The losses that could be computed, one per basis, the most reliable first.
    groups
        Realised errors: kind (all, phase, or an attribute), group, students, rmse, rmse_low,
        rmse_high, baseline_rmse, brier, brier_low, brier_high, baseline_brier. The baseline of an
        attribute is that of all courses.
    ece
        Expected calibration error of the risk on the sections that ended; None without any.
    certain
        A lower bound of the mean error (points) of the predictions made four weeks ago: their
        distance to the range of grades that is still possible. None without such predictions.
    estimate_ratio
        Estimated over realised error if both are known: how far the estimate can be trusted.
    estimate_ratio_held_out
        The same on the rows held out when the model was trained, in the same course.
    """

    losses: tuple[Loss, ...]
    groups: pd.DataFrame
    ece: float | None
    certain: float | None
    estimate_ratio: float | None
    estimate_ratio_held_out: float | None
    degraded: tuple[str, ...]

    loss: Loss | None
    says: str


def representative(losses: Sequence[Loss]) -> Loss | None:
    """Return the loss that represents the course: the first that has risen, else the first.

    The estimate represents the course only if no label has arrived, for labels are more reliable.
    """
    labelled = [loss for loss in losses if loss.basis is not Basis.ESTIMATE]
    candidates = labelled or list(losses)
    return next((loss for loss in candidates if loss.risen), candidates[0] if candidates else None)


def performance(  # noqa: PLR0913, PLR0917 - the sources of errors
    champion: Champion,
    records: Records,
    snapshots: pd.DataFrame,
    events: tuple[pd.DataFrame, pd.DataFrame] | None,
    estimate: ErrorEstimate | None,
    seed: int,
) -> Performance:
    """Return how good the predictions of one course are on the day of `records`.

    Parameters
    ----------
    snapshots
        Of the course: attributes, and what was certain and possible at each cut.
    events
        Errors of scores (columns student, scored_on, error in points) in the training terms and
        since; None if no expectation of scores could be learned.
    estimate
        Of the champion's errors; its `unseen` are in the order of `champion.held_out`.
    """
    predictions = records.predictions
    realised = predictions.merge(records.outcomes, on=["section_id", "student_id"])
    realised = _with_attributes(realised.assign(phase=phases(realised["progress"])), snapshots)
    realised = grouped(realised, "student_id", champion.bands)
    held_out, unseen = champion.held_out, estimate.unseen if estimate else None
    fresh = realised[~realised["section_id"].isin(champion.sections)]
    running = predictions[predictions["section_id"].isin(records.running["section_id"])]
    newest = running[running["on"] == running.groupby("section_id")["on"].transform("max")]
    losses = [
        _loss(Basis.OUTCOMES, _error(fresh), fresh["student"], _like(held_out, fresh), seed)
        if len(held_out)
        else None,
        _score_loss(events, records.as_of, seed) if events else None,
        _loss(
            Basis.ESTIMATE,
            estimate.of(newest),
            newest["student"],
            _level(held_out, unseen, newest),
            seed,
        )
        if estimate and unseen is not None and len(newest)
        else None,
    ]
    known = tuple(loss for loss in losses if loss)
    loss = representative(known)
    return Performance(
        model=champion.name,
        status="measured" if loss else "nothing known",
        reason="" if loss else "no outcome, no score and no estimate is there yet",
        says=str(loss) if loss and loss.risen else "",
        loss=loss,
        losses=known,
        groups=_groups(realised, held_out, champion.audit, seed),
        ece=expected_calibration_error(realised["risk"], realised["at_risk"])
        if len(realised)
        else None,
        certain=_certain(running, snapshots, records.as_of),
        estimate_ratio=_ratio(estimate.of(realised), _error(realised)) if estimate else None,
        estimate_ratio_held_out=_ratio(unseen, _error(held_out)) if unseen is not None else None,
        degraded=champion.degraded,
    )


def _error(rows: pd.DataFrame) -> Floats:
    return (rows["grade"] - rows["final_grade"]).abs().to_numpy(np.float64)


def _loss(  # noqa: PLR0913, PLR0917 - the inputs of a mean and its interval
    basis: Basis,
    error: Floats,
    student: pd.Series,
    baseline: float | None,
    seed: int,
    shared: float = 0.0,
) -> Loss | None:
    """Return the mean error; `shared` is the standard error that students have in common."""
    known = ~np.isnan(error)
    code = pd.factorize(student[known])[0]
    students = int(code.max(initial=-1)) + 1
    if baseline is None or np.isnan(baseline) or students < SETTINGS.least_students:
        return None
    total, size = np.bincount(code, error[known]), np.bincount(code)
    draws = np.random.default_rng(seed).integers(0, students, (SETTINGS.resamples, students))
    means = total[draws].sum(axis=1) / size[draws].sum(axis=1)
    value = float(error[known].mean())
    below, above = np.quantile(means, [0.025, 0.975]) - value
    low = value - float(np.hypot(below, 1.96 * shared))
    high = value + float(np.hypot(above, 1.96 * shared))
    least = value - SETTINGS.sure / 1.96 * (value - low)
    return Loss(basis, value, low, high, baseline, students, least > (1 + SETTINGS.rise) * baseline)


def _like(held_out: pd.DataFrame, rows: pd.DataFrame) -> float | None:
    """Return the held-out error at the progress (in twentieths) of `rows`, weighted alike."""
    share = (20 * rows["progress"]).round().value_counts(normalize=True)
    place = (20 * held_out["progress"]).round().to_numpy()
    by_place = pd.Series(_error(held_out)).groupby(place).mean().dropna()
    both = share.index.intersection(by_place.index)
    if both.empty:
        return None
    return float((by_place[both] * share[both]).sum() / share[both].sum())


def _level(held_out: pd.DataFrame, unseen: Floats, rows: pd.DataFrame) -> float | None:
    """Return the mean estimate of held-out rows within a twentieth of the progress of `rows`."""
    near = np.zeros(len(held_out), bool)
    for place in rows["progress"].unique():
        near |= (held_out["progress"] - place).abs().to_numpy() < 0.05
    values = unseen[near & ~np.isnan(unseen)]
    return float(values.mean()) if values.size else None


def _score_loss(events: tuple[pd.DataFrame, pd.DataFrame], as_of: object, seed: int) -> Loss | None:
    before, since = events
    recent = since["scored_on"] > pd.Timestamp(as_of) - pd.Timedelta(days=SETTINGS.score_days)  # type: ignore[arg-type]
    now, usual = since[recent], before["error"].abs()
    baseline = float(usual.mean()) if len(usual) else None
    # Scores of an assignment share its difficulty, so a few hard assignments raise the mean error.
    between = usual.groupby([before["section_id"], before["assignment_id"]]).mean().std()
    shared = between / np.sqrt(max(now["assignment_id"].nunique(), 1)) if between > 0 else 0.0
    error = now["error"].abs().to_numpy(np.float64)
    return _loss(Basis.SCORES, error, now["student"], baseline, seed, float(shared))


def _ratio(estimated: Floats, realised: Floats) -> float | None:
    known = ~np.isnan(estimated) & ~np.isnan(realised)
    total = realised[known].sum()
    return float(estimated[known].sum() / total) if total > 0 else None


def _certain(running: pd.DataFrame, snapshots: pd.DataFrame, as_of: object) -> float | None:
    """Return the mean distance of month-old predictions to the grades still possible today."""
    old = running[running["on"] <= pd.Timestamp(as_of) - pd.Timedelta(days=28)]  # type: ignore[arg-type]
    old = old[old["on"] == old.groupby("section_id")["on"].transform("max")]
    keys = ["section_id", "student_id"]
    possible = snapshots[[*keys, "cut_on", "grade_if_nothing_more", "grade_if_all_perfect"]]
    possible = possible[possible["section_id"].isin(old["section_id"].unique())]
    now = possible[possible["cut_on"] <= pd.Timestamp(as_of)].astype(dict.fromkeys(keys, object))  # type: ignore[arg-type]
    now = now[now["cut_on"] == now.groupby("section_id")["cut_on"].transform("max")]
    both = old.astype(dict.fromkeys(keys, object)).merge(now, on=keys)
    if both.empty:
        return None
    # An unknown bound excludes no grade: it is the end of the scale.
    below = both["grade_if_nothing_more"].fillna(0.0) - both["grade"]
    above = both["grade"] - both["grade_if_all_perfect"].fillna(100.0)
    return float(np.fmax(np.fmax(below, above), 0.0).mean())


def _with_attributes(rows: pd.DataFrame, snapshots: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the protected attributes that snapshots hold; no model reads them."""
    names = protected_columns(snapshots.columns).values()
    keys = ["section_id", "student_id"]
    known = snapshots[[*keys, *names]].drop_duplicates(keys, keep="last")
    return rows.astype(dict.fromkeys(keys, object)).merge(
        known.astype(dict.fromkeys(keys, object)), on=keys, how="left"
    )


def _groups(
    realised: pd.DataFrame, held_out: pd.DataFrame, audit: pd.DataFrame, seed: int
) -> pd.DataFrame:
    if realised.empty:
        return pd.DataFrame()
    everywhere = realised.assign(everything="all")
    kinds = {"all": "everything", "phase": "phase", **protected_columns(realised.columns)}
    measured = by_group(everywhere, kinds, seed)
    parts = [audit] if len(audit) else []
    if len(held_out):
        own = held_out.assign(everything="all", student_id=held_out["student"])
        parts.append(by_group(own, {"all": "everything", "phase": "phase"}, seed))
    if not parts:
        return measured
    baseline = pd.concat(parts).reindex(columns=["kind", "group", "rmse", "brier"])
    names = {"rmse": "baseline_rmse", "brier": "baseline_brier"}
    return measured.merge(baseline.rename(columns=names), on=["kind", "group"], how="left")
