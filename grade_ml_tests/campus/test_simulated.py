"""The simulated campus: the same bytes from a seed, no future, and the effects that it claims."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine
from upath import UPath

from grade_ml.campus.simulated import (
    Campus,
    CampusConfig,
    Differences,
    Drift,
    DriftKind,
    Help,
    Intervention,
    Truth,
    example,
    gradebook,
    load_campus,
    truth_folder,
)
from grade_ml.campus.simulated.calendar import AGE_AT_LEAST, newest_term
from grade_ml.campus.simulated.model import SECTION_SIZE
from grade_ml.core import database
from grade_ml.core.errors import ServiceError
from grade_ml.core.settings import Settings
from grade_ml.gradebook import frames, quality, schema
from grade_ml.gradebook.frames import Gradebook

TODAY = date(2026, 11, 24)
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SMALL = CampusConfig(students=300, courses=4, terms=3, seed=5)
#: Of SMALL's three terms, this is the day on which the second starts.
CHANGE = date(2026, 2, 2)
TABLES = {field.name: table for field, table in zip(fields(Gradebook), schema.TABLES, strict=False)}
ENROLLMENT = ["section_id", "student_id"]
RESULT = ["assignment_id", "student_id"]
#: Days after the due date within which all work is in that comes at all.
LATEST = pd.Timedelta(days=21)

#: What a process prints that makes the campus SMALL again: its digest.
DIGEST = """
from grade_ml_tests.campus.test_simulated import SMALL, TODAY, digest
print(digest(SMALL, TODAY))
"""


def digest(config: CampusConfig, today: date) -> str:
    """Return a hash of every byte of the frames, in order."""
    sha = hashlib.sha256()
    for table, frame in Campus(config, today).batches():
        sha.update(f"{table} {frame.dtypes.to_dict()}\n{frame.to_csv(index=False)}".encode())
    return sha.hexdigest()


def bytes_of(truth: Truth, folder: Path) -> dict[str, bytes]:
    truth.write(UPath(folder))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def keyed(frame: pd.DataFrame, table: str) -> pd.DataFrame:
    return frame.set_index([column.name for column in TABLES[table].primary_key]).sort_index()


def drifting(kind: DriftKind, shift: float) -> CampusConfig:
    return replace(SMALL, drift=Drift(CHANGE, kind, shift))


@pytest.fixture(scope="module")
def small() -> Gradebook:
    return gradebook(SMALL, TODAY)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Campus(SMALL, TODAY).truth()


# One seed, one campus


def test_a_seed_gives_the_same_bytes_in_every_process() -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    command = [sys.executable, "-c", DIGEST]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split()[-1] == digest(SMALL, TODAY)


def test_a_seed_gives_the_same_truth_byte_by_byte(truth: Truth, tmp_path: Path) -> None:
    first = bytes_of(truth, tmp_path / "first")
    assert len(first) == 5
    assert bytes_of(Campus(SMALL, TODAY).truth(), tmp_path / "second") == first


def test_another_seed_gives_another_campus(small: Gradebook, truth: Truth) -> None:
    config = replace(SMALL, seed=6)
    other, other_truth = gradebook(config, TODAY), Campus(config, TODAY).truth()
    for name in ("students", "enrollments", "assignments", "results", "activity"):
        assert not getattr(other, name).equals(getattr(small, name)), name
    for name in ("students", "courses", "enrollments", "conditions"):
        assert not getattr(other_truth, name).equals(getattr(truth, name)), name


def test_the_truth_reads_back_as_it_was_written(truth: Truth, tmp_path: Path) -> None:
    truth.write(UPath(tmp_path / "truth"))
    read = Truth.read(UPath(tmp_path / "truth"))
    assert read.parameters == truth.parameters
    for name in ("students", "courses", "enrollments", "conditions"):
        pd.testing.assert_frame_equal(getattr(read, name), getattr(truth, name))


def test_the_truth_states_what_was_configured() -> None:
    drift = Drift(CHANGE, DriftKind.GRADING_POLICY, -8)
    config = CampusConfig(students=5, drift=drift, intervention=Intervention(CHANGE, 0.3))
    parameters = Campus(config, TODAY).truth().parameters
    assert parameters == json.loads(json.dumps(parameters))
    assert parameters["today"] == "2026-11-24"
    assert parameters["config"]["students"] == 5
    assert parameters["config"]["drift"] == {
        "on": "2026-02-02",
        "kind": "grading_policy",
        "shift": -8,
    }
    assert parameters["config"]["intervention"]["share"] == 0.3


def test_the_truth_covers_every_student_course_enrollment_and_day(
    small: Gradebook, truth: Truth
) -> None:
    for name, key in (("students", "student_id"), ("courses", "course_id")):
        assert getattr(truth, name)[key].tolist() == getattr(small, name)[key].tolist()
    assert truth.enrollments[ENROLLMENT].equals(small.enrollments[ENROLLMENT])
    days = pd.date_range(small.terms["starts_on"].min(), TODAY)
    assert truth.conditions["day"].tolist() == days.tolist()


@pytest.mark.parametrize("name", ["students", "courses", "terms", "stay", "seed"])
def test_a_size_or_seed_that_is_too_small_is_named(name: str) -> None:
    values: dict[str, Any] = {name: -1}
    with pytest.raises(ValueError, match=f"{name} is -1, less than"):
        CampusConfig(**values)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        *((name, -1, "less than 0") for name in ("base_rate", "cohort", "policy", "new_courses")),
        ("redesigned", 1.1, "not between 0 and 1"),
        ("new_courses", 4, "not less than 4 courses"),
    ],
)
def test_a_difference_that_cannot_be_is_named(name: str, value: float, why: str) -> None:
    values: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"{name} is {value}, {why}"):
        replace(SMALL, differences=Differences(**values))


@pytest.mark.parametrize("name", ["share", "rescued"])
def test_a_share_beyond_one_is_named(name: str) -> None:
    values: dict[str, Any] = {name: 1.1}
    with pytest.raises(ValueError, match=rf"{name} is 1\.1, not between 0 and 1"):
        Intervention(CHANGE, **values)


# Its shape


@given(st.dates(date(2000, 1, 1), date(2100, 1, 1)))
def test_the_newest_term_runs_on_every_day_and_has_graded_work(today: date) -> None:
    term = newest_term(today)
    assert term.starts_on + timedelta(days=AGE_AT_LEAST) <= today <= term.ends_on


def test_every_course_has_one_section_in_every_term(small: Gradebook) -> None:
    assert len(small.students) == SMALL.students
    assert len(small.courses) == SMALL.courses
    counts = small.sections.groupby(["course_id", "term_id"]).size()
    assert len(counts) == SMALL.courses * SMALL.terms
    assert (counts == 1).all()


def test_no_two_courses_are_called_the_same() -> None:
    courses = gradebook(CampusConfig(students=1, courses=150, terms=1), TODAY).courses
    assert courses["course_id"].is_unique
    assert courses["title"].is_unique


def test_many_students_of_one_course_form_parallel_sections() -> None:
    campus = gradebook(CampusConfig(students=5000, courses=1, terms=1), TODAY)
    assert campus.sections["section_id"].str[-2:].tolist() == ["6H", "-2", "-3"]
    assert campus.enrollments.groupby("section_id").size().max() <= SECTION_SIZE
    assert sorted(campus.enrollments["student_id"]) == sorted(campus.students["student_id"])


def test_no_id_can_be_that_of_another_source(small: Gradebook) -> None:
    for name, table in TABLES.items():
        for column in table.primary_key:
            if column.name.endswith("_id"):
                ids = getattr(small, name)[column.name]
                assert len(ids) > 0
                assert ids.str.lower().str.startswith("sim-").all(), (name, column.name)


def test_no_one_takes_part_before_enrolling_or_after_leaving(
    small: Gradebook, truth: Truth
) -> None:
    times = small.enrollments.merge(truth.enrollments, on=ENROLLMENT)
    left = times.dropna(subset="withdrawn_on")
    assert len(left) > 100
    assert (left["withdrawn_on"] >= left["stopped_on"]).all()
    results = small.results.merge(small.assignments, on="assignment_id")
    for frame, day in ((results, "submitted_on"), (small.activity, "day")):
        joined = frame.merge(times, on=ENROLLMENT)
        assert len(joined) == len(frame)
        assert (joined[day] >= joined["enrolled_on"]).all()
        assert not (joined[day] >= joined["stopped_on"]).any()


def test_the_margins_stay_near_those_of_oulad() -> None:
    """OULAD's figures and a tolerance; `docs/simulated-campus.md` has the whole table."""
    campus = gradebook(CampusConfig(students=1500, courses=16, terms=4, seed=2), TODAY)
    ended = campus.sections.loc[campus.sections["ends_on"] < str(TODAY), "section_id"]
    enrollments = campus.enrollments[campus.enrollments["section_id"].isin(ended)]
    outcome = enrollments["outcome"].value_counts(normalize=True)
    assert outcome["withdrawn"] == pytest.approx(0.30, abs=0.04)
    assert outcome["fail"] == pytest.approx(0.24, abs=0.05)
    assert outcome["distinction"] == pytest.approx(0.09, abs=0.04)
    scores = campus.results["score"].dropna()
    assert scores.mean() == pytest.approx(76, abs=3)
    assert scores.std() == pytest.approx(18, abs=3)


# Time


@pytest.mark.parametrize("today", [date(2026, 9, 14), TODAY, date(2027, 3, 14)])
def test_nothing_recorded_after_today_is_seen(today: date) -> None:
    campus = gradebook(SMALL, today)
    now = pd.Timestamp(today)
    for days in (
        campus.enrollments["enrolled_on"],
        campus.enrollments["withdrawn_on"],
        campus.results["submitted_on"],
        campus.results["graded_on"],
        campus.activity["day"],
    ):
        assert days.max() <= now
    results = campus.results
    assert results["score"].notna().equals(results["graded_on"].notna())
    enrollments = campus.enrollments.merge(campus.sections, on="section_id")
    over = enrollments["ends_on"] < now
    assert over.any() and not over.all()
    assert enrollments.loc[over, "outcome"].notna().all()
    running = enrollments[~over]
    assert running["outcome"].notna().equals(running["withdrawn_on"].notna())
    assert set(running["outcome"].dropna()) == {"withdrawn"}


@pytest.mark.parametrize("days", [1, 60, 300])
def test_a_later_day_adds_records_and_fills_gaps_and_changes_nothing_else(
    small: Gradebook, days: int
) -> None:
    later = gradebook(SMALL, TODAY + timedelta(days=days))
    # Terms that the later campus no longer has are left out.
    sections = set(later.sections["section_id"])
    assignments = set(later.assignments["assignment_id"])
    added = filled = 0
    for name in TABLES:
        before, after = (keyed(getattr(records, name), name) for records in (small, later))
        for key, kept in (("section_id", sections), ("assignment_id", assignments)):
            if key in before.index.names:
                before = before[before.index.get_level_values(key).isin(kept)]
        if name in ("students", "terms"):
            before = before[before.index.isin(after.index)]
        assert len(before) > 0
        assert before.index.isin(after.index).all(), name
        added += len(after) - len(before)
        after = after.loc[before.index]
        for column in before.columns:
            known = before[column].notna()
            if column == "status":  # a submission becomes graded when its score arrives
                known &= before[column] != "submitted"
            assert before.loc[known, column].equals(after.loc[known, column]), (name, column)
            filled += after.loc[~known, column].notna().sum()
    assert added > 0
    assert filled > 0


# Known effects


def test_a_stricter_grading_policy_takes_points_from_what_is_graded_later(
    small: Gradebook,
) -> None:
    drifted = gradebook(drifting(DriftKind.GRADING_POLICY, -8), TODAY)
    for name in set(TABLES) - {"results", "enrollments"}:
        pd.testing.assert_frame_equal(getattr(drifted, name), getattr(small, name))
    pd.testing.assert_frame_equal(
        drifted.results.drop(columns="score"), small.results.drop(columns="score")
    )
    loss = small.results["score"] - drifted.results["score"]
    later = small.results["graded_on"] >= pd.Timestamp(CHANGE)
    assert (loss[~later].dropna() == 0).all()
    # What was cut off at 100 or would be less than 0 loses less.
    inside = later & small.results["score"].between(8, 99)
    assert inside.sum() > 1000
    assert (loss[inside] == 8).all()
    assert 5 < loss[later].mean() < 8

    failed = {
        name: campus.enrollments["outcome"].eq("fail")[
            campus.enrollments["section_id"].str.endswith("2026B")
        ]
        for name, campus in (("before", small), ("after", drifted))
    }
    assert (failed["after"] >= failed["before"]).all()
    assert failed["after"].mean() > failed["before"].mean() + 0.01


def test_a_new_mix_of_students_differs_in_ability_grades_and_scores(
    small: Gradebook, truth: Truth
) -> None:
    config = drifting(DriftKind.COHORT_MIX, -1)
    drifted = gradebook(config, TODAY)
    shift = Campus(config, TODAY).truth().students["ability"] - truth.students["ability"]
    first_terms = _first_term(small)
    new = first_terms >= pd.Timestamp(CHANGE)
    assert 50 < new.sum() < len(new) - 50
    assert np.allclose(shift, np.where(new, -1, 0))

    def prior_grade(campus: Gradebook) -> np.ndarray:
        return np.array([json.loads(text)["prior_grade"] for text in campus.students["attributes"]])

    change = prior_grade(drifted) - prior_grade(small)
    assert (change[~new] == 0).all()
    assert np.median(change[new]) == pytest.approx(
        -truth.parameters["laws"]["prior_grade_by_ability"], abs=0.11
    )

    newcomers = small.students.loc[new, "student_id"]
    before, after = (
        campus.results.assign(new=campus.results["student_id"].isin(newcomers))
        for campus in (small, drifted)
    )
    pd.testing.assert_frame_equal(
        before[~before["new"]].reset_index(drop=True), after[~after["new"]].reset_index(drop=True)
    )
    means = [frame.loc[frame["new"], "score"].mean() for frame in (before, after)]
    assert -16 < means[1] - means[0] < -5


def differing(**how: Any) -> CampusConfig:
    return replace(SMALL, differences=Differences(**how))


def test_terms_that_differ_in_their_base_rate_differ_in_when_students_leave(
    small: Gradebook, truth: Truth
) -> None:
    other = Campus(differing(base_rate=1.0), TODAY).truth().enrollments
    before = truth.enrollments
    pd.testing.assert_frame_equal(
        other.drop(columns="stopped_on"), before.drop(columns="stopped_on")
    )
    never = pd.Timestamp("2100-01-01")
    later = other["stopped_on"].fillna(never) - before["stopped_on"].fillna(never)
    term = before["section_id"].str.split("_").str[1].astype(object)
    direction = np.sign(later.dt.days).groupby(term).unique().map(lambda signs: set(signs) - {0})
    # All of a term leave sooner, or all later; not all terms do the same.
    assert direction.map(len).tolist() == [1, 1, 1]
    assert len(set().union(*direction)) == 2
    assert gradebook(differing(base_rate=1.0), TODAY).assignments.equals(small.assignments)


def test_cohorts_that_differ_have_an_ability_of_their_own(small: Gradebook, truth: Truth) -> None:
    other = Campus(differing(cohort=0.5), TODAY).truth()
    shift = (other.students["ability"] - truth.students["ability"]).round(9)
    assert 3 <= shift.nunique() <= SMALL.terms + 3  # students of earlier cohorts still study
    by_first_term = shift.groupby(_first_term(small)).nunique()
    assert by_first_term.iloc[1:].tolist() == [1] * (SMALL.terms - 1)
    pd.testing.assert_series_equal(other.students["diligence"], truth.students["diligence"])


def test_policies_that_differ_shift_all_scores_of_a_section(small: Gradebook) -> None:
    other = gradebook(differing(policy=6), TODAY)
    for name in set(TABLES) - {"results", "enrollments"}:
        pd.testing.assert_frame_equal(getattr(other, name), getattr(small, name))
    shift = other.results["score"] - small.results["score"]
    inside = small.results["score"].between(1, 99) & other.results["score"].between(1, 99)
    section = small.results["assignment_id"].str.rsplit("_", n=1).str[0][inside].astype(object)
    of_section = shift[inside].groupby(section)
    assert (of_section.max() - of_section.min() <= 1).all()  # scores are whole points
    assert of_section.mean().round(6).nunique() == SMALL.courses * SMALL.terms
    assert 3 < of_section.mean().std() < 9


def test_a_redesigned_course_keeps_its_name_and_has_other_assignments_from_then_on() -> None:
    config = CampusConfig(
        students=60, courses=6, terms=6, seed=5, differences=Differences(redesigned=0.4)
    )
    campus = gradebook(config, TODAY)
    assert campus.courses.equals(
        gradebook(replace(config, differences=Differences()), TODAY).courses
    )
    designs = (
        campus.assignments.merge(campus.sections, on="section_id")
        .groupby(["course_id", "starts_on"])[["category", "weight"]]
        .apply(lambda rows: str(rows.to_numpy().tolist()))
    )
    of_course = designs.groupby("course_id")
    changes = of_course.apply(lambda values: (values != values.shift()).sum() - 1)
    assert 0 < changes.sum() < config.courses * (config.terms - 1)


def test_students_who_stay_for_one_term_are_in_no_other() -> None:
    campus = gradebook(CampusConfig(students=90, courses=1, terms=3, stay=1), TODAY)
    terms = campus.enrollments.merge(campus.sections, on="section_id")
    assert (terms.groupby("student_id")["term_id"].nunique() == 1).all()
    assert terms.groupby("term_id", observed=True).size().tolist() == [30, 30, 30]


def test_new_courses_are_offered_in_the_newest_two_terms_only() -> None:
    config = CampusConfig(students=60, terms=4, seed=5, differences=Differences(new_courses=2))
    campus = gradebook(config, TODAY)
    terms = campus.sections.groupby("course_id", observed=True)["term_id"].agg(set)
    term_ids = campus.terms.sort_values("starts_on")["term_id"].tolist()
    offered = terms.reindex(campus.courses["course_id"]).tolist()
    assert offered[:-2] == [set(term_ids)] * (config.courses - 2)
    assert offered[-2:] == [set(term_ids[-2:])] * 2
    assert (
        campus.enrollments.groupby("section_id")
        .size()
        .reindex(campus.sections["section_id"])
        .notna()
        .all()
    )


def _first_term(campus: Gradebook) -> pd.Series:
    """Return the start of each student's first term, in the order of the students."""
    enrollments = campus.enrollments.merge(campus.sections, on="section_id")
    first = enrollments.groupby("student_id")["starts_on"].min()
    return first.reindex(campus.students["student_id"]).reset_index(drop=True)


def test_an_intervention_rescues_the_stated_share_of_the_work_of_those_helped() -> None:
    plain = CampusConfig(students=1200, courses=6, terms=3, seed=5)
    config = replace(plain, intervention=Intervention(CHANGE, share=0.5, rescued=0.4))
    truth = Campus(config, TODAY).truth()
    assert truth.students["treated"].mean() == pytest.approx(0.5, abs=0.06)
    without, helped = (_work(gradebook(settings, TODAY), truth) for settings in (plain, config))
    changed = without["missing"] != helped["missing"]
    assert not (changed & ~(helped["treated"] & helped["later"])).any()

    # Of the work that would be missing and is due while its student still takes part: 0.4,
    # give or take three standard errors.
    lost = without["missing"] & helped["treated"] & helped["later"] & helped["takes_part"]
    assert lost.sum() > 500
    rescued = 1 - helped.loc[lost, "missing"].mean()
    assert rescued == pytest.approx(0.4, abs=3 * np.sqrt(0.24 / lost.sum()))

    # The same, as an evaluation sees it: helped and others, with no look at the other world.
    compared = helped[helped["takes_part"] & helped["later"]]
    missed = compared.groupby("treated")["missing"].mean()
    assert missed[True] / missed[False] == pytest.approx(0.6, abs=0.08)
    earlier = helped[helped["takes_part"] & ~helped["later"]]
    missed = earlier.groupby("treated")["missing"].mean()
    assert missed[True] / missed[False] == pytest.approx(1, abs=0.12)


def test_help_that_was_given_rescues_later_work_of_those_helped_and_adds_only() -> None:
    plain = CampusConfig(students=600, courses=4, terms=3, seed=5)
    given = CHANGE - timedelta(days=60)  # in the first of three terms
    truth = Campus(plain, TODAY).truth()
    known = truth.enrollments.astype({"section_id": object, "student_id": object})
    chosen = known.iloc[::2]
    since = dict.fromkeys(zip(chosen["section_id"], chosen["student_id"], strict=True), given)
    before, after = (gradebook(plain, TODAY, assistance) for assistance in (None, Help(since, 0.4)))

    key = ["assignment_id", "student_id"]
    both = after.results.merge(before.results[key], on=key, how="left", indicator=True)
    new = both[both["_merge"] == "left_only"]
    assert len(both) == len(before.results) + len(new)  # nothing is lost
    assert (new["submitted_on"] > pd.Timestamp(given)).all()
    section = new["assignment_id"].str.rpartition("_")[0]
    pairs = zip(section, new["student_id"], strict=True)
    assert all(pair in since for pair in pairs)

    # In later terms 0.4 of what would be missing, give or take three standard errors.
    is_helped = pd.MultiIndex.from_frame(chosen[["section_id", "student_id"]])
    without, helped = (_work(records, truth) for records in (before, after))
    mine = pd.MultiIndex.from_frame(without[["section_id", "student_id"]].astype(object))
    lost = without["missing"] & mine.isin(is_helped) & without["takes_part"]
    lost &= without["starts_on"] > pd.Timestamp(given)
    assert lost.sum() > 200
    rescued = 1 - helped.loc[lost, "missing"].mean()
    assert rescued == pytest.approx(0.4, abs=3 * np.sqrt(0.24 / lost.sum()))

    # On the day of the help nothing has changed yet.
    early = (gradebook(plain, given, assistance) for assistance in (None, Help(since, 0.4)))
    pd.testing.assert_frame_equal(*(records.results for records in early))


def _work(campus: Gradebook, truth: Truth) -> pd.DataFrame:
    """Return all work that was due long enough ago, done or not, with what is true about it."""
    due = campus.assignments[campus.assignments["due_on"] + LATEST <= pd.Timestamp(TODAY)]
    work = (
        truth.enrollments.merge(truth.students, on="student_id")
        .merge(due, on="section_id")
        .merge(campus.results, on=RESULT, how="left")
        .merge(campus.sections, on="section_id")
    )
    return work.assign(
        missing=work["submitted_on"].isna(),
        later=work["due_on"] >= pd.Timestamp(CHANGE),
        takes_part=work["stopped_on"].isna() | (work["stopped_on"] > work["due_on"] + LATEST),
    )


@pytest.fixture(scope="module")
def many() -> tuple[pd.DataFrame, Truth]:
    """The work of many students in many sections, and the truth."""
    config = CampusConfig(students=3000, courses=24, terms=6, seed=1)
    truth = Campus(config, TODAY).truth()
    work = _work(gradebook(config, TODAY), truth).merge(truth.courses, on="course_id")
    return work, truth


def test_effects_on_submission_can_be_recovered_from_records_and_truth(
    many: tuple[pd.DataFrame, Truth],
) -> None:
    from sklearn.linear_model import LogisticRegression

    work, truth = many
    taken = work[work["takes_part"]]
    laws = truth.parameters["laws"]
    taken = taken.merge(truth.conditions, left_on="due_on", right_on="day", validate="m:1")
    names = list(laws["conditions"])
    age = (taken["due_on"] - taken["starts_on"]).dt.days
    length = (taken["ends_on"] - taken["starts_on"]).dt.days
    known = np.column_stack([taken["engagement"], age / length, taken[names]])
    coefficients = LogisticRegression(C=np.inf).fit(known, ~taken["missing"]).coef_[0]

    effects = [laws["conditions"][name]["submission"] for name in names]
    assert effects == [0, -0.35, 0.2]
    assert coefficients[0] == pytest.approx(laws["submit_by_engagement"], abs=0.08)
    assert coefficients[1] == pytest.approx(laws["submit_over_term"], abs=0.15)
    assert coefficients[2:] == pytest.approx(effects, abs=0.06)


def test_effects_on_scores_can_be_recovered_from_records_and_truth(
    many: tuple[pd.DataFrame, Truth],
) -> None:
    work, truth = many
    scored = work.dropna(subset="score")
    laws = truth.parameters["laws"]
    scored = scored.merge(truth.conditions, left_on="submitted_on", right_on="day", validate="m:1")
    names = list(laws["conditions"])
    known = scored[["ability", "engagement", "difficulty", *names]].assign(
        quiz=scored["category"] == "Quiz", one=1
    )
    solution = np.linalg.lstsq(known.to_numpy(float), scored["score"].to_numpy(), rcond=None)[0]
    coefficients = dict(zip(known.columns, solution, strict=True))

    effects = {name: laws["conditions"][name]["score"] for name in names}
    assert effects == {"heat": -2, "campus_events": 0, "sentiment": 1.5}
    for name, effect in effects.items():
        # Scores cut off at 100 hide a part; the mood of single assignments adds noise.
        assert coefficients[name] == pytest.approx(effect, abs=0.6), name
    # A score is `score_ceiling` times the sigmoid of a sum: its slope is 22 to 27 points near the
    # middle, and less at the top, where most scores are.
    ratio = coefficients["ability"] / laws["score_by_ability"]
    assert 10 < ratio < 24
    assert coefficients["difficulty"] == pytest.approx(-ratio, rel=0.35)
    assert coefficients["engagement"] / laws["score_by_engagement"] == pytest.approx(
        ratio, rel=0.35
    )


# In the gradebook


def test_it_loads_without_quarantine_keeps_every_rule_and_again_changes_nothing(
    engine: Engine, settings: Settings, small: Gradebook, truth: Truth
) -> None:
    settings = settings.model_copy(update={"as_of": TODAY})
    first = load_campus(engine, settings, SMALL, loaded_at=NOW)
    folder = truth_folder(settings)
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = load_campus(engine, settings, SMALL, loaded_at=NOW)

    assert first.quarantined == again.quarantined == 0
    assert first.loaded == again.unchanged
    assert not again.changed
    assert Truth.read(folder).students.equals(truth.students)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written

    with engine.connect() as connection:
        stored = frames.read(connection)
        broken = [
            (table.name, rule.name)
            for table in schema.TABLES
            for rule in quality.rules(table)
            if quality.violations(connection, rule)
        ]
    assert broken == []
    for name in set(TABLES) - {"students", "enrollments"}:
        made, kept = (keyed(getattr(records, name), name) for records in (small, stored))
        pd.testing.assert_frame_equal(kept, made, check_index_type=False)

    later = settings.model_copy(update={"as_of": TODAY + timedelta(days=30)})
    more = load_campus(engine, later, SMALL, loaded_at=NOW + timedelta(days=30))
    assert more.quarantined == 0
    assert more.loaded["result"] > 0
    assert more.loaded["student"] == more.loaded["section"] == more.loaded["assignment"] == 0
    assert Truth.read(folder).parameters["today"] == "2026-12-24"


def test_the_smallest_campus_loads(engine: Engine, settings: Settings) -> None:
    config = CampusConfig(students=1, courses=1, terms=1)
    report = load_campus(engine, settings, config, loaded_at=NOW)

    assert report.quarantined == 0
    assert report.loaded["student"] == report.loaded["section"] == 1


def test_no_truth_is_written_when_the_load_fails(settings: Settings, tmp_path: Path) -> None:
    nowhere = database.connect(f"postgresql+psycopg:///grade_ml?host={tmp_path}")
    with pytest.raises(ServiceError):
        load_campus(nowhere, settings, SMALL, loaded_at=NOW)
    assert not truth_folder(settings).exists()


def test_the_example_is_a_running_enrollment_of_the_campus(
    engine: Engine, settings: Settings
) -> None:
    with engine.connect() as connection:
        assert example(connection, TODAY) is None
    today = settings.model_copy(update={"as_of": TODAY})
    load_campus(engine, today, SMALL, loaded_at=NOW)
    with engine.connect() as connection:
        enrollment = example(connection, TODAY)
        years_later = example(connection, TODAY + timedelta(days=4000))
    made = gradebook(SMALL, TODAY)
    rows = made.enrollments.merge(made.sections, on="section_id")
    running = rows[(rows["ends_on"] >= pd.Timestamp(TODAY)) & rows["withdrawn_on"].isna()]
    assert enrollment in set(zip(running["student_id"], running["course_id"], strict=True))
    assert years_later is None
