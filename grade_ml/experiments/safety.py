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
    #: 40 is stopped, which costs an answer; a harm that is not seen costs students a course.
    alpha: float = 0.05
    #: Students lost before anything is said: of few the difference is no normal variable, and one
    #: in 30 harmless experiments was stopped in simulations, at the very first withdrawals.
    least_lost: int = 30
    #: Students exposed where harm is seen soonest, a few courses' worth.
    planned_students: int = 1000


SETTINGS = SafetySettings()


def harm(workspace: Workspace, plan: Plan) -> str:
    """Return why an experiment must withhold help no longer; empty: it may, or withholds none."""
    withheld = [arm.name for arm in plan.arms if arm.action == NOTHING]
    if not withheld:
        return ""
    kept = read_kept(workspace, plan)
    return harmful(kept["value"], kept["arm"].isin(withheld))


def harmful(kept: pd.Series, withheld: pd.Series) -> str:
    """Return in words that surely more are lost where help is withheld; empty: not surely.

    It holds however often one looks (an asymptotic confidence sequence), without a memory of
    earlier looks: nobody has to plan how many students will be exposed.

    Parameters
    ----------
    kept
        Of each exposed student the share, 0-1, of the enrollments that have neither been withdrawn
        from nor failed so far.
    withheld
        Whether nothing is done for the student.
    """
    if (kept < 1).sum() < SETTINGS.least_lost:
        return ""
    found = split(kept.to_numpy(np.float64), withheld.to_numpy(bool))
    students = sum(found.units)
    (bound,) = confidence_sequence(
        [students],
        [found.information],
        SETTINGS.planned_students,
        SETTINGS.alpha,
        2 * LEAST_UNITS,
    )
    if not found.z < -bound:
        return ""
    others, these = (f"{1 - mean:.0%}" for mean in found.means)
    return (
        f"help is withheld no longer: {these} of those without it withdrew or failed so far, and "
        f"{others} of the others"
    )
