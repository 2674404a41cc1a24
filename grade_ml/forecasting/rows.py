"""Numbers that describe a student beside one remaining assignment, for the global models.

Protected attributes are not among them: only records of the gradebook are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from grade_ml.forecasting.contract import Floats, Panel
from grade_ml.forecasting.panels import mean_known
from grade_ml.forecasting.slots import Slots, ranks

Rows = npt.NDArray[np.float32]

_ABOUT_WORK = (
    *("horizon", "to_come", "gap", "due_share", "due_weight", "weight_of_rest"),
    *("rank", "rank_of", "slot_submit", "slot_score", "expected_here"),
)
_ABOUT_BOTH = (
    *("ahead", "own_submit", "own_score", "own_last", "own_due", "above_class"),
    *("class_submit", "class_score", "hoped_score", "last_same_submitted"),
)
_ABOUT_STUDENT = (
    *("last_1", "last_2", "last_3", "handed_1", "handed_2", "handed_3"),
    *("mean_points", "submit_share", "recent_submit", "relative_score", "relative_submit"),
)


#: What identifies a section, and so invites a model to learn sections by heart: on
#: held-out sections of OULAD the RMSE is 27.14 without and 27.27 with them.
_OF_SECTION = (
    *("class_size", "days_passed", "days_remaining"),
    *("course_sections", "course_grade_mean", "course_at_risk_share"),
)


def names(panel: Panel) -> list[str]:
    """Return the names of the columns of `rows`."""
    features = [panel.feature_names[place] for place in _kept(panel)]
    return [*_ABOUT_WORK, *_ABOUT_BOTH, *_ABOUT_STUDENT, *features]


def rows(panel: Panel, slots: Slots) -> Rows:
    """Return (n, r, p): for each student and remaining assignment the columns `names`."""
    n, r = panel.shape
    features = panel.features[:, _kept(panel)]
    student, relative = _student(panel)
    parts: list[npt.NDArray[Any]] = [
        np.broadcast_to(_work(panel, slots), (n, r, len(_ABOUT_WORK))),
        _both(panel, slots, relative),
        np.broadcast_to(student[:, None], (n, r, len(_ABOUT_STUDENT))),
        np.broadcast_to(features[:, None], (n, r, features.shape[1])),
    ]
    return np.concatenate(parts, axis=2, dtype=np.float32)


def _kept(panel: Panel) -> list[int]:
    """Return the places of the features that are used."""
    return [k for k, name in enumerate(panel.feature_names) if name not in _OF_SECTION]


def _work(panel: Panel, slots: Slots) -> Floats:
    place, r = panel.remaining, panel.shape[1]
    submit, score, _ = (values[place] for values in slots.of(panel))
    rank, size = (values[place] for values in ranks(panel))
    rest = panel.weight[place].sum()
    return np.stack(
        [
            np.arange(1, r + 1),
            np.full(r, r),
            panel.due_day[place] - panel.day,
            panel.due_day[place] / max(panel.length, 1),
            panel.weight[place],
            panel.weight[place] / max(rest, 1e-9),
            rank,
            size,
            submit,
            score,
            submit * score,
        ],
        axis=1,
    ).astype(np.float64)


def _both(panel: Panel, slots: Slots, relative: Floats) -> Floats:
    """Return (n, r, …): the student's and the class's record in the assignment's category."""
    n, r = panel.shape
    columns = np.full((n, r, len(_ABOUT_BOTH)), np.nan)
    expected = slots.of(panel)[1][panel.remaining]
    for category in set(panel.category[panel.remaining].tolist()):
        targets = np.flatnonzero(panel.category[panel.remaining] == category)
        past = panel.past[panel.category[panel.past] == category]
        handed_in, score = panel.submitted[:, past], panel.score[:, past]
        given = np.where(handed_in == 1, score, np.nan)
        above = mean_known(given - panel.class_score[past], 1)
        own = [
            mean_known(handed_in, 1),
            mean_known(given, 1),
            score[:, -1] if len(past) else np.full(n, np.nan),
            np.full(n, float(len(past))),
            above,
            np.full(n, mean_known(panel.class_submitted[past], 0)),
            np.full(n, mean_known(panel.class_score[past], 0)),
        ]
        columns[:, targets, 1:8] = np.stack(own, axis=1)[:, None]
        if len(past):
            columns[:, targets, 9] = handed_in[:, -1:]
        level = np.where(np.isnan(above), relative, above)
        # Nothing puts a student without a score above or below the class: the class's level holds.
        columns[:, targets, 8] = expected[targets] + np.nan_to_num(level)[:, None]
    columns[:, :, 0] = panel.submitted[:, panel.remaining] == 1
    return columns


def _student(panel: Panel) -> tuple[Floats, Floats]:
    """Return (n, …) of the student alone, and (n,) the mean distance to the class's scores."""
    past = panel.past
    n = len(panel.students)
    score, handed_in = panel.score[:, past], panel.submitted[:, past]
    padded = [np.hstack([np.full((n, 3), np.nan), values])[:, -3:] for values in (score, handed_in)]
    given = np.where(handed_in == 1, score, np.nan)
    relative = mean_known(given - panel.class_score[past], 1)
    columns = [
        *padded[0].T[::-1],
        *padded[1].T[::-1],
        mean_known(score, 1),
        mean_known(handed_in, 1),
        mean_known(padded[1], 1),
        relative,
        mean_known(handed_in - panel.class_submitted[past], 1),
    ]
    return np.stack(columns, axis=1), relative
