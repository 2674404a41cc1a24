"""Computes and stores the reports of chosen courses as of a day.

Here stored things are brought together; what each figure is stands in the module of its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import Connection

from grade_ml.core.errors import NotReadyError
from grade_ml.ensemble.course import Change, name_of
from grade_ml.ensemble.lifecycle import changed_since
from grade_ml.ensemble.rows import COLLECTED, hashes
from grade_ml.ensemble.serving import Models
from grade_ml.features.store import read_snapshots
from grade_ml.features.surroundings import beside
from grade_ml.monitoring import concept, estimation, health, quality, records, store
from grade_ml.monitoring.champion import Champion, champions
from grade_ml.monitoring.change import Suspicion, changes
from grade_ml.monitoring.decision import SETTINGS as DECISION
from grade_ml.monitoring.decision import Decision, Evidence, decide
from grade_ml.monitoring.estimation import ErrorEstimate
from grade_ml.monitoring.performance import performance
from grade_ml.monitoring.records import Records
from grade_ml.monitoring.sections import Comparison, Usual, compare, judge
from grade_ml.monitoring.store import EVERYWHERE, Kind, Signal
from grade_ml.monitoring.windows import Sides, windows
from grade_ml.registry.registry import Registry

#: Courses whose records are in memory together.
_AT_ONCE = 50
#: The level of one report, shared by the model's features and its output.
_ALPHA = 0.05
_SHARES = {"features": 0.8, "output": 0.2}
_KEPT = [
    *("feature", "kind", "status", "reason", "p", "p_adjusted", "drifted", "effect"),
    *("ks", "cvm", "psi", "kl", "js", "wasserstein", "chi2", "missing"),
]
#: Features whose shapes a report shows.
_SHOWN = 6

Body = dict[str, Any]


@dataclass(frozen=True)
class Course:
    """One course with what its reports are computed from; `reason`: why nothing can be."""

    course_id: str
    champion: Champion
    records: Records
    snapshots: pd.DataFrame
    reason: str = ""

    @cached_property
    def scores(self) -> tuple[pd.DataFrame, pd.DataFrame, concept.Expectation] | None:
        """Events with their errors in training terms and since, and what was expected of them."""
        held_out = self.champion.held_out
        if held_out.empty or self.reason:
            return None
        own = held_out[held_out["course_id"] == self.course_id]
        scores = self.records.scores
        scores = scores[scores["course_id"] == self.course_id]
        seen = scores["section_id"].isin(own["section_id"])
        before = concept.events(scores[seen], own)
        expectation = concept.learn(before)
        if expectation is None:
            return None
        new = ~scores["section_id"].isin(self.champion.sections)
        since = concept.events(scores[new], self._told())
        return (
            before.assign(error=expectation.errors(before)),
            since.assign(error=expectation.errors(since)),
            expectation,
        )

    @property
    def told_from(self) -> pd.Timestamp:
        """The first day of a champion that was told of a change: errors before are not its own."""
        days = self.records.predictions.loc[self._knows_change, "on"]
        return pd.Timestamp(days.min()) if len(days) else pd.Timestamp.min

    @cached_property
    def _knows_change(self) -> pd.Series:
        """Which stored predictions were made by a model of the course that knew of a change."""
        told, changed_on = self.records.predictions, self.champion.changed_on
        own = told["model"].str.startswith(name_of(self.course_id) + " ")
        return own & (told["on"] >= pd.Timestamp(changed_on)) if changed_on else own & False

    def _told(self) -> pd.DataFrame:
        """Return the stored predictions beside what was collected and to come at that time."""
        rows = self.records.predictions.assign(share=self.champion.share * self._knows_change)
        rows = rows[rows["course_id"] == self.course_id]
        some = self.snapshots[["section_id", "student_id", "cut_on", COLLECTED, "weight_remaining"]]
        known = some.assign(
            section_id=some["section_id"].astype(object),
            student=student_hashes(some["student_id"]),
            collected=some[COLLECTED].fillna(0.0),
        ).drop(columns=["student_id", COLLECTED])
        return pd.merge_asof(
            rows.sort_values("on", kind="stable"),
            known.sort_values("cut_on", kind="stable"),
            left_on="on",
            right_on="cut_on",
            by=["section_id", "student"],
            tolerance=pd.Timedelta(days=6),
        )


def student_hashes(students: pd.Series) -> np.ndarray[Any, np.dtype[Any]]:
    """Return a number for each student, as held-out rows have them; each is hashed once."""
    codes, names = pd.factorize(students.astype(object))
    return np.asarray(hashes(pd.Series(names, dtype=object)).to_numpy()[codes])


@dataclass
class Monitor:
    """The reports of one installation on one day.

    Raises
    ------
    NotReadyError
        No model has been trained.
    """

    connection: Connection
    registry: Registry
    root: str
    as_of: date
    seed: int = 0
    _estimates: dict[int, ErrorEstimate | None] = field(default_factory=dict)

    @cached_property
    def _models(self) -> Models:
        return Models(self.registry)

    @cached_property
    def _sections(self) -> pd.DataFrame:
        return records.all_sections(self.connection, self.as_of)

    def courses(self, names: Sequence[str]) -> Iterator[Course]:
        """Yield each course with its records."""
        for first in range(0, len(names), _AT_ONCE):
            some = list(names[first : first + _AT_ONCE])
            known = records.read(self.connection, self._sections, some, self.as_of)
            for name, champion in zip(
                some, champions(self._models, some, self._sections), strict=True
            ):
                try:
                    yield Course(name, champion, known, read_snapshots(self.root, [name]))
                except NotReadyError as error:
                    yield Course(name, champion, known, pd.DataFrame(), error.message)

    def drift(self, names: Sequence[str]) -> dict[str, Body]:
        """Compute and store `Kind.DRIFT` of the courses."""
        found = {one.course_id: self._compared(one) for one in self.courses(names)}
        usual = {
            part: Usual.of([one.parts[part] for one in found.values() if part in one.parts])
            for part in _SHARES
        }
        bodies = {name: _drift_body(one, usual, self.seed) for name, one in found.items()}
        return self._store(Kind.DRIFT, bodies)

    def performance(self, names: Sequence[str]) -> dict[str, Body]:
        """Compute and store `Kind.PERFORMANCE` of the courses."""
        found = {one.course_id: self._performance(one) for one in self.courses(names)}
        return self._store(Kind.PERFORMANCE, found)

    def concept(self, names: Sequence[str]) -> dict[str, Body]:
        """Compute and store `Kind.CONCEPT` of the courses, and of all courses together."""
        found = {one.course_id: self._concept(one) for one in self.courses(names)}
        self._store(Kind.CONCEPT, found)
        everywhere = self._concept_everywhere()
        for body in found.values():
            _go_along(body, everywhere)
        return self._store(Kind.CONCEPT, {**found, EVERYWHERE: everywhere})

    def health(self, names: Sequence[str]) -> dict[str, health.Health]:
        """Compute and store `Kind.HEALTH` of the courses, from their other reports of the day."""
        stored = store.read(self.connection, self.as_of, days=1, courses=names)
        bodies = {(one.course_id, one.kind): one.body for one in stored}
        decisions = decided(self.connection, self.as_of, names)
        found = {}
        for one in self.courses(names):
            name = one.course_id
            found[name] = health.health(
                bodies.get((name, Kind.PERFORMANCE), {}),
                bodies.get((name, Kind.DRIFT), {}),
                _serving(one),
                decisions.get(name, Decision(False, "no report yet")),
                self.as_of,
            )
        self._store(
            Kind.HEALTH,
            {
                name: {"score": one.score, "worst": one.worst, "needs": one.needs}
                | {"parts": one.parts, "decision": one.decision}
                for name, one in found.items()
            },
        )
        return found

    def changes(self) -> dict[str, Change]:
        """Return what scores say of courses whose change is confirmed now, or was before."""
        asked = decided(self.connection, self.as_of)
        days = DECISION.stale_days
        stored = store.read(
            self.connection, self.as_of, days=days, kinds=[Kind.CONCEPT], courses=asked
        )
        alarmed = {one.course_id: str(one.body["since"]) for one in stored if one.body.get("since")}
        before = timedelta(days=DECISION.longest_gap_days)
        since = {
            name: date.fromisoformat(alarmed[name]) if name in alarmed else one.evidence_on - before
            for name, one in asked.items()
            if one.retrain and one.evidence_on
        } | changed_since(self.connection)
        suspected = {}
        for course in self.courses(sorted(since)):
            if course.scores is not None:
                recent = self.as_of - timedelta(days=concept.SETTINGS.news_days)
                began = pd.Timestamp(max(since[course.course_id], recent))
                events = self._implied_by_pooled(course)
                suspected[course.course_id] = Suspicion(
                    events[events["scored_on"] >= began],
                    course.scores[2],
                    since[course.course_id],
                )
        return changes(suspected, self.seed)

    def _implied_by_pooled(self, course: Course) -> pd.DataFrame:
        """Return the scores of running sections beside what the pooled champion would have said."""
        _, pooled = self._models.pooled_champion()
        running = course.records.running["section_id"]
        rows = course.snapshots[
            course.snapshots["section_id"].astype(object).isin(running)
            & (course.snapshots["cut_on"] <= pd.Timestamp(self.as_of))
        ].reset_index(drop=True)
        predicted = pooled.predict(beside(self.connection, rows, pooled.features))
        told = pd.DataFrame(
            {
                "section_id": rows["section_id"].astype(object),
                "student": student_hashes(rows["student_id"]),
                "on": rows["cut_on"],
                "grade": predicted["grade"].to_numpy(),
                "collected": rows[COLLECTED].fillna(0.0),
                "weight_remaining": rows["weight_remaining"],
            }
        )
        scores = course.records.scores
        return concept.events(scores[scores["section_id"].isin(running)], told)

    def _store(self, kind: Kind, bodies: dict[str, Body]) -> dict[str, Body]:
        store.write(self.connection, kind, self.as_of, bodies)
        return bodies

    def _compared(self, course: Course) -> _Compared:
        body: Body = {"model": course.champion.name, "drifted": False, "says": ""}
        body |= {"degraded": course.champion.degraded, "status": "not tested"}
        if course.reason:
            return _Compared({**body, "reason": course.reason}, {}, None)
        found = windows(course.snapshots, course.champion, course.records)
        body |= {"same_for_class": found.same_for_class, "cut_on": found.cut_on}
        if found.reason:
            return _Compared({**body, "reason": found.reason}, {}, None)
        parts = {"features": compare(found.features)}
        if found.output:
            parts["output"] = compare(found.output)
        body |= {"past_sections": parts["features"].freedom + 1}
        body |= {"quality": _quality(course, found.features)}
        return _Compared(body, parts, found.features)

    def _performance(self, course: Course) -> Body:
        if course.reason:
            return {"model": course.champion.name, "status": "not ready", "reason": course.reason}
        held_out = course.champion.held_out
        if id(held_out) not in self._estimates:
            self._estimates[id(held_out)] = estimation.fit(held_out, self.seed)
        found = performance(
            course.course_id,
            course.champion,
            course.records,
            course.snapshots,
            course.scores[:2] if course.scores else None,
            self._estimates[id(held_out)],
            self.seed,
        )
        loss = found.loss
        return {
            "status": "measured" if loss else "nothing known",
            "reason": "" if loss else "no outcome, no score and no estimate is there yet",
            "says": str(loss) if loss and loss.risen else "",
            "loss": loss,
            **{one.name: getattr(found, one.name) for one in fields(found)},
        }

    def _concept(self, course: Course) -> Body:
        body: Body = {"model": course.champion.name, "alarms": [], "says": "", "alarm_on": None}
        body["changed_on"] = course.champion.changed_on
        if course.scores is None:
            reason = course.reason or (
                "too few scores of training terms can be compared with what was predicted of them"
            )
            return {**body, "status": "not tested", "reason": reason, "reference": []}
        before, since, expectation = course.scores
        reference = concept.stream(before, expectation, None)
        fresh = concept.stream(since, expectation, self.as_of)
        store.remember_errors(self.connection, course.course_id, fresh)
        rows = store.matured_errors(self.connection, self.as_of, [course.course_id])
        rows = rows[~rows["section_id"].isin(course.champion.sections)]
        rows = rows[rows["matured_on"] > course.told_from]
        body |= _alarm_body(concept.alarms(reference["z"], rows), self.as_of, "of its own")
        return {
            **body,
            "status": "tested",
            "reason": "",
            "reference": reference[["matured_on", "z"]].round({"z": 3}),
            "rows": rows[["matured_on", "scores", "error", "z"]].round(3),
            "spread": expectation.spread,
            "between": expectation.between,
        }

    def _concept_everywhere(self) -> Body:
        """Read the streams of all courses as one: what all share shows in weeks, not in terms."""
        stored = store.read(self.connection, self.as_of, days=7, kinds=[Kind.CONCEPT])
        newest = {one.course_id: one.body for one in stored if one.course_id != EVERYWHERE}
        reference, rows = (
            _merged(body.get(part) or [] for body in newest.values())
            for part in ("reference", "rows")
        )
        body: Body = {"status": "tested", "reason": "", "courses": len(newest)}
        if len(reference) < concept.SETTINGS.least_rows:
            return {**body, **_alarm_body([], self.as_of, ""), "status": "not tested"} | {
                "reason": "too few scores of training terms"
            }
        found = concept.alarms(reference["z"], rows)
        return {**body, **_alarm_body(found, self.as_of, "in all courses"), "rows": len(rows)}


def _quality(course: Course, found: Sides) -> Body:
    """Return what is odd in the rows of running sections, and how many columns were looked at."""
    load = course.records.load
    if load is None:
        return {"tested": 0, "violations": [], "reason": "no load is on record"}
    expected = quality.learn(found.reference, found.reference_sections.value_counts())
    odd = [
        one
        for _, rows in found.current.groupby(found.current_sections)
        for one in quality.check(rows, expected, load)
    ]
    graded = [
        _delays(course, sections) for sections in (found.reference_sections, found.current_sections)
    ]
    if all(map(len, graded)):
        usual = quality.learn(graded[0], [len(graded[0])], delays=["to_grade"])
        late = quality.check(graded[1], usual, load)
        # How many results there are depends on the week: only how late they come is looked at.
        odd += [one for one in late if one.rule is quality.Rule.DELAY]
    tested = len(expected.columns) + 2
    return {"tested": tested, "violations": [str(one) for one in odd], "reason": ""}


def _delays(course: Course, sections: pd.Series) -> pd.DataFrame:
    """Return the days from submission to grading, or to the day for what is not graded yet."""
    records = course.records
    chosen = records.assignments[records.assignments["section_id"].isin(sections.unique())]
    results = records.results[records.results["assignment_id"].isin(chosen["assignment_id"])]
    day = datetime.combine(records.as_of, time(), UTC)
    found = quality.arrival_delays(results, chosen, day)
    return pd.DataFrame({"to_grade": found["to_grade"].fillna(found["waiting"])}).dropna()


def _merged(parts: Iterator[list[Mapping[str, Any]]]) -> pd.DataFrame:
    rows = pd.DataFrame([row for part in parts for row in part], columns=["matured_on", "z"])
    rows["matured_on"] = pd.to_datetime(rows["matured_on"])
    return rows.sort_values(["matured_on", "z"], ignore_index=True).astype({"z": "float64"})


def _alarm_body(alarms: list[concept.Alarm], as_of: date, where: str) -> Body:
    oldest = as_of - timedelta(days=concept.SETTINGS.news_days)
    fresh = [one for one in alarms if one.on >= oldest]
    body: Body = {"alarms": alarms, "says": "", "alarm_on": None, "since": None, "direction": 0}
    if fresh:
        first = fresh[0]
        way = "higher" if first.direction > 0 else "lower"
        body["says"] = f"scores are {way} than predictions imply ({first.detector}, {where})"
        body |= {"alarm_on": first.on, "since": first.since, "direction": first.direction}
    return body


def _go_along(body: Body, everywhere: Mapping[str, Any]) -> None:
    """Let a course that agrees with an alarm of all courses have it, too.

    One that was told of a change has been answered: what is left of it each training looks at.
    """
    is_told = body["changed_on"] is not None
    if body["status"] != "tested" or body["says"] or is_told or everywhere["alarm_on"] is None:
        return
    rows = body["rows"]
    z = rows.loc[rows["matured_on"] >= pd.Timestamp(everywhere["since"]), "z"].to_numpy(np.float64)
    clear = everywhere["direction"] * z.sum() / np.sqrt(max(z.size, 1))
    if clear >= concept.SETTINGS.agreement:
        body |= {name: everywhere[name] for name in ("says", "alarm_on", "since")}


@dataclass(frozen=True)
class _Compared:
    """A report of drift before it is known what is usual: its parts, and the rows of features."""

    body: Body
    parts: Mapping[str, Comparison]
    sides: Sides | None


def _drift_body(one: _Compared, usual: Mapping[str, Usual], seed: int) -> Body:
    if one.sides is None:
        return one.body
    reports = {
        part: judge(found, usual[part], alpha=_ALPHA * _SHARES[part], seed=seed)
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
    reference, current = one.sides.reference, one.sides.current
    tested = reports["features"].conclusive
    return {
        **one.body,
        "status": "tested" if tested else "not tested",
        "reason": "" if tested else _inconclusive(one, table),
        "drifted": bool(drifted),
        "says": f"{says}{more} drifted" if drifted else "",
        "features": table[_KEPT],
        "output": outputs[_KEPT],
        "multivariate": reports["features"].multivariate,
        "courses_compared": usual["features"].courses,
        "reference_rows": len(reference),
        "current_rows": len(current),
        "shapes": {
            str(name): shape(reference[name], current[name])
            for name in shown
            if name in reference and name in current
        },
    }


def _inconclusive(one: _Compared, table: pd.DataFrame) -> str:
    if len(one.parts["features"].usual) and not table["drifted"].any():
        return (
            "one past section does not tell how much sections of the course usually differ, and "
            "no other course of this run does; drift cannot be told from a new class"
        )
    return "no feature could be tested"


def shape(reference: pd.Series, current: pd.Series) -> Body:
    """Return the shares of both in the same bins: labels or edges, reference, current."""
    if not pd.api.types.is_numeric_dtype(reference):
        shares = [one.astype(str).value_counts(normalize=True) for one in (reference, current)]
        labels = sorted(set(shares[0].index) | set(shares[1].index))[:12]
        values = [one.reindex(labels).fillna(0.0).round(4).tolist() for one in shares]
        return {"labels": labels, "reference": values[0], "current": values[1]}
    both = [one.to_numpy(np.float64) for one in (reference, current)]
    finite = [one[np.isfinite(one)] for one in both]
    edges = np.histogram_bin_edges(np.concatenate(finite), bins=20)
    counts = [np.histogram(one, edges)[0] / max(one.size, 1) for one in finite]
    return {
        "edges": edges.round(4).tolist(),
        "reference": counts[0].round(4).tolist(),
        "current": counts[1].round(4).tolist(),
    }


def _serving(course: Course) -> health.Serving:
    running = course.records.running
    own = running.loc[running["course_id"] == course.course_id, "section_id"]
    told = course.records.predictions
    told = told[told["section_id"].isin(own)]
    enrolled = int(course.records.enrolled.reindex(own).fillna(0).sum())
    newest = told["on"].max().date() if len(told) else None
    predicted = int((told["on"] == told["on"].max()).sum())
    return health.Serving(enrolled, predicted, newest, course.champion.degraded)


def evidence(signals: Sequence[Signal]) -> dict[str, list[Evidence]]:
    """Return the evidence of each course, one piece for each day that has reports."""
    days: dict[tuple[str, date], dict[Kind, Signal]] = {}
    for one in signals:
        days.setdefault((one.course_id, one.as_of), {})[one.kind] = one
    found: dict[str, list[Evidence]] = {}
    for (course, day), kinds in days.items():
        says = {kind: one.says for kind, one in kinds.items()}
        labels = kinds.get(Kind.CONCEPT)
        found.setdefault(course, []).append(
            Evidence(
                day,
                says.get(Kind.DRIFT, ""),
                says.get(Kind.PERFORMANCE, ""),
                says.get(Kind.CONCEPT, ""),
                labels.alarm_on if labels else None,
            )
        )
    return found


def decided(
    connection: Connection, as_of: date, courses: Sequence[str] | None = None
) -> dict[str, Decision]:
    """Return for each course that has reports whether to train it again."""
    days = DECISION.stale_days + DECISION.longest_gap_days + 1
    found = evidence(store.signals(connection, as_of, days=days, courses=courses))
    return {course: decide(rows, as_of) for course, rows in found.items()}
