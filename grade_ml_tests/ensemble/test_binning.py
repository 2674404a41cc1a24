"""The quick bins are those of scikit-learn."""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble._hist_gradient_boosting import binning

from grade_ml.ensemble.binning import bin_quickly

SPEC = find_spec(binning.__name__)
assert SPEC is not None and SPEC.loader is not None
#: As the library has it; a module of its own, for other tests of this process may have changed it.
FRESH = module_from_spec(SPEC)
SPEC.loader.exec_module(FRESH)
UNTOUCHED = FRESH._find_binning_thresholds


@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 3000),
    digits=st.sampled_from([0, 1, 2, 8]),
    bins=st.sampled_from([2, 16, 255]),
    weights=st.sampled_from(["equal", "some are 0", "all differ"]),
    unknown=st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=60)
def test_bins_are_those_of_the_library(  # noqa: PLR0917 - what is drawn
    seed, rows, digits, bins, weights, unknown
) -> None:
    random = np.random.default_rng(seed)
    column = random.normal(size=rows).round(digits)
    column[random.uniform(size=rows) < unknown] = np.nan
    column[0] = 1.0
    weight = {
        "equal": np.ones(rows),
        "some are 0": random.integers(0, 3, rows).astype(float),
        "all differ": random.uniform(0.1, 1, rows),
    }[weights]
    weight[0] = 1.0
    bin_quickly()
    quick = binning._find_binning_thresholds
    assert quick.__module__ == bin_quickly.__module__, "this release needs no help: remove it"
    for sample_weight in (weight, None):
        binned, expected = (
            quick(column, bins, sample_weight),
            UNTOUCHED(column, bins, sample_weight),
        )
        assert binned.dtype == expected.dtype
        np.testing.assert_array_equal(binned, expected)
