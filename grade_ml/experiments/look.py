"""One look at an experiment: the evidence of its labels so far, and the decision by the plan.

Pure: from values to a `Look`. A decision is final once a bound is crossed or all planned labels are
seen; until then, and while a problem or a guardrail blocks it, the experiment continues.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd

from grade_ml.core.errors import ExperimentError
from grade_ml.experiments.bounds import Spending, bounds, confidence_sequence
from grade_ml.experiments.comparison import (
    LEAST_UNITS,
    Comparison,
    SampleRatio,
    paired,
    sample_ratio,
    split,
    usable,
)
from grade_ml.experiments.crossed import crossed
from grade_ml.experiments.guardrails import Guardrail, State, calibration, group_gaps
from grade_ml.experiments.labels import ARMS, Labels
from grade_ml.experiments.outcomes import Outcomes
from grade_ml.experiments.plan import Decision, Kind, Look, Plan
from grade_ml.experiments.segments import Segments, segments
from grade_ml.features.attributes import protected_columns


@dataclass(frozen=True)
class LookSettings:
    """The judgements about looks, each with its reason."""

    #: Students at whose number an open horizon has its lowest bound: two courses of a small campus,
    #: because experiments without a planned number of labels are looked at early.
    open_units: int = 500


SETTINGS = LookSettings()


@dataclass(frozen=True)
class Seen:
    """The input of a look.

    Attributes
    ----------
    labels
        The number of labels behind the values.
    data_version
        Identifies them.
    problems
        Why nothing may be claimed, in addition to those of the comparison.
    sizes
        Of arms among which students are divided; `None` if both arms score all students.
    notes
        Further figures for the reader, by name.
    """

    comparison: Comparison
    labels: int
    data_version: str
    guardrails: Sequence[Guardrail] = ()
    segments: Segments = field(default_factory=lambda: Segments((), ()))
    problems: Sequence[str] = ()
    sizes: SampleRatio | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


def of_labels(plan: Plan, labels: Labels) -> Seen:
    """Return the evidence of the labels of two versions of a model."""
    losses = labels.by_student
    comparison = paired(
        losses["control"], losses["treatment"], labels=len(labels.rows), alpha=plan.alpha
    )
    rows, attributes = _named(labels.by_segment)
    rows = rows.assign(difference=rows["treatment"] - rows["control"])
    # Those whom `paired` compares.
    known = np.asarray(usable(losses[list(ARMS)].to_numpy(np.float64)).all(axis=1))
    counted = rows[rows["student"].isin(losses.index[known])]
    difference = counted["difference"].to_numpy(np.float64)
    comparison = crossed(comparison, difference, counted["student"], counted["item"])
    kinds = ["course", "phase", *attributes]
    by_segment = segments(rows, kinds, value="difference", student="student", alpha=plan.alpha)
    gaps = group_gaps(by_segment.rows, attributes, comparison.means[0], plan.metric.better)
    missing = int(labels.rows[list(ARMS)].isna().any(axis=1).sum())
    return Seen(
        comparison,
        len(labels.rows),
        labels.data_version,
        [*calibration(labels), gaps],
        by_segment,
        notes={"labels_early": labels.early, "labels_stale": labels.stale, "missing": missing},
    )


def of_outcomes(plan: Plan, outcomes: Outcomes, data_version: str) -> Seen:
    """Return the evidence of the labels of two actions."""
    students, (treatment,) = outcomes.students, plan.treatments
    compared = split(
        students["value"],
        students["arm"] == treatment.name,
        students["covariate"],
        labels=len(outcomes.labels),
        alpha=plan.alpha,
    )
    rows, attributes = _named(outcomes.labels)
    by_segment = segments(
        rows.assign(treated=rows["arm"] == treatment.name),
        ["course", "phase", *attributes],
        value="value",
        student="student_id",
        treated="treated",
        alpha=plan.alpha,
    )
    gaps = group_gaps(by_segment.rows, attributes, compared.means[0], plan.metric.better)
    return Seen(
        compared,
        len(outcomes.labels),
        data_version,
        [gaps],
        by_segment,
        sizes=sample_ratio(outcomes.exposed, {arm.name: arm.share for arm in plan.arms}),
        notes=dict(outcomes.excluded),
    )


def _named(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with protected attributes under their own names, and these."""
    protected = protected_columns(rows.columns)
    names = {column: f"attribute {name}" for name, column in protected.items()}
    return rows.rename(columns=names), [*names.values()]


def look(plan: Plan, seen: Seen, earlier: Sequence[Look], as_of: date, looked_at: datetime) -> Look:
    """Return the look at an experiment on a day.

    Parameters
    ----------
    earlier
        The stored looks, the oldest first: the error that they spent is spent.

    Returns
    -------
    Look
        With `Decision.SKIPPED` if no label is new; such a look does not count.

    Raises
    ------
    ExperimentError
        The experiment was looked at on a later day before.
    """
    newest = max((earlier_look.as_of for earlier_look in earlier), default=as_of)
    if as_of < newest:
        raise ExperimentError(
            f"The experiment {plan.experiment_id} was looked at as of {newest}, and the day is "
            f"{as_of} now: earlier looks cannot be taken back.",
            f"Wait until {newest}, or correct the clock (GRADE_ML_AS_OF).",
        )
    comparison = seen.comparison
    last = plan.stops_on is not None and as_of >= plan.stops_on
    fraction = math.nan
    if plan.planned_labels is not None:
        fraction = 1.0 if last else min(seen.labels / plan.planned_labels, 1.0)
    bound = _bound(plan, comparison, fraction, earlier)
    low, high = comparison.interval(bound) if math.isfinite(bound) else (math.nan, math.nan)
    draft = Look(
        as_of=as_of,
        data_version=seen.data_version,
        looked_at=looked_at,
        units=sum(comparison.units) if seen.sizes else comparison.units[0],
        labels=seen.labels,
        fraction=fraction,
        difference=comparison.difference,
        low=low,
        high=high,
        z=comparison.z,
        bound=bound if math.isfinite(bound) else math.nan,
        decision=Decision.CONTINUE,
        reason="",
        figures=_figures(seen),
        segments=tuple(asdict(row) for row in seen.segments.rows),
    )
    if not seen.labels:
        decision, reason = Decision.SKIPPED, "No label has arrived yet."
    elif any(earlier_look.data_version == seen.data_version for earlier_look in earlier):
        decision, reason = Decision.SKIPPED, "No label is new since the last look."
    else:
        decision, reason = _decided(plan, seen, draft)
    return replace(draft, decision=decision, reason=reason)


def _bound(plan: Plan, comparison: Comparison, fraction: float, earlier: Sequence[Look]) -> float:
    """Return the |z| above which this look may claim a difference; infinite if it may not."""
    before = [
        tuple(_known(earlier_look.figures.get(name)) for name in ("information", "smaller_arm"))
        for earlier_look in earlier
    ]
    information = [*(known for known, _ in before), comparison.information]
    if plan.planned_labels is None:
        units = [*(smallest for _, smallest in before), float(min(comparison.units))]
        limits = confidence_sequence(
            units, information, SETTINGS.open_units, plan.alpha, LEAST_UNITS
        )
    else:
        # After a promotion a large harm must be detected early.
        shape = Spending.POCOCK if plan.kind is Kind.WATCH else Spending.OBRIEN_FLEMING
        fractions = [*(earlier_look.fraction for earlier_look in earlier), fraction]
        limits = bounds(fractions, information, plan.alpha, shape)
    return float(limits[-1])


def _known(figure: Any) -> float:
    return math.nan if figure is None else float(figure)


def _decided(plan: Plan, seen: Seen, look: Look) -> tuple[Decision, str]:
    crossed = abs(look.z) > look.bound  # False if either is unknown
    is_better = look.difference * plan.metric.better > 0
    if seen.sizes is not None and seen.sizes.mismatch:
        return Decision.BLOCKED, seen.sizes.reason
    problems = [*seen.comparison.problems, *seen.problems]
    if crossed:
        claim = (
            f"The treatment is {'better' if is_better else 'worse'} by {abs(look.difference):.3g}: "
            f"|z| of {abs(look.z):.2f} is beyond the bound of {look.bound:.2f}."
        )
        against = [*problems]
        if is_better:
            against += [
                f"{guardrail.text}."
                for guardrail in seen.guardrails
                if guardrail.state is State.BROKEN
            ]
        elif plan.kind is Kind.WATCH:
            # The problems of a watch are those of the version that serves: its harm counts anyway.
            against = []
        if against:
            return Decision.BLOCKED, " ".join([claim, "But:", *against])
        return Decision.BETTER if is_better else Decision.WORSE, claim
    if look.fraction >= 1:
        ended = "All planned labels were seen, and no bound was crossed."
        if math.isnan(look.bound):
            ended = "All planned labels were seen, and this look may claim nothing."
            problems = problems or [
                f"Fewer than {LEAST_UNITS} students per arm have a label, or earlier looks spent "
                "all that could be claimed."
            ]
        return Decision.NO_DIFFERENCE, " ".join([ended, *problems])
    return Decision.CONTINUE, " ".join(problems) or _waits(look)


def _waits(look: Look) -> str:
    if math.isnan(look.bound):
        return (
            f"Nothing is claimed before {LEAST_UNITS} students per arm have a label, and not where "
            "hardly any information is new since the last look."
        )
    return f"|z| of {abs(look.z):.2f} is within the bound of {look.bound:.2f}."


def _figures(seen: Seen) -> dict[str, Any]:
    comparison = seen.comparison
    return {
        "information": comparison.information,
        "smaller_arm": min(comparison.units),
        "control": comparison.means[0],
        "treatment": comparison.means[1],
        "standard_error": comparison.standard_error,
        "low_of_this_look_alone": comparison.low,
        "high_of_this_look_alone": comparison.high,
        "p_mean": comparison.p_mean,
        "p_rank": comparison.p_rank,
        "effect": comparison.effect,
        "variance_cut": comparison.variance_cut,
        "excluded": comparison.excluded,
        **seen.notes,
        "problems": [*comparison.problems, *seen.problems],
        "remarks": list(comparison.notes),
        "guardrails": {guardrail.name: guardrail.row for guardrail in seen.guardrails},
        "interactions": [asdict(interaction) for interaction in seen.segments.interactions],
        **({"sample_ratio": _sizes(seen.sizes)} if seen.sizes else {}),
    }


def _sizes(sizes: SampleRatio) -> dict[str, Any]:
    return {
        "units": " / ".join(f"{count:,}" for count in sizes.units),
        "expected": " / ".join(f"{count:,.0f}" for count in sizes.expected),
        "p": sizes.p,
    }
