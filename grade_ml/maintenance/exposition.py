"""Writes facts and health in Prometheus' text format, for the node exporter's textfile collector.

The text names no student and, except for ids of courses, contains no text from records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from upath import UPath

from grade_ml.core.errors import ConfigurationError
from grade_ml.core.settings import Settings
from grade_ml.core.storage import require_writable, write_whole
from grade_ml.maintenance.facts import Facts
from grade_ml.maintenance.health import SystemHealth


def exposition(facts: Facts, health: SystemHealth) -> bytes:
    """Return the text; unknown values have no line."""
    registry = CollectorRegistry()
    registry.register(_Metrics(facts, health))
    return generate_latest(registry)


@dataclass(frozen=True, eq=False)
class _Metrics(Collector):
    facts: Facts
    found: SystemHealth

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from _health(self.found)
        yield from _work(self.facts)
        yield from _records(self.facts)
        yield from _machine(self.facts)


def _health(health: SystemHealth) -> Iterator[GaugeMetricFamily]:
    yield _single(
        "health_timestamp_seconds", "When the facts were gathered.", _seconds(health.as_of)
    )
    yield _single("health_score", "Health of the installation, 0-100.", health.score)
    yield _by(
        "health_part_score",
        "Points of one part of the health, 0-100.",
        "part",
        {name: part.points for name, part in health.parts.items()},
    )


def _work(facts: Facts) -> Iterator[GaugeMetricFamily]:
    runs = GaugeMetricFamily(
        "grade_ml_job_runs", "Runs that ended in the last 7 days.", labels=["job", "status"]
    )
    for name, runs_of_job in facts.jobs.items():
        runs.add_metric([name, "success"], runs_of_job.succeeded)
        runs.add_metric([name, "failure"], runs_of_job.failed)
    yield runs
    yield _by(
        "job_last_run_failed",
        "1 if the newest run failed.",
        "job",
        {name: float(job.newest_failed) for name, job in facts.jobs.items()},
    )
    yield _by(
        "job_last_success_timestamp_seconds",
        "When the newest run that succeeded ended.",
        "job",
        {name: _seconds(job.succeeded_at) for name, job in facts.jobs.items()},
    )
    yield _by(
        "job_duration_seconds",
        "Duration of the newest run that succeeded.",
        "job",
        {name: job.seconds for name, job in facts.jobs.items()},
    )
    yield _single("runs_queued", "Runs that wait in the queue.", facts.queue.queued)
    yield _single("runs_started", "Runs that have started.", facts.queue.started)
    waited = facts.queue.longest_wait_seconds
    yield _single("runs_wait_seconds", "How long the first waiting run has waited.", waited)
    if facts.made:
        yield _single("assets", "Assets that were made.", facts.made)
        yield _single("assets_stale", "Assets older than their records.", len(facts.stale))
    if facts.completeness:
        less = sum(map(bool, facts.completeness.values()))
        yield _single("assets_degraded", "Degraded assets.", less)


def _records(facts: Facts) -> Iterator[GaugeMetricFamily]:
    records = facts.records
    loaded = _seconds(records.loaded_at)
    yield _single("records_loaded_timestamp_seconds", "When the newest load was.", loaded)
    yield _single("sections_running", "Running sections.", records.running_sections)
    yield _single("rows_delivered", "Rows of the loads of the last 7 days.", records.rows)
    yield _single("rows_quarantined", "Rows of these loads in quarantine.", records.quarantined)
    yield _single("deliveries_refused", "Deliveries refused in the last 7 days.", facts.refused)
    yield _by(
        "model_health_score",
        "Health of one course's model, 0-100.",
        "course_id",
        {name: course.score for name, course in facts.courses.items()},
    )
    yield _by(
        "model_drifted",
        "1 if features or predictions of the course drifted.",
        "course_id",
        {name: _number(course.drifted) for name, course in facts.courses.items()},
    )


def _machine(facts: Facts) -> Iterator[GaugeMetricFamily]:
    for name, text, values in (
        ("disk_size_bytes", "Size of the disk.", {k: v.size_bytes for k, v in facts.disks.items()}),
        (
            "disk_free_bytes",
            "Free space on the disk.",
            {k: v.free_bytes for k, v in facts.disks.items()},
        ),
    ):
        yield _by(name, text, "place", values)
    if facts.memory_bytes:
        yield _single("memory_size_bytes", "Memory of the machine.", facts.memory_bytes)
    for name, text, used in (
        ("step_peak_memory_bytes", "Peak memory in the last 7 days.", "peak_bytes"),
        ("step_cpu_seconds", "CPU time in the last 7 days.", "cpu_seconds"),
    ):
        yield _by(name, text, "step", {k: getattr(v, used) for k, v in facts.steps.items()})
    yield _by(
        "database_up",
        "1 if the database answered.",
        "database",
        {name: float(database is not None) for name, database in facts.databases.items()},
    )
    for name, text, field in (
        ("database_size_bytes", "Size of the database.", "size_bytes"),
        ("database_connections", "Clients of its server.", "connections"),
        ("database_connections_limit", "Most clients that its server accepts.", "limit"),
    ):
        known = {k: getattr(v, field) for k, v in facts.databases.items() if v is not None}
        yield _by(name, text, "database", known)


def _single(name: str, text: str, value: float | None) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"grade_ml_{name}", text)
    if value is not None:
        family.add_metric([], value)
    return family


def _by(name: str, text: str, label: str, values: Mapping[str, float | None]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"grade_ml_{name}", text, labels=[label])
    for key, value in _known(values):
        family.add_metric([key], value)
    return family


def _known(values: Mapping[str, float | None]) -> Iterable[tuple[str, float]]:
    return ((key, value) for key, value in values.items() if value is not None)


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _number(value: bool | None) -> float | None:
    return None if value is None else float(value)


def write(settings: Settings, text: bytes) -> str:
    """Store the text, which replaces the last text, and return its path.

    If GRADE_ML_METRICS_FILE is set, other users may read the file: the node exporter is one.

    Raises
    ------
    ConfigurationError
        The folder cannot be written, or the path is not a file: run by the superuser, moving the
        text there would replace `/dev/null` itself.
    """
    place, remedy = settings.metrics, "Set GRADE_ML_METRICS_FILE to a place that can be written."
    if place.exists() and not place.is_file():
        raise ConfigurationError(f"{place} is a folder or a device, not a file.", remedy)
    require_writable(place.parent, remedy)
    write_whole(UPath(place), text, mode=0o644 if settings.metrics_file else None)
    return str(place)
