"""The ensemble of all courses: five members, stacked, for grade and risk.

Members learn on folds that separate sections and students. The stack learns from their predictions
of rows that they had not seen, calibration and intervals from stacked predictions of unseen folds.
Everything fitted is one artifact. Finding parameters is the task of `tuning`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.errors import ArtifactError, NotReadyError
from grade_ml.core.frames import empty, together
from grade_ml.core.optional import absence, remedy
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.core.threads import limited_threads, threads
from grade_ml.ensemble import persistence
from grade_ml.ensemble.calibration import Calibration, cross_calibrated
from grade_ml.ensemble.encoding import Encoder, attributes
from grade_ml.ensemble.evaluation import Evaluation, by_group, evaluate
from grade_ml.ensemble.folds import validation_folds
from grade_ml.ensemble.groups import Bands, bands_of, grouped
from grade_ml.ensemble.members import MEMBERS, Member, Task
from grade_ml.ensemble.members.contract import Matrix, View
from grade_ml.ensemble.names import POOLED
from grade_ml.ensemble.rows import (
    ROW,
    attainable,
    began_on,
    bounded_grade,
    collected,
    context,
    late_weight,
    naive_grade,
    predicted,
    probability,
    row_pseudonyms,
    section_versions,
    training_rows,
)
from grade_ml.ensemble.stacking import Stack, Stacked, naive_scores, stacked
from grade_ml.features.attributes import protected_columns
from grade_ml.features.catalogue import COMPARED
from grade_ml.features.snapshots import NUMERIC_FEATURES
from grade_ml.features.surroundings import PREFIX

Floats = npt.NDArray[np.float64]
Masks = Sequence[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]
#: Per task and member.
Parameters = Mapping[Task, Mapping[str, Mapping[str, float]]]
Progress = Callable[[str], None]
Fit = TypeVar("Fit")

logger = logging.getLogger(__name__)

#: The columns that only one view has.
_ONLY = {
    View.BESIDE_CLASS: frozenset(
        f"{name}_{kind}" for name in COMPARED for kind in ("percentile", "above_class")
    ),
    View.OWN_SCALE: frozenset(
        {
            "course_id",
            "days_passed",
            "days_remaining",
            "assignments_due",
            "assignments_missed",
            "weight_due",
            "weight_missed",
            "class_size",
            "course_sections",
            "course_grade_mean",
            "course_at_risk_share",
        }
    ),
}
#: Columns of how much importance differs between fits.
SPREAD = {"task": "object", "phase": "object", "feature": "object", "spread": "float64"}
_MODEL, _FITTED, _HELD_OUT = "model.json", "calibration.skops", "held_out.parquet"


@dataclass(frozen=True)
class PooledSettings:
    """The judgements of the ensemble, each with its reason."""

    #: Weekly rows of one student repeat each other; 200,000 gained .001 of AUC for twice the time.
    max_rows: int = 100_000
    folds: int = 3


SETTINGS = PooledSettings()


@dataclass(frozen=True)
class Part:
    """What predicts one task: an encoder per view, the members that count, and their stack."""

    task: Task
    encoders: Mapping[View, Encoder]
    members: Mapping[str, Member]
    stack: Stack

    def scores(self, snapshots: pd.DataFrame) -> dict[str, Floats]:
        """Return the number of each member per row, the naive members included."""
        views = {member.view(self.task) for member in self.members.values()}
        seen = {view: self.encoders[view].transform(snapshots) for view in views}
        naive = naive_scores(snapshots, collected(snapshots), self.task)
        return naive | {
            name: fitted.predict(seen[fitted.view(self.task)])
            for name, fitted in self.members.items()
        }

    def combine(self, snapshots: pd.DataFrame) -> Floats:
        """Return the stacked score per row: points still to come, or log-odds of the risk."""
        progress = snapshots["progress"].to_numpy(np.float64)
        return self.stack.combine(self.scores(snapshots), progress)


@dataclass(frozen=True)
class PooledModel:
    """A fitted ensemble.

    Attributes
    ----------
    parts
        By task; a task whose target was never known, or always the same (the risk: in a fold), is
        missing. Then the grade is unknown, and the risk is `base_rate`.
    seen_courses, sections
        What it was fitted on.
    held_out
        Uncalibrated and calibrated predictions of rows that the predicting members, stack and
        calibration had not seen, beside what came true. Columns: row and student (pseudonyms; rows
        are in their order), section_id, course_id, began_on, fold, final_grade, at_risk, naive,
        `PREDICTED`, `CONTEXT`, raw_grade and raw_risk.
    audit
        Errors by course and by each protected attribute, as `by_group` gives them.
    section_versions
        A text per section that changes with its training data.
    choices
        Per task: the loss of each member and stack on unseen folds, and why the stack was chosen.
    bands
        Those of the audit's groups (see `groups.bands_of`).
    degraded
        Why it is less than it could be, such as a member that is not installed; empty if it is not.
    importance_spread
        The standard deviation of each feature's share of importance between fits on unchanged
        data, by task and phase: columns of `SPREAD`. No rows if it is unknown, as for models that
        earlier versions of the program have trained.
    """

    parts: Mapping[Task, Part]
    base_rate: float
    calibration: Calibration
    sections: tuple[str, ...]
    seen_courses: tuple[str, ...]
    evaluation: Evaluation
    seed: int
    parameters: Parameters
    choices: Mapping[str, Mapping[str, Any]]
    degraded: tuple[str, ...]
    section_versions: Mapping[str, str]
    audit: pd.DataFrame
    held_out: pd.DataFrame
    bands: Bands
    importance_spread: pd.DataFrame = field(default_factory=partial(empty, SPREAD))

    @cached_property
    def features(self) -> tuple[str, ...]:
        """The names of the columns it reads."""
        views = (
            part.encoders[member.view(part.task)]
            for part in self.parts.values()
            for member in part.members.values()
        )
        return tuple(dict.fromkeys(name for encoder in views for name in encoder.features))

    def raw(self, snapshots: pd.DataFrame) -> pd.DataFrame:
        """Return uncalibrated grade and risk per row, and what calibration depends on."""
        rows = snapshots.reset_index(drop=True)
        grade, risk = np.full(len(rows), np.nan), np.full(len(rows), self.base_rate)
        if len(rows):
            with limited_threads(len(rows)):
                scores = {task: part.combine(rows) for task, part in self.parts.items()}
            if Task.GRADE in scores:
                grade = bounded_grade(scores[Task.GRADE], collected(rows), attainable(rows))
            if Task.RISK in scores:
                risk = probability(scores[Task.RISK])
        return pd.DataFrame({"grade": grade, "risk": risk, **context(rows, self.seen_courses)})

    def predict(self, snapshots: pd.DataFrame) -> pd.DataFrame:
        """Return one row per snapshot, in order.

        Columns: section_id, student_id, cut_day; grade and its 80% and 95% interval in points
        (0-100; NaN where no training section had coursework); risk of failing or withdrawing
        (0-1).
        """
        return predicted(snapshots, self.calibration.apply(self.raw(snapshots)))

    def save(self, directory: Path) -> None:
        """Write the model to `directory`; the same model gives the same bytes."""
        directory.mkdir(parents=True, exist_ok=True)
        for part in self.parts.values():
            for member in part.members.values():
                member.save(directory)
        persistence.save(
            {"scale": self.calibration.scale, "risk_curve": self.calibration.risk_curve},
            directory / _FITTED,
        )
        self.held_out.to_parquet(directory / _HELD_OUT, index=False)
        described = {
            "model": POOLED,
            "seed": self.seed,
            "base_rate": self.base_rate,
            "sections": list(self.sections),
            "seen_courses": list(self.seen_courses),
            "parts": {
                task: {
                    "encoders": {
                        view: encoder.to_dict() for view, encoder in part.encoders.items()
                    },
                    "stack": part.stack.to_dict(),
                    "members": list(part.members),
                }
                for task, part in self.parts.items()
            },
            "conformal": self.calibration.conformal.to_dict(),
            "evaluation": self.evaluation.to_dict(),
            "parameters": self.parameters,
            "choices": self.choices,
            "degraded": list(self.degraded),
            "section_versions": dict(self.section_versions),
            "audit": self.audit.to_dict("list"),
            "bands": dict(self.bands),
            "importance_spread": self.importance_spread.to_dict("list"),
        }
        (directory / _MODEL).write_text(json.dumps(described, indent=1, sort_keys=True))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ArtifactError
            The folder does not hold an ensemble that this version of the program can read, or the
            library of one of its members is not installed.
        """
        try:
            fitted: Any = persistence.load(directory / _FITTED)
            described = json.loads((directory / _MODEL).read_text())
            return cls(
                parts={
                    Task(task): _load_part(Task(task), values, directory)
                    for task, values in described["parts"].items()
                },
                base_rate=described["base_rate"],
                calibration=Calibration.from_parts(
                    fitted["scale"], fitted["risk_curve"], described["conformal"]
                ),
                sections=tuple(described["sections"]),
                seen_courses=tuple(described["seen_courses"]),
                evaluation=Evaluation.from_dict(described["evaluation"]),
                seed=described["seed"],
                parameters={
                    Task(task): members for task, members in described["parameters"].items()
                },
                choices=described["choices"],
                degraded=tuple(described["degraded"]),
                section_versions=described["section_versions"],
                audit=pd.DataFrame(described["audit"]),
                held_out=pd.read_parquet(directory / _HELD_OUT),
                bands=described.get("bands", {}),
                importance_spread=together(
                    [pd.DataFrame(described.get("importance_spread", {}), columns=[*SPREAD])],
                    SPREAD,
                ),
            )
        except ArtifactError:
            raise
        except Exception as error:  # of any library's kind: raised again as an error of ours
            raise ArtifactError(
                f"The model in {directory} cannot be read: {error!r}.",
                f"Train again, unless a library is missing. {remedy('boosting')}",
            ) from error


def _load_part(task: Task, values: Mapping[str, Any], directory: Path) -> Part:
    kinds = {kind.name: kind for kind in MEMBERS}
    members = {name: kinds[name].load(directory, task) for name in values["members"]}
    encoders = {
        View(view): Encoder.from_dict(stored) for view, stored in values["encoders"].items()
    }
    return Part(task, encoders, members, Stack.from_dict(values["stack"]))


def default_parameters() -> dict[Task, dict[str, dict[str, float]]]:
    """Return every member's parameters before tuning."""
    return {task: {kind.name: kind.defaults(task) for kind in MEMBERS} for task in Task}


def fit(  # noqa: PLR0913 - what a model is made of, and how progress is reported
    snapshots: pd.DataFrame,
    outcomes: pd.DataFrame,
    seed: int,
    pseudonyms: Pseudonyms,
    *,
    parameters: Parameters | None = None,
    on_progress: Progress = lambda message: None,
) -> PooledModel:
    """Fit the ensemble.

    Parameters
    ----------
    snapshots
        As `grade_snapshots` gives them, protected attributes included; they are not read. Columns
        of `with_surroundings` are read where there are any.
    outcomes
        Columns section_id, student_id, final_grade (0-100, NaN without coursework), at_risk (bool).
        A section in which an enrollment has no outcome is still running and is left out whole.
    pseudonyms
        Replace the keys of students in what the model stores.
    parameters
        Of the members; `default_parameters` where they are not given.
    on_progress
        Receives a message for each step.

    Raises
    ------
    NotReadyError
        No section has ended, too few enrollments have an outcome, or no member could be fitted.
    """
    rows = training_rows(snapshots, outcomes, SETTINGS.max_rows, seed)
    folds = validation_folds(rows, SETTINGS.folds, seed)
    chosen_parameters = {**default_parameters(), **(parameters or {})}
    views = {view: encoder_of(rows, view) for view in View}
    work = {task: Workload.of(task, rows, views) for task in Task}
    fitted: dict[Task, _Fitted] = {}
    problems: dict[Task, list[str]] = {}
    with limited_threads(len(rows)):
        for task, load in work.items():
            if load.learnable:
                fit_of_task, problems[task] = _fit_task(
                    load, folds, chosen_parameters[task], seed, on_progress
                )
                if fit_of_task is not None:
                    fitted[task] = fit_of_task
        degraded = [text for texts in problems.values() for text in texts]
        if problems and all(len(texts) == len(MEMBERS) for texts in problems.values()):
            raise NotReadyError(
                f"No member of the ensemble could be fitted: {'; '.join(degraded)}.",
                "Until this is repaired, the baseline predicts.",
            )
        held_out = _held_out(rows, folds, fitted)
        calibrated = cross_calibrated(held_out, seed)
        at_risk = rows["at_risk"].to_numpy(bool)
        bands = bands_of(rows, "student_id")
        return PooledModel(
            parts={task: result.part for task, result in fitted.items()},
            base_rate=float((at_risk.sum() + 0.5) / (at_risk.size + 1)),
            calibration=Calibration.fit(held_out, seed),
            sections=tuple(sorted(rows["section_id"].astype(str).unique())),
            seen_courses=tuple(sorted(rows["course_id"].astype(str).unique())),
            evaluation=evaluate(calibrated, seed),
            seed=seed,
            parameters=chosen_parameters,
            choices={
                task: {"losses": dict(result.chosen.losses), "reason": result.chosen.reason}
                for task, result in fitted.items()
            },
            degraded=tuple(dict.fromkeys(degraded)),
            section_versions=section_versions(snapshots, outcomes, pseudonyms),
            audit=by_group(grouped(calibrated, "student_id", bands), _audited(rows), seed),
            held_out=_without_ids(calibrated, pseudonyms),
            bands=bands,
        )


@dataclass(frozen=True)
class Workload:
    """The rows of one task as its members read them.

    `usable` marks the rows whose target is known.
    """

    task: Task
    encoders: Mapping[View, Encoder]
    rows: pd.DataFrame
    matrices: Mapping[View, Matrix]
    target: Floats
    weight: Floats
    usable: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, task: Task, rows: pd.DataFrame, encoders: Mapping[View, Encoder]) -> Self:
        """Encode `rows` (with final_grade and at_risk) for `task`."""
        if task is Task.GRADE:
            target = rows["final_grade"].to_numpy(np.float64) - collected(rows)
            weight = late_weight(rows)
        else:
            target, weight = rows["at_risk"].to_numpy(np.float64), np.ones(len(rows))
        usable = ~np.isnan(target)
        matrices = {view: encoder.transform(rows) for view, encoder in encoders.items()}
        return cls(task, encoders, rows, matrices, target, weight, usable)

    @property
    def learnable(self) -> bool:
        """Whether there is a target, and for the risk both outcomes."""
        known = self.target[self.usable]
        return bool(known.size) and (self.task is Task.GRADE or 0 < known.mean() < 1)

    def fit(
        self,
        kind: type[Member],
        chosen: npt.NDArray[np.bool_],
        parameters: Mapping[str, float],
        seed: int,
    ) -> Member:
        """Fit a member to the chosen rows whose target is known."""
        usable = chosen & self.usable
        matrix, target = self.matrices[kind.view(self.task)][usable], self.target[usable]
        if self.task is Task.RISK and not 0 < target.mean() < 1:
            raise NotReadyError("All outcomes of a fold are the same.")
        return kind.fit(
            matrix,
            target,
            self.weight[usable],
            self.task,
            parameters,
            seed=seed,
            threads=threads(len(matrix)),
        )


@dataclass(frozen=True)
class _Fitted:
    part: Part
    chosen: Stacked
    #: Which rows were held out and have a known target.
    held: npt.NDArray[np.bool_]


def encoder_of(rows: pd.DataFrame, view: View) -> Encoder:
    """Return the encoder of the columns that members with `view` see."""
    hidden = frozenset().union(*(names for other, names in _ONLY.items() if other is not view))
    numeric, texts = attributes(rows)
    outside = [name for name in rows.columns if name.startswith(PREFIX)]
    numbers = dict.fromkeys(("progress", *NUMERIC_FEATURES, *numeric, *outside))
    return Encoder.fit(
        rows,
        [name for name in numbers if name not in hidden],
        [name for name in ("course_id", *texts) if name not in hidden],
    )


def _fit_task(
    load: Workload,
    folds: Masks,
    parameters: Mapping[str, Mapping[str, float]],
    seed: int,
    on_progress: Progress,
) -> tuple[_Fitted | None, list[str]]:
    """Fit the members on each fold, stack them, and fit those that count on all rows.

    A member that is not installed or fails is left out and named; the others go on. Without any
    number to stack, as for the risk of which most folds have one outcome only, there is no part.
    """
    fold = _fold_numbers(folds)
    held = (fold >= 0) & load.usable
    scores: dict[str, Floats] = {}
    fitting: dict[str, type[Member]] = {}
    problems = []

    def attempt(name: str, work: Callable[[], Fit]) -> Fit | None:
        try:
            return work()
        except Exception as error:
            # Each library has kinds of its own. No error vanishes: it is logged and is in the
            # model's `degraded`, on the card, and with every prediction.
            logger.warning("Training continues without %s: %r", name, error)
            problems.append(f"{name} could not be fitted ({load.task}): {error}")
            return None

    for kind in MEMBERS:
        if not kind.available():
            problems.append(f"{absence(kind.library)}; the ensemble goes without it")
            continue
        on_progress(f"{load.task}: {kind.name} on {len(folds)} folds")
        own = parameters[kind.name]
        unseen = attempt(kind.name, partial(_unseen, load, folds, kind, own, seed))
        if unseen is not None:
            scores[kind.name] = unseen[held]
            fitting[kind.name] = kind
    rows = load.rows[held].assign(fold=fold[held])
    all_rows = np.ones(len(load.rows), bool)
    while scores:
        chosen = stacked(scores, load.target[held], rows, load.task)
        on_progress(f"{load.task}: {chosen.reason}")
        tried = {
            name: attempt(name, partial(load.fit, fitting[name], all_rows, parameters[name], seed))
            for name in chosen.stack.used
        }
        used = {name: member for name, member in tried.items() if member is not None}
        if len(used) == len(tried):
            part = Part(load.task, load.encoders, used, chosen.stack)
            return _Fitted(part, chosen, held), problems
        # Some failed on all rows: the others are stacked without them.
        scores = {
            name: score for name, score in scores.items() if name in used or name not in tried
        }
    return None, problems


def _unseen(
    load: Workload,
    folds: Masks,
    kind: type[Member],
    parameters: Mapping[str, float],
    seed: int,
) -> Floats:
    unseen = np.full(len(load.rows), np.nan)
    for train, held_out in folds:
        member = load.fit(kind, train, parameters, seed)
        unseen[held_out] = member.predict(load.matrices[kind.view(load.task)][held_out])
    return unseen


def _held_out(rows: pd.DataFrame, folds: Masks, fitted: Mapping[Task, _Fitted]) -> pd.DataFrame:
    """Return the rows that were held out with their uncalibrated predictions."""
    fold = _fold_numbers(folds)
    held = fold >= 0
    grade, risk = np.full(len(rows), np.nan), np.full(len(rows), rows["at_risk"].mean())
    if Task.GRADE in fitted:
        mask = fitted[Task.GRADE].held
        grade[mask] = bounded_grade(
            fitted[Task.GRADE].chosen.held_out, collected(rows[mask]), attainable(rows[mask])
        )
    if Task.RISK in fitted:
        risk[fitted[Task.RISK].held] = probability(fitted[Task.RISK].chosen.held_out)
    seen = np.zeros(len(rows))
    for train, held_out in folds:
        known = rows.loc[train, "course_id"].unique()
        seen[held_out] = rows.loc[held_out, "course_id"].isin(known)
    columns = [*_audited(rows).values(), "final_grade", "at_risk"]
    frame = rows[[*ROW, *columns]].assign(
        **{**context(rows, ()), "course_seen": seen},
        grade=grade,
        risk=risk,
        naive=naive_grade(rows),
        fold=fold,
        began_on=began_on(rows),
    )
    return frame[held].reset_index(drop=True)


def _without_ids(held_out: pd.DataFrame, pseudonyms: Pseudonyms) -> pd.DataFrame:
    """Return the rows with pseudonyms instead of keys and students, and in their order.

    In the order of the ids, the rank would identify a student.
    """
    hidden = [name for name in _audited(held_out).values() if name != "course_id"]
    stored = held_out.drop(columns=["student_id", "cut_day", *hidden]).assign(
        row=row_pseudonyms(held_out, pseudonyms), student=pseudonyms.of(held_out["student_id"])
    )
    stored[["section_id", "course_id"]] = stored[["section_id", "course_id"]].astype(str)
    return stored.sort_values("row", ignore_index=True)


def _audited(rows: pd.DataFrame) -> dict[str, str]:
    """Return the columns that separate groups of errors, and the names of the groups."""
    return {"course": "course_id", **protected_columns(rows.columns)}


def _fold_numbers(folds: Masks) -> npt.NDArray[np.int64]:
    number = np.full(len(folds[0][0]), -1)
    for place, (_, held_out) in enumerate(folds):
        number[held_out] = place
    return number
