"""What protects students from whom an experiment withholds help.

A plan may withhold help from half of the students at most, and until a day that is set beforehand
(`plan.checked`). It is stopped before that when more of them are lost: see `harm`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from grade_ml.experiments.bounds import confidence_sequence
from grade_ml.experiments.comparison import LEAST_UNITS, split
from grade_ml.experiments.outcomes import read_kept
from grade_ml.experiments.plan import NOTHING, Plan
from grade_ml.registry.workspace import Workspace


@dataclass(frozen=True)
class SafetySettings:
    """The judgements about harm, each with its reason."""

    #: Two-sided, over all looks together: of experiments in which withholding does no harm one in
    #: 40 is stopped, which costs an answer; a harm that is not detected costs students a course.
    alpha: float = 0.05
    #: Students lost before anything is reported: of few the difference is not normal, and one in 30
    #: harmless experiments was stopped in simulations, at the very first withdrawals.
    least_lost: int = 30
    #: Students exposed at which harm is detected soonest, a few courses' worth.
    planned_students: int = 1000


SETTINGS = SafetySettings()


def harm(workspace: Workspace, plan: Plan) -> str:
    """Return why an experiment must stop withholding help; empty if it may, or withholds none."""
    withheld = [arm.name for arm in plan.arms if arm.action == NOTHING]
    if not withheld:
        return ""
    kept = read_kept(workspace, plan)
    return harmful(kept["value"], kept["arm"].isin(withheld))


def harmful(kept: pd.Series, withheld: pd.Series) -> str:
    """Return a sentence if withheld help loses significantly more students, else an empty text.

    It is valid at any number of looks (an asymptotic confidence sequence), without a memory of
    earlier looks: the number of exposed students need not be planned.

    Parameters
    ----------
    kept
        Of each exposed student the share, 0-1, of the enrollments that have neither been withdrawn
        from nor failed so far.
    withheld
        Whether help is withheld from the student.
    """
    if (kept < 1).sum() < SETTINGS.least_lost:
        return ""
    comparison = split(kept.to_numpy(np.float64), withheld.to_numpy(bool))
    students = sum(comparison.units)
    (bound,) = confidence_sequence(
        [students],
        [comparison.information],
        SETTINGS.planned_students,
        SETTINGS.alpha,
        2 * LEAST_UNITS,
    )
    if not comparison.z < -bound:
        return ""
    helped, without = (f"{1 - mean:.0%}" for mean in comparison.means)
    return (
        f"help is withheld no longer: {without} of those without it withdrew or failed so far, and "
        f"{helped} of the others"
    )
