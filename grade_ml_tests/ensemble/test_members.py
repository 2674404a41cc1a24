"""What every member promises, checked for every member and both tasks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from grade_ml.ensemble.members import MEMBERS, Member, Task
from grade_ml.ensemble.members.contract import Floats, Matrix

FEATURES = 6
#: Enough to learn from, and little enough that a hundred fits take seconds.
FEW = {"rounds": 40}

EVERY = pytest.mark.parametrize(
    ("kind", "task"),
    [pytest.param(kind, task, id=f"{kind.name}-{task}") for kind in MEMBERS for task in Task],
)


def data(task: Task, rows: int = 300, seed: int = 0) -> tuple[Matrix, Floats]:
    """Return a matrix with gaps, whose last column is empty, and what its first column drives."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(rows, FEATURES)).astype(np.float32)
    signal = matrix[:, 0].astype(float)
    matrix[random.random(matrix.shape) < 0.1] = np.nan
    matrix[:, -1] = np.nan
    if task is Task.GRADE:
        return matrix, 50 + 15 * signal + random.normal(0, 3, rows)
    return matrix, (signal + random.normal(0, 0.3, rows) > 0.2).astype(float)


def fit(
    kind: type[Member],
    task: Task,
    rows: int = 300,
    seed: int = 3,
    parameters: Mapping[str, float] | None = None,
) -> Member:
    defaults = kind.defaults(task)
    few = {name: value for name, value in FEW.items() if name in defaults}
    matrix, target = data(task, rows)
    chosen = defaults | few | (parameters or {})
    weight = np.linspace(0.5, 1.5, rows)
    return kind.fit(matrix, target, weight, task, chosen, seed=seed, threads=1)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@EVERY
def test_the_same_seed_gives_the_same_predictions_and_bytes(
    kind: type[Member], task: Task, tmp_path: Path
) -> None:
    unseen, _ = data(task, seed=1)
    first, again = fit(kind, task), fit(kind, task)
    np.testing.assert_array_equal(first.predict(unseen), again.predict(unseen))
    for name, member in {"first": first, "again": again}.items():
        (tmp_path / name).mkdir()
        member.save(tmp_path / name)
    assert files(tmp_path / "first") == files(tmp_path / "again") != {}


@EVERY
def test_another_seed_gives_another_model(kind: type[Member], task: Task) -> None:
    unseen, _ = data(task, seed=1)
    assert (fit(kind, task).predict(unseen) != fit(kind, task, seed=4).predict(unseen)).any()


@EVERY
def test_a_loaded_member_is_the_saved_member(
    kind: type[Member], task: Task, tmp_path: Path
) -> None:
    unseen, _ = data(task, seed=1)
    member = fit(kind, task)
    member.save(tmp_path)
    loaded = kind.load(tmp_path, task)
    assert loaded.task is task
    np.testing.assert_array_equal(loaded.predict(unseen), member.predict(unseen))
    np.testing.assert_array_equal(loaded.contributions(unseen), member.contributions(unseen))


def test_every_member_of_both_tasks_has_a_file_of_its_own(tmp_path: Path) -> None:
    paths = {kind.path(tmp_path, task, "x") for kind in MEMBERS for task in Task}
    assert len(paths) == len(MEMBERS) * len(Task)


@EVERY
@pytest.mark.parametrize("rows", [40, 300])
def test_contributions_add_up_to_predictions(kind: type[Member], task: Task, rows: int) -> None:
    unseen, _ = data(task, seed=1)
    member = fit(kind, task, rows)
    parts = member.contributions(unseen)
    assert parts.shape == (len(unseen), FEATURES + 1)
    assert np.isfinite(parts).all()
    assert np.ptp(parts[:, -1]) < 1e-6, "the base value is the same for every row"
    assert np.abs(parts[:, -2]).max() == 0, "a column without a value tells nothing"
    np.testing.assert_allclose(parts.sum(axis=1), member.predict(unseen), atol=1e-3)


@EVERY
def test_missing_and_extreme_values_have_finite_predictions(kind: type[Member], task: Task) -> None:
    odd = np.vstack(
        [
            np.full(FEATURES, value, dtype=np.float32)
            for value in (np.nan, 0, 1e6, -1e6, 3e38, -3e38)
        ]
    )
    member = fit(kind, task)
    predicted = member.predict(odd)
    assert predicted.dtype == np.float64
    assert np.isfinite(predicted).all()
    np.testing.assert_allclose(member.contributions(odd).sum(axis=1), predicted, atol=1e-3)


@EVERY
def test_a_row_is_predicted_by_itself(kind: type[Member], task: Task) -> None:
    unseen, _ = data(task, seed=1)
    member = fit(kind, task)
    assert member.predict(unseen[7:8]).shape == (1,)
    np.testing.assert_allclose(member.predict(unseen[7:8]), member.predict(unseen)[7:8], atol=1e-9)
    assert member.contributions(unseen[7:8]).shape == (1, FEATURES + 1)


@EVERY
def test_a_simple_signal_is_learned(kind: type[Member], task: Task) -> None:
    # Their own parameters: few rounds of small steps end halfway.
    member = fit(kind, task, parameters=kind.defaults(task))
    unseen, target = data(task, seed=1)
    assert np.corrcoef(member.predict(unseen), target)[0, 1] > (0.8 if task is Task.GRADE else 0.6)
    if task is Task.GRADE:
        assert abs(member.predict(unseen).mean() - target.mean()) < 3


@EVERY
@pytest.mark.parametrize("end", ["low", "high"])
def test_both_ends_of_every_parameter_work(kind: type[Member], task: Task, end: str) -> None:
    space = kind.space(task)
    assert set(space) <= set(kind.defaults(task))
    chosen = {name: getattr(between, end) for name, between in space.items()}
    if end == "high":
        chosen |= {name: value for name, value in FEW.items() if name in chosen}
    member = fit(kind, task, rows=40, parameters=chosen)
    assert np.isfinite(member.predict(data(task, seed=1)[0])).all()


@EVERY
def test_defaults_lie_in_the_space(kind: type[Member], task: Task) -> None:
    defaults = kind.defaults(task)
    for name, between in kind.space(task).items():
        assert between.low <= defaults[name] <= between.high, name
        assert between.low < between.high
        assert not between.log or between.low > 0
        assert not between.whole or float(defaults[name]).is_integer()


@EVERY
def test_nothing_is_printed_warned_or_left_behind(
    kind: type[Member], task: Task, tmp_path: Path, monkeypatch, capfd
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        member = fit(kind, task, rows=40)
        member.contributions(data(task, rows=5)[0])
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")
