"""The rows models learn from: snapshots beside outcomes, their keys, and what none may see.

Shared by all models of this package; each model decides what it does with its rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.errors import NotReadyError
from grade_ml.core.hashing import digest, section_hashes
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.ensemble.evaluation import Evaluation
from grade_ml.features.attributes import protected_columns

#: What the grade is predicted on top of, and what a person would guess: points, 0-100.
COLLECTED, NAIVE = "grade_if_nothing_more", "grade_rate_so_far"
PREDICTED = ("grade", "lower80", "upper80", "lower95", "upper95", "risk")
ENROLLMENT = ["section_id", "student_id"]
ROW = [*ENROLLMENT, "cut_day"]

Floats = npt.NDArray[np.float64]


class Model(Protocol):
    """The interface of every fitted model."""

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections whose outcomes it has seen."""

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the columns it reads."""

    @property
    def evaluation(self) -> Evaluation:
        """The evaluation of its predictions of held-out sections."""

    def predict(self, snapshots: pd.DataFrame) -> pd.DataFrame:
        """Return `ROW` and `PREDICTED` per snapshot, in order."""


@dataclass(frozen=True)
class RowSettings:
    """The judgements about rows, each with its reason."""

    #: Below this, held-out residuals are too few for a 95% interval.
    min_enrollments: int = 20
    #: Errors shrink towards the end of a section, so late rows weigh more: by 1 / (this + the
    #: share of days to come). Without it, squared errors of the early weeks are all that counts.
    open_share: float = 0.1


SETTINGS = RowSettings()


def training_rows(
    snapshots: pd.DataFrame, outcomes: pd.DataFrame, most: int, seed: int
) -> pd.DataFrame:
    """Return the rows of ended sections with final_grade and at_risk, by section, student and day.

    A section of which an enrollment is not over is still running and is left out whole: those who
    withdrew early would be all that is known of it. An enrollment whose outcome is unknown is left
    out alone. More rows than `most` are sampled.

    Raises
    ------
    NotReadyError
        Too few enrollments have an outcome.
    """
    keys = as_text(snapshots[ENROLLMENT].drop_duplicates())
    over = keys.merge(as_text(outcomes[ENROLLMENT]), on=ENROLLMENT, how="left", indicator=True)
    running = over.loc[over["_merge"] == "left_only", "section_id"].unique()
    joined = join(snapshots, outcomes)
    rows = joined[~joined["section_id"].isin(running)]
    require_enough(rows)
    if len(rows) > most:
        rows = rows.sample(most, random_state=seed)
    return rows.sort_values(ROW, ignore_index=True)


def require_enough(rows: pd.DataFrame) -> None:
    """Raise `NotReadyError` if `rows`, of sections that have ended, are of too few enrollments."""
    enrollments = len(rows[ENROLLMENT].drop_duplicates())
    if enrollments < SETTINGS.min_enrollments:
        raise NotReadyError(
            f"A model needs at least {SETTINGS.min_enrollments} enrollments in sections that have "
            f"ended; the gradebook has {enrollments}.",
            "Load finished terms (grade-ml load), or wait for the first term to end.",
        )


def join(rows: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """Return those of `rows` whose outcome is known, with final_grade and at_risk; ids as text."""
    known = outcomes.loc[outcomes["at_risk"].notna(), [*ENROLLMENT, "final_grade", "at_risk"]]
    return as_text(rows).merge(as_text(known).astype({"at_risk": bool}), on=ENROLLMENT)


def naive_grade(snapshots: pd.DataFrame) -> pd.Series:
    """Return the naive forecast of the grade: points per weight graded or missed, 0-100.

    It is 0 before anything was: no grade of 0 is likely then, but a sheet of points shows it, and
    the published comparison (docs/research/benchmarks.md) is on these terms. So the naive errors of
    the first weeks are large.
    """
    rate: pd.Series = snapshots[NAIVE].fillna(0.0)  # the definition above, not an unknown score
    return rate


def with_outcomes(model: Model, snapshots: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """Return predictions beside what came true, for the snapshots whose outcome is known.

    Columns: those of `predict`, final_grade, at_risk, progress, naive (points), course_id and the
    protected attributes.
    """
    beside = snapshots.reset_index(drop=True)
    columns = ["course_id", "progress", *protected_columns(beside.columns).values()]
    rows = pd.concat([model.predict(beside), beside[columns]], axis=1)
    rows["naive"] = naive_grade(beside)
    return join(rows, outcomes)


def section_versions(
    snapshots: pd.DataFrame, outcomes: pd.DataFrame, pseudonyms: Pseudonyms
) -> dict[str, str]:
    """Return per section that has rows and outcomes a text that changes when one of them does.

    The order of rows does not matter.
    """
    return versions_of(section_hashes(snapshots, pseudonyms), section_hashes(outcomes, pseudonyms))


def versions_of(rows: Mapping[str, int], truth: Mapping[str, int]) -> dict[str, str]:
    """Return the same as `section_versions`, from the hashes of snapshots and outcomes."""
    return {name: f"{rows[name]:016x}{truth[name]:016x}" for name in sorted(rows) if name in truth}


def data_version(versions: Mapping[str, str]) -> str:
    """Return one text for many sections' versions."""
    return digest(versions)


def row_pseudonyms(rows: pd.DataFrame, pseudonyms: Pseudonyms) -> pd.Series:
    """Return a number for each key `ROW`, the same in every frame."""
    keys = rows[ENROLLMENT].astype("object").agg("\n".join, axis=1)
    return pseudonyms.of(keys + "\n" + rows["cut_day"].map("{:g}".format))


def began_on(rows: pd.DataFrame) -> pd.Series:
    """Return the day each row's section began."""
    began: pd.Series = rows["cut_on"] - pd.to_timedelta(np.floor(rows["cut_day"]), unit="D")
    return began


def collected(snapshots: pd.DataFrame) -> Floats:
    """Return the points that are certain."""
    points: Floats = np.nan_to_num(snapshots[COLLECTED].to_numpy(np.float64))
    return points


def attainable(snapshots: pd.DataFrame) -> Floats:
    """Return the most points that are still possible."""
    return np.asarray(np.fmin(snapshots["grade_if_all_perfect"].to_numpy(np.float64), 100.0))


def bounded_grade(to_come: Floats, certain: Floats, possible: Floats) -> Floats:
    """Return the grade, 0-100: no less than is certain, no more than is still possible."""
    grade = np.clip(certain + to_come, certain, np.fmax(possible, certain))
    return np.asarray(np.clip(grade, 0, 100))


def probability(log_odds: Floats) -> Floats:
    """Return the probability (0-1) of each log-odds."""
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -30, 30))))


def log_odds_of(risk: pd.Series) -> Floats:
    """Return the log-odds of each probability, which is taken as at least .0001 from 0 and 1."""
    share = risk.to_numpy(np.float64).clip(1e-4, 1 - 1e-4)
    return np.asarray(np.log(share / (1 - share)))


def late_weight(rows: pd.DataFrame) -> Floats:
    """Return how much each row weighs by its place in the section; 1 on average."""
    weight = 1 / (SETTINGS.open_share + 1 - rows["progress"].to_numpy(np.float64))
    return np.asarray(weight / weight.mean())


def context(rows: pd.DataFrame, seen_courses: Collection[str]) -> dict[str, Floats]:
    """Return what the size of an error depends on, beside the predictions themselves."""
    return {
        "course_seen": np.array([name in seen_courses for name in rows["course_id"]], np.float64),
        "collected": collected(rows),
        "progress": rows["progress"].to_numpy(np.float64),
        "weight_remaining": rows["weight_remaining"].to_numpy(np.float64),
    }


def predicted(snapshots: pd.DataFrame, calibrated: pd.DataFrame) -> pd.DataFrame:
    """Return `ROW` of the snapshots beside `PREDICTED` of as many calibrated rows."""
    keys = {name: snapshots[name].array for name in ROW}
    return pd.DataFrame(keys | {name: calibrated[name].array for name in PREDICTED})


def as_text(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with ids as text."""
    return rows.astype(dict.fromkeys(ENROLLMENT, "string[pyarrow]"))
