"""Which parameters the ensemble's members are fitted with: a search per run, stored in PostgreSQL.

One Optuna study per task and member (tree-structured Parzen estimator, Bergstra et al. 2011). Each
starts from the last run's parameters and the defaults, and returns those or parameters that are
better on each of the same folds. The members define what the parameters mean and their ranges.

On each fold, and not only on average: sections differ more than students do, and the best of many
trials is the luckiest. On OULAD (480 s, five to nine trials each) seven members found a lower
average. Two of them were better on each fold and had a lower loss on the next term (by .5 and
1.1 %), the other five a higher one (by .4 to 1.1 %). The rule was made after that was seen.

A fifth of the students judges: trials are fitted without them and compared on their rows alone. So
what the stack, the calibration and the intervals learn from is, in four rows of five, of students
whose errors no parameter was chosen by.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

import pandas as pd

from grade_ml.core.degradation import expected
from grade_ml.core.optional import absence, installed
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.core.threads import limited_threads
from grade_ml.ensemble import pooled
from grade_ml.ensemble.members import MEMBERS, Task
from grade_ml.ensemble.members.contract import View
from grade_ml.ensemble.pooled import Parameters, Progress, Workload
from grade_ml.ensemble.rows import data_version, section_versions, training_rows
from grade_ml.training.tuning import studies
from grade_ml.training.tuning.contest import contest_of
from grade_ml.training.tuning.search import Search, Study, take_turns
from grade_ml.training.tuning.settings import SETTINGS

__all__ = ["Study", "Tuned", "tune"]


@dataclass(frozen=True)
class Tuned:
    """Parameters of every task and member, and the searches that gave them.

    `degraded` states what was not tuned and why; it is empty if everything was.
    """

    parameters: Parameters
    studies: tuple[Study, ...] = ()
    degraded: tuple[str, ...] = ()


def tune(  # noqa: PLR0913 - one search and its bounds
    snapshots: pd.DataFrame,
    results: pd.DataFrame,
    previous: Parameters | None,
    *,
    storage_url: str,
    seconds: float,
    pseudonyms: Pseudonyms,
    seed: int = 0,
    trials: int | None = None,
    on_progress: Progress = lambda message: None,
) -> Tuned:
    """Search better parameters than `previous` until the time is over.

    The studies take turns, one trial each. A search on the same data, program and seed continues
    where the last search ended, killed or not; two searches at the same time are not supported.
    Equal seeds and numbers of trials give equal parameters, however often the search was
    interrupted.

    Parameters
    ----------
    snapshots, results
        As for `pooled.fit`.
    previous
        The last run's parameters. Members and parameters that it lacks have their defaults; values
        outside a member's space are drawn in.
    storage_url
        SQLAlchemy URL of our database (`DatabaseUrls.grade_ml`).
    seconds
        Wall-clock time for all studies. No trial starts whose study's mean time no longer fits;
        0 leaves everything as it is.
    pseudonyms
        Those of the installation, by which the data are known again.
    trials
        Most trials per study.
    on_progress
        Receives a message after each trial.

    Raises
    ------
    NotReadyError
        No section has ended or too few enrollments have an outcome.
    ServiceError
        The database does not answer.
    """
    start = _complete(previous)
    if seconds <= 0 or trials == 0:
        return Tuned(start)
    if not installed("optuna"):
        why = f"{absence('optuna')}: members keep last night's parameters, or their defaults"
        return Tuned(start, degraded=(why,))
    deadline = monotonic() + seconds
    rows = training_rows(snapshots, results, pooled.SETTINGS.max_rows, seed)
    data = data_version(section_versions(snapshots, results, pseudonyms))
    views = {view: pooled.encoder_of(rows, view) for view in View}
    degraded: list[str] = []
    with limited_threads(SETTINGS.max_rows), studies.opened(storage_url) as storage:
        searches: list[Search] = []
        for task in Task:
            contest, problem = contest_of(Workload.of(task, rows, views), seed)
            if problem:
                degraded.append(expected(problem))
                continue
            for kind in MEMBERS:
                if not kind.available():  # the model that is trained without it says so
                    continue
                search = studies.study_of(
                    storage, data, contest, kind, start[task][kind.name], seed
                )
                searches.append(search)
        degraded += take_turns(searches, deadline, trials, on_progress)
        parameters = {task: dict(members) for task, members in start.items()}
        for search in searches:
            parameters[search.task][search.kind.name] = search.winner
        searched = tuple(search.summary() for search in searches)
        studies.forget(storage, {search.study.study_name for search in searches})
    return Tuned(parameters, searched, tuple(dict.fromkeys(degraded)))


def _complete(previous: Parameters | None) -> dict[Task, dict[str, dict[str, float]]]:
    """Return `previous` within the members' spaces, with defaults for what it lacks."""
    given = previous or {}
    return {
        task: {
            kind.name: studies.within(kind, task, given.get(task, {}).get(kind.name, {}))
            for kind in MEMBERS
        }
        for task in Task
    }
