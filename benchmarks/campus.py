"""How similar the simulated campus is to OULAD: the margins of both, side by side.

Usage: `python benchmarks/campus.py [--oulad DIR] [--students N]`. OULAD is loaded by the project's
loader into an embedded PostgreSQL of its own; the campus is made in memory. Only finished sections
count. Prints the table of `docs/simulated-campus.md`; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from datetime import date
from pathlib import Path

import pandas as pd

from grade_ml.campus.simulated import Campus, CampusConfig, gradebook
from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import Gradebook
from out_of_time import OULAD, read_oulad

TODAY = date(2026, 11, 24)
ENROLLMENT = ["section_id", "student_id"]
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def main() -> None:
    """Print both columns, then everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oulad", type=Path, default=OULAD)
    parser.add_argument("--students", type=int, default=4000)
    arguments = parser.parse_args()
    config = CampusConfig(students=arguments.students, courses=24, terms=6)
    table = pd.DataFrame(
        {
            "OULAD": margins(read_oulad(arguments.oulad)),
            "simulated": margins(gradebook(config, TODAY)),
        }
    )
    print("| | OULAD | simulated |\n|---|---|---|")
    for name, oulad_value, simulated_value in table.itertuples():
        print(f"| {name} | {_shown(oulad_value)} | {_shown(simulated_value)} |")
    print(json.dumps({**table.round(4).to_dict(), "generation": _speed()}))


def margins(gradebook: Gradebook) -> dict[str, float]:
    """Return the figures of the finished sections; lags and grades in days and points."""
    sections = gradebook.sections[gradebook.sections["ends_on"] < pd.Timestamp(TODAY)]
    enrollments = gradebook.enrollments.merge(sections, on="section_id")
    assignments = _counting(gradebook)
    expected = enrollments.merge(
        assignments[["section_id", "assignment_id", "due_on", "weight"]], on="section_id"
    ).merge(gradebook.results, on=["assignment_id", "student_id"], how="left")
    expected = expected.sort_values([*ENROLLMENT, "due_on", "assignment_id"])
    length = (enrollments["ends_on"] - enrollments["starts_on"]).dt.days
    left_after = (enrollments["withdrawn_on"] - enrollments["starts_on"]).dt.days
    staying = expected[~(expected["withdrawn_on"] <= expected["due_on"])]
    missing = staying["submitted_on"].isna()
    scores = expected.dropna(subset="score")
    lag = (scores["submitted_on"] - scores["due_on"]).dt.days
    outcome = enrollments["outcome"].value_counts(normalize=True)
    points = (expected["score"].fillna(0) * expected["weight"]).groupby(_keys(expected)).sum()
    grade = points / expected["weight"].groupby(_keys(expected)).sum()
    finishers = enrollments.loc[enrollments["outcome"] != "withdrawn", ENROLLMENT]
    finisher_grade = grade.reindex(pd.MultiIndex.from_frame(finishers))
    recorded = enrollments["section_id"].isin(gradebook.activity["section_id"])
    active_weeks = _active_weeks(gradebook, enrollments[recorded])
    return {
        "enrollments": len(enrollments),
        "assignments per section": len(assignments) / assignments["section_id"].nunique(),
        **{f"outcome {name}": outcome.get(name, 0.0) for name in schema.Outcome},
        "withdrawals before the start": (left_after < 0).sum() / left_after.notna().sum(),
        "withdrawal, median share of the term": (left_after / length)[left_after >= 0].median(),
        "work missing, of that due before withdrawal": missing.mean(),
        "missing, autocorrelation": _autocorrelation(staying, missing.astype(float)),
        "score, mean": scores["score"].mean(),
        "score, SD": scores["score"].std(),
        **_quantiles("score", scores["score"]),
        "score, autocorrelation": _autocorrelation(scores, scores["score"]),
        "late, share": (lag > 0).mean(),
        **_quantiles("days after due", lag),
        "final grade, mean": grade.mean(),
        "final grade, SD": grade.std(),
        **_quantiles("final grade", grade),
        "final grade without withdrawn, mean": finisher_grade.mean(),
        "final grade without withdrawn, SD": finisher_grade.std(),
        **_quantiles("final grade without withdrawn", finisher_grade),
        "weeks with activity, share": 7 * active_weeks.mean() / length[recorded].mean(),
        "weeks with activity and final grade, correlation": active_weeks.corr(grade),
    }


def _counting(gradebook: Gradebook) -> pd.DataFrame:
    """Return coursework, and exams that have results, with weights that count."""
    assignments = gradebook.assignments
    exam = assignments["category"].str.lower() == schema.EXAM_CATEGORY
    graded = assignments["assignment_id"].isin(gradebook.results["assignment_id"])
    counting = assignments[~exam | graded].copy()
    total = counting.groupby("section_id")["weight"].transform("sum")
    counting["weight"] = counting["weight"].where(total > 0, 1.0)
    return counting


def _active_weeks(gradebook: Gradebook, enrollments: pd.DataFrame) -> pd.Series:
    """Return weeks from the start on with any activity, per enrollment."""
    keys = enrollments[[*ENROLLMENT, "starts_on"]]
    activity = gradebook.activity.merge(keys, on=ENROLLMENT)
    week = (activity["day"] - activity["starts_on"]).dt.days // 7
    counted = week[week >= 0].groupby(_keys(activity)).nunique()
    return counted.reindex(pd.MultiIndex.from_frame(enrollments[ENROLLMENT]), fill_value=0)


def _keys(frame: pd.DataFrame) -> list[pd.Series]:
    return [frame[name] for name in ENROLLMENT]


def _autocorrelation(frame: pd.DataFrame, values: pd.Series) -> float:
    """Return the correlation with the same enrollment's value before; rows in order of time."""
    return float(values.corr(values.groupby(_keys(frame)).shift()))


def _quantiles(name: str, values: pd.Series) -> dict[str, float]:
    return {f"{name}, {100 * q:.0f} %": values.quantile(q) for q in QUANTILES}


def _speed() -> dict[str, float]:
    """Return rows of a campus of about a million results and the seconds it took to make them."""
    campus = Campus(CampusConfig(students=26_000), TODAY)
    start = time.perf_counter()
    rows: Counter[str] = Counter()
    for table, frame in campus.batches():
        rows[table] += len(frame)
    seconds = time.perf_counter() - start
    return {"results": rows["result"], "rows": rows.total(), "seconds": round(seconds, 2)}


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) > 1000 else f"{value:.3g}"


if __name__ == "__main__":
    main()
