"""Small sections made by hand, and forecasts of them, with known laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from grade_ml.early_warning.grade_paths import standing
from grade_ml.forecasting.contract import Panel
from grade_ml.forecasting.panels import day_of

NAMES = (
    *("assignments_due", "assignments_submitted", "missed_streak", "score_last_step"),
    *("days_since_activity", "grade_if_all_perfect", "activity_last_7", "activity_last_28"),
)


def panel(
    students: int = 40,
    assignments: int = 6,
    day: float = 45.0,
    *,
    seed: int = 0,
    section: str = "s1",
    started_on: int = 20_000,
    share: float = 0.8,
) -> Panel:
    """A section with an assignment due every second week, and what came in the end.

    A student hands in with probability about `share` and scores around a level of their own; both
    go together. Every student is active on about two thirds of the days.
    """
    random = np.random.default_rng([seed, students, assignments])
    level = random.normal(0, 1, students)
    due = 14.0 * np.arange(1, assignments + 1)
    chance = 1 / (1 + np.exp(-(np.log(share / (1 - share)) + level)))
    handed_in = random.uniform(size=(students, assignments)) < chance[:, None]
    score = np.clip(65 + 12 * level[:, None] + random.normal(0, 8, (students, assignments)), 0, 100)
    score = np.where(handed_in, score, 0.0)
    past = due <= day
    weight = np.full(assignments, 100 / assignments)
    known = np.where(past, score, np.nan)
    earned = np.nansum(known * weight, axis=1) / 100
    missed = past & ~handed_in
    streak = np.array([_streak(row[past]) for row in handed_in])
    active = random.poisson(20, (students, 2))
    features = np.column_stack(
        [
            np.full(students, past.sum()),
            (past & handed_in).sum(axis=1),
            streak,
            np.zeros(students),
            random.integers(0, 4, students),
            earned + weight[~past].sum(),
            active[:, 0],
            active[:, 0] + 3 * active[:, 1],
        ]
    ).astype(np.float32)
    assert missed.shape == known.shape
    return Panel(
        course_id="c",
        section_id=section,
        day=day,
        length=14.0 * assignments + 14,
        started_on=float(started_on),
        students=np.array([f"u{n:04d}" for n in range(students)], dtype=object),
        assignments=np.array([f"{section}-a{n}" for n in range(assignments)], dtype=object),
        due_day=due,
        weight=weight,
        category=np.array(["TMA"] * assignments, dtype=object),
        score=known,
        submitted=np.where(past, handed_in.astype(float), np.nan),
        exempt=np.zeros(score.shape, bool),
        pass_mark=40.0,
        class_submitted=np.where(past, handed_in.mean(axis=0), np.nan),
        class_score=np.full(assignments, np.nan),
        features=features,
        feature_names=NAMES,
        truth=score,
        truth_submitted=handed_in.astype(float),
    )


def _streak(handed_in: np.ndarray) -> int:
    return int(np.argmax(handed_in[::-1])) if handed_in.any() else len(handed_in)


def forecasts(class_panel: Panel, noise: float = 10.0, share: float | None = None) -> pd.DataFrame:
    """Honest forecasts: from the rate of handing in and the mean of what was handed in.

    `share` gives every student that probability of handing in instead.
    """
    past, left = class_panel.past, class_panel.remaining
    handed_in = (class_panel.submitted[:, past] > 0).sum(axis=1)
    chance = (handed_in + 3.2) / (len(past) + 4)
    chance = np.full(len(chance), share) if share is not None else chance
    level = (class_panel.score[:, past].sum(axis=1) + 2 * 65) / (handed_in + 2)
    student, place = np.meshgrid(range(len(class_panel.students)), range(len(left)), indexing="ij")
    student, place = student.ravel(), place.ravel()
    p, m = chance[student], level[student]

    def quantile(u: float) -> np.ndarray:
        from scipy.special import ndtri

        inside = np.clip((u - (1 - p)) / p, 1e-3, 1 - 1e-3)
        return np.where(u < 1 - p, 0.0, np.clip(m + noise * ndtri(inside), 0, 100))

    return pd.DataFrame(
        {
            "course_id": class_panel.course_id,
            "section_id": class_panel.section_id,
            "student_id": class_panel.students[student],
            "assignment_id": class_panel.assignments[left][place],
            "horizon": place + 1,
            "due_day": class_panel.due_day[left][place],
            "weight": class_panel.weight[left][place],
            "mean": p * m,
            "median": quantile(0.5),
            "submit_probability": p,
            "low80": quantile(0.1),
            "high80": quantile(0.9),
            "low95": quantile(0.025),
            "high95": quantile(0.975),
            "method": "slot",
            "as_of": day_of(class_panel),
        }
    ).sort_values(["student_id", "horizon"], ignore_index=True)


def later(class_panel: Panel, day: float) -> Panel:
    """The same section on a later day."""
    past = class_panel.due_day <= day
    return replace(
        class_panel,
        day=day,
        score=np.where(past, class_panel.truth, np.nan),
        submitted=np.where(past, class_panel.truth_submitted, np.nan),
    )


def single(probabilities: list[float], scores: list[float], **settled: Any) -> tuple[Any, Any]:
    """One student's forecasts, one assignment a week, and the state of the student."""
    student_panel = panel(students=1, assignments=len(scores) + 1, day=14.0)
    frame = forecasts(student_panel).iloc[: len(scores)].copy()
    frame["due_day"] = student_panel.day + 7.0 * np.arange(1, len(scores) + 1)
    frame["submit_probability"] = probabilities
    for name in ("mean", "median", "low80", "high80", "low95", "high95"):
        frame[name] = scores
    frame["mean"] = np.array(probabilities) * np.array(scores)
    return frame, standing([student_panel]).assign(**settled)
