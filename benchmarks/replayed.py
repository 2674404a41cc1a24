"""OULAD's 2014B replayed week by week: the decisions between a baseline and an ensemble.

For `experiments.py`. Both models learn from 2013B and 2013J and predict every week of 2014B. Their
predictions are in the table of shadows of an installation with 2014B alone, the baseline as
version 1 and the ensemble as version 2 of one model, and each week the product's own tick looks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
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
from grade_ml.experiments.crossed import crossed
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
#: The name of both: arms of an experiment are versions of one model.
NAME = "pooled"
#: Courses that are watched, each with one more assignment in a batch, and batches of the watch.
COURSES, BATCHES = 7, 4
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Replayed:
    """Both models' predictions of the term, its gradebook, and the final grades.

    Attributes
    ----------
    predictions
        By version: section_id, student_id, as_of, `PREDICTED` and implied.
    truth
        section_id, student_id, final_grade.
    """

    gradebook: Gradebook
    predictions: dict[int, pd.DataFrame]
    truth: pd.DataFrame


@cache
def replayed(folder: Path, kept: Path | None) -> Replayed:
    """Fit both models and let them predict; `kept` is a folder that saves a second fit."""
    with temporary_installation() as (_, engine):
        load(engine, oulad.bundle(folder), loaded_at=datetime(2026, 11, 24, tzinfo=UTC))
        with engine.connect() as connection:
            gradebook = frames.read(connection)
    end = (gradebook.sections["ends_on"].max() + pd.Timedelta(days=1)).date()
    others = set(gradebook.sections["term_id"]) - {TERM}
    truth = outcomes(gradebook, end, DEFAULTS)[[*ENROLLMENT, "final_grade"]]
    sections = gradebook.sections
    test = grade_snapshots(gradebook, weekly_cuts(sections[sections["term_id"] == TERM], end), end)
    predictions = {
        version: _predicted(gradebook, test, version, end, kept and kept / f"{version}.parquet")
        for version in (1, 2)
    }
    return Replayed(without_terms(gradebook, sorted(others)), predictions, as_text(truth))


def _predicted(
    gradebook: Gradebook, test: pd.DataFrame, version: int, end: date, kept: Path | None
) -> pd.DataFrame:
    if kept and kept.exists():
        return pd.read_parquet(kept)
    known = without_terms(gradebook, [TERM])
    sections = known.sections[known.sections["term_id"].isin(TRAIN)]
    rows = grade_snapshots(known, weekly_cuts(sections, end), end)
    truth = outcomes(known, end, DEFAULTS)
    model: Model = (
        baseline.fit(rows, truth, 0)
        if version == 1
        else pooled.fit(rows, truth, 0, pseudonyms=PSEUDONYMS)
    )
    predicted = model.predict(test)
    to_come = pd.Series(test["weight_remaining"].to_numpy(float), predicted.index)
    certain = pd.Series(collected(test), predicted.index)
    forecasts = as_text(predicted[[*ENROLLMENT, *PREDICTED]]).assign(
        as_of=test["cut_on"].array, implied=implied(predicted["grade"], certain, to_come)
    )
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        forecasts.to_parquet(kept)
    return forecasts


@contextmanager
def _installed(world: Replayed) -> Iterator[Engine]:
    """Yield a database with the term and both models' predictions of it."""
    with temporary_installation() as (_, engine):
        with engine.begin() as connection:
            for table, field in zip(schema.TABLES, fields(world.gradebook), strict=False):
                copy_frame(connection, table.fullname, getattr(world.gradebook, field.name))
            for version, rows in world.predictions.items():
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
    """Return the week of promotion, and the errors of both models and of the served predictions."""
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
                for result in nightly.results(workspace):
                    assert result.look, result.text
                    looks += result.look.decision is not Decision.SKIPPED
                    print(
                        week, result.experiment_id, _short(result.look), file=sys.stderr, flush=True
                    )
                    if result.look.decision is Decision.BETTER and plan.kind is Kind.SHADOW:
                        champion, promoted = 2, week
                        due = expected(connection, (), day, LIFECYCLE.watch)
                        plan = _plan(Kind.WATCH, (1, 2), day, due and (due.labels, due.until))
                        store.create(connection, plan, now, "benchmark", "promoted")
                    elif result.look.decision is Decision.WORSE and plan.kind is Kind.WATCH:
                        champion, rolled_back = 1, week
        all_labels = _labels(engine, first, last)
    errors = {
        name: _errors(world, {day: version for day, version in versions.items()})
        for name, versions in {
            "served": serves,
            "champion": dict.fromkeys(serves, 1),
            "challenger": dict.fromkeys(serves, 2),
        }.items()
    }
    scores = {arm: float(np.sqrt(all_labels[arm].mean())) for arm in ("control", "treatment")}
    return {
        "oulad_replay": {
            "week": promoted,
            **{name: error["rmse"] for name, error in errors.items()},
            "mae": {name: error["mae"] for name, error in errors.items()},
            "score_rmse": {"champion": scores["control"], "challenger": scores["treatment"]},
            "rolled_back": rolled_back,
            "looks": looks,
            "labels": len(all_labels),
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
    parts = [
        rows[rows["as_of"].map(days) == version] for version, rows in world.predictions.items()
    ]
    both = pd.concat(parts).merge(world.truth, on=ENROLLMENT)
    error = (both["grade"] - both["final_grade"]).dropna()
    return {"rmse": float(np.sqrt((error**2).mean())), "mae": float(error.abs().mean())}


def by_chance(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how often a version is promoted or rejected though neither is better.

    The errors are OULAD's, the looks the product's, week by week. The version that gets an error is
    drawn for each student, or for each assignment: a model may predict one well and not the next.
    """
    rows = _all_labels(arguments)
    random = np.random.default_rng(0)
    shares = {}
    for unit, column in {"by_student": "student", "by_assignment": "item"}.items():
        codes = pd.factorize(rows[column])[0]
        ends = [
            _decided(rows, (random.random(codes.max() + 1) < 0.5)[codes])
            for _ in range(arguments.simulations // 10)
        ]
        promoted = float(np.mean([decision is Decision.BETTER for decision in ends]))
        claimed = float(
            np.mean([decision in (Decision.BETTER, Decision.WORSE) for decision in ends])
        )
        shares[unit] = {
            "promoted": promoted,
            "claimed": claimed,
            "claimed_se": float(np.sqrt(claimed * (1 - claimed) / len(ends))),
        }
    return {"oulad_aa": shares}


def _decided(rows: pd.DataFrame, swapped: npt.NDArray[np.bool_]) -> Decision:
    """Return how an experiment over the term ends."""
    plan = _plan(Kind.SHADOW, (1, 2), rows["arrived_on"].min().date(), None)
    plan = replace(plan, planned_labels=len(rows))
    losses = rows[["control", "treatment"]].to_numpy(np.float64)
    losses[swapped] = losses[swapped][:, ::-1]
    weeks = (rows["arrived_on"] - rows["arrived_on"].min()).dt.days.to_numpy() // 7
    return _looked(plan, rows, losses, (weeks <= week for week in np.unique(weeks)))[0]


def _looked(
    plan: Plan, rows: pd.DataFrame, losses: Floats, batches: Iterable[npt.NDArray[np.bool_]]
) -> tuple[Decision, int]:
    """Return the decision of the last look, and its number; each adds the labels of a batch."""
    earlier: list[Look] = []
    student = rows["student"].to_numpy()
    for number, known in enumerate(batches, 1):
        code = pd.factorize(student[known])[0]
        size = np.bincount(code)
        means = [np.bincount(code, losses[known, arm]) / size for arm in (0, 1)]
        comparison = crossed(
            paired(*means, labels=len(code)),
            losses[known, 1] - losses[known, 0],
            rows["student"][known],
            rows["item"][known],
        )
        on = plan.starts_on + timedelta(days=7 * number)
        now = datetime.combine(on, time(), UTC)
        result = look(plan, Seen(comparison, len(code), str(number)), earlier, on, now)
        if result.decision.is_final:
            return result.decision, number
        earlier.append(result)
    return Decision.CONTINUE, len(earlier)


def rollback(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how often a tenth more error is rolled back within two batches, and no more error.

    The errors are those of both models on OULAD's labels. A batch is one more assignment of each of
    `COURSES` courses, drawn from all. The version that gets an error is drawn for each assignment,
    so that neither is better; then the errors of the version that serves grow by 10%.
    """
    rows = _all_labels(arguments)
    item = pd.factorize(rows["item"])[0]
    random = np.random.default_rng(0)
    within, falsely = [], []
    for _ in range(arguments.simulations // 2):
        order = random.permutation(item.max() + 1)[: COURSES * BATCHES]
        place = np.full(item.max() + 1, BATCHES)
        place[order] = np.arange(COURSES * BATCHES) // COURSES
        chosen = place[item] < BATCHES
        swapped = random.random(item.max() + 1) < 0.5
        sample, batch = rows[chosen].reset_index(drop=True), place[item][chosen]
        errors = sample[["control_error", "treatment_error"]].to_numpy(np.float64)
        other = swapped[item][chosen]
        errors[other] = errors[other][:, ::-1]
        day = sample["arrived_on"].min().date()
        plan = replace(_plan(Kind.WATCH, (1, 2), day, None), planned_labels=len(sample))
        for factor, ends in ((1.1, within), (1.0, falsely)):
            known = (batch <= number for number in range(BATCHES))
            decision, looks = _looked(plan, sample, (errors * [1.0, factor]) ** 2, known)
            ends.append(looks if decision is Decision.WORSE else np.inf)
    detected, false = float(np.mean(np.array(within) <= 2)), float(np.mean(np.isfinite(falsely)))
    both = rows[["control_error", "treatment_error"]]
    return {
        "rollback": {
            "detected": detected,
            "false": false,
            **{
                f"{name}_se": float(np.sqrt(share * (1 - share) / len(within)))
                for name, share in (("detected", detected), ("false", false))
            },
            "detected_in_the_watch": float(np.mean(np.isfinite(within))),
            "assignments_per_batch": COURSES,
            "scores_per_batch": round(len(rows) / (item.max() + 1) * COURSES),
            "batches": BATCHES,
            "error_correlation": float(both.corr().iloc[0, 1]),
        }
    }


def _all_labels(arguments: argparse.Namespace) -> pd.DataFrame:
    """Return all labels of the term, in the order of their arrival."""
    world = replayed(arguments.oulad, arguments.predictions)
    days = world.gradebook.sections
    with _installed(world) as engine:
        rows = _labels(engine, days["starts_on"].min().date(), days["ends_on"].max().date())
    return rows.sort_values(["arrived_on", "student", "item"], ignore_index=True)
