"""One study while it runs: its trials and their outcome.

Each starts from the last run's parameters and the defaults, and returns those or parameters that
are better on each of the same folds.
"""

from __future__ import annotations

import logging
import warnings
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from grade_ml.core.threads import MOST, threads
from grade_ml.ensemble.members import Member, Task
from grade_ml.ensemble.pooled import Progress
from grade_ml.training.tuning.contest import Contest
from grade_ml.training.tuning.settings import SETTINGS

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study as OptunaStudy
    from optuna.trial import FrozenTrial, Trial

logger = logging.getLogger(__name__)

#: What is stored of a trial: why it failed, its loss after each fold, and its loss on each.
_PROBLEM, _LOSSES, _FOLDS = "problem", "losses", "folds"


@dataclass(frozen=True)
class Study:
    """The outcome of one search for one task and member.

    Attributes
    ----------
    trials, stopped
        How many came to an end, over all runs on the same data; how many of them early.
    loss
        Of the parameters that are returned; None if no trial was completed.
    start
        Loss of what it started from: the last run's parameters, or the defaults.
    default
        Loss of the defaults.
    history
        (number, loss) of each completed trial in order.
    better
        Numbers of the trials that were better than the start on each fold.
    importance
        Share (0-1) of each tuned parameter in the differences between trials; empty if there are
        too few trials.
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
        values = [value if number in better else self.start for number, value in self.history]
        least = np.minimum.accumulate(values)
        numbers = (number for number, _ in self.history)
        return [(n, 100 * (float(v) / self.start)) for n, v in zip(numbers, least, strict=True)]


@dataclass
class Search:
    """One study while it runs.

    `first` are the parameters that are tried before any other: those of the start (the last run's,
    if any) and the defaults.
    """

    contest: Contest
    kind: type[Member]
    study: OptunaStudy
    space: Mapping[str, BaseDistribution]
    first: list[dict[str, float]]
    seed: int
    trials: list[FrozenTrial] = field(default_factory=list)

    @property
    def task(self) -> Task:
        """What the member predicts."""
        return self.contest.load.task

    def read(self) -> None:
        """Read the study's trials, which only this search changes."""
        self.trials = self.study.get_trials(deepcopy=False)

    @property
    def completed(self) -> list[FrozenTrial]:
        """The trials that were fitted on every fold."""
        return [trial for trial in self.trials if trial.state.name == "COMPLETE"]

    @property
    def stopped(self) -> list[FrozenTrial]:
        """The trials that were given up early."""
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
        """The best parameters; those at the start unless others are better on each fold."""
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
        """Make one more trial, and return its outcome as text."""
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        # A sampler for each trial: it depends on the trials before and nothing else, so a search
        # that was interrupted continues as if it had not been.
        place = f"{self.seed} {self.task} {self.kind.name} {self._count()}"
        self.study.sampler = TPESampler(
            seed=zlib.crc32(place.encode()), n_startup_trials=SETTINGS.startup_trials
        )
        waiting = next(
            (parameters for parameters in self.first if self.loss_of(parameters) is None), None
        )
        if waiting:
            self.study.enqueue_trial(self._tuned(waiting))
        trial = self.study.ask(dict(self.space))
        try:
            return self._try(trial, may_stop=waiting is None)
        except BaseException as error:
            # Raised again below; an interrupt as well must not leave the trial running for ever.
            if isinstance(error, Exception):
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
        of_folds: list[float] = []
        name = f"tuning {self.task} {self.kind.name}: trial {trial.number}"
        folds = len(self.contest.folds)
        parameters = self._whole(trial.params)
        for value, loss in self.contest.losses(self.kind, parameters, self.seed):
            losses.append(value)
            of_folds.append(loss)
            step = len(losses) - 1
            # Relative to the first trial: folds differ in how hard they are, and the pruner takes
            # the best of a trial's values, whichever fold it is from.
            trial.report(value / before[step] if before and before[step] else 1.0, step)
            if may_stop and len(losses) < folds and trial.should_prune():
                self.study.tell(trial, state=TrialState.PRUNED)
                best = _short(min(map(_value, done)))
                return f"{name}, stopped after fold {len(losses)} of {folds} (best {best})"
        trial.set_user_attr(_LOSSES, losses)
        trial.set_user_attr(_FOLDS, of_folds)
        self.study.tell(trial, losses[-1])
        best = _short(min([*map(_value, done), losses[-1]]))
        return f"{name}, loss {_short(losses[-1])} (best {best})"

    def _count(self) -> int:
        """Return how many trials were made; those of a process that died do not count."""
        lost = sum(_PROBLEM in trial.user_attrs for trial in self.trials)
        return len(self.completed) + len(self.stopped) + lost

    def _tuned(self, parameters: Mapping[str, float]) -> dict[str, float]:
        return {name: parameters[name] for name in self.space}

    def _whole(self, tuned: Mapping[str, float]) -> dict[str, float]:
        return {**self.kind.defaults(self.task), **tuned}

    def summary(self) -> Study:
        """Return the outcome of the search."""
        completed = self.completed
        return Study(
            task=self.task,
            member=self.kind.name,
            trials=len(completed) + len(self.stopped),
            stopped=len(self.stopped),
            loss=self.loss_of(self.winner),
            start=self.loss_of(self.first[0]),
            default=self.loss_of(self.first[-1]),
            history=tuple((trial.number, _value(trial)) for trial in completed),
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


def take_turns(
    searches: Sequence[Search], deadline: float, trials: int | None, on_progress: Progress
) -> list[str]:
    """Make trials until the time is over, and return which searches ended early and why.

    A trial has too few rows for two threads, so two searches work side by side instead. Each makes
    one trial at a time, so its result does not depend on the others.
    """
    waiting, problems = deque(searches), []
    running: dict[Future[str], Search] = {}
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
                    message = future.result()
                    waiting.append(search)
                except Exception as error:
                    # Each library has kinds of its own. No error vanishes: it is logged, reported,
                    # and in `Tuned.degraded`; the member keeps the parameters it had.
                    message = f"{search.kind.name} could not be tuned ({search.task}): {error}"
                    logger.warning("Tuning continues without %s: %r", search.kind.name, error)
                    problems.append(message)
                on_progress(message)
    return problems
