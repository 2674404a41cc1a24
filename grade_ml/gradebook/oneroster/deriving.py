"""The gradebook's rows that follow from the mirror: pure functions of frames.

Each returned frame has the columns of a gradebook table and the line in the delivered file, 0 for
rows of earlier deliveries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from grade_ml.gradebook.bundle import RANK, ROW
from grade_ml.gradebook.oneroster import scales
from grade_ml.gradebook.schema import GradingPolicy, Outcome, Status

#: Types of academic sessions that are terms; others count by their parent, school years as such.
TERM_TYPES = ("term", "semester")
#: An enrollment that ends more than this many days before its class was left, not finished;
#: schools let enrollments end with the last lesson, up to two weeks before the session does.
LEFT_EARLY_DAYS = 14
#: The maximum of items that have none, extra credit: their scores in per cent are their points.
BONUS_MAXIMUM = 100.0
UNCATEGORIZED = "uncategorized"


def terms(sessions: pd.DataFrame, used: pd.Series) -> pd.DataFrame:
    """Return the sessions that are terms: those of `used` ids and those of the type."""
    chosen = sessions["sourced_id"].isin(used) | sessions["type"].str.lower().isin(TERM_TYPES)
    return sessions[chosen].rename(columns={"sourced_id": "term_id"})[
        ["term_id", "title", "starts_on", "ends_on", ROW]
    ]


def sections(classes: pd.DataFrame, sessions: pd.DataFrame) -> pd.DataFrame:
    """Return the classes with the term and the dates of the sessions that they name.

    `term_id` is missing where no session is known.
    """
    spans = _spans(sessions)
    rows: list[tuple[Any, ...]] = []
    for names in classes["sessions"].fillna(""):
        terms = [spans[n.strip()] for n in names.split(",") if n.strip() in spans]
        rows.append(
            (
                terms[0][0] if terms else None,
                min((start for _, start, _ in terms if pd.notna(start)), default=pd.NaT),
                max((end for *_, end in terms if pd.notna(end)), default=pd.NaT),
            )
        )
    frame = pd.DataFrame(rows, columns=["term_id", "starts_on", "ends_on"], index=classes.index)
    frame = frame.astype(
        {"term_id": "string[pyarrow]", "starts_on": "datetime64[ns]", "ends_on": "datetime64[ns]"}
    )
    return classes.rename(columns={"sourced_id": "section_id"})[
        ["section_id", "course_id", ROW]
    ].join(frame)


def _spans(sessions: pd.DataFrame) -> dict[str, tuple[str, Any, Any]]:
    """Return for each session its term (itself, or the first parent that is a term) and dates."""
    rows = {row["sourced_id"]: row for row in sessions.to_dict("records")}

    def is_term(name: str) -> bool:
        return str(rows[name]["type"]).lower() in TERM_TYPES

    spans = {}
    for name, row in rows.items():
        term, seen = name, {name}
        while not is_term(term) and rows[term]["parent"] in rows.keys() - seen:
            term = rows[term]["parent"]
            seen.add(term)
        spans[name] = (term if is_term(term) else name, row["starts_on"], row["ends_on"])
    return spans


def policies(items: pd.DataFrame, categories: pd.DataFrame) -> pd.Series:
    """Return the grading policy of each class that has line items, by section_id.

    Weights, if one of its items has one; else categories, if one of its own has a weight; else
    points. A weight of 0 or below is none, and extra credit decides nothing.
    """
    of_category = items["category_id"].map(categories.set_index("sourced_id")["weight"])
    regular = ~is_extra_credit(items)
    by_section = pd.DataFrame(
        {
            "items": regular & (items["weight"] > 0),
            "categories": regular & (of_category.astype("float64") > 0),
        }
    )
    any_weight = by_section.groupby(items["section_id"]).any()
    policy = np.select(
        [any_weight["items"], any_weight["categories"]],
        [GradingPolicy.WEIGHTS.value, GradingPolicy.CATEGORIES.value],
        GradingPolicy.POINTS.value,
    )
    return pd.Series(policy, any_weight.index, dtype="string[pyarrow]")


def is_extra_credit(items: pd.DataFrame) -> pd.Series:
    """Return which line items are extra credit: without a range of points, or marked as such."""
    without_range = items["min_score"] == items["max_score"]
    return without_range | items["extra_credit"].astype("boolean").fillna(False).astype(bool)


def scale_range(items: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return the points that are 0 and those that are 100 per cent of each line item."""
    flat = items["min_score"] == items["max_score"]
    return items["min_score"].mask(flat, 0.0), items["max_score"].mask(flat, BONUS_MAXIMUM)


def assignments(items: pd.DataFrame, categories: pd.DataFrame, policy: pd.Series) -> pd.DataFrame:
    """Return the line items with category and weight.

    The weight is by the policy of the class: the item's own; the category's, in equal parts for its
    items in the class; else the points. Extra credit adds its points in the unit of the others: in
    a category, as if it were one more of its items, in proportion to their points.
    """
    known = categories.set_index("sourced_id")
    low, high = scale_range(items)
    points = high - low
    extra = is_extra_credit(items)
    groups = [items["section_id"], items["category_id"].fillna(UNCATEGORIZED)]
    regular = points.where(~extra).groupby(groups)
    weight = items["category_id"].map(known["weight"]).astype("float64").clip(lower=0).fillna(0.0)
    count, mean = regular.transform("count"), regular.transform("mean")
    share = (weight / count).where(count > 0, 0.0)
    by_category = share.mask(extra, (share * points / mean).where(count > 0, 0.0))
    rule = items["section_id"].map(policy)
    title = items["category_id"].map(known["title"]).fillna(items["category_id"])
    return pd.DataFrame(
        {
            "assignment_id": items["sourced_id"],
            "section_id": items["section_id"],
            "category": title.fillna(UNCATEGORIZED).astype("string[pyarrow]"),
            "title": items["title"],
            "due_on": items["due_on"],
            "weight": np.select(
                [rule == GradingPolicy.WEIGHTS, rule == GradingPolicy.CATEGORIES],
                [items["weight"].fillna(0.0), by_category],
                points,
            ),
            "max_score": points,
            "extra_credit": extra,
            ROW: items[ROW],
        }
    )


def enrollments(stints: pd.DataFrame, section_ends: pd.Series) -> pd.DataFrame:
    """Return enrollments of stints that were folded: first day, last day, line.

    Parameters
    ----------
    stints
        section_id, student_id, enrolled_on, left_on, row.
    section_ends
        Last day by section_id.
    """
    last = pd.to_datetime(stints["section_id"].map(section_ends))
    early = stints["left_on"] < last - pd.Timedelta(days=LEFT_EARLY_DAYS)
    return stints[["section_id", "student_id", "enrolled_on", ROW]].assign(
        withdrawn_on=stints["left_on"].where(early),
        outcome=early.map({True: Outcome.WITHDRAWN.value}).astype("string[pyarrow]"),
        attributes="{}",
    )


def results(
    rows: pd.DataFrame, items: pd.DataFrame, entries: pd.DataFrame, texts: Mapping[str, float]
) -> tuple[pd.DataFrame, pd.Series]:
    """Return results with scores in per cent, and which of them have a text without a meaning.

    Parameters
    ----------
    rows
        The mirror's results with `row` and `rank`, and the scale of each.
    items
        The mirror's line items, indexed by sourced_id; results of unknown items have no score.
    entries
        Of all scales (see `scales.read`).
    texts
        Per cent of the institution's texts.
    """
    low, high = scale_range(items)
    lowest, highest = (rows["assignment_id"].map(bound).astype("float64") for bound in (low, high))
    score = 100 * (rows["points"] - lowest) / (highest - lowest)
    worded = rows["words"].notna()
    nothing = pd.Series(False, rows.index, dtype=bool)
    if worded.any():
        words, base = rows.loc[worded, "words"], highest[worded]
        values = scales.per_cent(words, rows.loc[worded, "scale"], base, entries, texts)
        # A text that is neither in a scale nor a number stays unknown and is quarantined below.
        points = pd.to_numeric(words.astype(object), errors="coerce")
        values = values.fillna(100 * (points - lowest[worded]) / (base - lowest[worded]))
        values = values.where(np.isfinite(values))
        score[worded] = values
        nothing |= (values.isna() & base.notna()).reindex(rows.index, fill_value=False)
    graded, missing = (rows["status"] == s for s in (Status.GRADED, Status.MISSING))
    exempt, incomplete = (rows["status"] == s for s in (Status.EXEMPT, Status.INCOMPLETE))
    frame = pd.DataFrame(
        {
            "assignment_id": rows["assignment_id"],
            "student_id": rows["student_id"],
            "status": rows["status"],
            "score": score,
            # OneRoster has no date of submission: the score's date represents it.
            "submitted_on": rows["dated_on"].where(~(missing | exempt)),
            "graded_on": rows["dated_on"].where(
                missing | exempt | ((graded | incomplete) & score.notna())
            ),
            "late": rows["late"],
            "carried_over": False,
            ROW: rows[ROW],
            RANK: rows[RANK],
        }
    )
    return frame, nothing
