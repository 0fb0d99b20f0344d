"""The rows of the claims, evaluated once per session for all tests, and a path to judge."""

from functools import cache

import numpy as np
import pytest

from decaf_theory.compare.path import Path
from verification.claim import Context, collect
from verification.claims import CLAIMS as LISTED

# of a row worked by hand: some hundred steps, or SVDs of fewer than 40 numbers of condition 100
NEAR = 1e-9
CLAIMS = {claim.id: claim for claim in LISTED}


@cache
def rows_of(name, device="cpu"):
    """The rows of a quick run of a claim."""
    return tuple(collect(CLAIMS[name], Context(name, device=device)))


def invented(steps, runs):
    """A path of numbers near 0.15, of norms of A near one: all unequal, largest halfway."""
    rng = np.random.default_rng(0)
    names = [name for name in Path._fields if name != "c"]
    rising = {name: np.sort(0.1 * rng.uniform(1, 2, (steps, runs)), axis=0) for name in names}
    columns = {name: np.roll(x, -(steps // 2), axis=0) for name, x in rising.items()}
    columns["norm_A"] *= 7
    return Path(**columns, c=rng.uniform(0.9, 1.1, runs))


def exactly(expected):
    """Return what is equal to a number worked by hand, however small it is."""
    return pytest.approx(expected, rel=NEAR, abs=0)


def replayed(name, instance, measured, bound, **settings):
    """Assert both numbers of the row of an instance whose assumptions hold."""
    found = {**instance, **settings}
    plain = {key: x.tolist() if isinstance(x, np.ndarray) else x for key, x in found.items()}
    row = CLAIMS[name].replay(plain)
    assert row.assumptions_held
    assert row.measured == exactly(measured)
    assert row.bound == exactly(bound)
