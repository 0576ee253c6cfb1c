import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.eval.intervals import bootstrap_interval, wilson_interval


def test_the_interval_is_wilsons():
    # the worked figures of Wilson's method for 20 of 33 and for none of 33
    assert wilson_interval(20, 33) == pytest.approx((0.437, 0.753), abs=1e-3)
    low, high = wilson_interval(0, 33)
    assert low == 0 and high == pytest.approx(0.104, abs=1e-3)
    for right in range(34):
        low, high = wilson_interval(right, 33)
        assert 0 <= low <= right / 33 <= high <= 1


def test_the_bootstrap_is_that_of_drawing_items():
    values = np.array([0, 0.5, 1, 1, 1, 0.5, 0, 1, 1, 1])
    rng = np.random.default_rng(1)
    means = values[rng.integers(len(values), size=(20000, len(values)))].mean(axis=1)
    assert bootstrap_interval(values) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.051)


def test_the_bootstrap_nears_the_normal_interval():
    values = np.repeat([0.0, 1.0], [400, 600])
    half = 1.96 * np.sqrt(0.6 * 0.4 / 1000)
    assert bootstrap_interval(values) == pytest.approx((0.6 - half, 0.6 + half), abs=0.004)


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=40))
def test_the_bootstrap_stays_within_the_values_and_repeats_itself(values):
    low, high = bootstrap_interval(np.array(values))
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert (low, high) == bootstrap_interval(np.array(values[::-1]))
