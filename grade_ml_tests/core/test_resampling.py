import numpy as np

from grade_ml.core.resampling import deserves_champion

STUDENTS = np.arange(400)
LOSS = np.random.default_rng(0).gamma(2, 50, 400)


def test_an_equal_or_better_version_replaces_the_champion() -> None:
    assert deserves_champion(LOSS, LOSS.mean(), STUDENTS, seed=0)
    assert deserves_champion(LOSS * 0.8, LOSS.mean(), STUDENTS, seed=0)


def test_a_clearly_worse_version_does_not() -> None:
    assert not deserves_champion(LOSS * 1.2, LOSS.mean(), STUDENTS, seed=0)


def test_rows_of_one_student_are_one_observation() -> None:
    worse = np.append(np.full(399, 110.0), 90.0)
    assert not deserves_champion(worse, 100.0, STUDENTS, seed=0)
    one_student = np.append(np.zeros(399, dtype=int), 1)
    assert deserves_champion(worse, 100.0, one_student, seed=0)
