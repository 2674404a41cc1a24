"""Drift of one course: its running sections are compared with those of the training terms.

Comparing takes two steps, for the usual difference between sections is known only when all courses
are compared.
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
    """The drift report of a course, or the reason why it could not be tested.

    Attributes
    ----------
    status
        "tested" or "not tested"; `reason` is why not.
    says
        Description of the drift; empty if there is none.
    redesigned
        What redesigned sections have other than before; it explains drift, and is none itself.
    """

    model: str
    degraded: tuple[str, ...]
    status: str = "not tested"
    reason: str = ""
    drifted: bool = False
    says: str = ""
    redesigned: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Chosen(Drift):
    """A course whose rows were chosen: the features that are the same for a class, newest day."""

    same_for_class: tuple[str, ...]
    cut_on: date | None


@dataclass(frozen=True)
class Odd:
    """Violations in the rows of running sections, and the number of tested expectations."""

    tested: int
    violations: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Compared(Chosen):
    """A course whose running sections were compared with `past_sections`."""

    past_sections: int
    quality: Odd


@dataclass(frozen=True, kw_only=True)
class Judged(Compared):
    """A course that has been judged: it drifted, or it did not.

    `features` and `output` have the figures of each column; `shapes` has histograms of some.
    """

    features: pd.DataFrame
    output: pd.DataFrame
    courses_compared: int
    reference_rows: int
    current_rows: int
    shapes: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Comparing:
    """The unfinished report of a course, before usual differences are known; its comparisons."""

    found: Drift
    parts: Mapping[str, Comparison]


def comparing(course: Course) -> Comparing:
    """Compare the course's running sections with past sections; `judged` evaluates it."""
    about: dict[str, Any] = {"model": course.champion.name, "degraded": course.champion.degraded}
    about |= {"redesigned": course.redesigned}
    if course.reason:
        return Comparing(Drift(**about, reason=course.reason), {})
    compared = windows(course.snapshots, course.champion, course.records)
    about |= {"same_for_class": compared.same_for_class, "cut_on": compared.cut_on}
    if compared.reason:
        return Comparing(Chosen(**about, reason=compared.reason), {})
    parts = {"features": compare(compared.features)}
    if compared.output:
        parts["output"] = compare(compared.output)
    about |= {"past_sections": parts["features"].freedom + 1}
    return Comparing(Compared(**about, quality=_odd(course, compared.features)), parts)


def usual(courses: Iterable[Comparing]) -> dict[str, Usual]:
    """Return how much sections of a course usually differ, by part, learned from all courses."""
    compared = list(courses)
    return {
        part: Usual.of([course.parts[part] for course in compared if part in course.parts])
        for part in _SHARES
    }


def judged(course: Comparing, known: Mapping[str, Usual], seed: int) -> Drift:
    """Return the drift report of the course, given the usual differences."""
    if not course.parts:
        return course.found
    reports = {
        part: judge(comparison, known[part], alpha=_ALPHA * _SHARES[part], seed=seed)
        for part, comparison in course.parts.items()
    }
    table = reports["features"].features
    outputs = reports["output"].features if "output" in reports else table.head(0)
    drifted = [
        *table.loc[table["drifted"], "feature"],
        *(f"predicted {name}" for name in outputs.loc[outputs["drifted"], "feature"]),
    ]
    listed = ", ".join(map(str, drifted[:3]))
    more = f" and {len(drifted) - 3} more" if len(drifted) > 3 else ""
    shown = table[table["drifted"]].sort_values("p")["feature"].head(_SHOWN)
    sizes = course.parts["features"].sizes
    tested = reports["features"].conclusive
    return Judged(
        **{each.name: getattr(course.found, each.name) for each in fields(course.found)}
        | {"status": "tested" if tested else "not tested"}
        | {"reason": "" if tested else _inconclusive(course, table)}
        | {"drifted": bool(drifted), "says": f"{listed}{more} drifted" if drifted else ""},
        features=table[_KEPT],
        output=outputs[_KEPT],
        courses_compared=known["features"].courses,
        reference_rows=sizes[0],
        current_rows=sizes[1],
        shapes={
            str(column.name): _shape(column, sizes[0])
            for column in course.parts["features"].columns
            if column.name in set(shown) and column.values is not None
        },
    )


def _inconclusive(course: Comparing, table: pd.DataFrame) -> str:
    if len(course.parts["features"].usual) and not table["drifted"].any():
        return (
            "one past section does not tell how much sections of the course usually differ, and "
            "no other course of this run does; drift cannot be told from a new class"
        )
    return "no feature could be tested"


def _shape(column: Column, rows: int) -> dict[str, Any]:
    """Return the shares of reference and current rows in the same bins, with labels or edges.

    The first `rows` rows are the reference.
    """
    assert column.values is not None
    both = (column.values[:rows], column.values[rows:])
    shape: dict[str, Any] = {}
    if column.categories:
        names = [*column.categories, "no value"]
        counts = [np.bincount(values, minlength=len(names)) for values in both]
        occupied = np.flatnonzero(counts[0] + counts[1])[:_CATEGORIES_SHOWN]
        counts = [count[occupied] for count in counts]
        shape["labels"] = [names[place] for place in occupied]
    else:
        finite = [values[np.isfinite(values)] for values in both]
        edges = np.histogram_bin_edges(np.concatenate(finite), bins=20)
        counts = [np.histogram(values, edges)[0] for values in finite]
        shape["edges"] = edges.round(4).tolist()
    for side, count, values in zip(("reference", "current"), counts, both, strict=True):
        shape[side] = (count / max(values.size, 1)).round(4).tolist()
    return shape


def _odd(course: Course, features: Sides) -> Odd:
    load = course.records.load
    if load is None:
        return Odd(0, (), "no load is on record")
    expected = quality.learn(features.reference, features.reference_sections.value_counts())
    odd = [
        violation
        for _, rows in features.current.groupby(features.current_sections)
        for violation in quality.check(rows, expected, load)
    ]
    delays = course.records.delays
    graded = [
        delays.loc[delays["section_id"].isin(sections.unique()), ["days"]]
        for sections in (features.reference_sections, features.current_sections)
    ]
    if all(map(len, graded)):
        usual = quality.learn(graded[0], [len(graded[0])], delays=["days"])
        late = quality.check(graded[1], usual, load)
        # The number of results depends on the week, so only their delays are tested.
        odd += [violation for violation in late if violation.rule is quality.Rule.DELAY]
    return Odd(len(expected.columns) + 2, tuple(str(violation) for violation in odd))
