"""Moves between sections of one course within a term: no withdrawal, and the history moves along.

A student who leaves one section and continues in another is graded by the assignments of the former
up to the move and those of the latter after it.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import Gradebook, with_defaults

_KEY = ["section_id", "student_id"]
#: Between the ids of an assignment and of the section in which it counts for those who moved.
_IN = "\x1f"
_NOBODY = pd.DataFrame(
    {"to_section": pd.Series(dtype="string[pyarrow]"), "moved_on": pd.Series(dtype="M8[ns]")},
    index=pd.MultiIndex.from_arrays([pd.Index([], dtype="string[pyarrow]")] * 2, names=_KEY),
)


def moves(gradebook: Gradebook) -> pd.DataFrame:
    """Return the enrollments that went on in another section of the course in the same term.

    Returns
    -------
    pandas.DataFrame
        Index section_id, student_id; to_section, where the student went next; moved_on, the day
        on which the enrollment ended.
    """
    enrollments = gradebook.enrollments[[*_KEY, "withdrawn_on"]]
    left = enrollments["student_id"][enrollments["withdrawn_on"].notna()]
    # Most students never leave a section: for such a student, the rest would take 5 ms.
    if left.empty:
        return _NOBODY.copy()
    rows = enrollments[enrollments["student_id"].isin(left)]
    rows = rows.merge(gradebook.sections[["section_id", "course_id", "term_id"]], on="section_id")
    again = rows.duplicated(["student_id", "course_id", "term_id"], keep=False)
    rows = rows[again]
    if rows.empty:
        return _NOBODY.copy()
    pairs = rows.dropna(subset="withdrawn_on").merge(
        rows, on=["student_id", "course_id", "term_id"], suffixes=("", "_next")
    )
    later = pairs["withdrawn_on_next"].isna() | (pairs["withdrawn_on_next"] > pairs["withdrawn_on"])
    pairs = pairs[later].sort_values(["withdrawn_on_next", "section_id_next"])
    first = pairs.drop_duplicates(_KEY).sort_values(_KEY)
    return first.rename(columns={"section_id_next": "to_section", "withdrawn_on": "moved_on"})[
        [*_KEY, "to_section", "moved_on"]
    ].set_index(_KEY)


def with_history(gradebook: Gradebook, moved: pd.DataFrame) -> Gradebook:
    """Return the gradebook with what moved along in its `moves`.

    The assignments have one more column, `personal`: copies of assignments of former sections,
    which count in the section where a student went on for those who bring them along; for all
    others of the section there is an exemption. Assignments of the new section that were due
    before the move are exempt for students who came later, unless there is a result.
    """
    assignments = gradebook.assignments.assign(personal=False)
    moved = moved.reset_index()
    if moved.empty:
        return replace(gradebook, assignments=assignments)
    results = gradebook.results
    # A chain of moves is followed step by step, so that the first section's work arrives, too.
    for _ in range(len(moved["section_id"].unique())):
        copies, brought = _brought(moved, assignments, results)
        if copies.empty:
            break
        assignments = pd.concat([assignments, copies], ignore_index=True)
        results = pd.concat([results, brought], ignore_index=True)
    exemptions = _exemptions(gradebook, moved, assignments, results)
    results = pd.concat([results, exemptions], ignore_index=True)
    return replace(gradebook, assignments=assignments, results=results)


def _brought(
    moved: pd.DataFrame, assignments: pd.DataFrame, results: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the copies that do not exist yet, and the results of those who bring them along."""
    own = assignments.merge(moved, on="section_id")
    has = pd.MultiIndex.from_frame(results[["assignment_id", "student_id"]])
    scored = pd.MultiIndex.from_frame(own[["assignment_id", "student_id"]]).isin(has)
    # Of what was brought along before, what is missing may be another's.
    own = own[scored | (~own["personal"] & (own["due_on"] <= own["moved_on"]))]
    copy = own["assignment_id"] + _IN + own["to_section"]
    own = own.assign(copy=copy.astype("string[pyarrow]"))
    own = own[~own["copy"].isin(assignments["assignment_id"])]
    copies = own.drop_duplicates("copy").assign(personal=True)
    copies = copies.assign(assignment_id=copies["copy"], section_id=copies["to_section"])
    copies = copies[list(assignments)]
    brought = results.merge(
        own[["assignment_id", "student_id", "copy"]], on=["assignment_id", "student_id"]
    )
    brought = brought.assign(assignment_id=brought["copy"])
    return copies, brought[list(results)]


def _exemptions(
    gradebook: Gradebook, moved: pd.DataFrame, assignments: pd.DataFrame, results: pd.DataFrame
) -> pd.DataFrame:
    """Return an exempt result for each assignment that does not apply to a student of its section.

    They are known from the section's first day on.
    """
    arrived = moved.assign(section_id=moved["to_section"]).sort_values("moved_on")
    arrived = arrived.drop_duplicates(_KEY, keep="last")[[*_KEY, "moved_on"]]
    seats = gradebook.enrollments[_KEY].merge(arrived, on=_KEY, how="left")
    seats = seats[seats["section_id"].isin(moved["to_section"])]
    work = assignments[["assignment_id", "section_id", "due_on", "personal"]].merge(
        gradebook.sections[["section_id", "starts_on"]], on="section_id"
    )
    pairs = seats.merge(work, on="section_id")
    origin = pairs["assignment_id"].str.rpartition(_IN)[0]
    source = origin.map(assignments.set_index("assignment_id")["section_id"])
    brings = pd.MultiIndex.from_arrays([source, pairs["student_id"], pairs["section_id"]]).isin(
        pd.MultiIndex.from_frame(moved[["section_id", "student_id", "to_section"]])
    )
    brings &= ~(pairs["due_on"] > pairs["moved_on"]) & ~origin.str.contains(_IN, regex=False)
    early = ~pairs["personal"] & (pairs["due_on"] <= pairs["moved_on"])
    pairs = pairs[early | (pairs["personal"] & ~brings)]
    key = ["assignment_id", "student_id"]
    has_result = pd.MultiIndex.from_frame(pairs[key]).isin(pd.MultiIndex.from_frame(results[key]))
    pairs = pairs[~has_result]
    rows = pairs[key].assign(
        status=schema.Status.EXEMPT.value,
        score=float("nan"),
        submitted_on=pairs["starts_on"],
        graded_on=pairs["starts_on"],
    )
    return with_defaults(schema.result, rows).astype(results.dtypes)[list(results)]
