from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import pandas as pd
import pytest
import sqlalchemy as sa

from grade_ml.core import optional
from grade_ml.core.degradation import expected
from grade_ml.core.errors import NotReadyError, ServiceError
from grade_ml.ensemble import pooled
from grade_ml.ensemble.members import MEMBERS, Member, Task
from grade_ml.ensemble.members.contract import Range, View
from grade_ml.ensemble.pooled import Workload
from grade_ml.ensemble.rows import training_rows
from grade_ml.ensemble.stacking import loss
from grade_ml.training import tuning
from grade_ml.training.tuning import Tuned, studies, tune
from grade_ml.training.tuning import contest as contests
from grade_ml.training.tuning.contest import Contest, contest_of, mean_loss
from grade_ml.training.tuning.search import Search
from grade_ml.training.tuning.settings import SETTINGS
from grade_ml_tests.ensemble.snapshots import snapshots
from grade_ml_tests.factories import PSEUDONYMS

pytestmark = pytest.mark.slow

FOLDS = 3


@dataclass(frozen=True)
class Ridge(Member):
    """A quick member: ridge regression on chosen columns; its risk is no log-odds."""

    name = "ridge"
    library = "numpy"
    fits: ClassVar[Counter[Task]] = Counter()
    task: Task
    coefficients: Any

    @classmethod
    def defaults(cls, task):
        return {"alpha": 300.0, "columns": 4}

    @classmethod
    def space(cls, task):
        return {"alpha": Range(0.1, 1000, log=True), "columns": Range(2, 20, whole=True)}

    @classmethod
    def fit(cls, matrix, target, weight, task, parameters, *, seed, threads):
        cls.fits[task] += 1
        assert isinstance(parameters["columns"], int)
        design = cls._design(matrix)[:, : parameters["columns"] + 1]
        gram = design.T @ design + parameters["alpha"] * np.eye(design.shape[1])
        return cls(task, np.linalg.solve(gram, design.T @ target))

    def predict(self, matrix):
        return self._design(matrix)[:, : len(self.coefficients)] @ self.coefficients

    @staticmethod
    def _design(matrix):
        return np.column_stack([np.ones(len(matrix)), np.nan_to_num(matrix) / 50])

    def contributions(self, matrix):
        raise NotImplementedError

    def save(self, folder):
        raise NotImplementedError

    @classmethod
    def load(cls, folder, task):
        raise NotImplementedError


@dataclass(frozen=True)
class Broken(Ridge):
    name = "broken"

    @classmethod
    def fit(cls, *args, **keywords):
        raise ValueError("no such luck")


@dataclass(frozen=True)
class Absent(Ridge):
    name = "absent"
    library = "no_such_library"


@pytest.fixture(scope="module")
def data() -> tuple[pd.DataFrame, pd.DataFrame]:
    return snapshots(students=80)


@pytest.fixture(autouse=True)
def members(monkeypatch: pytest.MonkeyPatch) -> None:
    Ridge.fits.clear()
    monkeypatch.setattr(tuning, "MEMBERS", (Ridge,))


def run(data, url: str, previous=None, *, trials=6, seconds=600.0, **keywords) -> Tuned:
    return tune(
        *data,
        previous,
        storage_url=url,
        seconds=seconds,
        pseudonyms=PSEUDONYMS,
        trials=trials,
        **keywords,
    )


def forget_everything(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("drop schema optuna cascade"))
    engine.dispose()


def stored(url: str) -> list[optuna.Study]:
    with studies.opened(url) as storage:
        names = optuna.get_all_study_names(storage)
        return [optuna.load_study(study_name=name, storage=storage) for name in names]


def both(**parameters: float) -> dict[Task, dict[str, dict[str, float]]]:
    return {task: {"ridge": dict(parameters)} for task in Task}


def test_equal_seeds_and_numbers_of_trials_give_equal_parameters(data, gradebook_url):
    first = run(data, gradebook_url)
    forget_everything(gradebook_url)
    second = run(data, gradebook_url)
    assert first.parameters == second.parameters != both(alpha=300.0, columns=4)
    assert [study.history for study in first.studies] == [study.history for study in second.studies]
    assert first.degraded == ()


def test_another_seed_is_another_search(data, gradebook_url):
    first, second = (run(data, gradebook_url, seed=seed, trials=4) for seed in (0, 1))
    assert first.parameters != second.parameters
    assert len(stored(gradebook_url)) == 4


def test_the_search_lowers_the_loss_and_reports_the_gain(data, gradebook_url):
    search = run(data, gradebook_url, trials=11)
    for study in search.studies:
        assert study.trials == 11
        assert study.loss == min(v for n, v in study.history if n in study.better) < study.start
        assert study.start == study.default == study.history[0][1]
        assert 0 < study.gain < 1
        assert study.progress[0] == (0, 100.0)
        assert study.progress[-1][1] == pytest.approx(100 * (1 - study.gain))
        least = [value for _, value in study.progress]
        assert least == sorted(least, reverse=True)
        # Those that were stopped early have no importance.
        enough = len(study.history) >= SETTINGS.importance_trials
        assert set(study.importance) == ({"alpha", "columns"} if enough else set())


def test_the_chosen_parameters_are_never_worse_than_the_last_on_the_same_folds(data, gradebook_url):
    last = both(alpha=7.0, columns=9)
    search = run(data, gradebook_url, last, trials=5)
    for study in search.studies:
        assert study.history[0] == (0, study.start)
        assert study.history[1] == (1, study.default)
        assert study.default != study.start
        assert study.loss <= study.start
    # The best of many is not beaten by the defaults, and stays.
    best = run(data, gradebook_url, trials=4).parameters
    forget_everything(gradebook_url)
    again = run(data, gradebook_url, best, trials=2)
    assert again.parameters == best
    assert all(study.gain == 0 for study in again.studies)


def test_the_loss_is_that_of_the_parameters_that_are_returned(data, gradebook_url):
    search = run(data, gradebook_url)
    rows = training_rows(*data, pooled.SETTINGS.max_rows, 0)
    views = {view: pooled.encoder_of(rows, view) for view in View}
    for study in search.studies:
        contest, _ = contest_of(Workload.of(study.task, rows, views), 0)
        *_, (value, _) = contest.losses(Ridge, search.parameters[study.task]["ridge"], 0)
        assert value == pytest.approx(study.loss, rel=1e-12)


def test_what_is_better_on_average_and_not_on_each_fold_is_not_taken(
    data, gradebook_url, monkeypatch
):
    # Fold by fold: the start, far better on one fold, a little better on each, worse.
    trials = {
        task: iter([[3.0, 3.0, 3.0], [3.1, 3.0, 0.1], [2.9, 2.9, 2.9], [4.0, 4.0, 4.0]])
        for task in Task
    }

    def losses(contest, *args):
        next_losses = next(trials[contest.load.task])
        return ((float(np.mean(next_losses[: n + 1])), next_losses[n]) for n in range(FOLDS))

    monkeypatch.setattr(Contest, "losses", losses)
    search = run(data, gradebook_url, trials=4)
    for study in search.studies:
        assert study.better == (2,)
        assert study.loss == pytest.approx(2.9)
        assert [round(value, 1) for _, value in study.progress] == [100, 100, 96.7, 96.7]
        trial = next(
            candidate for candidate in stored(gradebook_url) if study.task in candidate.study_name
        ).trials[2]
        assert search.parameters[study.task]["ridge"] == trial.params


def test_a_second_call_continues_where_the_first_ended(data, gradebook_url):
    whole = run(data, gradebook_url, trials=7)
    forget_everything(gradebook_url)
    run(data, gradebook_url, trials=4)
    before = Ridge.fits.copy()
    lines: list[str] = []
    resumed = run(data, gradebook_url, trials=7, on_progress=lines.append)
    assert resumed.parameters == whole.parameters
    assert [study.history for study in resumed.studies] == [
        study.history for study in whole.studies
    ]
    assert all(0 < Ridge.fits[task] - before[task] <= 3 * FOLDS for task in Task)
    assert len(lines) == 6
    before = Ridge.fits.copy()
    assert run(data, gradebook_url, trials=7).parameters == whole.parameters
    assert Ridge.fits == before


def test_a_trial_of_a_dead_process_is_failed_and_made_again(data, gradebook_url):
    whole = run(data, gradebook_url, trials=6)
    forget_everything(gradebook_url)
    run(data, gradebook_url, trials=3)
    for study in stored(gradebook_url):
        study.ask()
        study.enqueue_trial({"alpha": 1.0, "columns": 3})
    resumed = run(data, gradebook_url, trials=6)
    assert resumed.parameters == whole.parameters
    assert all(tuned.trials == 6 for tuned in resumed.studies)
    for study in stored(gradebook_url):
        states = Counter(trial.state.name for trial in study.trials)
        assert states["FAIL"] == 2
        assert states["RUNNING"] == states["WAITING"] == 0


def test_new_data_are_a_new_study(data, gradebook_url):
    run(data, gradebook_url, trials=1)
    frame, truth = data
    run((frame, truth.assign(final_grade=truth["final_grade"] / 2)), gradebook_url, trials=1)
    assert len(stored(gradebook_url)) == 4


def test_old_studies_are_forgotten(data, gradebook_url, monkeypatch):
    monkeypatch.setattr(studies, "SETTINGS", replace(SETTINGS, kept_studies=3))
    run(data, gradebook_url, trials=1, seed=0)
    run(data, gradebook_url, trials=1, seed=1)
    kept = stored(gradebook_url)
    assert len(kept) == 3
    assert all(study.trials for study in kept)


def test_our_own_tables_are_left_alone(data, gradebook_url):
    engine = sa.create_engine(gradebook_url)
    before = sa.inspect(engine).get_table_names(schema="public")
    run(data, gradebook_url, trials=1)
    assert sa.inspect(engine).get_table_names(schema="public") == before
    assert "trials" in sa.inspect(engine).get_table_names(schema="optuna")
    engine.dispose()


def test_without_time_everything_stays_and_no_database_is_queried(data):
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    assert run(data, nowhere, seconds=0) == Tuned(both(alpha=300.0, columns=4))
    last = both(alpha=2.0, columns=3)
    assert run(data, nowhere, last, seconds=0) == Tuned(last)
    with pytest.raises(ServiceError, match="does not answer"):
        run(data, nowhere)


def test_no_trial_starts_after_the_time_is_over(data, gradebook_url):
    last = both(alpha=2.0, columns=3)
    search = run(data, gradebook_url, last, seconds=1e-6)
    assert search.parameters == last
    assert not Ridge.fits
    assert [(study.trials, study.loss, study.progress) for study in search.studies] == [
        (0, None, [])
    ] * 2


def test_no_trial_starts_that_would_not_fit(data, gradebook_url, monkeypatch):
    monkeypatch.setattr(Search, "mean_seconds", lambda search: 50.0)
    searched = run(data, gradebook_url, seconds=40)
    assert all(study.trials == 0 for study in searched.studies)


def test_a_member_that_fails_is_named_and_the_others_go_on(data, gradebook_url, monkeypatch):
    alone = run(data, gradebook_url, trials=3)
    forget_everything(gradebook_url)
    monkeypatch.setattr(tuning, "MEMBERS", (Broken, Absent, Ridge))
    last = {task: {"broken": {"alpha": 5.0, "columns": 2}} for task in Task}
    search = run(data, gradebook_url, last, trials=3)
    for task in Task:
        assert search.parameters[task]["ridge"] == alone.parameters[task]["ridge"]
        assert search.parameters[task]["broken"] == {"alpha": 5.0, "columns": 2}
        assert search.parameters[task]["absent"] == Absent.defaults(task)
        assert f"broken could not be tuned ({task}): no such luck" in search.degraded
    assert len(search.degraded) == 2


def test_trials_stay_within_the_space(data, gradebook_url):
    last = both(alpha=1e9, columns=0, gone=1)
    search = run(data, gradebook_url, last, trials=8)
    for study in stored(gradebook_url):
        assert study.trials[0].params == {"alpha": 1000.0, "columns": 2}
        for trial in study.trials:
            assert 0.1 <= trial.params["alpha"] <= 1000
            assert trial.params["columns"] in range(2, 21)
    assert all(search.parameters[task]["ridge"].keys() == {"alpha", "columns"} for task in Task)


def test_bad_trials_are_stopped_early(data, gradebook_url):
    lines: list[str] = []
    search = run(data, gradebook_url, trials=14, on_progress=lines.append)
    for study in search.studies:
        assert 0 < study.stopped < study.trials == 14
        assert study.stopped == sum(
            f"tuning {study.task} " in line and "stopped after fold" in line for line in lines
        )
    assert sum(Ridge.fits.values()) < 2 * 14 * FOLDS


def test_progress_is_reported_in_a_line_per_trial(data, gradebook_url):
    lines: list[str] = []
    search = run(data, gradebook_url, trials=2, on_progress=lines.append)
    assert len(lines) == 4
    (risk,) = (study for study in search.studies if study.task is Task.RISK)
    start, best = (f"{value:.4g}".removeprefix("0") for value in (risk.start, risk.loss))
    assert f"tuning risk ridge: trial 0, loss {start} (best {start})" in lines
    assert any(line.endswith(f"(best {best})") for line in lines)


def test_without_optuna_parameters_stay_and_the_result_is_degraded(data, monkeypatch):
    find_spec = optional.find_spec
    monkeypatch.setattr(
        optional, "find_spec", lambda name: None if name == "optuna" else find_spec(name)
    )
    last = both(alpha=2.0, columns=3)
    search = run(data, "postgresql://nobody@127.0.0.1:1/nothing", last)
    assert search.parameters == last
    assert len(search.degraded) == 1
    assert "optuna is not installed (extra tuning)" in search.degraded[0]


def test_trials_are_judged_by_students_they_do_not_learn_from(data, monkeypatch):
    monkeypatch.setattr(contests, "SETTINGS", replace(SETTINGS, max_rows=300))
    rows = training_rows(*data, pooled.SETTINGS.max_rows, 0)
    load = Workload.of(Task.RISK, rows, {view: pooled.encoder_of(rows, view) for view in View})
    contest, problem = contest_of(load, 0)
    assert not problem
    assert len(contest.folds) == FOLDS
    learned = pd.concat([rows.loc[train, "student_id"] for train, _ in contest.folds])
    judged = pd.concat([rows.loc[held, "student_id"] for _, held in contest.folds])
    assert not set(learned) & set(judged)
    assert len(judged) == len(set(judged.index))
    assert judged.nunique() == pytest.approx(rows["student_id"].nunique() / 5, rel=0.35)
    for train, held in contest.folds:
        assert train.sum() == 300
        assert not set(rows.loc[train, "section_id"]) & set(rows.loc[held, "section_id"])


def test_too_few_students_to_judge_by_are_reported(gradebook_url):
    search = run(snapshots(students=12), gradebook_url)
    assert search.parameters == both(alpha=300.0, columns=4)
    assert search.studies == ()
    assert [line.split(":")[0] for line in search.degraded] == [
        "grade is not tuned",
        "risk is not tuned",
    ]
    with pytest.raises(NotReadyError):
        run(snapshots(sections=2, students=5), gradebook_url)


def test_a_risk_without_two_outcomes_is_not_tuned(data, gradebook_url):
    frame, truth = data
    search = run((frame, truth.assign(at_risk=False)), gradebook_url, trials=2)
    assert [study.task for study in search.studies] == [Task.GRADE]
    assert search.degraded == (expected("risk is not tuned: there is nothing to tell apart"),)


def test_a_score_of_risk_is_judged_as_the_stack_would_read_it():
    random = np.random.default_rng(0)
    odds = random.normal(-1, 2, 20_000)
    target = (random.random(odds.size) < 1 / (1 + np.exp(-odds))).astype(float)
    weight = np.ones(odds.size)
    plain = loss(odds, target, Task.RISK).mean()
    value = mean_loss(odds, target, weight, Task.RISK)
    assert value == pytest.approx(plain, rel=1e-3)
    assert value <= plain
    assert mean_loss(0.1 * odds + 7, target, weight, Task.RISK) == pytest.approx(value)
    noise = random.normal(size=odds.size)
    share = target.mean()
    base = -share * np.log(share) - (1 - share) * np.log(1 - share)
    for bad in (-odds, np.zeros(odds.size), noise):
        assert mean_loss(bad, target, weight, Task.RISK) == pytest.approx(base, rel=1e-3)
    assert mean_loss(odds, np.zeros(odds.size), weight, Task.RISK) < 1e-3


def test_a_killed_search_is_resumed_by_the_real_members(data, gradebook_url, monkeypatch, tmp_path):
    monkeypatch.setattr(tuning, "MEMBERS", MEMBERS)
    pd.to_pickle(data, tmp_path / "data.pkl")
    program = (
        "import sys, pandas as pd\n"
        "from grade_ml.training.tuning import tune\n"
        "from grade_ml_tests.factories import PSEUDONYMS\n"
        "tune(*pd.read_pickle(sys.argv[1]), None, storage_url=sys.argv[2], seconds=600, trials=2,"
        " pseudonyms=PSEUDONYMS, on_progress=lambda line: print(line, flush=True))\n"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "data.pkl"), gradebook_url],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert killed.stdout is not None
    done = [killed.stdout.readline() for _ in range(8)]
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert all(line.startswith("tuning ") for line in done)
    lines: list[str] = []
    resumed = run(data, gradebook_url, trials=2, on_progress=lines.append)
    # Two trials were under way, and two may have ended before their line was read.
    assert 20 - len(done) - 4 <= len(lines) <= 20 - len(done)
    assert all(study.trials == 2 for study in resumed.studies)
    forget_everything(gradebook_url)
    assert run(data, gradebook_url, trials=2).parameters == resumed.parameters
    for task in Task:
        for kind in MEMBERS:
            space = kind.space(task)
            parameters = resumed.parameters[task][kind.name]
            assert parameters.keys() == kind.defaults(task).keys()
            assert all(space[name].low <= parameters[name] <= space[name].high for name in space)
