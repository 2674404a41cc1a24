"""Chooses the rows to compare: the newest sections now, and the same week in the training terms.

`drift` compares them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from grade_ml.monitoring.champion import Champion
from grade_ml.monitoring.records import Records

#: The model's output, which is compared in addition to its features.
OUTPUT = ("grade", "risk")
_CHOSEN_BY = ["section_id", "student_id", "cut_on", "progress"]
#: "The same week": cuts are weekly, so the nearest lies at most half a week away.
_NEAR_DAYS = 4.0


@dataclass(frozen=True)
class Sides:
    """Columns of past and of running sections, one row for each student, and the row's section."""

    reference: pd.DataFrame
    current: pd.DataFrame
    reference_sections: pd.Series
    current_sections: pd.Series

    @classmethod
    def of(cls, reference: pd.DataFrame, current: pd.DataFrame, names: Sequence[str]) -> Sides:
        """Take the columns `names` of two frames that have section_id."""
        sections = [side["section_id"].astype(object) for side in (reference, current)]
        return cls(reference[list(names)], current[list(names)], *sections)


@dataclass(frozen=True)
class Windows:
    """The rows of one course to compare.

    Attributes
    ----------
    features
        The model's features that differ between students of a class.
    output
        The model's predictions of the same weeks: those held out, and those stored. None if either
        is missing.
    same_for_class
        Features that are the same for a whole class, such as its size. They do not describe
        students, and with one class now and few before they cannot be tested.
    reason
        Why there is nothing to compare; empty if there is.
    cut_on
        The day of the newest current row.
    """

    features: Sides
    output: Sides | None
    same_for_class: tuple[str, ...]
    reason: str
    cut_on: date | None


def windows(snapshots: pd.DataFrame, champion: Champion, records: Records) -> Windows:
    """Return what to compare of one course on the day of `records`.

    Parameters
    ----------
    snapshots
        Of the course; rows of later cuts are ignored.
    """
    # Rows are chosen by a few columns first; all columns of the chosen rows are taken once.
    rows = snapshots[_CHOSEN_BY].astype({"section_id": object, "student_id": object})
    dated = rows[rows["cut_on"] <= pd.Timestamp(records.as_of)]
    ended = set(records.sections["section_id"]) - set(records.running["section_id"])
    newest = _newest(dated, _last_begun(dated, records.running))
    past = dated[dated["section_id"].isin(ended & champion.sections)]
    places, length = _places(newest), records.days
    current = snapshots.take(newest.index.to_numpy())
    reference = snapshots.take(_nearest(past, places, length).index.to_numpy())
    features = [name for name in champion.features if name in snapshots and name != "course_id"]
    predictions, held_out = _newest(records.predictions, set(places), "on"), champion.held_out
    if len(held_out):
        held_out = held_out[held_out["section_id"].isin(ended & champion.sections)]
        held_out = _nearest(
            held_out.assign(student_id=held_out["student"]), _places(predictions), length
        )
    same = _same_for_class(features, reference, current)
    kept = [name for name in features if name not in same]
    return Windows(
        Sides.of(reference, current, kept),
        Sides.of(held_out, predictions, OUTPUT) if len(held_out) and len(predictions) else None,
        same,
        _reason(current, reference, champion),
        newest["cut_on"].max().date() if len(newest) else None,
    )


def _reason(current: pd.DataFrame, reference: pd.DataFrame, champion: Champion) -> str:
    if current.empty:
        return "no section of the course runs, or none of its snapshots has been computed"
    if reference.empty:
        return f"{champion.name} has seen no section of the course at this week of its term"
    return ""


def _last_begun(rows: pd.DataFrame, running: pd.DataFrame) -> set[str]:
    """Return the running sections with rows that began last, and those that began with them.

    If terms overlap, a course may run in its 5th and in its 31st week at once. Rows of both are not
    a sample of either week; the older section was compared when it was the newest.
    """
    known = running[running["section_id"].isin(rows["section_id"].unique())]
    late = known["starts_on"].max() - known["starts_on"] <= pd.Timedelta(days=_NEAR_DAYS)
    return set(known.loc[late, "section_id"])


def _newest(rows: pd.DataFrame, sections: Collection[str], on: str = "cut_on") -> pd.DataFrame:
    """Return each student's rows of the newest day of each of the sections."""
    chosen = rows[rows["section_id"].isin(sections)]
    return chosen[chosen[on] == chosen.groupby("section_id")[on].transform("max")]


def _places(rows: pd.DataFrame) -> dict[str, float]:
    """Return the progress (0-1) of each section."""
    return dict(rows.groupby("section_id")["progress"].max())


def _nearest(rows: pd.DataFrame, places: dict[str, float], days: pd.Series) -> pd.DataFrame:
    """Return each student's row nearest to the progress of a running section, if near enough.

    If running sections have progressed differently, a student's row is that near the first of them.
    """
    if rows.empty or not places:
        return rows.head(0)
    length = rows["section_id"].map(days)
    nearest = []
    for place in sorted(set(places.values())):
        distance = (rows["progress"] - place).abs() * length
        # Few rows are near; only they are compared.
        distance = distance[distance <= _NEAR_DAYS]
        near = rows.loc[distance.index]
        least = distance.groupby([near["section_id"], near["student_id"]]).transform("min")
        nearest.append(near[distance == least])
    return pd.concat(nearest).drop_duplicates(["section_id", "student_id"])


def _same_for_class(
    features: Sequence[str], reference: pd.DataFrame, current: pd.DataFrame
) -> tuple[str, ...]:
    """Return the features without any difference within a section, now and before."""
    both = pd.concat([reference, current])
    if both.empty:
        return ()
    section = pd.factorize(both["section_id"].astype(object))[0]
    names = list(both[list(features)].select_dtypes("number").columns)
    values = both[names].to_numpy(np.float64, na_value=np.nan)
    if section.max() == 0:
        return ()
    differs = np.zeros(len(names), dtype=bool)
    for number in range(section.max() + 1):
        rows = values[section == number]
        missing = np.isnan(rows)
        differs |= np.fmax.reduce(rows) > np.fmin.reduce(rows)
        differs |= missing.any(axis=0) & ~missing.all(axis=0)
    varied = np.fmax.reduce(values) > np.fmin.reduce(values)
    return tuple(
        str(name) for name, is_same in zip(names, varied & ~differs, strict=True) if is_same
    )
