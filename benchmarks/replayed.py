"""OULAD's 2014B replayed week by week: what looks decide of a baseline and an ensemble.

For `experiments.py`. Both models learn from 2013B and 2013J and predict every week of 2014B; what
they said lies in the table of shadows of an installation that has 2014B alone, the baseline as
version 1 and the ensemble as version 2 of one model, and each week the product's own tick looks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.core.database import copy_frame
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.ensemble import baseline, pooled
from grade_ml.ensemble.rows import ENROLLMENT, PREDICTED, Model, as_text, collected
from grade_ml.experiments import labels, nightly, store
from grade_ml.experiments.comparison import paired
from grade_ml.experiments.expected import expected
from grade_ml.experiments.look import Seen, look
from grade_ml.experiments.plan import Arm, Decision, Kind, Look, Metric, Plan
from grade_ml.experiments.settings import LIFECYCLE
from grade_ml.features.snapshots import grade_snapshots, weekly_cuts
from grade_ml.gradebook import frames, oulad, schema
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml.gradebook.loading import load
from grade_ml.gradebook.outcomes import outcomes
from grade_ml.registry.registry import ModelVersion, Registry
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.implied import implied
from grade_ml.serving.predictions import write_shadows
from grade_ml.training.backtest import without_terms
from installation import temporary_installation

TERM = "2014B"
TRAIN = ["2013B", "2013J"]
PSEUDONYMS = Pseudonyms(b"benchmark")
#: The name under which both stand: arms of an experiment are versions of one model.
NAME = "pooled"
#: Students of a batch in the simulated watch, and batches of the whole watch.
BATCH, BATCHES = 1000, 8
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Replayed:
    """Both models' predictions of the term, its gradebook, and what came true.

    Attributes
    ----------
    told
        By version: section_id, student_id, as_of, `PREDICTED` and implied.
    truth
        section_id, student_id, final_grade.
    """

    gradebook: Gradebook
    told: dict[int, pd.DataFrame]
    truth: pd.DataFrame


@cache
def replayed(folder: Path, kept: Path | None) -> Replayed:
    """Fit both models and let them predict; `kept` is a folder that saves a second fit."""
    with temporary_installation() as (_, engine):
        load(engine, oulad.bundle(folder), loaded_at=datetime(2026, 11, 24, tzinfo=UTC))
        with engine.connect() as connection:
            everything = frames.read(connection)
    end = (everything.sections["ends_on"].max() + pd.Timedelta(days=1)).date()
    others = set(everything.sections["term_id"]) - {TERM}
    truth = outcomes(everything, end, DEFAULTS)[[*ENROLLMENT, "final_grade"]]
    sections = everything.sections
    test = grade_snapshots(everything, weekly_cuts(sections[sections["term_id"] == TERM], end), end)
    told = {
        version: _told(everything, test, version, end, kept and kept / f"{version}.parquet")
        for version in (1, 2)
    }
    return Replayed(without_terms(everything, sorted(others)), told, as_text(truth))


def _told(
    everything: Gradebook, test: pd.DataFrame, version: int, end: date, kept: Path | None
) -> pd.DataFrame:
    if kept and kept.exists():
        return pd.read_parquet(kept)
    known = without_terms(everything, [TERM])
    sections = known.sections[known.sections["term_id"].isin(TRAIN)]
    rows = grade_snapshots(known, weekly_cuts(sections, end), end)
    truth = outcomes(known, end, DEFAULTS)
    model: Model = (
        baseline.fit(rows, truth, 0)
        if version == 1
        else pooled.fit(rows, truth, 0, pseudonyms=PSEUDONYMS)
    )
    said = model.predict(test)
    to_come = pd.Series(test["weight_remaining"].to_numpy(float), said.index)
    certain = pd.Series(collected(test), said.index)
    found = as_text(said[[*ENROLLMENT, *PREDICTED]]).assign(
        as_of=test["cut_on"].array, implied=implied(said["grade"], certain, to_come)
    )
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        found.to_parquet(kept)
    return found


@contextmanager
def _installed(world: Replayed) -> Iterator[Engine]:
    """Yield a database that has the term and what both models said of it."""
    with temporary_installation() as (_, engine):
        with engine.begin() as connection:
            for table, field in zip(schema.TABLES, fields(world.gradebook), strict=False):
                copy_frame(connection, table.fullname, getattr(world.gradebook, field.name))
            for version, rows in world.told.items():
                write_shadows(connection, rows, model=_version(version))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("analyze"))
        yield engine


def _version(number: int) -> ModelVersion:
    nothing: dict[str, Any] = {"metrics": {}, "parameters": {}, "features": ()}
    texts = dict.fromkeys(("run_id", "manifest_sha256", "data_version", "code_version"), "")
    return ModelVersion(
        name=NAME,
        version=number,
        trained_at=datetime(2014, 1, 1, tzinfo=UTC),
        secret=None,
        **nothing,
        **texts,
    )


def _plan(kind: Kind, arms: tuple[int, int], day: date, known: tuple[int, date] | None) -> Plan:
    names = ("champion", "challenger") if kind is Kind.SHADOW else ("replaced", "serving")
    return Plan(
        experiment_id=f"{kind}-of-{arms[1]}-since-{day}",
        kind=kind,
        subject=NAME,
        hypothesis="The second errs less.",
        arms=tuple(
            Arm(name, model=(NAME, version)) for name, version in zip(names, arms, strict=True)
        ),
        metric=Metric.SCORE_ERROR,
        starts_on=day,
        owner="benchmark",
        planned_labels=known and known[0],
        stops_on=known and known[1],
    )


def oulad_replay(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the week of promotion, and errors of what was served beside never and always."""
    world = replayed(arguments.oulad, arguments.predictions)
    first = world.gradebook.sections["starts_on"].min().date()
    last = world.gradebook.sections["ends_on"].max().date()
    serves, promoted, rolled_back = {}, None, None
    champion, looks = 1, 0
    with _installed(world) as engine:
        plan = None
        for week in range((last - first).days // 7 + 2):
            day = first + timedelta(days=7 * week)
            with engine.begin() as connection:
                registry = Registry("http://127.0.0.1:1", "nowhere", PSEUDONYMS)
                now = datetime.combine(day, time(), UTC)
                workspace = Workspace(connection, registry, "nowhere", day, now)
                serves[day] = champion
                if plan is None:
                    due = expected(connection, (), day, LIFECYCLE.horizon)
                    if due is None:
                        continue
                    plan = _plan(Kind.SHADOW, (1, 2), day, (due.labels, due.until))
                    store.create(connection, plan, now, "benchmark", "opened")
                for one in nightly.results(workspace):
                    assert one.look, one.says
                    looks += one.look.decision is not Decision.SKIPPED
                    print(week, one.experiment_id, _short(one.look), file=sys.stderr, flush=True)
                    if one.look.decision is Decision.BETTER and plan.kind is Kind.SHADOW:
                        champion, promoted = 2, week
                        due = expected(connection, (), day, LIFECYCLE.watch)
                        plan = _plan(Kind.WATCH, (1, 2), day, due and (due.labels, due.until))
                        store.create(connection, plan, now, "benchmark", "promoted")
                    elif one.look.decision is Decision.WORSE and plan.kind is Kind.WATCH:
                        champion, rolled_back = 1, week
        everything = _labels(engine, first, last)
    errors = {
        name: _errors(world, {day: version for day, version in versions.items()})
        for name, versions in {
            "served": serves,
            "champion": dict.fromkeys(serves, 1),
            "challenger": dict.fromkeys(serves, 2),
        }.items()
    }
    scores = {arm: float(np.sqrt(everything[arm].mean())) for arm in ("control", "treatment")}
    return {
        "oulad_replay": {
            "week": promoted,
            **{name: one["rmse"] for name, one in errors.items()},
            "mae": {name: one["mae"] for name, one in errors.items()},
            "score_rmse": {"champion": scores["control"], "challenger": scores["treatment"]},
            "rolled_back": rolled_back,
            "looks": looks,
            "labels": len(everything),
        }
    }


def _short(seen: Look) -> str:
    return (
        f"{seen.labels} labels of {seen.units}, fraction {seen.fraction:.2f}: "
        f"{seen.difference:+.1f} z {seen.z:.2f} bound {seen.bound:.2f}: {seen.decision}"
    )


def _labels(engine: Engine, first: date, last: date) -> pd.DataFrame:
    """Return all labels of the term."""
    day = last + timedelta(days=30)
    with engine.connect() as connection:
        registry = Registry("http://127.0.0.1:1", "nowhere", PSEUDONYMS)
        now = datetime.combine(day, time(), UTC)
        workspace = Workspace(connection, registry, "nowhere", day, now)
        rows = labels.read(workspace, _plan(Kind.SHADOW, (1, 2), first, None)).rows
    return rows.dropna(subset=["control", "treatment"])


def _errors(world: Replayed, serves: dict[date, int]) -> dict[str, float]:
    """Return RMSE and MAE (points of the final grade) of what was served, over all weeks."""
    days = {pd.Timestamp(day): version for day, version in serves.items()}
    parts = [rows[rows["as_of"].map(days) == version] for version, rows in world.told.items()]
    both = pd.concat(parts).merge(world.truth, on=ENROLLMENT)
    error = (both["grade"] - both["final_grade"]).dropna()
    return {"rmse": float(np.sqrt((error**2).mean())), "mae": float(error.abs().mean())}


def rollback(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how often a tenth more error is rolled back within two batches, and none at all.

    The errors are those of both models on OULAD's labels. Who errs as which version is drawn for
    each student, so that neither is better; then the errors of the one that serves grow by 10%. A
    batch is the next score of each of `BATCH` students.
    """
    world = replayed(arguments.oulad, arguments.predictions)
    first = world.gradebook.sections["starts_on"].min().date()
    last = world.gradebook.sections["ends_on"].max().date()
    with _installed(world) as engine:
        rows = _labels(engine, first, last)
    errors = _by_student(rows)
    found = {}
    for size in dict.fromkeys((BATCH, 100, 300)):
        random = np.random.default_rng(0)
        runs = [
            (_watched(errors, size, 1.1, random), _watched(errors, size, 1.0, random))
            for _ in range(arguments.simulations)
        ]
        within, falsely = np.array(runs).T
        found[size] = {
            "detected": float(np.mean(within <= 2)),
            "false": float(np.mean(falsely <= BATCHES)),
        }
    both = rows[["control_error", "treatment_error"]]
    main = found[BATCH]
    return {
        "rollback": {
            **main,
            **{
                f"{name}_se": float(np.sqrt(share * (1 - share) / arguments.simulations))
                for name, share in main.items()
            },
            "students_per_batch": BATCH,
            "batches": BATCHES,
            "error_correlation": float(both.corr().iloc[0, 1]),
            "by_students_per_batch": {str(size): one for size, one in found.items()},
        }
    }


def _by_student(rows: pd.DataFrame) -> Floats:
    """Return students x batches x both versions: the errors of each one's first scores."""
    ordered = rows.sort_values(["student", "arrived_on", "item"])
    place = ordered.groupby("student").cumcount()
    enough = ordered.groupby("student")["item"].transform("size") >= BATCHES
    kept = ordered[enough & (place < BATCHES)]
    values = kept[["control_error", "treatment_error"]].to_numpy(np.float64)
    return values.reshape(-1, BATCHES, 2)


def _watched(errors: Floats, students: int, factor: float, random: np.random.Generator) -> float:
    """Return after which batch the version that serves is rolled back; infinite: never."""
    drawn = errors[random.integers(0, len(errors), students)]
    swapped = random.random(students) < 0.5
    drawn[swapped] = drawn[swapped][:, :, ::-1]
    losses = (drawn * [1.0, factor]) ** 2
    day = date(2014, 2, 1)
    plan = replace(_plan(Kind.WATCH, (1, 2), day, None), planned_labels=students * BATCHES)
    earlier: list[Look] = []
    for batch in range(1, BATCHES + 1):
        means = losses[:, :batch].mean(axis=1)
        count = students * batch
        seen = Seen(paired(means[:, 0], means[:, 1], labels=count), count, str(batch))
        on = day + timedelta(days=7 * batch)
        told = look(plan, seen, earlier, on, datetime.combine(on, time(), UTC))
        if told.decision is Decision.WORSE:
            return batch
        if told.decision.is_final:
            break
        earlier.append(told)
    return float("inf")
