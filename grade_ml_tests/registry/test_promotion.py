import numpy as np

from grade_ml.registry.promotion import deserves_champion

STUDENTS = np.arange(400)
LOSS = np.random.default_rng(0).gamma(2, 50, 400)


def test_the_first_version_becomes_champion() -> None:
    assert deserves_champion(LOSS, None, STUDENTS, seed=0)


def test_an_equal_or_better_version_replaces_the_champion() -> None:
    assert deserves_champion(LOSS, LOSS, STUDENTS, seed=0)
    assert deserves_champion(LOSS * 0.8, LOSS, STUDENTS, seed=0)


def test_a_clearly_worse_version_does_not() -> None:
    assert not deserves_champion(LOSS * 1.2, LOSS, STUDENTS, seed=0)


def test_noise_within_one_student_is_not_evidence() -> None:
    same_student = np.zeros(399, dtype=int)
    clusters = np.append(same_student, 1)
    worse = LOSS + 1.0
    worse[-1] = LOSS[-1] - 2000.0
    assert deserves_champion(worse, LOSS, clusters, seed=0)
