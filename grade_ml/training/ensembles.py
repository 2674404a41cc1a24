"""From trained to served: the pooled ensemble and the courses' corrections, judged and promoted.

What the models are stands in `pooled` and `course`, where versions live in `grade_ml.registry`.
Nothing is fitted where too little changed to matter.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from time import perf_counter
from types import MappingProxyType

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.core.errors import ArtifactError, NotReadyError
from grade_ml.core.hashing import digest, section_hashes
from grade_ml.core.policy import TablePolicy
from grade_ml.core.process import peak_megabytes
from grade_ml.core.resampling import Improvement, improvement
from grade_ml.ensemble import course as courses
from grade_ml.ensemble import pooled as ensembles
from grade_ml.ensemble.baseline import NAME as BASELINE
from grade_ml.ensemble.course import Change, CourseModel, Fitted
from grade_ml.ensemble.importance import spread_between_fits
from grade_ml.ensemble.pooled import NAME, Parameters, PooledModel, Progress
from grade_ml.ensemble.rows import (
    NAIVE,
    began_on,
    data_version,
    join,
    row_pseudonyms,
    versions_of,
)
from grade_ml.external.features import read_wide
from grade_ml.external.protocol import Window
from grade_ml.features.store import Frames
from grade_ml.features.surroundings import beside, columns_of, with_surroundings
from grade_ml.gradebook import frames
from grade_ml.gradebook.institution import DEFAULTS, Institution
from grade_ml.registry.registry import Alias, ModelVersion, Registry
from grade_ml.registry.transition import Evidence, Stage, Stages
from grade_ml.serving.models import Models
from grade_ml.serving.predictions import metadata
from grade_ml.training.admission import Admission, admission
from grade_ml.training.baseline import (
    Training,
    TrainingData,
    Verdict,
    covers,
    finished_in,
    remove_exposed,
)
from grade_ml.training.tuning import Tuned

logger = logging.getLogger(__name__)

course_training = sa.Table(
    "course_training",
    metadata,
    sa.Column("course_id", sa.Text, primary_key=True),
    sa.Column("data_version", sa.Text, nullable=False),
    sa.Column("code_version", sa.Text, nullable=False),
    sa.Column("kept", sa.Boolean, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("trained_at", sa.TIMESTAMP(timezone=True), nullable=False),
    info=TablePolicy("training", time="trained_at").info,
)


@dataclass(frozen=True)
class LifecycleSettings:
    """The judgements about when to train and what may serve, each with its reason."""

    #: The pooled model is fitted anew when sections with this share of the outcomes changed; less
    #: is taken in by the courses' corrections, which cost seconds and not minutes.
    refit_share: float = 0.05
    #: Twice what OULAD's next term showed at its worst cut; above, a risk is not a probability.
    #: What chance adds where students are few comes on top: among 100 it alone makes .15.
    most_ece: float = 0.06
    #: Points and log-odds; single precision of the members lets sums differ by this much.
    additivity: float = 1e-3


SETTINGS = LifecycleSettings()

#: From a version's data and the last parameters to new ones.
Tuner = Callable[[pd.DataFrame, pd.DataFrame, Parameters | None], Tuned]


def train_pooled(  # noqa: PLR0913 - what a version must be traceable to
    data: TrainingData,
    stages: Stages,
    connection: Connection,
    *,
    trained_at: datetime,
    seed: int = 0,
    tune: Tuner,
    on_progress: Progress = lambda message: None,
) -> Training[PooledModel]:
    """Fit the pooled ensemble, register it, and let it become challenger and champion if it may.

    Parameters
    ----------
    tune
        Finds parameters, starting from those of the last version.

    Raises
    ------
    NotReadyError
        Too few enrollments have an outcome.
    """
    stages.reconcile()
    registry = stages.registry
    results, versions = data.results, data.versions
    code = installed_version("grade-ml")
    models = Models(registry)
    sizes = results["section_id"].astype(str).value_counts()
    readable, champion = list(models.pooled_versions()), registry.get(NAME, Alias.CHAMPION)
    # A challenger that is up to date does not make up for a champion that cannot be read.
    for current in readable if champion is None or champion in readable else ():
        model = models.pooled[current.version]
        share = _changed_share(versions, model.section_versions, sizes)
        if current.code_version == code and share < SETTINGS.refit_share:
            why = "nothing changed" if share == 0 else f"{share:.1%} of the outcomes changed"
            reason = f"version {current.version} is kept: {why}"
            judged = verdicts(model, registry.get(BASELINE, Alias.CHAMPION), None)
            return Training(current, model, judged, False, reason)
    started = perf_counter()
    previous = models.pooled[readable[0].version].parameters if readable else None
    on_progress("Trying which external sources tell of grades")
    rows, admitted = _with_admitted(data.snapshots, results, connection, seed)
    tuned = tune(rows, results, previous)
    model = ensembles.fit(
        rows,
        results,
        seed,
        registry.pseudonyms,
        parameters=tuned.parameters,
        on_progress=on_progress,
    )
    model = replace(
        model,
        choices={**model.choices, "external": admitted.to_dict()},
        section_versions=versions,
        importance_spread=spread_between_fits(model, rows, results, seed),
        degraded=tuple(dict.fromkeys([*model.degraded, *tuned.degraded])),
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        version = registry.register(
            NAME,
            Path(folder),
            metrics=model.evaluation.flat()
            | {"training_seconds": perf_counter() - started, "peak_megabytes": peak_megabytes()},
            parameters=_flat(model.parameters)
            | {
                "seed": seed,
                "sections": len(model.sections),
                "pass_marks": data.pass_marks,
            },
            features=model.features,
            data_version=data_version(versions),
            code_version=code,
            trained_at=trained_at,
        )
    judged = verdicts(model, registry.get(BASELINE, Alias.CHAMPION), rows)
    training = Training(version, model, judged, True, studies=tuned.studies)
    if not training.accepted:
        failed = ", ".join(verdict.name for verdict in judged if not verdict.passed)
        remove_exposed(NAME, stages)
        return replace(training, reason=f"stays a candidate: {failed} failed")
    stages.transition(version, Stage.CHALLENGER, training.evidence("meets every condition"))
    reason, gain = "there was no champion", None
    if champion is not None:
        try:
            gain = _paired(connection, model, models.pooled[champion.version], rows, registry, seed)
            reason = f"improvement {gain}"
        except ArtifactError as error:
            reason = f"version {champion.version} cannot serve: {error}"
        else:
            if not (gain and gain.is_sure):
                remove_exposed(NAME, stages)
                reason = f"stays challenger of version {champion.version}: {reason}"
                return replace(training, reason=reason)
    stages.transition(version, Stage.CHAMPION, Evidence(reason, gain.figures if gain else {}))
    remove_exposed(NAME, stages)
    return replace(training, reason=f"became champion: {reason}")


def verdicts(
    model: PooledModel, baseline: ModelVersion | None, rows: pd.DataFrame | None
) -> tuple[Verdict, ...]:
    """Return the conditions of becoming challenger; a figure that is unknown speaks for no one.

    Parameters
    ----------
    rows
        Snapshots on which explanations are added up; None: they are not.
    """
    found = {name: value for name, value in model.evaluation.metrics["all"].items() if value}
    naive: dict[str, float] = {}
    naive |= {name: found[name] for name in ("rmse", "naive_rmse") if name in found}
    plain = dict(baseline.metrics) if baseline else {}
    pairs = {
        name: (found[name], plain[f"all_{name}"])
        for name in ("rmse", "brier")
        if name in found and f"all_{name}" in plain
    }
    against = {
        f"{kind}_{name}": value
        for name, pair in pairs.items()
        for kind, value in zip(("pooled", "baseline"), pair, strict=True)
    }
    ratio = np.mean([ours / theirs for ours, theirs in pairs.values()]) if pairs else 0.0
    gap = _additivity(model, rows.head(200)) if rows is not None else 0.0
    ece, most_ece = found.get("ece", 0.0), float(np.hypot(SETTINGS.most_ece, _chance(model)))
    return (
        Verdict("better_than_naive", len(naive) < 2 or naive["rmse"] < naive["naive_rmse"], naive),
        Verdict("better_than_baseline", bool(ratio < 1), against),
        covers(found),
        Verdict("calibrated", ece <= most_ece, {"ece": ece, "most": most_ece}),
        Verdict("explanations_add_up", gap <= SETTINGS.additivity, {"largest_gap": gap}),
    )


def _chance(model: PooledModel) -> float:
    """Return the ECE (15 bins) that a calibrated risk shows by chance; a student's rows agree."""
    at_risk = model.held_out["at_risk"].mean()
    students = max(model.held_out["student"].nunique(), 15)
    return float(np.sqrt(2 / np.pi * at_risk * (1 - at_risk) * 15 / students))


def _additivity(model: PooledModel, rows: pd.DataFrame) -> float:
    """Return the largest difference between a member's number and the sum of its contributions.

    A member whose explanation needs a library that is missing (the forest's: lightgbm) is left out.
    """
    gaps = [0.0]
    for part in model.parts.values():
        for member in part.members.values():
            matrix = part.encoders[member.view(part.task)].transform(rows)
            try:
                added = member.contributions(matrix).sum(axis=1)
            except (ImportError, OSError) as error:  # missing, or missing what it is linked to
                logger.warning("%s (%s) cannot be explained: %s", member.name, part.task, error)
                continue
            gaps.append(float(np.abs(added - member.predict(matrix)).max()))
    return max(gaps)


def _changed_share(now: Mapping[str, str], before: Mapping[str, str], sizes: pd.Series) -> float:
    changed = [name for name in now.keys() | before.keys() if now.get(name) != before.get(name)]
    return float(sizes.reindex(changed).fillna(1).sum() / max(sizes.sum(), 1))


def _with_admitted(
    snapshots: pd.DataFrame, results: pd.DataFrame, connection: Connection, seed: int
) -> tuple[pd.DataFrame, Admission]:
    """Return the snapshots with the external columns that may enter, and how that was decided."""
    days = snapshots["cut_on"].dt.date
    wide = read_wide(connection, Window(days.min(), days.max()))
    everything = with_surroundings(snapshots, wide)
    verdict = admission(everything, results, frames.read(connection).sections, seed=seed)
    kept = [*snapshots.columns, *columns_of(everything, verdict.sources)]
    return everything[kept], verdict


def _paired(  # noqa: PLR0913, PLR0917 - two models, and what both are asked
    connection: Connection,
    challenger: PooledModel,
    champion: PooledModel,
    rows: pd.DataFrame,
    registry: Registry,
    seed: int,
) -> Improvement | None:
    """Compare both on rows that neither had seen: held out by both, or new to the champion."""
    ours = challenger.held_out
    new = ours[~ours["section_id"].isin(champion.sections)]
    known = ours.merge(champion.held_out[["row", "grade", "risk"]], on="row", suffixes=("", "_old"))
    parts = [known]
    if len(new):
        unseen = rows[rows["section_id"].astype(str).isin(new["section_id"].unique())]
        old = champion.predict(beside(connection, unseen, champion.features)).assign(
            row=row_pseudonyms(unseen, registry.pseudonyms).to_numpy()
        )
        parts.append(new.merge(old[["row", "grade", "risk"]], on="row", suffixes=("", "_old")))
    both = pd.concat(parts, ignore_index=True)
    if both.empty:
        return None
    before = both[["grade_old", "risk_old"]].set_axis(["grade", "risk"], axis=1)
    pair = courses.losses(before, both[["grade", "risk"]], both)
    return improvement(*pair, both["student"].to_numpy(), seed)


def _flat(parameters: Parameters) -> dict[str, float]:
    return {
        f"{task}.{member}.{name}": value
        for task, members in parameters.items()
        for member, values in members.items()
        for name, value in values.items()
    }


@dataclass(frozen=True)
class CourseOutcome:
    """What came of one course's training; `fitted` is False where nothing changed."""

    course_id: str
    kept: bool
    fitted: bool
    reason: str
    model: CourseModel | None = None


def train_courses(  # noqa: PLR0913
    course_ids: Sequence[str],
    root: str,
    as_of: date,
    stages: Stages,
    connection: Connection,
    *,
    trained_at: datetime,
    institution: Institution = DEFAULTS,
    changes: Mapping[str, Change] = MappingProxyType({}),
    seed: int = 0,
) -> Iterator[CourseOutcome]:
    """Fit each course's correction of the pooled champion, and keep it where it wins.

    Sections that the pooled champion knows speak by its held-out predictions; those that ended
    since, by its predictions of their stored snapshots. Those whose data changed since are silent,
    for the champion has seen what they were. Without a champion nothing is fitted, and the outcomes
    say so.

    Parameters
    ----------
    root
        Where snapshots are stored.
    as_of
        Sections that ended before count.
    changes
        What scores since a change say of running sections, by course. It takes the place of what
        ended sections say; a course without one keeps what it was told before.

    Raises
    ------
    NotReadyError
        No snapshots of a course have been computed.
    """
    stages.reconcile()
    registry = stages.registry
    models = Models(registry)
    try:
        version, pooled = models.pooled_champion()
    except NotReadyError as error:
        # No reason to stop: the next model in line predicts.
        yield from (CourseOutcome(one, False, False, error.message) for one in course_ids)
        return
    code = installed_version("grade-ml")
    by_course = dict(iter(pooled.held_out.groupby("course_id")))
    done = {row.course_id: row for row in connection.execute(sa.select(course_training)).all()}
    stored = Frames(root, as_of, registry.pseudonyms)
    hashed, results = stored.hashes(course_ids), finished_in(connection, as_of, institution)
    truth = section_hashes(results, registry.pseudonyms)
    for course_id in course_ids:
        sections = versions_of(hashed[course_id], truth)
        data = f"{version.version}-{digest(sections)}"
        before, change = done.get(course_id), changes.get(course_id)
        seen, _, told = before.data_version.partition("@") if before else ("", "", "")
        now = _told(change) if change else told
        if before and (seen, told, before.code_version) == (data, now, code):
            yield CourseOutcome(course_id, before.kept, False, f"nothing changed: {before.reason}")
            continue
        known = by_course.get(course_id, pooled.held_out.head(0))
        new = [name for name in sections if name not in pooled.section_versions]
        same = [name for name in sections if pooled.section_versions.get(name) == sections[name]]
        rows = known[known["section_id"].isin(same)]
        if new:
            fresh = _fresh(connection, stored.snapshots([course_id]), results, new, pooled)
            fresh["student"] = registry.pseudonyms.of(fresh["student"])
            rows = pd.concat([rows, fresh], ignore_index=True)
        fitted = courses.fit(rows, pooled, seed)
        name = courses.name_of(course_id)
        if change and change.share:
            record = fitted.evaluation or pooled.evaluation
            fitted = Fitted(courses.changed(change, pooled), str(change), record, change.gained)
            data = f"{data}@{now}"
        model = None
        if fitted.correction and fitted.evaluation and fitted.gained:
            model = CourseModel(
                course_id,
                pooled,
                version.version,
                fitted.correction,
                tuple(sorted(rows["section_id"].unique())),
                fitted.evaluation,
                fitted.gained,
                change.since if change and change.share else None,
            )
            _register_course(model, stages, data, trained_at, fitted.reason)
        elif champion := registry.get(name, Alias.CHAMPION):
            stages.transition(champion, Stage.RETIRED, Evidence(fitted.reason))
        _remember(
            connection,
            course_id,
            data,
            code,
            fitted.correction is not None,
            fitted.reason,
            trained_at,
        )
        yield CourseOutcome(course_id, model is not None, True, fitted.reason, model)


def _told(change: Change) -> str:
    return f"{change.since}{change.share:+.2f}" if change.share else ""


def changed_since(connection: Connection) -> dict[str, date]:
    """Return the courses that were told of a change, and since when it is."""
    rows = connection.execute(
        sa.select(course_training.c.course_id, course_training.c.data_version).where(
            course_training.c.data_version.contains("@")
        )
    )
    return {row.course_id: date.fromisoformat(row.data_version.split("@")[1][:10]) for row in rows}


def _fresh(
    connection: Connection,
    snapshots: pd.DataFrame,
    results: pd.DataFrame,
    sections: list[str],
    pooled: PooledModel,
) -> pd.DataFrame:
    """Return rows of sections that the pooled model has not seen, as its held-out rows are."""
    some = snapshots[snapshots["section_id"].astype(str).isin(sections)]
    rows = join(some, results).reset_index(drop=True)
    raw = pooled.raw(beside(connection, rows, pooled.features))
    described = pd.concat([rows[["final_grade", "at_risk"]], raw], axis=1)
    return described.assign(
        section_id=rows["section_id"].astype(str),
        student=rows["student_id"],
        began_on=began_on(rows),
        naive=rows[NAIVE].fillna(0.0),
        raw_grade=raw["grade"],
        raw_risk=raw["risk"],
    )


def _register_course(
    model: CourseModel,
    stages: Stages,
    data: str,
    trained_at: datetime,
    reason: str,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        version = stages.registry.register(
            courses.name_of(model.course_id),
            Path(folder),
            metrics=model.evaluation.flat(),
            parameters={"pooled_version": model.pooled_version},
            features=model.features,
            data_version=data,
            code_version=installed_version("grade-ml"),
            trained_at=trained_at,
        )
    evidence = Evidence(reason, model.gained.figures)
    stages.transition(version, Stage.CHALLENGER, evidence)
    stages.transition(version, Stage.CHAMPION, evidence)


def _remember(  # noqa: PLR0913, PLR0917
    connection: Connection,
    course_id: str,
    data: str,
    code: str,
    kept: bool,
    reason: str,
    trained_at: datetime,
) -> None:
    from sqlalchemy.dialects.postgresql import insert

    values = {
        "data_version": data,
        "code_version": code,
        "kept": kept,
        "reason": reason,
        "trained_at": trained_at,
    }
    connection.execute(
        insert(course_training)
        .values(course_id=course_id, **values)
        .on_conflict_do_update(index_elements=["course_id"], set_=values)
    )
