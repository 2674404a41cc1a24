"""How long an application waits for answers of the engine, with an ensemble as champion.

Usage: `python benchmarks/engine.py [--oulad DIR] [--rows 4000] [--calls 300]`. Loads OULAD, fits an
ensemble of the usual size on some rows of the ended sections (how fast it answers depends on its
trees, not on what it learned), trains the forecasters as the job does, scores and forecasts the
sections that run on 15 May 2014, and measures in a process of its own: the first answer after the
start, stored and computed answers and forecasts one by one, 200 callers at once, 30,000 enrollments
in one call (the running enrollments several times under other ids), and how long a promotion takes
to serve. Each time by the clock comes with the time of the processor (`_cpu`), which other work on
the machine changes less. The last line is one JSON object.
"""

# ruff: noqa: PLC0415 - the process that measures loads what the engine loads, and no more

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from grade_ml.core.settings import Settings

OULAD = Path(__file__).resolve().parents[2] / "shared" / "data" / "oulad"
TODAY = date(2014, 5, 15)
NOW = datetime(2014, 5, 15, 9, tzinfo=UTC)
CALLERS, BATCH = 200, 30_000


def main() -> None:
    """Make the installation, and measure in a process that did not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oulad", type=Path, default=OULAD)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--calls", type=int, default=300)
    arguments = parser.parse_args()
    from installation import temporary_installation

    with temporary_installation() as (settings, engine):
        today = settings.model_copy(update={"as_of": TODAY})
        prepare(today, engine, arguments.oulad, arguments.rows)
        spawn = multiprocessing.get_context("spawn")
        sender, receiver = spawn.Pipe()
        with engine.connect() as connection:
            pairs = people(connection)
        inputs = (today, pairs, arguments.calls, time.time(), sender)
        child = spawn.Process(target=measure, args=inputs)
        child.start()
        while (message := receiver.recv()) != "done":
            if message == "load":
                change_every_course(engine)
            elif message == "copies":
                copy_enrollments(engine)
            elif message == "promote":
                promote(today, engine)
            else:
                print(json.dumps(message))
            receiver.send(time.time())
        child.join()


def prepare(settings: Settings, engine: sa.Engine, folder: Path, rows: int) -> None:
    """Load, fit, register and score."""
    from grade_ml.ensemble import pooled
    from grade_ml.features.refresh import refresh, refresh_sequences
    from grade_ml.features.snapshots import fraction_cuts, grade_snapshots
    from grade_ml.gradebook import frames, oulad
    from grade_ml.gradebook.catalog import course_ids
    from grade_ml.gradebook.institution import DEFAULTS
    from grade_ml.gradebook.loading import load
    from grade_ml.gradebook.outcomes import outcomes
    from grade_ml.registry.workspace import Workspace
    from grade_ml.serving.forecasts import forecast_running, serving
    from grade_ml.serving.scoring import score_running
    from grade_ml.training.trajectory import train_trajectory

    load(engine, oulad.bundle(folder), loaded_at=NOW)
    registry = registry_of(settings)
    with engine.connect() as connection:
        book = frames.read(connection)
        courses = course_ids(connection)
    truth = outcomes(book, TODAY, DEFAULTS)
    ended = book.sections[book.sections["ends_on"].dt.date < TODAY]
    report("loaded")
    snapshots = grade_snapshots(book, fraction_cuts(ended, [0.25, 0.5, 0.75]), TODAY)
    sample = snapshots.sample(min(rows, len(snapshots)), random_state=0)
    report(f"fitting {len(sample)} rows")
    model = pooled.fit(sample, truth, seed=0, pseudonyms=registry.pseudonyms)
    with tempfile.TemporaryDirectory() as made:
        model.save(Path(made))
        make_champion(engine, registry, Path(made), model.features)

    @contextmanager
    def opened() -> Iterator[Workspace]:
        with engine.begin() as connection:
            yield Workspace(connection, registry, settings.storage_root, TODAY, NOW)

    report("scoring")
    with opened() as workspace:
        refresh(workspace.connection, workspace.frames, courses)
        refresh_sequences(workspace.connection, workspace.frames, courses, DEFAULTS)
        score_running(workspace, courses)
    train_trajectory(opened, on_progress=report)
    report("forecasting")
    with opened() as workspace:
        forecast_running(workspace, courses, serving(workspace))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("vacuum analyze"))
    report("ready")


def registry_of(settings: Settings) -> Any:
    """Return the registry of the embedded installation."""
    from grade_ml.core import database
    from grade_ml.registry.registry import Registry

    return Registry.of_installation(settings, database.start(settings).mlflow)


def make_champion(engine: sa.Engine, registry: Any, folder: Path, features: Any) -> None:
    """Register a version of the ensemble and let it serve."""
    from grade_ml.ensemble.names import POOLED
    from grade_ml.registry.history import Stage
    from grade_ml.registry.transition import Evidence, Stages

    version = registry.register(
        POOLED,
        folder,
        metrics={},
        parameters={},
        features=features,
        data_version="benchmark",
        code_version="benchmark",
        trained_at=NOW,
    )
    for stage in (Stage.CHALLENGER, Stage.CHAMPION):
        Stages(engine, registry, NOW).transition(version, stage, Evidence("benchmark"))


def promote(settings: Settings, engine: sa.Engine) -> None:
    """Let a second version of the same model serve."""
    from grade_ml.ensemble.names import POOLED
    from grade_ml.registry.registry import Alias

    registry = registry_of(settings)
    now = registry.get(POOLED, Alias.CHAMPION)
    with tempfile.TemporaryDirectory() as copied:
        for path in registry.fetch(now).rglob("*"):
            if path.is_file() and path.name != "manifest.json":
                (Path(copied) / path.name).write_bytes(path.read_bytes())
        make_champion(engine, registry, Path(copied), now.features)


def change_every_course(engine: sa.Engine) -> None:
    """Record a load that changed every course, so that nothing stored is as new as the records."""
    from grade_ml.gradebook.catalog import course_ids
    from grade_ml.gradebook.schema import load

    with engine.begin() as connection:
        row = {"source": "csv", "loaded_at": NOW, "rows_quarantined": 0, "notes": []}
        row |= {name: {} for name in ("rows_loaded", "rows_unchanged", "rows_removed")}
        connection.execute(sa.insert(load).values(**row, courses=course_ids(connection)))


def copy_enrollments(engine: sa.Engine) -> None:
    """Enroll copies of the running students, with their predictions, until there are 30,000."""
    running = (
        "select e.*, n from gradebook.enrollment e join gradebook.section s using (section_id), "
        "generate_series(1, :times) n where date '2014-05-15' between starts_on and ends_on "
        "and coalesce(withdrawn_on > date '2014-05-15', true)"
    )
    with engine.begin() as connection:
        count = connection.execute(sa.text(f"select count(*) from ({running}) r"), {"times": 1})
        times = {"times": -(-BATCH // count.scalar_one()) - 1}
        connection.execute(
            sa.text(
                "insert into gradebook.student (student_id) "
                f"select distinct student_id || ' ' || n from ({running}) r"
            ),
            times,
        )
        connection.execute(
            sa.text(
                "insert into gradebook.enrollment (section_id, student_id, enrolled_on) "
                f"select section_id, student_id || ' ' || n, enrolled_on from ({running}) r"
            ),
            times,
        )
        columns = (
            "as_of, model_name, model_version, grade, lower80, upper80, lower95, upper95, risk, "
            "degraded, naive, origin"
        )
        connection.execute(
            sa.text(
                f"insert into ensemble.grade_prediction (section_id, student_id, {columns}) "
                f"select section_id, student_id || ' ' || n, {columns} "
                "from ensemble.grade_prediction, generate_series(1, :times) n"
            ),
            times,
        )


def measure(
    settings: Settings, pairs: list[tuple[str, str]], calls: int, started: float, pipe: Any
) -> None:
    """Measure, and send the figures; the parent changes the installation on request."""
    from grade_ml.engine import PredictiveAnalyticsEngine

    def parent(word: Any) -> float:
        pipe.send(word)
        return float(pipe.recv())

    figures: dict[str, Any] = {}
    engine = PredictiveAnalyticsEngine(settings)
    first = engine.predict_final_grade(*pairs[0])
    figures["cold_s"] = round(time.time() - started, 2)
    figures["cold_cpu_s"] = round(time.process_time(), 2)
    assert first.stored
    figures["rss_stored_mb"] = resident()
    several = random.Random(0).choices(pairs, k=calls)
    figures |= spread("warm", lambda pair: engine.predict_final_grade(*pair), several)
    few = several[: calls // 10]
    figures |= spread("explained", lambda pair: engine.get_model_explanations(*pair), few)
    figures |= spread("forecast", lambda pair: engine.generate_time_series_forecast(*pair), few)
    with ThreadPoolExecutor(CALLERS) as threads:
        figures |= at_once("stored", engine, threads, pairs)
        parent("copies")
        begin, cpu = time.perf_counter(), time.process_time()
        predictions = engine.predict_final_grades()
        figures["batch_30k_s"] = round(time.perf_counter() - begin, 2)
        figures["batch_30k_cpu_s"] = round(time.process_time() - cpu, 2)
        figures["batch_enrollments"] = len(predictions.answers)
        assert all(answer.stored for answer in predictions.answers) and not predictions.refused
        parent("load")
        begin = time.perf_counter()
        assert not engine.predict_final_grade(*pairs[0]).stored
        figures["first_computed_s"] = round(time.perf_counter() - begin, 2)
        for pair in {course: (student, course) for student, course in pairs}.values():
            engine.predict_final_grade(*pair)
        figures |= spread("computed", lambda pair: engine.predict_final_grade(*pair), several)
        figures |= at_once("computed", engine, threads, pairs)
    begin = time.perf_counter()
    assert not engine.generate_time_series_forecast(*pairs[0]).stored
    figures["first_forecast_computed_s"] = round(time.perf_counter() - begin, 2)
    figures |= spread(
        "forecast_computed", lambda pair: engine.generate_time_series_forecast(*pair), few
    )
    figures["rss_mb"] = resident()
    parent("promote")
    moved = time.perf_counter()
    while engine.predict_final_grade(*pairs[0]).model_version == first.model_version:
        time.sleep(0.2)
    figures["promotion_seen_s"] = round(time.perf_counter() - moved, 1)
    figures["rss_after_promotion_mb"] = resident()
    engine.close()
    parent(figures)
    pipe.send("done")


def people(connection: sa.Connection) -> list[tuple[str, str]]:
    """Return student and course of every stored prediction."""
    query = (
        "select student_id, course_id from ensemble.grade_prediction "
        "join gradebook.section using (section_id) order by 1, 2"
    )
    return [(row.student_id, row.course_id) for row in connection.execute(sa.text(query))]


def spread(
    name: str, call: Callable[[tuple[str, str]], Any], pairs: list[tuple[str, str]]
) -> dict[str, float]:
    """Return the median and the 95th percentile of the times of answers, in milliseconds."""
    walls, cpus = [], []
    for pair in pairs:
        wall, cpu = time.perf_counter(), time.process_time()
        call(pair)
        walls.append(1000 * (time.perf_counter() - wall))
        cpus.append(1000 * (time.process_time() - cpu))
    late = int(0.95 * len(pairs))
    return {
        f"{name}_p50_ms": round(sorted(walls)[len(walls) // 2], 2),
        f"{name}_p95_ms": round(sorted(walls)[late], 2),
        f"{name}_p50_cpu_ms": round(sorted(cpus)[len(cpus) // 2], 2),
        f"{name}_p95_cpu_ms": round(sorted(cpus)[late], 2),
    }


def at_once(
    name: str, engine: Any, threads: ThreadPoolExecutor, pairs: list[tuple[str, str]]
) -> dict[str, Any]:
    """Return how many of the callers got an error, and how long all of them took."""
    begin = time.perf_counter()
    calls = [
        threads.submit(engine.predict_final_grade, *pair)
        for pair in random.Random(1).choices(pairs, k=CALLERS)
    ]
    errors = [str(call.exception()) for call in calls if call.exception()]
    key = "errors_200_callers" if name == "stored" else f"errors_200_callers_{name}"
    return {key: len(errors), f"callers_{name}_s": round(time.perf_counter() - begin, 2)}


def resident() -> int:
    """Return the memory of this process, in megabytes."""
    status = Path("/proc/self/status").read_text()
    (line,) = (entry for entry in status.splitlines() if entry.startswith("VmRSS"))
    return int(line.split()[1]) // 1024


def report(what: str) -> None:
    """Print what is being done."""
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


if __name__ == "__main__":
    main()
