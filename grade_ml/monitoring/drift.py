"""Drift of one course: running sections beside those of the training terms, in words and figures.

Comparing takes two steps: what is usual among sections is known when all courses are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from grade_ml.monitoring import quality
from grade_ml.monitoring.courses import Course
from grade_ml.monitoring.sections import Comparison, Usual, compare, judge
from grade_ml.monitoring.windows import Sides, windows
from grade_ml.two_sample.columns import Column

#: The level of one report, shared by the model's features and its output.
_ALPHA = 0.05
_SHARES = {"features": 0.8, "output": 0.2}
_KEPT = [
    *("feature", "kind", "status", "reason", "p", "p_adjusted", "drifted", "effect"),
    *("ks", "cvm", "psi", "kl", "js", "wasserstein", "chi2", "missing"),
]
#: Features whose shapes a report shows, and categories of one.
_SHOWN, _CATEGORIES_SHOWN = 6, 12


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What is said of a course; of one that could not be looked at, why.

    Attributes
    ----------
    status
        "tested" or "not tested"; `reason` says why not.
    says
        What drifted, in words; empty: nothing.
    """

    model: str
    degraded: tuple[str, ...]
    status: str = "not tested"
    reason: str = ""
    drifted: bool = False
    says: str = ""


@dataclass(frozen=True, kw_only=True)
class Looked(Drift):
    """A course of which rows were chosen: what is the same for a class, and their newest day."""

    same_for_class: tuple[str, ...]
    cut_on: date | None


@dataclass(frozen=True)
class Odd:
    """What is odd in the rows of running sections, and how many expectations were looked at."""

    tested: int
    violations: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Compared(Looked):
    """A course whose running sections were compared with `past_sections`."""

    past_sections: int
    quality: Odd


@dataclass(frozen=True, kw_only=True)
class Judged(Compared):
    """A course of which it is known whether it drifted.

    `features` and `output` have the figures of each column, `shapes` the shares of some.
    """

    features: pd.DataFrame
    output: pd.DataFrame
    courses_compared: int
    reference_rows: int
    current_rows: int
    shapes: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Comparing:
    """What was found of a course before it is known what is usual, and its comparisons."""

    found: Drift
    parts: Mapping[str, Comparison]


def comparing(course: Course) -> Comparing:
    """Compare running sections of the course with past ones; what is usual is not asked."""
    about: dict[str, Any] = {"model": course.champion.name, "degraded": course.champion.degraded}
    if course.reason:
        return Comparing(Drift(**about, reason=course.reason), {})
    found = windows(course.snapshots, course.champion, course.records)
    about |= {"same_for_class": found.same_for_class, "cut_on": found.cut_on}
    if found.reason:
        return Comparing(Looked(**about, reason=found.reason), {})
    parts = {"features": compare(found.features)}
    if found.output:
        parts["output"] = compare(found.output)
    about |= {"past_sections": parts["features"].freedom + 1}
    return Comparing(Compared(**about, quality=_odd(course, found.features)), parts)


def usual(found: Iterable[Comparing]) -> dict[str, Usual]:
    """Return how much sections of a course differ, in each part, over all courses."""
    compared = list(found)
    return {
        part: Usual.of([one.parts[part] for one in compared if part in one.parts])
        for part in _SHARES
    }


def judged(one: Comparing, known: Mapping[str, Usual], seed: int) -> Drift:
    """Return whether the course drifted, given what is usual."""
    if not one.parts:
        return one.found
    reports = {
        part: judge(found, known[part], alpha=_ALPHA * _SHARES[part], seed=seed)
        for part, found in one.parts.items()
    }
    table = reports["features"].features
    outputs = reports["output"].features if "output" in reports else table.head(0)
    drifted = [
        *table.loc[table["drifted"], "feature"],
        *(f"predicted {name}" for name in outputs.loc[outputs["drifted"], "feature"]),
    ]
    says = ", ".join(map(str, drifted[:3]))
    more = f" and {len(drifted) - 3} more" if len(drifted) > 3 else ""
    shown = table[table["drifted"]].sort_values("p")["feature"].head(_SHOWN)
    sizes = one.parts["features"].sizes
    tested = reports["features"].conclusive
    return Judged(
        **{each.name: getattr(one.found, each.name) for each in fields(one.found)}
        | {"status": "tested" if tested else "not tested"}
        | {"reason": "" if tested else _inconclusive(one, table)}
        | {"drifted": bool(drifted), "says": f"{says}{more} drifted" if drifted else ""},
        features=table[_KEPT],
        output=outputs[_KEPT],
        courses_compared=known["features"].courses,
        reference_rows=sizes[0],
        current_rows=sizes[1],
        shapes={
            str(column.name): _shape(column, sizes[0])
            for column in one.parts["features"].columns
            if column.name in set(shown) and column.values is not None
        },
    )


def _inconclusive(one: Comparing, table: pd.DataFrame) -> str:
    if len(one.parts["features"].usual) and not table["drifted"].any():
        return (
            "one past section does not tell how much sections of the course usually differ, and "
            "no other course of this run does; drift cannot be told from a new class"
        )
    return "no feature could be tested"


def _shape(column: Column, rows: int) -> dict[str, Any]:
    """Return the shares of both in the same bins: labels or edges, reference, current.

    The reference are the first `rows` rows.
    """
    assert column.values is not None
    both = (column.values[:rows], column.values[rows:])
    found: dict[str, Any] = {}
    if column.categories:
        names = [*column.categories, "no value"]
        counts = [np.bincount(one, minlength=len(names)) for one in both]
        there = np.flatnonzero(counts[0] + counts[1])[:_CATEGORIES_SHOWN]
        counts = [count[there] for count in counts]
        found["labels"] = [names[place] for place in there]
    else:
        finite = [one[np.isfinite(one)] for one in both]
        edges = np.histogram_bin_edges(np.concatenate(finite), bins=20)
        counts = [np.histogram(one, edges)[0] for one in finite]
        found["edges"] = edges.round(4).tolist()
    for side, count, one in zip(("reference", "current"), counts, both, strict=True):
        found[side] = (count / max(one.size, 1)).round(4).tolist()
    return found


def _odd(course: Course, found: Sides) -> Odd:
    load = course.records.load
    if load is None:
        return Odd(0, (), "no load is on record")
    expected = quality.learn(found.reference, found.reference_sections.value_counts())
    odd = [
        one
        for _, rows in found.current.groupby(found.current_sections)
        for one in quality.check(rows, expected, load)
    ]
    delays = course.records.delays
    graded = [
        delays.loc[delays["section_id"].isin(sections.unique()), ["days"]]
        for sections in (found.reference_sections, found.current_sections)
    ]
    if all(map(len, graded)):
        usual = quality.learn(graded[0], [len(graded[0])], delays=["days"])
        late = quality.check(graded[1], usual, load)
        # How many results there are depends on the week: only how late they come is looked at.
        odd += [one for one in late if one.rule is quality.Rule.DELAY]
    return Odd(len(expected.columns) + 2, tuple(str(one) for one in odd))
