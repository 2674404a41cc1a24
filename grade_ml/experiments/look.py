"""One look at an experiment: what its labels say by now, and what follows by the plan.

Pure: from values to a `Look`. A decision is final once a bound is crossed or all planned labels are
seen; until then, and where something forbids it, the experiment goes on.
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
    #: for whoever plans no number of labels looks early.
    open_units: int = 500


SETTINGS = LookSettings()


@dataclass(frozen=True)
class Seen:
    """What is seen at a look.

    Attributes
    ----------
    labels
        What the values are made of.
    data_version
        Tells them from any others.
    problems
        Why nothing may be claimed, beside those of the comparison.
    sizes
        Of arms among which students are divided; None: both arms score everybody.
    notes
        What else a reader has to know, by name.
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
    """Return what the labels of a comparison of two versions of a model show."""
    losses = labels.by_student
    found = paired(
        losses["control"], losses["treatment"], labels=len(labels.rows), alpha=plan.alpha
    )
    told, attributes = _named(labels.by_segment)
    told = told.assign(difference=told["treatment"] - told["control"])
    # Those whom `paired` compares.
    known = np.asarray(usable(losses[list(ARMS)].to_numpy(np.float64)).all(axis=1))
    counted = told[told["student"].isin(losses.index[known])]
    difference = counted["difference"].to_numpy(np.float64)
    found = crossed(found, difference, counted["student"], counted["item"])
    kinds = ["course", "phase", *attributes]
    where = segments(told, kinds, value="difference", student="student", alpha=plan.alpha)
    gaps = group_gaps(where.rows, attributes, found.means[0], plan.metric.better)
    missing = int(labels.rows[list(ARMS)].isna().any(axis=1).sum())
    return Seen(
        found,
        len(labels.rows),
        labels.data_version,
        [*calibration(labels), gaps],
        where,
        notes={"labels_early": labels.early, "labels_stale": labels.stale, "missing": missing},
    )


def of_outcomes(plan: Plan, found: Outcomes, data_version: str) -> Seen:
    """Return what the labels of a comparison of two actions show."""
    students, (treatment,) = found.students, plan.treatments
    compared = split(
        students["value"],
        students["arm"] == treatment.name,
        students["covariate"],
        labels=len(found.labels),
        alpha=plan.alpha,
    )
    told, attributes = _named(found.labels)
    where = segments(
        told.assign(treated=told["arm"] == treatment.name),
        ["course", "phase", *attributes],
        value="value",
        student="student_id",
        treated="treated",
        alpha=plan.alpha,
    )
    gaps = group_gaps(where.rows, attributes, compared.means[0], plan.metric.better)
    return Seen(
        compared,
        len(found.labels),
        data_version,
        [gaps],
        where,
        sizes=sample_ratio(found.exposed, {arm.name: arm.share for arm in plan.arms}),
        notes=dict(found.excluded),
    )


def _named(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with protected attributes under their own names, and these."""
    protected = protected_columns(rows.columns)
    names = {column: f"attribute {name}" for name, column in protected.items()}
    return rows.rename(columns=names), [*names.values()]


def look(plan: Plan, seen: Seen, earlier: Sequence[Look], as_of: date, looked_at: datetime) -> Look:
    """Return what is to be said of an experiment today.

    Parameters
    ----------
    earlier
        The looks that are stored, the oldest first: what they spent is spent.

    Returns
    -------
    Look
        With `Decision.SKIPPED` where no label is new; such a look counts for nothing.

    Raises
    ------
    ExperimentError
        The experiment was looked at on a later day before.
    """
    newest = max((one.as_of for one in earlier), default=as_of)
    if as_of < newest:
        raise ExperimentError(
            f"The experiment {plan.experiment_id} was looked at as of {newest}, and the day is "
            f"{as_of} now: what was spent on looks cannot be taken back.",
            f"Wait until {newest}, or correct the clock (GRADE_ML_AS_OF).",
        )
    found = seen.comparison
    last = plan.stops_on is not None and as_of >= plan.stops_on
    fraction = math.nan
    if plan.planned_labels is not None:
        fraction = 1.0 if last else min(seen.labels / plan.planned_labels, 1.0)
    bound = _bound(plan, found, fraction, earlier)
    low, high = found.interval(bound) if math.isfinite(bound) else (math.nan, math.nan)
    told = Look(
        as_of=as_of,
        data_version=seen.data_version,
        looked_at=looked_at,
        units=sum(found.units) if seen.sizes else found.units[0],
        labels=seen.labels,
        fraction=fraction,
        difference=found.difference,
        low=low,
        high=high,
        z=found.z,
        bound=bound if math.isfinite(bound) else math.nan,
        decision=Decision.CONTINUE,
        reason="",
        figures=_figures(seen),
        segments=tuple(asdict(one) for one in seen.segments.rows),
    )
    if not seen.labels:
        decision, reason = Decision.SKIPPED, "No label has arrived yet."
    elif any(one.data_version == seen.data_version for one in earlier):
        decision, reason = Decision.SKIPPED, "No label is new since the last look."
    else:
        decision, reason = _decided(plan, seen, told)
    return replace(told, decision=decision, reason=reason)


def _bound(plan: Plan, found: Comparison, fraction: float, earlier: Sequence[Look]) -> float:
    """Return the |z| above which this look may claim a difference; infinite: it may not."""
    before = [
        tuple(_known(one.figures.get(name)) for name in ("information", "smaller_arm"))
        for one in earlier
    ]
    information = [*(one for one, _ in before), found.information]
    if plan.planned_labels is None:
        units = [*(one for _, one in before), float(min(found.units))]
        limits = confidence_sequence(
            units, information, SETTINGS.open_units, plan.alpha, LEAST_UNITS
        )
    else:
        # After a promotion a large harm is to be seen early.
        shape = Spending.POCOCK if plan.kind is Kind.WATCH else Spending.OBRIEN_FLEMING
        fractions = [*(one.fraction for one in earlier), fraction]
        limits = bounds(fractions, information, plan.alpha, shape)
    return float(limits[-1])


def _known(figure: Any) -> float:
    return math.nan if figure is None else float(figure)


def _decided(plan: Plan, seen: Seen, told: Look) -> tuple[Decision, str]:
    crossed = abs(told.z) > told.bound  # neither is where one is unknown
    is_better = told.difference * plan.metric.better > 0
    if seen.sizes is not None and seen.sizes.mismatch:
        return Decision.BLOCKED, seen.sizes.reason
    problems = [*seen.comparison.problems, *seen.problems]
    if crossed:
        said = (
            f"The treatment is {'better' if is_better else 'worse'} by {abs(told.difference):.3g}: "
            f"|z| of {abs(told.z):.2f} is beyond the bound of {told.bound:.2f}."
        )
        against = [*problems]
        if is_better:
            against += [f"{one.says}." for one in seen.guardrails if one.state is State.BROKEN]
        elif plan.kind is Kind.WATCH:
            # What makes a watch doubtful is in the version that serves: its harm is acted on.
            against = []
        if against:
            return Decision.BLOCKED, " ".join([said, "But:", *against])
        return Decision.BETTER if is_better else Decision.WORSE, said
    if told.fraction >= 1:
        ended = "All planned labels were seen, and no bound was crossed."
        if math.isnan(told.bound):
            ended = "All planned labels were seen, and this look may claim nothing."
            problems = problems or [
                f"Fewer than {LEAST_UNITS} students per arm have a label, or earlier looks spent "
                "all that could be claimed."
            ]
        return Decision.NO_DIFFERENCE, " ".join([ended, *problems])
    return Decision.CONTINUE, " ".join(problems) or _waits(told)


def _waits(told: Look) -> str:
    if math.isnan(told.bound):
        return (
            f"Nothing is claimed before {LEAST_UNITS} students per arm have a label, and not where "
            "hardly any information is new since the last look."
        )
    return f"|z| of {abs(told.z):.2f} is within the bound of {told.bound:.2f}."


def _figures(seen: Seen) -> dict[str, Any]:
    found = seen.comparison
    return {
        "information": found.information,
        "smaller_arm": min(found.units),
        "control": found.means[0],
        "treatment": found.means[1],
        "standard_error": found.standard_error,
        "low_of_this_look_alone": found.low,
        "high_of_this_look_alone": found.high,
        "p_mean": found.p_mean,
        "p_rank": found.p_rank,
        "effect": found.effect,
        "variance_cut": found.variance_cut,
        "excluded": found.excluded,
        **seen.notes,
        "problems": [*found.problems, *seen.problems],
        "remarks": list(found.notes),
        "guardrails": {one.name: one.row for one in seen.guardrails},
        "interactions": [asdict(one) for one in seen.segments.interactions],
        **({"sample_ratio": _sizes(seen.sizes)} if seen.sizes else {}),
    }


def _sizes(sizes: SampleRatio) -> dict[str, Any]:
    return {
        "units": " / ".join(f"{one:,}" for one in sizes.units),
        "expected": " / ".join(f"{one:,.0f}" for one in sizes.expected),
        "p": sizes.p,
    }
