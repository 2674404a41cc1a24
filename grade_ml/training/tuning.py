"""Which parameters the ensemble's members are fitted with: a search each night, kept in PostgreSQL.

One Optuna study per task and member (tree-structured Parzen estimator, Bergstra et al. 2011). Each
starts from last night's parameters and the defaults, and what it returns is last night's or better
on each of the same folds. What the parameters mean and how far they may go is the members' matter.

On each fold, and not only on average: sections differ more than students do, and the best of many
trials is the luckiest. On OULAD (480 s, five to nine trials each) seven members found a lower
average. Two of them were better on each fold and had a lower loss on the next term (by .5 and
1.1 %), the other five a higher one (by .4 to 1.1 %). The rule was made after that was seen.

A fifth of the students judges: trials are fitted without them and compared on their rows alone. So
what the stack, the calibration and the intervals learn from is, in four rows of five, of students
whose errors no parameter was chosen by.
"""

from __future__ import annotations

import logging
import warnings
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version as installed_version
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
import sqlalchemy as sa

from grade_ml.core.database import reachable, with_driver
from grade_ml.core.errors import OutOfMemoryError
from grade_ml.core.hashing import digest
from grade_ml.core.locks import DatabaseLock
from grade_ml.core.optional import FAMILIES
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.core.threads import MOST, limited_threads, threads
from grade_ml.ensemble import pooled
from grade_ml.ensemble.folds import validation_folds
from grade_ml.ensemble.members import MEMBERS, Member, Task
from grade_ml.ensemble.members.contract import View
from grade_ml.ensemble.pooled import Masks, Parameters, Progress, Workload
from grade_ml.ensemble.rows import data_version, section_versions, training_rows
from grade_ml.ensemble.stacking import loss

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import RDBStorage
    from optuna.study import Study as OptunaStudy
    from optuna.trial import FrozenTrial, Trial

Floats = npt.NDArray[np.float64]

logger = logging.getLogger(__name__)

#: Where Optuna's tables are, in our own database: its names (trials, studies) would be in the way.
SCHEMA = "optuna"
#: What is kept of a trial: why it failed, its loss after each fold, and its loss on each.
_PROBLEM, _LOSSES, _FOLDS = "problem", "losses", "folds"


@dataclass(frozen=True)
class TuningSettings:
    """The judgements of the search, each with its reason."""

    #: Rows a trial is fitted on, per fold. All of OULAD's 65,000 cost four times as much, and what
    #: a night lacks is trials; leaves and batches are shares of the rows, so they carry over.
    max_rows: int = 20_000
    #: One student in so many judges.
    judges: int = 5
    #: With fewer judging students the best of many trials is the luckiest one.
    min_students: int = 30
    #: Trials at random (the first ones included) before the sampler learns from them, and before
    #: one is stopped early: the defaults are good, so most of a random draw is wasted.
    startup_trials: int = 5
    #: With fewer finished trials an importance is noise.
    importance_trials: int = 10
    #: A month of ten studies a night; older ones are of no use but to fill the disk.
    kept_studies: int = 300


SETTINGS = TuningSettings()


@dataclass(frozen=True)
class Study:
    """What a night's search came to for one task and member.

    Attributes
    ----------
    trials, stopped
        How many came to an end, over all runs on the same data; how many of them early.
    loss
        Of the parameters that are returned; None where no trial was completed.
    start
        Loss of what it started from: last night's parameters, or the defaults without any.
    default
        Loss of the defaults.
    history
        (number, loss) of each completed trial in order.
    better
        Numbers of the trials that were better than the start on each fold.
    importance
        Share (0-1) of each tuned parameter in what tells good trials from bad; empty where trials
        are too few.
    seconds
        Mean time of a completed trial.
    """

    task: Task
    member: str
    trials: int
    stopped: int
    loss: float | None
    start: float | None
    default: float | None
    history: tuple[tuple[int, float], ...]
    better: tuple[int, ...]
    importance: Mapping[str, float]
    seconds: float

    @property
    def gain(self) -> float:
        """How much lower the loss is than at the start, as a share (0-1)."""
        return 1 - self.loss / self.start if self.loss is not None and self.start else 0.0

    @property
    def progress(self) -> list[tuple[int, float]]:
        """The least loss so far after each completed trial, in percent of the start's.

        Only what was better on each fold lowers it.
        """
        if not self.start:
            return []
        better = set(self.better)
        taken = [value if number in better else self.start for number, value in self.history]
        least = np.minimum.accumulate(taken)
        numbers = (number for number, _ in self.history)
        return [(n, 100 * (float(v) / self.start)) for n, v in zip(numbers, least, strict=True)]


@dataclass(frozen=True)
class Tuned:
    """Parameters of every task and member, and how they were found.

    `degraded` says in words what was not tuned and why; empty: everything was.
    """

    parameters: Parameters
    studies: tuple[Study, ...] = ()
    degraded: tuple[str, ...] = ()


def tune(  # noqa: PLR0913 - a night's search and its bounds
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

    The studies take turns, one trial each. A search on the same data, program and seed goes on
    where the last one ended, killed or not; two at the same time are not foreseen. Equal seeds and
    numbers of trials give equal parameters, however often the search was interrupted.

    Parameters
    ----------
    snapshots, results
        As for `pooled.fit`.
    previous
        Last night's parameters. Members and parameters that it lacks have their defaults; values
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
        Is told of each trial.

    Raises
    ------
    NotReadyError
        No section has ended or too few enrollments have an outcome.
    OutOfMemoryError
        The machine has too little memory left.
    ServiceError
        The database does not answer.
    """
    start = _complete(previous)
    if seconds <= 0 or trials == 0:
        return Tuned(start)
    if missing := _missing():
        return Tuned(start, degraded=(missing,))
    deadline = monotonic() + seconds
    rows = training_rows(snapshots, results, pooled.SETTINGS.max_rows, seed)
    data = data_version(section_versions(snapshots, results, pseudonyms))
    views = {view: pooled.encoder_of(rows, view) for view in View}
    degraded: list[str] = []
    with limited_threads(SETTINGS.max_rows), _storage(storage_url) as storage:
        searches: list[_Search] = []
        for task in Task:
            contest, problem = _contest(Workload.of(task, rows, views), seed)
            if problem:
                degraded.append(problem)
                continue
            for kind in MEMBERS:
                if not kind.available():
                    degraded.append(f"{kind.name} is not installed and not tuned ({task})")
                    continue
                search = _open(storage, data, contest, kind, start[task][kind.name], seed)
                searches.append(search)
        degraded += _take_turns(searches, deadline, trials, on_progress)
        found = {task: dict(members) for task, members in start.items()}
        for search in searches:
            found[search.task][search.kind.name] = search.winner
        studies = tuple(search.summary() for search in searches)
        _forget(storage, {search.study.study_name for search in searches})
    return Tuned(found, studies, tuple(dict.fromkeys(degraded)))


def _missing() -> str:
    """Return in words that the library of the search is not installed, or nothing."""
    (family,) = (family for family in FAMILIES if family.extra == "tuning")
    if absent := family.missing():
        return (
            f"{', '.join(absent)} (extra {family.extra}) is not installed: "
            "members keep last night's parameters, or their defaults"
        )
    return ""


def _complete(previous: Parameters | None) -> dict[Task, dict[str, dict[str, float]]]:
    """Return `previous` within the members' spaces, with defaults for what it lacks."""
    given = previous or {}
    return {
        task: {
            kind.name: _within(kind, task, given.get(task, {}).get(kind.name, {}))
            for kind in MEMBERS
        }
        for task in Task
    }


def _within(kind: type[Member], task: Task, values: Mapping[str, float]) -> dict[str, float]:
    space = kind.space(task)
    found = {}
    for name, default in kind.defaults(task).items():
        found[name] = default
        if name in space:
            value = min(max(values.get(name, default), space[name].low), space[name].high)
            found[name] = round(value) if space[name].whole else float(value)
    return found


@dataclass(frozen=True)
class _Contest:
    """Where trials are compared: per fold, the rows to learn from and those of judging students."""

    load: Workload
    folds: Masks

    def losses(
        self, kind: type[Member], parameters: Mapping[str, float], seed: int
    ) -> Iterator[tuple[float, float]]:
        """Yield after each fold the mean loss on all rows judged so far, and on the fold's.

        Raises
        ------
        ValueError
            It is not a number.
        """
        load = self.load
        score, judged = np.zeros(len(load.rows)), np.zeros(len(load.rows), bool)
        for train, held_out in self.folds:
            member = load.fit(kind, train, parameters, seed)
            score[held_out] = member.predict(load.matrices[kind.view(load.task)][held_out])
            judged |= held_out
            so_far, here = (
                mean_loss(score[some], load.target[some], load.weight[some], load.task)
                for some in (judged, held_out)
            )
            if not np.isfinite([so_far, here]).all():
                raise ValueError("the loss is not a number")
            yield so_far, here


def mean_loss(score: Floats, target: Floats, weight: Floats, task: Task) -> float:
    """Return the weighted mean of `stacking.loss`, the measure of the stack.

    A member's risk is a score and not always log-odds (the forest's is a stretched probability), so
    it is first put on that scale as the stack would do with this member alone: by a non-negative
    factor and an intercept, fitted on the same rows. Two numbers from thousands of rows flatter
    every trial alike, and a member pays only for what the stack could not mend.
    """
    scaled = _log_odds(score, target) if task is Task.RISK else score
    return float(np.average(loss(scaled, target, task), weights=weight))


def _log_odds(score: Floats, target: Floats) -> Floats:
    from scipy.optimize import minimize
    from scipy.special import expit

    spread = float(score.std()) or 1.0
    unit = (score - score.mean()) / spread

    def cost(values: Floats) -> tuple[float, Floats]:
        odds = values[0] * unit + values[1]
        error = expit(odds) - target
        return float(loss(odds, target, Task.RISK).mean()), np.array(
            [(error * unit).mean(), error.mean()]
        )

    # Beyond e**-10 a probability is a certainty; without bounds one outcome alone has no optimum.
    found = minimize(cost, np.array([1.0, 0.0]), jac=True, bounds=[(0, 30), (-10, 10)]).x
    return np.asarray(found[0] * unit + found[1])


def _contest(load: Workload, seed: int) -> tuple[_Contest, str]:
    """Return where the trials of a task are compared, and in words why they cannot be."""
    hashes = pd.util.hash_pandas_object(load.rows["student_id"].astype(object), index=False)
    judging = (hashes % SETTINGS.judges == 0).to_numpy()
    folds = []
    seen = np.zeros(len(load.rows), bool)
    for number, (train, held_out) in enumerate(
        validation_folds(load.rows, pooled.SETTINGS.folds, seed)
    ):
        some = np.flatnonzero(train & ~judging & load.usable)
        if len(some) > SETTINGS.max_rows:
            random = np.random.default_rng([seed, number])
            some = random.choice(some, SETTINGS.max_rows, replace=False)
        judged = held_out & judging & load.usable
        if len(some) and judged.any():
            learned = np.zeros(len(load.rows), bool)
            learned[some] = True
            folds.append((learned, judged))
            seen |= judged
    contest = _Contest(load, folds)
    students = load.rows.loc[seen, "student_id"].nunique()
    if not load.learnable:
        return contest, f"{load.task} is not tuned: there is nothing to tell apart"
    if students < SETTINGS.min_students:
        return contest, (
            f"{load.task} is not tuned: {students} students are there to judge by, and "
            f"{SETTINGS.min_students} are needed"
        )
    return contest, ""


@dataclass
class _Search:
    """One study while it runs.

    `first` are the parameters that are tried before any other: those of the start (last night's, if
    any) and the defaults.
    """

    contest: _Contest
    kind: type[Member]
    study: OptunaStudy
    space: Mapping[str, BaseDistribution]
    first: list[dict[str, float]]
    seed: int
    trials: list[FrozenTrial] = field(default_factory=list)

    @property
    def task(self) -> Task:
        return self.contest.load.task

    def read(self) -> None:
        """Read the study's trials, which only this search changes."""
        self.trials = self.study.get_trials(deepcopy=False)

    @property
    def completed(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if trial.state.name == "COMPLETE"]

    @property
    def stopped(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if trial.state.name == "PRUNED"]

    def loss_of(self, parameters: Mapping[str, float]) -> float | None:
        """Return the loss of parameters that were tried to the end."""
        trial = self._trial_of(parameters)
        return trial.value if trial else None

    def _trial_of(self, parameters: Mapping[str, float]) -> FrozenTrial | None:
        tuned = self._tuned(parameters)
        return next((trial for trial in self.completed if trial.params == tuned), None)

    @property
    def better(self) -> list[FrozenTrial]:
        """The trials with less loss than the start's, on the whole and on each fold."""
        start = self._trial_of(self.first[0])
        if start is None:
            return []
        bar = np.array([*start.user_attrs[_FOLDS], _value(start)])
        return [
            trial
            for trial in self.completed
            if (np.array([*trial.user_attrs[_FOLDS], _value(trial)]) < bar).all()
        ]

    @property
    def winner(self) -> dict[str, float]:
        """The best parameters; those at the start unless others beat them on each fold."""
        better = self.better
        return self._whole(min(better, key=_value).params) if better else self.first[0]

    def fits(self, seconds: float, trials: int | None) -> bool:
        """Return whether one more trial may start with so many seconds left."""
        enough = trials is not None and len(self.completed) + len(self.stopped) >= trials
        return seconds > self.mean_seconds() and seconds > 0 and not enough

    def mean_seconds(self) -> float:
        """Return the mean time of a completed trial; 0 before the first."""
        times = [trial.duration.total_seconds() for trial in self.completed if trial.duration]
        return float(np.mean(times)) if times else 0.0

    def advance(self) -> str:
        """Make one more trial, and return in words what came of it."""
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        # A sampler for each trial: it depends on the trials before and nothing else, so a search
        # that was interrupted goes on as if it had not been.
        place = f"{self.seed} {self.task} {self.kind.name} {self._count()}"
        self.study.sampler = TPESampler(
            seed=zlib.crc32(place.encode()), n_startup_trials=SETTINGS.startup_trials
        )
        waiting = next((one for one in self.first if self.loss_of(one) is None), None)
        if waiting:
            self.study.enqueue_trial(self._tuned(waiting))
        trial = self.study.ask(dict(self.space))
        try:
            return self._try(trial, may_stop=waiting is None)
        except BaseException as error:
            # Goes on below; an interrupt as well must not leave the trial running for ever.
            if isinstance(error, Exception) and not isinstance(error, OutOfMemoryError):
                trial.set_user_attr(_PROBLEM, f"{error}")
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        finally:
            self.read()

    def _try(self, trial: Trial, may_stop: bool) -> str:
        from optuna.trial import TrialState

        done = self.completed
        before = done[0].user_attrs[_LOSSES] if done else None
        losses: list[float] = []
        each: list[float] = []
        name = f"tuning {self.task} {self.kind.name}: trial {trial.number}"
        folds = len(self.contest.folds)
        parameters = self._whole(trial.params)
        for value, here in self.contest.losses(self.kind, parameters, self.seed):
            losses.append(value)
            each.append(here)
            step = len(losses) - 1
            # Relative to the first trial: folds differ in how hard they are, and the pruner takes
            # the best of a trial's values, whichever fold it is from.
            trial.report(value / before[step] if before and before[step] else 1.0, step)
            if may_stop and len(losses) < folds and trial.should_prune():
                self.study.tell(trial, state=TrialState.PRUNED)
                best = _short(min(map(_value, done)))
                return f"{name}, stopped after fold {len(losses)} of {folds} (best {best})"
        trial.set_user_attr(_LOSSES, losses)
        trial.set_user_attr(_FOLDS, each)
        self.study.tell(trial, losses[-1])
        best = _short(min([*map(_value, done), losses[-1]]))
        return f"{name}, loss {_short(losses[-1])} (best {best})"

    def _count(self) -> int:
        """Return how many trials had their chance; those of a process that died had none."""
        lost = sum(_PROBLEM in trial.user_attrs for trial in self.trials)
        return len(self.completed) + len(self.stopped) + lost

    def _tuned(self, parameters: Mapping[str, float]) -> dict[str, float]:
        return {name: parameters[name] for name in self.space}

    def _whole(self, tuned: Mapping[str, float]) -> dict[str, float]:
        return {**self.kind.defaults(self.task), **tuned}

    def summary(self) -> Study:
        """Return what the search came to."""
        found = self.completed
        return Study(
            task=self.task,
            member=self.kind.name,
            trials=len(found) + len(self.stopped),
            stopped=len(self.stopped),
            loss=self.loss_of(self.winner),
            start=self.loss_of(self.first[0]),
            default=self.loss_of(self.first[-1]),
            history=tuple((trial.number, _value(trial)) for trial in found),
            better=tuple(trial.number for trial in self.better),
            importance=self._importance(),
            seconds=self.mean_seconds(),
        )

    def _importance(self) -> dict[str, float]:
        from optuna.importance import get_param_importances

        if len(self.completed) < SETTINGS.importance_trials:
            return {}
        return dict(get_param_importances(self.study))


def _value(trial: FrozenTrial) -> float:
    return trial.value if trial.value is not None else np.inf


def _short(value: float) -> str:
    return f"{value:.4g}".removeprefix("0")


def _take_turns(
    searches: Sequence[_Search], deadline: float, trials: int | None, on_progress: Progress
) -> list[str]:
    """Make trials until the time is over, and return which searches ended early and why.

    A trial has too few rows for two threads, so two searches work side by side instead. Each makes
    one trial at a time, so what it finds does not depend on the others.
    """
    waiting, problems = deque(searches), []
    running: dict[Future[str], _Search] = {}
    places = max(MOST // threads(SETTINGS.max_rows), 1)
    with warnings.catch_warnings(), ThreadPoolExecutor(places) as pool:
        # The filters that members set for a while belong to all threads, not to their own.
        warnings.simplefilter("ignore")
        while waiting or running:
            while waiting and len(running) < places:
                search = waiting.popleft()
                if search.fits(deadline - monotonic(), trials):
                    running[pool.submit(search.advance)] = search
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                search = running.pop(future)
                try:
                    told = future.result()
                    waiting.append(search)
                except OutOfMemoryError:
                    raise
                except Exception as error:
                    # Each library has kinds of its own. None vanishes: it is logged, told, and
                    # stands in `Tuned.degraded`; the member keeps the parameters it had.
                    told = f"{search.kind.name} could not be tuned ({search.task}): {error}"
                    logger.warning("Tuning goes on without %s: %r", search.kind.name, error)
                    problems.append(told)
                on_progress(told)
    return problems


def _open(  # noqa: PLR0913, PLR0917 - what a study must not be mixed up by
    storage: RDBStorage,
    data: str,
    contest: _Contest,
    kind: type[Member],
    start: Mapping[str, float],
    seed: int,
) -> _Search:
    """Return the study of a member on these data, as its last process left it."""
    import optuna
    from optuna.distributions import FloatDistribution, IntDistribution
    from optuna.trial import TrialState

    task = contest.load.task
    conditions = {
        "code": installed_version("grade-ml"),
        "seed": seed,
        "settings": asdict(SETTINGS),
        "ensemble": asdict(pooled.SETTINGS),
        "space": {name: asdict(one) for name, one in kind.space(task).items()},
        "defaults": kind.defaults(task),
    }
    study = optuna.create_study(
        storage=storage,
        study_name=f"{data} {digest(conditions, 8)} {task} {kind.name}",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=SETTINGS.startup_trials),
        load_if_exists=True,
    )
    # What a dead process had asked for but not begun becomes a trial, and no trial of it goes on.
    for _ in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.ask()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    space: dict[str, BaseDistribution] = {
        name: IntDistribution(int(one.low), int(one.high), log=one.log)
        if one.whole
        else FloatDistribution(one.low, one.high, log=one.log)
        for name, one in kind.space(task).items()
    }
    default = _within(kind, task, {})
    first = [dict(start)] if start == default else [dict(start), default]
    search = _Search(contest, kind, study, space, first, seed)
    search.read()
    return search


@contextmanager
def _storage(url: str) -> Iterator[RDBStorage]:
    """Open Optuna's tables in a schema of their own; they are made where they are missing."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = with_driver(url, "psycopg")
    engine = sa.create_engine(url)
    try:
        with reachable(engine) as connection:
            DatabaseLock.TUNING.wait(connection)
            connection.execute(sa.text(f"create schema if not exists {SCHEMA}"))
    finally:
        engine.dispose()
    storage = optuna.storages.RDBStorage(
        url,
        engine_kwargs={
            "connect_args": {"options": f"-c search_path={SCHEMA} -c timezone=UTC"},
            "pool_pre_ping": True,
        },
    )
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _forget(storage: RDBStorage, kept: set[str]) -> None:
    """Delete the oldest studies beyond `TuningSettings.kept_studies`, and none of `kept`."""
    import optuna

    names = optuna.get_all_study_names(storage)
    for name in names[: -SETTINGS.kept_studies]:
        if name not in kept:
            optuna.delete_study(study_name=name, storage=storage)
