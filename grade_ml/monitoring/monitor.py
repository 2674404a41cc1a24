"""Computes and stores the reports of chosen courses as of a day.

Here stored things are brought together; what each figure is stands in the module of its name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date, timedelta
from functools import cache, cached_property
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, cpu_count, delayed
from sqlalchemy import Connection

from grade_ml.core import database
from grade_ml.core.errors import NotReadyError
from grade_ml.core.frames import empty
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.ensemble.course import Change
from grade_ml.ensemble.rows import COLLECTED
from grade_ml.features.store import Frames
from grade_ml.features.surroundings import beside
from grade_ml.gradebook.attributes import Declarations
from grade_ml.gradebook.institution import DEFAULTS, Institution
from grade_ml.monitoring import concept, estimation, health, quality, records, store
from grade_ml.monitoring.champion import Champions
from grade_ml.monitoring.change import Suspicion, changes
from grade_ml.monitoring.courses import COLUMNS, Course, Scores, scores
from grade_ml.monitoring.decision import SETTINGS as DECISION
from grade_ml.monitoring.decision import Decision, Evidence, decide
from grade_ml.monitoring.estimation import ErrorEstimate
from grade_ml.monitoring.health import Serving
from grade_ml.monitoring.performance import performance
from grade_ml.monitoring.sections import Comparison, Usual, classified, compare, judge
from grade_ml.monitoring.store import EVERYWHERE, Kind, Signal
from grade_ml.monitoring.windows import Sides, windows
from grade_ml.registry.registry import Registry
from grade_ml.serving.models import Models
from grade_ml.training.ensembles import changed_since
from grade_ml.two_sample.columns import Column

#: Courses whose records are in memory together.
_AT_ONCE = 50
#: Starting another process takes as long as the reports of some fifty courses.
_WORTH_A_PROCESS = 50
#: The level of one report, shared by the model's features and its output.
_ALPHA = 0.05
_SHARES = {"features": 0.8, "output": 0.2}
_KEPT = [
    *("feature", "kind", "status", "reason", "p", "p_adjusted", "drifted", "effect"),
    *("ks", "cvm", "psi", "kl", "js", "wasserstein", "chi2", "missing"),
]
#: Features whose shapes a report shows, and categories of one.
_SHOWN, _CATEGORIES_SHOWN = 6, 12

Body = dict[str, Any]


@dataclass
class Monitor:
    """The reports of one installation on one day.

    Raises
    ------
    NotReadyError
        No model has been trained.
    """

    connection: Connection
    models: Models
    root: str
    as_of: date
    seed: int = 0
    institution: Institution = DEFAULTS
    _estimates: dict[int, ErrorEstimate | None] = field(default_factory=dict)

    @cached_property
    def _champions(self) -> Champions:
        return Champions(self._sections)

    @cached_property
    def _sections(self) -> pd.DataFrame:
        return records.all_sections(self.connection, self.as_of)

    def courses(
        self, names: Sequence[str], columns: Collection[str] | None = None
    ) -> Iterator[Course]:
        """Yield each course with its records, and with all or some `columns` of its snapshots."""
        served = self.models.serving_each(names)
        stored = Frames(self.root, self.as_of, self.models.registry.pseudonyms)
        for first in range(0, len(names), _AT_ONCE):
            some = names[first : first + _AT_ONCE]
            known = records.read(
                self.connection,
                self._sections,
                some,
                self.as_of,
                self.institution,
                self.models.registry.pseudonyms,
            )
            for name, own in known.items():
                try:
                    snapshots, reason = stored.snapshots([name], columns=columns), ""
                except NotReadyError as error:
                    snapshots, reason = pd.DataFrame(), error.message
                champion = self._champions.of(name, served[name])
                yield Course(name, champion, own, snapshots, reason)

    def _scored(
        self, names: Sequence[str], columns: Collection[str] | None = None
    ) -> Iterator[tuple[Course, Scores | None]]:
        """Yield each course of `courses` with its scores, where enough is known of them."""
        for some in _batched(self.courses(names, columns)):
            known = scores(some)
            for one in some:
                yield one, known.get(one.course_id)

    def drift(self, names: Sequence[str]) -> dict[str, Body]:
        """Compute and store `Kind.DRIFT` of the courses."""
        found = self._spread("compared", names)
        usual = {
            part: Usual.of([one.parts[part] for one in found.values() if part in one.parts])
            for part in _SHARES
        }
        calls = [delayed(_drift_body)(one, usual, self.seed) for one in found.values()]
        bodies = dict(
            zip(found, Parallel(_processes(names), batch_size=_AT_ONCE)(calls), strict=True)
        )
        return self._store(Kind.DRIFT, bodies)

    def performance(self, names: Sequence[str]) -> dict[str, Body]:
        """Compute and store `Kind.PERFORMANCE` of the courses."""
        return self._store(Kind.PERFORMANCE, self._spread("measured", names))

    def concept(self, names: Sequence[str]) -> dict[str, Body]:
        """Compute and store `Kind.CONCEPT` of the courses, and of all courses together."""
        streams = self._spread("streams", names)
        fresh = [
            one.fresh.assign(course_id=name) for name, one in streams.items() if len(one.fresh)
        ]
        if fresh:
            store.remember_errors(self.connection, pd.concat(fresh, ignore_index=True))
        matured = store.matured_errors(self.connection, self.as_of, names)
        rows = dict(iter(matured.groupby("course_id")))
        found = {
            name: one.body(rows.get(name, matured.head(0)), self.as_of)
            for name, one in streams.items()
        }
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
        found = {
            name: health.health(
                bodies.get((name, Kind.PERFORMANCE), {}),
                bodies.get((name, Kind.DRIFT), {}),
                serving,
                decisions.get(name, Decision(False, "no report yet")),
                self.as_of,
            )
            for name, serving in self._serving(names)
        }
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
        for course, scored in self._scored(sorted(since)):
            if scored:
                recent = self.as_of - timedelta(days=concept.SETTINGS.news_days)
                began = pd.Timestamp(max(since[course.course_id], recent))
                events = self._implied_by_pooled(course)
                suspected[course.course_id] = Suspicion(
                    events[events["scored_on"] >= began],
                    scored.expectation,
                    since[course.course_id],
                )
        return changes(suspected, self.seed)

    def _implied_by_pooled(self, course: Course) -> pd.DataFrame:
        """Return the scores of running sections beside what the pooled champion would have said."""
        _, pooled = self.models.pooled_champion()
        running = course.records.running["section_id"]
        rows = course.snapshots[
            course.snapshots["section_id"].astype(object).isin(running)
            & (course.snapshots["cut_on"] <= pd.Timestamp(self.as_of))
        ].reset_index(drop=True)
        predicted = pooled.predict(beside(self.connection, rows, pooled.features))
        told = pd.DataFrame(
            {
                "section_id": rows["section_id"].astype(object),
                "student": self.models.registry.pseudonyms.of(rows["student_id"]),
                "on": rows["cut_on"],
                "grade": predicted["grade"].to_numpy(),
                "collected": rows[COLLECTED].fillna(0.0),
                "weight_remaining": rows["weight_remaining"],
            }
        )
        graded = course.records.scores
        return concept.events(graded[graded["section_id"].isin(running)], told)

    def _store(self, kind: Kind, bodies: dict[str, Body]) -> dict[str, Body]:
        store.write(self.connection, kind, self.as_of, bodies)
        return bodies

    def _spread(self, part: str, names: Sequence[str]) -> dict[str, Any]:
        """Return what the method `part` says of the courses, in their order.

        Many courses are shared out among processes, which see what has been committed.
        """
        workers = _processes(names)
        if workers == 1:
            found: dict[str, Any] = getattr(self, part)(names)
            return found
        url = self.connection.engine.url.render_as_string(hide_password=False)
        registry = self.models.registry
        here = (url, registry.tracking_uri, registry.pseudonyms, registry.declared, self.root)
        told = (*here, self.as_of, self.seed, self.institution, part)
        shares = [list(names[first::workers]) for first in range(workers)]
        parts = Parallel(workers)(delayed(_elsewhere)(*told, share) for share in shares)
        found = {name: one for part in parts for name, one in part.items()}
        return {name: found[name] for name in names}

    def compared(self, names: Sequence[str]) -> dict[str, _Compared]:
        """Compare running sections of the courses with past ones; what is usual is not asked."""
        return {one.course_id: self._compared(one) for one in self.courses(names)}

    def measured(self, names: Sequence[str]) -> dict[str, Body]:
        """Return the bodies of `Kind.PERFORMANCE`."""
        columns = [*COLUMNS, "grade_if_all_perfect"]
        return {
            one.course_id: self._measured(one, known) for one, known in self._scored(names, columns)
        }

    def streams(self, names: Sequence[str]) -> dict[str, _Streams]:
        """Return the errors of scores of the courses, in training terms and since."""
        found = self._scored(names, COLUMNS)
        return {one.course_id: self._streams(one, known) for one, known in found}

    def _compared(self, course: Course) -> _Compared:
        body: Body = {"model": course.champion.name, "drifted": False, "says": ""}
        body |= {"degraded": course.champion.degraded, "status": "not tested"}
        if course.reason:
            return _Compared({**body, "reason": course.reason}, {})
        found = windows(course.snapshots, course.champion, course.records)
        body |= {"same_for_class": found.same_for_class, "cut_on": found.cut_on}
        if found.reason:
            return _Compared({**body, "reason": found.reason}, {})
        features = classified(
            compare(found.features), alpha=_ALPHA * _SHARES["features"], seed=self.seed
        )
        parts = {"features": features}
        if found.output:
            parts["output"] = compare(found.output)
        body |= {"past_sections": parts["features"].freedom + 1}
        body |= {"quality": _quality(course, found.features)}
        return _Compared(body, parts)

    def _measured(self, course: Course, scored: Scores | None) -> Body:
        champion = course.champion
        if course.reason:
            return {"model": champion.name, "status": "not ready", "reason": course.reason}
        everywhere = champion.everywhere
        if id(everywhere) not in self._estimates:
            self._estimates[id(everywhere)] = estimation.fit(everywhere, self.seed)
        estimate = self._estimates[id(everywhere)]
        found = performance(
            champion,
            course.records,
            course.snapshots,
            (scored.before, scored.since) if scored else None,
            estimate.at(champion.places) if estimate else None,
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

    def _streams(self, course: Course, scored: Scores | None) -> _Streams:
        champion, nothing = course.champion, empty(concept.STREAM_TYPES)
        body: Body = {"model": champion.name, "changed_on": champion.changed_on, "reason": ""}
        if scored is None:
            reason = course.reason or (
                "too few scores of training terms can be compared with what was predicted of them"
            )
            return _Streams({**body, "reason": reason}, nothing, nothing)
        expectation = scored.expectation
        body |= {"spread": expectation.spread, "between": expectation.between}
        return _Streams(
            body,
            concept.stream(scored.before, expectation, None),
            concept.stream(scored.since, expectation, self.as_of),
            champion.sections,
            course.told_from,
        )

    def _serving(self, names: Sequence[str]) -> Iterator[tuple[str, Serving]]:
        served = self.models.serving_each(names)
        found = records.serving(self.connection, self._sections, self.as_of).reindex(list(names))
        counted = found[["enrolled", "predicted"]].fillna(0).astype(int)
        for name, enrolled, predicted in counted.itertuples():
            newest = found.at[name, "newest"]
            champion = self._champions.of(name, served[name])
            day = newest if isinstance(newest, date) else None
            yield name, Serving(enrolled, predicted, day, champion.degraded)

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
    tested = len(expected.columns) + 2
    return {"tested": tested, "violations": [str(one) for one in odd], "reason": ""}


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


@dataclass(frozen=True)
class _Streams:
    """Matured rows of a course before those stored earlier are known; none where there is a reason.

    Rows of the sections `seen` or up to `told_from` are no errors of the champion's own.
    """

    told: Body
    reference: pd.DataFrame
    fresh: pd.DataFrame
    seen: frozenset[str] = frozenset()
    told_from: pd.Timestamp = pd.Timestamp.min

    def body(self, rows: pd.DataFrame, as_of: date) -> Body:
        """Return the body of `Kind.CONCEPT` where `rows` of the course are stored."""
        if self.told["reason"]:
            return {**self.told, **_alarm_body([], as_of, ""), "status": "not tested"} | {
                "reference": []
            }
        rows = rows[~rows["section_id"].isin(self.seen) & (rows["matured_on"] > self.told_from)]
        return {
            **self.told,
            **_alarm_body(concept.alarms(self.reference["z"], rows), as_of, "of its own"),
            "status": "tested",
            "reference": self.reference[["matured_on", "z"]].round({"z": 3}),
            "rows": rows[["matured_on", "scores", "error", "z"]].round(3),
        }


def _drift_body(one: _Compared, usual: Mapping[str, Usual], seed: int) -> Body:
    if not one.parts:
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
    sizes = one.parts["features"].sizes
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
        "reference_rows": sizes[0],
        "current_rows": sizes[1],
        "shapes": {
            str(column.name): shape(column, sizes[0])
            for column in one.parts["features"].columns
            if column.name in set(shown) and column.values is not None
        },
    }


def _inconclusive(one: _Compared, table: pd.DataFrame) -> str:
    if len(one.parts["features"].usual) and not table["drifted"].any():
        return (
            "one past section does not tell how much sections of the course usually differ, and "
            "no other course of this run does; drift cannot be told from a new class"
        )
    return "no feature could be tested"


def shape(column: Column, rows: int) -> Body:
    """Return the shares of both in the same bins: labels or edges, reference, current.

    The reference are the first `rows` rows.
    """
    assert column.values is not None
    both = (column.values[:rows], column.values[rows:])
    found: Body = {}
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


def _batched(courses: Iterator[Course]) -> Iterator[list[Course]]:
    while some := list(islice(courses, _AT_ONCE)):
        yield some


def _processes(names: Sequence[str]) -> int:
    return max(min(int(cpu_count()), len(names) // _WORTH_A_PROCESS), 1)


def _elsewhere(  # noqa: PLR0913, PLR0917 - what another process needs to know
    url: str,
    tracking_uri: str,
    pseudonyms: Pseudonyms,
    declared: Declarations,
    root: str,
    as_of: date,
    seed: int,
    institution: Institution,
    part: str,
    names: Sequence[str],
) -> dict[str, Any]:
    engine = database.connect(url)
    with database.reachable(engine) as connection:
        models = _models(tracking_uri, root, pseudonyms, declared)
        monitor = Monitor(connection, models, root, as_of, seed, institution)
        found: dict[str, Any] = getattr(monitor, part)(names)
    engine.dispose()
    return found


@cache
def _models(tracking_uri: str, root: str, pseudonyms: Pseudonyms, declared: Declarations) -> Models:
    """Return the models of this process, loaded once for all reports."""
    return Models(Registry(tracking_uri, root, pseudonyms, declared))
