"""What may be done about a risk period, by whom, and for whom there is time this week.

The table from driver and timing to action is a file that a university may replace by its own.
Nothing here shows that an action helps: that takes an experiment, and `evidence` names the study
that an action rests on.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from grade_ml.core.errors import SourceError
from grade_ml.core.storage import open_file
from grade_ml.early_warning.risk_periods import Driver

#: The table that is used where a university names no other.
DEFAULT_TABLE = Path(__file__).with_name("interventions.csv")
COLUMNS = ("driver", "timing", "action", "owner", "evidence")
#: Weeks ahead up to which a period calls for action at once: this week and the next.
_NOW = 1

#: Columns of the plan.
PLAN = (
    *("course_id", "section_id", "student_id", "as_of", "rank", "driver", "timing", "action"),
    *("owner", "evidence", "severity", "start_week", "planned_on", "left_out"),
)
#: What is one and the same task.
_TASK = ["section_id", "student_id", "owner", "action"]


class Timing(StrEnum):
    """When a period begins."""

    NOW = "now"
    LATER = "later"


@dataclass(frozen=True)
class Rule:
    """One row of the table."""

    driver: Driver
    timing: Timing
    action: str
    owner: str
    evidence: str


@dataclass(frozen=True)
class Instead:
    """What holds for a student instead of the table in force.

    Attributes
    ----------
    rules
        What is proposed.
    withheld
        Why none of it is planned; empty if it is.
    """

    rules: tuple[Rule, ...]
    withheld: str = ""


#: By course and student, who has what `Instead`; for all others the table in force holds.
Exceptions = Mapping[tuple[str, str], Instead]


def read_table(path: Path = DEFAULT_TABLE) -> tuple[Rule, ...]:
    """Return the rules of a CSV file (UTF-8, columns `COLUMNS`) in their order.

    Raises
    ------
    SourceError
        The file cannot be read, lacks a column, has bad values (each is named by row, column and
        value), or has no rule for one of the drivers and timings.
    """
    try:
        with io.TextIOWrapper(open_file(path), newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(
            f"The table of interventions {path} cannot be read: {error}.",
            "Correct the file, or unset GRADE_ML_INTERVENTIONS to use the table that comes along.",
        ) from error
    if missing := [name for name in COLUMNS if name not in names]:
        raise SourceError(
            f"The table of interventions {path} lacks the columns {', '.join(missing)}.",
            f"Its first line names {', '.join(COLUMNS)}, separated by commas.",
        )
    if wrong := [text for line, row in rows for text in _problems(line, row)]:
        raise SourceError(
            f"The table of interventions {path} has bad values. {' '.join(wrong)}",
            "Correct these rows; nothing of the table is used until then.",
        )
    rules = tuple(
        Rule(
            Driver(row["driver"].strip()),
            Timing(row["timing"].strip()),
            *(row[name].strip() for name in COLUMNS[2:]),
        )
        for _, row in rows
    )
    known = {(rule.driver, rule.timing) for rule in rules}
    gaps = [f"{d} {t}" for d in Driver for t in Timing if (d, t) not in known]
    if gaps:
        raise SourceError(
            f"The table of interventions {path} has no row for {', '.join(gaps)}.",
            "Write at least one row for each driver and timing.",
        )
    return rules


def _problems(line: int, row: dict[str, str]) -> Iterator[str]:
    for name, known in (("driver", Driver), ("timing", Timing)):
        value = (row[name] or "").strip()
        if value not in list(known):
            yield (f"Row {line}, column {name}: {value!r} is not one of {', '.join(known)}.")
    for name in COLUMNS[2:]:
        if not (row[name] or "").strip():
            yield f"Row {line}, column {name}: {row[name]!r} is empty; write what it is."


def monday(day: date) -> date:
    """Return the first day of the week in which loads are counted."""
    return day - timedelta(days=day.weekday())


def proposals(periods: pd.DataFrame, rules: Sequence[Rule]) -> pd.DataFrame:
    """Return the actions of the table for each period, ranked per student.

    Parameters
    ----------
    periods
        As `risk_periods` returns them.

    Returns
    -------
    pandas.DataFrame
        `PLAN` without planned_on and left_out; rank counts from 1 for each student, the gravest
        and earliest period first. A task that follows from several periods is in it once.
    """
    table = pd.DataFrame([vars(rule) for rule in rules], columns=list(COLUMNS)).astype("object")
    table["order"] = range(len(table))
    timing = periods["weeks_ahead"].le(_NOW).map({True: str(Timing.NOW), False: str(Timing.LATER)})
    rows = periods.assign(timing=timing).merge(table, on=["driver", "timing"])
    order = ["severity", "start_week", "order", "section_id", "student_id"]
    rows = rows.sort_values(order, ascending=[False, *[True] * 4], kind="stable")
    rows = rows.drop_duplicates([*_TASK, "as_of"])
    rows["rank"] = rows.groupby(["section_id", "student_id", "as_of"]).cumcount() + 1
    return rows[[name for name in PLAN if name in rows]].reset_index(drop=True)


def _proposed(periods: pd.DataFrame, rules: Sequence[Rule], exceptions: Exceptions) -> pd.DataFrame:
    """Return the actions of each student's own table; `withheld` is the reason or empty."""
    if not exceptions:
        return proposals(periods, rules).assign(withheld="")
    pairs = zip(periods["course_id"], periods["student_id"], strict=True)
    own = pd.Series([exceptions.get(pair) for pair in pairs], periods.index, dtype=object)
    parts = [proposals(periods[own.isna()], rules).assign(withheld="")]
    for exception in own.dropna().unique():
        parts.append(
            proposals(periods[own.eq(exception)], exception.rules).assign(
                withheld=exception.withheld
            )
        )
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def plan(  # noqa: PLR0913, PLR0917
    periods: pd.DataFrame,
    rules: Sequence[Rule],
    earlier: pd.DataFrame,
    as_of: date,
    load: int,
    exceptions: Exceptions = MappingProxyType({}),
) -> pd.DataFrame:
    """Return which owner does what this week, and what is left out and why.

    An owner of a section (its tutor, its adviser) gets at most `load` tasks from Monday to Sunday.
    What was planned earlier in the week stays planned. Then come the students' first tasks by that
    owner, the gravest first, then their second ones. Withheld tasks take no other task's place.

    Parameters
    ----------
    rules
        The table in force.
    earlier
        Rows of `PLAN` that were planned on earlier days of the week.
    load
        Most tasks of one owner in one section and week.
    exceptions
        Students for whom something else holds; their withheld tasks are listed as left out.

    Returns
    -------
    pandas.DataFrame
        `PLAN`; planned_on is the day of the planning (NaT if left out), left_out the reason.
    """
    proposed = _proposed(periods, rules, exceptions)
    planned = earlier[list(PLAN)].drop_duplicates(_TASK).assign(as_of=pd.Timestamp(as_of))
    known = pd.MultiIndex.from_frame(planned[_TASK])
    new = proposed[~pd.MultiIndex.from_frame(proposed[_TASK]).isin(known)].copy()
    new["turn"] = new.groupby(["section_id", "student_id", "owner"]).cumcount()
    new = new.sort_values(
        ["turn", "severity", "start_week", "section_id", "student_id"],
        ascending=[True, False, True, True, True],
        kind="stable",
    )
    owners = ["section_id", "owner"]
    places_taken = planned.groupby(owners).size()
    free = new["withheld"].eq("")
    place = free.groupby([new[name] for name in owners]).cumsum() + places_taken.reindex(
        pd.MultiIndex.from_frame(new[owners]), fill_value=0
    ).to_numpy(int)
    fits = free & (place <= load)
    new["planned_on"] = pd.Series(pd.Timestamp(as_of), new.index).where(fits)
    full = "the " + new["owner"] + f"'s {load} tasks of this week in this section are more urgent"
    new["left_out"] = full.where(free, new["withheld"]).where(~fits, "")
    parts = [rows for rows in (planned, new[list(PLAN)]) if len(rows)]
    rows = pd.concat(parts) if parts else new[list(PLAN)]
    order = ["section_id", "student_id", "rank", "owner", "action"]
    return rows.sort_values(order, kind="stable").reset_index(drop=True)
