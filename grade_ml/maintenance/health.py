"""Computes the installation's health, a score from 0 to 100 with its parts, from facts.

`facts` defines the facts; `gathering` reads them, and the orchestration those that Dagster knows.
`monitoring.health` computes the health of each course's model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from statistics import mean as average

from grade_ml.core import scores
from grade_ml.core.scores import between
from grade_ml.gradebook.quality import MAX_LOAD_AGE_DAYS
from grade_ml.maintenance.facts import Facts, JobRuns

_HOUR, _GB = 3600.0, 1e9


@dataclass(frozen=True)
class SystemHealthSettings:
    """The settings of the installation's health, each with its reason."""

    #: The weight of each part. Parts that stop everything weigh most, then those that make answers
    #: old or wrong; parts that other parts and alerts also cover (drift, durations) weigh least.
    runs: float = 20
    durations: float = 5
    queue: float = 10
    freshness: float = 10
    records: float = 5
    quality: float = 10
    models: float = 10
    drift: float = 5
    completeness: float = 5
    disk: float = 10
    memory: float = 5
    database: float = 5
    #: A part that stops everything caps the score at its own points plus `vital_cap`; otherwise ten
    #: healthy parts would average a full disk away. With `alert_below`, an alert is sent of a vital
    #: part that has fewer than 10 points left.
    vital: tuple[str, ...] = ("runs", "queue", "disk", "database")
    vital_cap: float = 50
    #: A lower score sends an alert.
    alert_below: float = 60
    #: The share of the weight that must be known for a score: an empty installation knows only its
    #: disk, queue and database, a quarter of the weight, and would be called perfect.
    least_known: float = 0.5
    #: Multiples of the usual duration: a nightly run after a large load takes twice as long, and
    #: at four times the usual duration, half of the four hours of a run is left.
    usual_times: float = 2
    worst_times: float = 5
    #: Seconds: a shorter duration is mostly Dagster's own, and differs by chance.
    short_seconds: float = 60
    #: Hours that a run waits. A training takes three, and other runs in its pool wait for it.
    usual_wait: float = 3
    worst_wait: float = 12
    #: The share of assets that are older than their records: half of them means that a nightly
    #: run is missing.
    worst_stale: float = 0.5
    #: The share of a week's rows in quarantine. Of OULAD's rows it is 0; one row in a hundred means
    #: that a source writes a column wrongly.
    fair_quarantine: float = 0.001
    worst_quarantine: float = 0.05
    #: The share of courses with drift. Features are tested at 5%; drift in half of the courses at
    #: once rather comes from the pipeline than from the students.
    fair_drift: float = 0.05
    worst_drift: float = 0.5
    #: The share of degraded assets.
    worst_incomplete: float = 0.5
    #: A disk is fine with a fifth of it free or, however large it is, with 20 GB free: the nightly
    #: runs write less than 1 GB. PostgreSQL stops on a full disk.
    fair_free: float = 0.2
    worst_free: float = 0.03
    fair_free_gb: float = 20
    worst_free_gb: float = 1
    #: The share of the machine's memory that the largest step took: steps stop themselves before
    #: they take the last tenth.
    fair_memory: float = 0.6
    worst_memory: float = 0.95
    #: The share of a server's connections that are in use; three are reserved for its superuser.
    fair_connections: float = 0.6
    worst_connections: float = 0.95


SETTINGS = SystemHealthSettings()


@dataclass(frozen=True)
class Part(scores.Part):
    """A part of the installation's health; `remedy` is what to do if it costs points."""

    remedy: str = ""


@dataclass(frozen=True)
class SystemHealth:
    """The installation's score (0-100) and its parts by name.

    The score is None while less than half of the weight is known and nothing vital fails.
    """

    as_of: datetime
    score: float | None
    parts: Mapping[str, Part]

    @property
    def needs(self) -> bool:
        """Whether the installation needs attention."""
        return self.score is not None and self.score < SETTINGS.alert_below

    @property
    def worst(self) -> str | None:
        """The name of the part that costs most points; None if no part costs any."""
        return scores.worst(self.parts)

    @property
    def says(self) -> str:
        """The score, and the description and remedy of the part that costs most points."""
        score = "not yet known" if self.score is None else f"{self.score:.0f} of 100"
        if self.worst is None:
            return score
        part = self.parts[self.worst]
        return f"{score}; {self.worst}: {part.says}. {part.remedy}".strip()

    @property
    def unknown(self) -> dict[str, str]:
        """The reasons of the parts that are not yet known, by part."""
        return {name: part.says for name, part in self.parts.items() if part.points is None}


def health(facts: Facts) -> SystemHealth:
    """Return the health of the installation from its facts."""
    parts = {name: judge(facts) for name, judge in _JUDGES.items()}
    return SystemHealth(facts.at, _score(parts), parts)


def _score(parts: Mapping[str, Part]) -> float | None:
    vital = [parts[name].points for name in SETTINGS.vital]
    cap = min(
        (points + SETTINGS.vital_cap for points in vital if points is not None), default=100.0
    )
    known = sum(part.weight for part in parts.values() if part.points is not None)
    score = scores.mean(parts.values())
    enough = known >= SETTINGS.least_known * sum(part.weight for part in parts.values())
    if score is None or not (enough or cap < SETTINGS.alert_below):
        return None
    return min(score, cap)


def _runs(facts: Facts) -> Part:
    """Return the mean of the average job and the worst job, so that one failing job shows."""
    points = {
        name: 100.0 * rate * (0.5 if job.newest_failed else 1.0)
        for name, job in facts.jobs.items()
        if (rate := job.success_rate) is not None
    }
    if not points:
        return Part(None, SETTINGS.runs, "no run has ended in the last week")
    failing = sorted(name for name, job in facts.jobs.items() if job.newest_failed)
    done = sum(job.succeeded for job in facts.jobs.values())
    failed = sum(job.failed for job in facts.jobs.values())
    text = f"{failed} of {done + failed} runs of the last week failed"
    if failing:
        text += f"; {', '.join(failing)} failed the last time"
    worst = min(points, key=lambda name: points[name])
    remedy = f"Open the newest failed run of {worst} in the UI: its step names the cause."
    return Part((average(points.values()) + points[worst]) / 2, SETTINGS.runs, text, remedy)


def _durations(facts: Facts) -> Part:
    times = {name: _times(job) for name, job in facts.jobs.items()}
    known = {name: times_usual for name, times_usual in times.items() if times_usual is not None}
    if not known:
        return Part(None, SETTINGS.durations, "no job has run often enough to know its usual time")
    slowest = max(known, key=lambda name: known[name])
    job = facts.jobs[slowest]
    text = f"{slowest} took {job.seconds:.0f} s, usually {job.usual_seconds:.0f}"
    points = between(known[slowest], SETTINGS.usual_times, SETTINGS.worst_times)
    remedy = f"See in the run of {slowest} which step takes longer, and what else runs then."
    return Part(points, SETTINGS.durations, text, remedy)


def _times(job: JobRuns) -> float | None:
    """Return the duration of the newest run as a multiple of the usual; None if unknown."""
    if job.seconds is None or job.usual_seconds is None:
        return None
    return max(job.seconds, SETTINGS.short_seconds) / max(job.usual_seconds, SETTINGS.short_seconds)


def _queue(facts: Facts) -> Part:
    queue = facts.queue
    hours = queue.longest_wait_seconds / _HOUR
    text = f"{queue.queued} waiting, {queue.started} running"
    if queue.queued:
        text += f"; the first has waited {hours:.1f} hours"
    points = between(hours, SETTINGS.usual_wait, SETTINGS.worst_wait)
    remedy = "See under Runs in the UI which run holds the pool, and end one that hangs."
    return Part(points, SETTINGS.queue, text, remedy)


def _freshness(facts: Facts) -> Part:
    if not facts.made:
        return Part(None, SETTINGS.freshness, "nothing was made yet")
    text = f"{len(facts.stale)} of {facts.made} assets are older than the records they are made of"
    if facts.stale:
        text += f": {_first_names(facts.stale)}"
    points = between(len(facts.stale) / facts.made, 0, SETTINGS.worst_stale)
    remedy = "See under Automation in the UI whether the schedules are on and how their runs ended."
    return Part(points, SETTINGS.freshness, text, remedy)


def _records(facts: Facts) -> Part:
    records = facts.records
    if records.loaded_at is None:
        return Part(None, SETTINGS.records, "nothing was ever loaded")
    if not records.running_sections:
        return Part(None, SETTINGS.records, "no section runs, so no new record is expected")
    days = (facts.at - records.loaded_at).total_seconds() / (24 * _HOUR)
    points = between(days, MAX_LOAD_AGE_DAYS / 2, 2 * MAX_LOAD_AGE_DAYS)
    text = (
        f"newest load on {records.loaded_at:%Y-%m-%d}; running sections: {records.running_sections}"
    )
    remedy = (
        "Load the newest records (`grade-ml load`), or see why the inbox or server brings none."
    )
    return Part(points, SETTINGS.records, text, remedy)


def _quality(facts: Facts) -> Part:
    records = facts.records
    if not records.rows and not facts.refused:
        return Part(None, SETTINGS.quality, "no row was loaded in the last week")
    share = records.quarantined / max(records.rows, 1)
    text = (
        f"{records.quarantined:,} of {records.rows:,} rows of the last week in quarantine, "
        f"{facts.refused} deliveries refused"
    )
    points = between(share, SETTINGS.fair_quarantine, SETTINGS.worst_quarantine)
    remedy = (
        "Read the reports beside the deliveries in refused/, correct and deliver again."
        if facts.refused
        else "Read gradebook.quarantine, which names file, line and reason, and correct the source."
    )
    return Part(points * (0.5 if facts.refused else 1), SETTINGS.quality, text, remedy)


def _models(facts: Facts) -> Part:
    known = [course.score for course in facts.courses.values() if course.score is not None]
    if not known:
        return Part(None, SETTINGS.models, "no course's model was judged lately")
    need = sorted(name for name, course in facts.courses.items() if course.needs)
    text = f"{len(need)} of {len(known)} courses need attention"
    text += f": {_first_names(need)}" if need else ""
    remedy = "Open the asset model_health in the UI: its page of each course gives the reason."
    return Part(average(known), SETTINGS.models, text, remedy)


def _drift(facts: Facts) -> Part:
    judged = [course.drifted for course in facts.courses.values() if course.drifted is not None]
    if not judged:
        return Part(None, SETTINGS.drift, "no course was compared lately")
    text = f"{sum(judged)} of {len(judged)} courses drifted"
    points = between(sum(judged) / len(judged), SETTINGS.fair_drift, SETTINGS.worst_drift)
    remedy = "Open the asset drift_report in the UI: it names the features and their load."
    return Part(points, SETTINGS.drift, text, remedy)


def _completeness(facts: Facts) -> Part:
    if not facts.completeness:
        return Part(None, SETTINGS.completeness, "nothing was made yet")
    less = sorted(name for name, reasons in facts.completeness.items() if reasons)
    text = f"{len(less)} of {len(facts.completeness)} assets are degraded"
    if less:
        text += f": {less[0]}, {facts.completeness[less[0]][0]}"
    points = between(len(less) / len(facts.completeness), 0, SETTINGS.worst_incomplete)
    remedy = "`grade-ml status` names under Degraded what is missing; install it, or see its runs."
    return Part(points, SETTINGS.completeness, text, remedy)


def _disk(facts: Facts) -> Part:
    points = {
        name: max(
            between(disk.free_bytes / disk.size_bytes, SETTINGS.fair_free, SETTINGS.worst_free),
            between(disk.free_bytes / _GB, SETTINGS.fair_free_gb, SETTINGS.worst_free_gb),
        )
        for name, disk in facts.disks.items()
    }
    if not points:
        return Part(None, SETTINGS.disk, "no place is local")
    fullest = min(points, key=lambda name: points[name])
    disk = facts.disks[fullest]
    text = f"{disk.free_bytes / _GB:.1f} of {disk.size_bytes / _GB:.0f} GB free for {fullest}"
    remedy = "Free disk space; `grade-ml cleanup --dry-run` lists what can be removed."
    return Part(points[fullest], SETTINGS.disk, text, remedy)


def _memory(facts: Facts) -> Part:
    if not facts.steps:
        return Part(None, SETTINGS.memory, "no step has been measured in the last week")
    largest = max(facts.steps, key=lambda name: facts.steps[name].peak_bytes)
    step, size = facts.steps[largest], facts.memory_bytes
    cpu = sum(usage.cpu_seconds for usage in facts.steps.values())
    text = (
        f"{largest} took {step.peak_bytes / _GB:.1f} of {size / _GB:.1f} GB; the steps of the last "
        f"week took {cpu / 60:,.0f} minutes of CPU"
    )
    points = between(step.peak_bytes / size, SETTINGS.fair_memory, SETTINGS.worst_memory)
    remedy = "Give the machine more memory, or lower GRADE_ML_RUN_AT_ONCE."
    return Part(points, SETTINGS.memory, text, remedy)


def _database(facts: Facts) -> Part:
    silent = sorted(name for name, database in facts.databases.items() if database is None)
    known = {name: database for name, database in facts.databases.items() if database is not None}
    if silent:
        text = f"{', '.join(silent)} did not answer"
        remedy = "Start it, or correct its URL; `grade-ml status` shows its error."
        return Part(0.0, SETTINGS.database, text, remedy)
    if not known:
        return Part(None, SETTINGS.database, "no database was queried")
    fullest = max(known, key=lambda name: known[name].used)
    busiest = known[fullest]
    total = sum(database.size_bytes for database in known.values())
    text = (
        f"{busiest.connections} of {busiest.limit} connections to the server of {fullest}; "
        f"{total / _GB:.2f} GB in all"
    )
    points = between(busiest.used, SETTINGS.fair_connections, SETTINGS.worst_connections)
    remedy = "See pg_stat_activity for who holds them; end what hangs, or raise max_connections."
    return Part(points, SETTINGS.database, text, remedy)


#: The parts in the order in which people read them.
_JUDGES: dict[str, Callable[[Facts], Part]] = {
    "runs": _runs,
    "queue": _queue,
    "freshness": _freshness,
    "quality": _quality,
    "models": _models,
    "disk": _disk,
    "durations": _durations,
    "records": _records,
    "drift": _drift,
    "completeness": _completeness,
    "memory": _memory,
    "database": _database,
}
PARTS = tuple(_JUDGES)


def _first_names(names: Iterable[str], shown: int = 3) -> str:
    """Return the first names.

    >>> _first_names(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    first = list(names)
    more = len(first) - shown
    return ", ".join(first[:shown]) + (f" and {more} more" if more > 0 else "")
