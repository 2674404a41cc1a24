"""Snapshots with a known truth, made without a gradebook: ability drives grade and risk."""

import numpy as np
import pandas as pd

from grade_ml.features.snapshots import NUMERIC_FEATURES

#: Features without information; the others are left out, since each costs every fit its time.
NOISE = NUMERIC_FEATURES[1::8]


def snapshots(
    sections: int = 6, students: int = 60, weeks: int = 8, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (snapshots, outcomes); a student takes one section of each of two courses."""
    random = np.random.default_rng(seed)
    enrollments = pd.DataFrame(
        {
            "section_id": np.repeat([f"section {i}" for i in range(sections)], students),
            "student_id": [
                f"s{(i // 2) * students + j}" for i in range(sections) for j in range(students)
            ],
            "course_id": np.repeat([f"course {i % 2}" for i in range(sections)], students),
            "protected_gender": random.choice(["F", "M"], sections * students),
            "attribute_region": random.choice(["north", "south", "east"], sections * students),
            "attribute_studied_credits": random.choice([30.0, 60.0], sections * students),
        }
    )
    ability = random.normal(60, 18, len(enrollments)).clip(0, 100)
    enrollments["final_grade"] = (ability + random.normal(0, 6, len(enrollments))).clip(0, 100)
    enrollments["at_risk"] = enrollments["final_grade"] + random.normal(0, 8, len(ability)) < 45
    rows = enrollments.assign(ability=ability).merge(
        pd.DataFrame({"cut_day": np.arange(1, weeks + 1) * 7.0}), how="cross"
    )
    rows["progress"] = rows["cut_day"] / (weeks * 7)
    for name in NOISE:
        rows[name] = random.normal(size=len(rows))
    noise = random.normal(0, 30, len(rows)) * (1 - rows["progress"])
    rows["grade_rate_so_far"] = (rows["ability"] + noise).clip(0, 100)
    rows["grade_if_nothing_more"] = rows["grade_rate_so_far"] * rows["progress"]
    rows["weight_remaining"] = 100 * (1 - rows["progress"])
    rows["grade_if_all_perfect"] = rows["grade_if_nothing_more"] + rows["weight_remaining"]
    rows["course_grade_mean"] = rows["course_id"].map({"course 0": 62.0})
    began = rows["section_id"].str[-1].astype(int) // 2 * pd.Timedelta(days=120)
    rows["cut_on"] = pd.Timestamp("2024-01-08") + began + pd.to_timedelta(rows["cut_day"], "D")
    numbers = [name for name in NUMERIC_FEATURES if name in rows]
    rows[numbers] = rows[numbers].astype("float32")
    for name in ("section_id", "student_id", "course_id", "protected_gender", "attribute_region"):
        rows[name] = rows[name].astype("category")
    truth = ["section_id", "student_id", "final_grade", "at_risk"]
    outcomes = enrollments[truth].assign(pass_mark=40.0)
    return rows.drop(columns=["final_grade", "at_risk", "ability"]), outcomes


def coarse(data: tuple[pd.DataFrame, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Round features to less than 255 values each: scikit-learn bins them in half the time."""
    frame, truth = data
    grades = [name for name in frame if str(name).startswith("grade_")]
    rounded = {name: (frame[name] * 2).round() / 2 for name in grades}
    noise = {name: frame[name].round(1) for name in NOISE if name not in grades}
    return frame.assign(**rounded, **noise), truth
