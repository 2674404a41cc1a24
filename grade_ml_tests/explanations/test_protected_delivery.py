"""A OneRoster delivery with demographics, from its files to a model, its card and the audit."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine

from grade_ml.ensemble import baseline
from grade_ml.explanations.fairness import fairness, with_attributes
from grade_ml.features.snapshots import NUMERIC_FEATURES, grade_snapshots, weekly_cuts
from grade_ml.gradebook import frames, oneroster
from grade_ml.gradebook.attributes import SOURCES, Declarations, declarations
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import Institution, Use
from grade_ml.gradebook.loading import load
from grade_ml_tests.factories import PSEUDONYMS

TODAY = date(2025, 3, 1)
STUDENTS = 160
PROTECTED = {
    *("protected_asian", "protected_birthYear", "protected_sex", "protected_white"),
    *("protected_hispanicOrLatinoEthnicity", "protected_countryOfBirthCode"),
}


def delivery(folder: Path, seed: int = 0) -> Path:
    """Write a class of last autumn with facts of its students that no model may know."""
    random = np.random.default_rng(seed)
    ids = [f"s{i}" for i in range(STUDENTS)]
    files: dict[str, pd.DataFrame] = {
        "academicSessions": pd.DataFrame(
            {"sourcedId": ["t"], "title": "Autumn", "type": "term", "startDate": "2024-09-02"}
        ).assign(endDate="2024-12-20"),
        "courses": pd.DataFrame({"sourcedId": ["c"], "title": "Logic"}),
        "classes": pd.DataFrame(
            {"sourcedId": ["k"], "courseSourcedId": "c", "termSourcedIds": "t"}
        ),
        "users": pd.DataFrame(
            {
                "sourcedId": ids,
                "role": "student",
                "metadata.entryRoute": random.choice(["school", "work"], STUDENTS),
                "metadata.homeAddress": [f"{i} High Street" for i in range(STUDENTS)],
            }
        ),
        "demographics": pd.DataFrame(
            {
                "sourcedId": ids,
                "birthDate": [f"{year}-05-17" for year in random.integers(1985, 2007, STUDENTS)],
                "sex": random.choice(["female", "male"], STUDENTS),
                "asian": random.choice(["true", "false"], STUDENTS),
                "white": random.choice(["true", "false"], STUDENTS),
                "hispanicOrLatinoEthnicity": random.choice(["true", "false"], STUDENTS),
                "countryOfBirthCode": random.choice(["US", "MX"], STUDENTS),
                "cityOfBirth": random.choice(["Springfield", "Oaxaca"], STUDENTS),
                "metadata.faith": random.choice(["a", "b"], STUDENTS),
            }
        ),
        "enrollments": pd.DataFrame(
            {"classSourcedId": "k", "userSourcedId": ids, "role": "student"}
        ),
        "categories": pd.DataFrame({"sourcedId": ["h"], "title": "Homework"}),
        "lineItems": pd.DataFrame(
            {"sourcedId": ["l1", "l2"], "title": "Sheet", "dueDate": ["2024-10-01", "2024-12-01"]}
        ).assign(classSourcedId="k", categorySourcedId="h", resultValueMin=0, resultValueMax=100),
    }
    scores = random.integers(20, 100, 2 * STUDENTS)
    files["results"] = pd.DataFrame(
        {"lineItemSourcedId": np.repeat(["l1", "l2"], STUDENTS), "studentSourcedId": ids * 2}
    ).assign(scoreStatus="fully graded", score=scores)
    files["results"]["scoreDate"] = np.repeat(["2024-10-05", "2024-12-05"], STUDENTS)
    folder.mkdir()
    properties = {"manifest.version": "1.0", "oneroster.version": "1.1"}
    for name, rows in files.items():
        rows.to_csv(folder / f"{name}.csv", index=False)
        properties[f"file.{name}"] = "bulk"
    manifest = pd.DataFrame(properties.items(), columns=["propertyName", "value"])
    manifest.to_csv(folder / "manifest.csv", index=False)
    return folder


@pytest.fixture
def gradebook(engine: Engine, tmp_path: Path) -> Gradebook:
    report = load(
        engine,
        oneroster.bundle(delivery(tmp_path / "delivery"), TODAY, Institution()),
        loaded_at=datetime(2025, 3, 1, tzinfo=UTC),
    )
    assert report.quarantined == 0
    with engine.connect() as connection:
        return frames.read(connection)


def described(gradebook: Gradebook, declared: Declarations) -> pd.DataFrame:
    cuts = weekly_cuts(gradebook.sections, TODAY)
    return grade_snapshots(gradebook, cuts, TODAY, declared)


def read(snapshots: pd.DataFrame) -> set[str]:
    """Return the attributes that a model fitted on the snapshots reads."""
    students = snapshots[["section_id", "student_id"]].drop_duplicates()
    random = np.random.default_rng(0)
    grade = random.uniform(0, 100, len(students))
    truth = students.assign(final_grade=grade, at_risk=grade < 40)
    model = baseline.fit(snapshots, truth, seed=0)
    return {*model.features} - {*NUMERIC_FEATURES, "progress", "course_id"}


@pytest.mark.slow
def test_no_model_reads_what_is_protected_or_not_declared(gradebook: Gradebook) -> None:
    snapshots = described(gradebook, SOURCES)
    assert {name for name in snapshots if name.startswith("protected_")} == PROTECTED
    assert not any(name.startswith("attribute_") for name in snapshots)
    assert read(snapshots) == set()

    uses = {"entryRoute": Use.USABLE, "homeAddress": Use.USABLE, "faith": Use.PROTECTED}
    declared = declarations(Institution(attributes=uses))
    snapshots = described(gradebook, declared)
    assert {name for name in snapshots if name.startswith("protected_")} == {
        *PROTECTED,
        "protected_metadata.faith",
    }
    # An address is another for each student: it is in the records, and in no model.
    assert read(snapshots) == {"attribute_entryRoute"}


def test_the_audit_covers_what_the_delivery_holds(gradebook: Gradebook) -> None:
    random = np.random.default_rng(1)
    students = PSEUDONYMS.of(gradebook.students.student_id)
    held_out = pd.DataFrame({"section_id": "k", "student": students})
    held_out["grade"] = random.uniform(0, 100, len(held_out))
    held_out["final_grade"] = held_out["grade"] + random.normal(0, 5, len(held_out))
    held_out["risk"] = random.uniform(0, 1, len(held_out))
    held_out["at_risk"] = random.uniform(0, 1, len(held_out)) < held_out["risk"]
    rows = with_attributes(held_out, gradebook.students, gradebook.enrollments, PSEUDONYMS, SOURCES)
    audit = fairness(rows, seed=0)
    assert {f"protected_{name}" for name in audit["attribute"]} == PROTECTED
    groups = audit.groupby("attribute")["group_name"].agg(set)
    assert groups["sex"] == {"female", "male"}
    assert len(groups["birthYear"]) == 4
    assert audit["students"].min() >= 30
