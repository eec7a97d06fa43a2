"""Intervals: no figure without how far to trust it.

Every measured number is a leaf `{"mean", "low", "high", "n"}` with a 95 % interval: Wilson's for shares (right at 0 and
at 1, where mean +- 2 standard errors has no width), the bootstrap for other statistics of items, the delete-a-group
jackknife for FID, which resampling with replacement would inflate. Taught in notebook 09; what a few paired runs say
(`paired`, `sign_flip`) in notebook 08.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import numpy as np

Leaf = dict[str, float]
Z = 1.959964  # standard normal, 97.5 %
GROUPS = 10


def leaf(mean: float, low: float, high: float, n: int) -> Leaf:
    """The one shape that results have; rounded to 4 digits, more than any n here supports."""
    return {"mean": round(float(mean), 4), "low": round(float(low), 4), "high": round(float(high), 4), "n": int(n)}


def proportion(passed: Sequence[bool], groups: Sequence[int] | None = None) -> Leaf:
    """The share of True with Wilson's interval. Raises ValueError without items.

    `groups`: the number of the document that each item is of. As if all items of one document were alike, the interval
    is that of as many items as there are documents: rather too wide than too narrow.
    """
    if len(passed) == 0:
        raise ValueError("a share of nothing: give at least one item")
    p = sum(map(bool, passed)) / len(passed)
    n = len(passed) if groups is None else len(set(groups))
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    # The interval ends exactly at 0 and 1 there; rounding errors must not say otherwise.
    return leaf(p, 0.0 if p == 0 else middle - half, 1.0 if p == 1 else middle + half, len(passed))


def bootstrap(
    items: np.ndarray,
    statistic: Callable[[np.ndarray], float] | None = None,
    draws: int = 1000,
    seed: int = 0,
    groups: Sequence[int] | None = None,
) -> Leaf:
    """A statistic (the mean if not given) of `items` (n, ...) with the percentile interval of `draws` resamples.

    `groups`: the number of the document that each item is of. Items of one document succeed and fail together, so whole
    documents are resampled. Resamples of which the statistic is nan are left out.
    """
    items, measure = np.asarray(items), statistic or (lambda drawn: float(drawn.mean()))
    if len(items) == 0:
        raise ValueError("a statistic of nothing: give at least one item")
    numbers = np.arange(len(items)) if groups is None else np.asarray(groups)
    members = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
    rng = np.random.default_rng(seed)
    resampled = [
        measure(items[np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])])
        for _ in range(draws)
    ]
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    return leaf(measure(items), low, high, len(items))


def f1(pairs: np.ndarray) -> float:
    """F1 of `pairs` (n, 2) of booleans (true, said); 0 if "yes" is neither true nor said."""
    truth, said = np.asarray(pairs, dtype=bool).T
    hits = int((truth & said).sum())
    wrong = int((truth != said).sum())
    return 2 * hits / (2 * hits + wrong) if hits + wrong else 0.0


def jackknife(n: int, statistic: Callable[[np.ndarray], float]) -> Leaf:
    """A statistic of the items 0 .. n - 1, given as an index array, with the delete-a-group jackknife's interval.

    The items are dealt into ten groups; each is left out once, and Student's t with nine degrees of freedom turns the
    spread into an interval (not below 0). Raises ValueError for fewer than 20 items.
    """
    if n < 2 * GROUPS:
        raise ValueError(f"the jackknife needs at least {2 * GROUPS} items, got {n}")
    index = np.arange(n)
    whole = statistic(index)
    without = np.array([statistic(index[index % GROUPS != group]) for group in range(GROUPS)])
    wide = student(GROUPS - 1) * math.sqrt((GROUPS - 1) / GROUPS * ((without - without.mean()) ** 2).sum())
    return leaf(whole, max(0.0, whole - wide), whole + wide, n)


@cache
def student(freedom: int) -> float:
    """Student's t that 2.5 % exceed, with `freedom` degrees of freedom; at infinity 1.96. ValueError below 1."""
    if freedom < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, got {freedom}")
    x = np.linspace(0, 15, 150_001)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    density = scale * (1 + x * x / freedom) ** (-(freedom + 1) / 2)
    area = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * (x[1] - x[0]))])  # from 0 to x
    return float(np.interp(0.475, area, x))


def paired(differences: Sequence[float]) -> Leaf:
    """The mean of differences within pairs, one a pair, with Student's interval: what it would be over all pairs.

    Raises ValueError for fewer than two.
    """
    found = np.asarray(differences, float)
    if len(found) < 2:
        raise ValueError(f"the scatter of differences needs at least two, got {len(found)}")
    wide = student(len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found))
    return leaf(found.mean(), found.mean() - wide, found.mean() + wide, len(found))


MOST_PAIRS = 20  # a million choices of signs


def sign_flip(differences: Sequence[float]) -> float:
    """The exact two-sided p of the sign-flip test, the paired test that assumes no bell: the share of all 2^n ways to
    choose each difference's sign whose sum is as far from 0 as the true one. With n pairs it is never below 2 / 2^n.

    Raises ValueError without differences, or for more than `MOST_PAIRS`.
    """
    found = np.asarray(differences, float)
    if not 1 <= len(found) <= MOST_PAIRS:
        raise ValueError(f"the test goes through all signs of 1 to {MOST_PAIRS} differences, got {len(found)}")
    sums = np.abs(np.array(list(product((1.0, -1.0), repeat=len(found)))) @ found)
    return float((sums >= abs(found.sum()) - 1e-9).mean())
