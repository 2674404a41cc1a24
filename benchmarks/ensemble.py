"""The ensemble out of time on OULAD beside its peers, its speed, and how it scales.

Usage: `python benchmarks/ensemble.py [--only accuracy,speed,scaling,peers,budgets]
[--oulad DIR] [--courses 10,100] [--budgets 30,60] [--fit-seconds 165] [--environments DIR]
[--peer-seconds 300] [--plot FILE]`. Fits on 2013B and 2013J and predicts every section of 2014B
(accuracy); scores 30,000 rows and single ones (speed); trains simulated campuses of 60 students a
course (scaling); has other programs do the same work, in environments of their own (peers); gives
fit and search together so many seconds, and FLAML too (budgets). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from grade_ml.campus import simulated
from grade_ml.core import database
from grade_ml.core.figures import canvas
from grade_ml.core.process import peak_megabytes
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.core.settings import Settings
from grade_ml.ensemble import pooled
from grade_ml.ensemble.rows import with_outcomes
from grade_ml.features.refresh import refresh
from grade_ml.features.snapshots import fraction_cuts, grade_snapshots, weekly_cuts
from grade_ml.features.store import Frames
from grade_ml.gradebook import schema
from grade_ml.gradebook.catalog import course_ids
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml.gradebook.outcomes import outcomes
from grade_ml.registry.registry import Registry
from grade_ml.training import course
from grade_ml.training import pooled as training_of_pooled
from grade_ml.training.backtest import backtest, without_terms
from grade_ml.training.data import TrainingData, finished
from grade_ml.training.tuning import tune
from installation import opening, temporary_installation
from out_of_time import CUTS, KEYS, OULAD, PEERS, Table, at_cuts, read_oulad, say
from quoted import QUOTED

TODAY = date(2026, 11, 24)
NIGHT = datetime(2026, 11, 24, 3, tzinfo=UTC)
PSEUDONYMS = Pseudonyms(b"benchmark")
TRAIN, TEST = ["2013B", "2013J"], ["2014B"]
#: The environment of each peer.
KINDS = {"lightgbm": "automl", "forest": "automl", "flaml": "automl", "autogluon": "autogluon"}
#: What the protocol gives to peers, beside all attributes, the protected attributes too.
PEER_COLUMNS = [
    *("course_id", "progress", "cut_day", "assignments_due", "assignments_submitted"),
    *("assignments_missed", "score_mean", "score_min", "score_max", "score_sd", "score_first"),
    *("score_last", "score_trend", "lateness_mean", "days_since_submission", "weight_due"),
    *("grade_if_nothing_more", "grade_rate_so_far", "major_score_mean", "minor_score_mean"),
    *("class_rate_mean", "rate_above_class"),
]
#: What of a fit does not depend on the number of rows.
FIXED_SECONDS = 10


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="accuracy,speed,scaling")
    parser.add_argument("--oulad", type=Path, default=OULAD)
    parser.add_argument("--courses", default="10,100")
    parser.add_argument("--budgets", default="30,60,120,300")
    parser.add_argument("--environments", type=Path, help="the peers' environments are made here")
    parser.add_argument("--fit-seconds", type=int, default=165, help="of a fit on all rows here")
    parser.add_argument("--peer-seconds", type=int, default=300)
    parser.add_argument("--plot", type=Path, help="where the budgets' curve is drawn")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"quoted_peers": QUOTED}
    with tempfile.TemporaryDirectory() as folder:
        arguments.environments = arguments.environments or Path(folder)
        for part in arguments.only.split(","):
            say(part)
            figures |= PARTS[part](arguments)
    print(json.dumps(figures))


def accuracy(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the backtest prints."""
    return backtest(read_oulad(arguments.oulad), TRAIN, TEST, on_progress=say).to_dict()


def speed(_: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of scoring."""
    return _apart(_speed)


def scaling(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the times of nightly runs with ever more courses."""
    return {"scaling": [_apart(_scale, number) for number in _numbers(arguments.courses)]}


def peers(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of other programs on the same rows."""
    environments = _environments(arguments.environments)
    table = Table.of(read_oulad(arguments.oulad), TRAIN, TEST)
    given, seconds = _given(table), arguments.peer_seconds
    figures = {
        kind: table.peer(environments[name], kind, seconds, given) for kind, name in KINDS.items()
    }
    figures["lightgbm, features of the ensemble"] = table.peer(
        environments["automl"], "lightgbm", seconds, set(table.train) - KEYS
    )
    return {"peers": figures}


def _given(table: Table) -> set[str]:
    attributes = (name for name in table.train if name.startswith(("attribute_", "protected_")))
    return {*PEER_COLUMNS, *attributes}


def budgets(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the error by the seconds that were given, and FLAML's."""
    python = _environments(arguments.environments)["automl"]
    gradebook = read_oulad(arguments.oulad)
    table = Table.of(gradebook, TRAIN, TEST)
    curve = [
        {
            **_apart(_within, gradebook, seconds, arguments.fit_seconds),
            "flaml": table.peer(python, "flaml", seconds, _given(table), ["final_grade"]),
        }
        for seconds in _numbers(arguments.budgets)
    ]
    if arguments.plot:
        _draw(curve, arguments.plot)
    return {"budget_curve": curve}


def _draw(curve: list[dict[str, Any]], path: Path) -> None:
    figure, axes = canvas("OULAD 2014B", "seconds taken", "RMSE of the final grade, points")
    ours = [(point["seconds"], point["rmse"]) for point in curve]
    theirs = [
        (point["flaml"]["seconds"]["final_grade"], point["flaml"]["all"]["grade"]["rmse"])
        for point in curve
    ]
    axes.plot(*zip(*ours, strict=True), marker="o", label="pooled ensemble, grade and risk")
    axes.plot(*zip(*theirs, strict=True), marker="s", label="FLAML 2.7, grade only")
    axes.set_xscale("log")
    ticks = [point["budget"] for point in curve]
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path)


def _apart(work: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
    """Return what `work` returns in a process of its own, whose peak memory is its own too."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(work, given)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _environments(folder: Path) -> dict[str, Path]:
    """Return the Python of each peer's environment, which is created if it is missing."""
    pythons = {}
    for name in sorted(set(KINDS.values())):
        pythons[name] = folder / name / "bin" / "python"
        if not pythons[name].exists():
            say(f"Installing {name}")
            venv.create(folder / name, with_pip=True)
            command = [pythons[name], "-m", "pip", "install", "-q", "-r", PEERS / f"{name}.txt"]
            subprocess.run(command, check=True)
    return pythons


def _within(gradebook: Gradebook, seconds: int, fit_seconds: int) -> dict[str, Any]:
    """Return the figures of a fit, after a search if there is time, in so many seconds.

    With less time than a fit on all rows takes, it gets fewer rows, and the time is reported.
    """
    say(f"The ensemble, {seconds} s")
    end = (gradebook.sections["ends_on"].max() + pd.Timedelta(days=1)).date()
    known = without_terms(gradebook, TEST)
    train = known.sections[known.sections["term_id"].isin(TRAIN)]
    snapshots = grade_snapshots(known, weekly_cuts(train, end), end)
    share = min(1.0, (seconds - FIXED_SECONDS) / (fit_seconds - FIXED_SECONDS))
    pooled.SETTINGS = replace(pooled.SETTINGS, max_rows=int(pooled.SETTINGS.max_rows * share))
    with temporary_installation() as (settings, _):
        url = database.start(settings).grade_ml
        results = outcomes(known, end, DEFAULTS)
        started = time.perf_counter()
        left = max(seconds - fit_seconds, 0)
        tuned = tune(snapshots, results, None, storage_url=url, seconds=left, pseudonyms=PSEUDONYMS)
        model = pooled.fit(snapshots, results, 0, PSEUDONYMS, parameters=tuned.parameters)
        took = time.perf_counter() - started
    cuts = fraction_cuts(gradebook.sections[gradebook.sections["term_id"].isin(TEST)], CUTS)
    rows = with_outcomes(
        model, grade_snapshots(gradebook, cuts, end), outcomes(gradebook, end, DEFAULTS)
    )
    figures = at_cuts(rows, cuts)
    return {
        "seconds": round(took, 1),
        "budget": seconds,
        "rmse": figures["all"]["grade"]["rmse"],
        "trials": sum(study.trials for study in tuned.studies),
        "figures": figures,
    }


def _campus(number: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    # A student takes about two courses a term.
    config = simulated.CampusConfig(students=30 * number, courses=number, terms=4)
    gradebook = simulated.gradebook(config, TODAY)
    cuts = weekly_cuts(gradebook.sections, TODAY)
    return grade_snapshots(gradebook, cuts, TODAY), finished(gradebook, TODAY, DEFAULTS)


def _speed() -> dict[str, Any]:
    """Return the seconds of scoring with a loaded model."""
    snapshots, results = _campus(20)
    model = pooled.fit(snapshots, results, 0, PSEUDONYMS)
    many = snapshots.sample(30_000, replace=True, random_state=0).reset_index(drop=True)
    batches = [_seconds(model, many) for _ in range(3)]
    single = [_seconds(model, many.iloc[[place]]) for place in range(200)]
    return {
        "score_30k_s": round(float(np.median(batches)), 2),
        "score_one_p95_ms": round(1000 * float(np.quantile(single[20:], 0.95)), 1),
    }


def _seconds(model: pooled.PooledModel, rows: pd.DataFrame) -> float:
    started = time.perf_counter()
    model.predict(rows)
    return time.perf_counter() - started


def _scale(number: int) -> dict[str, Any]:
    """Return the time of a nightly training of `number` courses, and of one after few changed.

    In the second nightly run one course in a hundred has a corrected score. Parameters are not
    searched in either run.
    """
    config = simulated.CampusConfig(students=30 * number, courses=number, terms=4)
    with temporary_installation() as (settings, engine):
        simulated.load_campus(engine, settings, config, loaded_at=NIGHT)
        registry = Registry(database.start(settings).mlflow, settings.storage_root, PSEUDONYMS)
        with engine.connect() as connection:
            names = course_ids(connection)
        features, full = _refresh(engine, settings, names), _night(engine, settings, registry)
        changed = names[:: max(len(names) // 10, 1)][: max(number // 100, 1)]
        with engine.begin() as connection:
            connection.execute(_CORRECTION, {"courses": changed, "today": TODAY})
            # Courses that a load does not report are not computed again.
            connection.execute(
                sa.insert(schema.load).values(
                    source="simulated",
                    loaded_at=NIGHT + timedelta(days=1),
                    rows_loaded={"result": len(changed)},
                    rows_unchanged={},
                    rows_quarantined=0,
                    courses=changed,
                )
            )
        again = _refresh(engine, settings, changed)
        small = _night(engine, settings, registry)
    return {
        "courses": number,
        "features_s": features,
        "seconds": full,
        "seconds_per_course": round(full / number, 3),
        "changed_courses": len(changed),
        "changed_features_s": again,
        "changed_s": small,
        "changed_night_share": round((small + again) / (full + features), 3),
        "peak_mb": round(peak_megabytes()),
    }


_CORRECTION = sa.text("""
update gradebook.result set score = 50 where (assignment_id, student_id) in (
    select distinct on (course_id) assignment_id, student_id
    from gradebook.result join gradebook.assignment using (assignment_id)
    join gradebook.section using (section_id)
    where course_id = any(:courses) and ends_on < :today and score <> 50
    order by course_id, assignment_id, student_id)
""")


def _refresh(engine: sa.Engine, settings: Settings, names: list[str]) -> float:
    started = time.perf_counter()
    with engine.connect() as connection:
        refresh(connection, Frames(settings.storage_root, TODAY, PSEUDONYMS), names)
    return round(time.perf_counter() - started, 1)


def _night(engine: sa.Engine, settings: Settings, registry: Registry) -> float:
    started = time.perf_counter()
    opened = opening(engine, registry, settings.storage_root, NIGHT)
    with opened() as workspace:
        data, names = TrainingData.read(workspace), course_ids(workspace.connection)
    search = partial(tune, storage_url="", seconds=0, pseudonyms=PSEUDONYMS)
    training = training_of_pooled.train(data, opened, tune=search, on_progress=say)
    trained = list(course.train(names, opened))
    say(
        f"{training.reason}; {sum(result.fitted for result in trained)} of {len(trained)} courses "
        "fitted"
    )
    return round(time.perf_counter() - started, 1)


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "accuracy": accuracy,
    "speed": speed,
    "scaling": scaling,
    "peers": peers,
    "budgets": budgets,
}

if __name__ == "__main__":
    main()
