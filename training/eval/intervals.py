"""How sure a figure is."""

import math

import numpy as np

RESAMPLES = 2000


def wilson_interval(right: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share by Wilson's score method (JASA 22, 1927), which is fair for few items and rare hits."""
    share, spread = right / of, z * z / of
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(values: np.ndarray, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of one value an item (Efron 1979).

    Drawing items with replacement is drawing how often each distinct value occurs, which is what is done here.

    Args:
        values: [items]; where an item was asked several times, the mean of its answers, or for two models the
            difference between them.
    """
    levels, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    draws = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=RESAMPLES)
    low, high = np.quantile(draws @ levels / counts.sum(), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
