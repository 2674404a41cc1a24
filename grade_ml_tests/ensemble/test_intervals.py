import numpy as np
import pytest

from grade_ml.ensemble.intervals import Conformal


@pytest.mark.parametrize("seed", range(3))
def test_new_rows_are_covered_as_promised_in_every_phase(seed: int) -> None:
    random = np.random.default_rng(seed)
    progress = random.uniform(0, 1, 40_000)
    # Skewed, and wider early in the course: neither may be averaged away.
    ratio = (random.gamma(1, 1, 40_000) - 1) * (2 - progress)
    learned = Conformal.fit(ratio[:20_000], progress[:20_000])
    grade = np.full(20_000, 50.0)
    bounds = learned.intervals(grade, np.ones(20_000), progress[20_000:])
    truth = grade + ratio[20_000:]
    for level in (80, 95):
        inside = (bounds[f"lower{level}"] <= truth) & (truth <= bounds[f"upper{level}"])
        for low in (0, 0.2, 0.4, 0.6, 0.8):
            phase = (progress[20_000:] >= low) & (progress[20_000:] < low + 0.2)
            assert inside[phase].mean() == pytest.approx(level / 100, abs=0.02)


def test_bounds_hold_the_prediction_and_stay_on_the_scale() -> None:
    learned = Conformal.fit(np.linspace(5, 9, 50), np.linspace(0, 1, 50))
    bounds = learned.intervals(np.array([2.0, 99.0]), np.array([1.0, 1.0]), np.array([0.1, 0.9]))
    assert (bounds["lower95"] <= [2.0, 99.0]).all()
    assert bounds["upper95"].max() == 100.0
    assert (bounds["lower95"] <= bounds["lower80"]).all()
    assert (bounds["upper80"] <= bounds["upper95"]).all()


def test_quantiles_survive_storage() -> None:
    learned = Conformal.fit(np.arange(100.0), np.linspace(0, 1, 100))
    again = Conformal.from_dict(learned.to_dict())
    assert (again.quantiles == learned.quantiles).all()
