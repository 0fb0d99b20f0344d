"""Compiled kernels on data that could lead them astray: every case here once did."""

import numpy as np
import pytest

from decaf_theory import TOPOLOGIES, tsvd_of_mix
from tests.mixes import gaussian

pytest.importorskip("numba", reason="numba is not installed")
Pi = TOPOLOGIES["ring"](6)


@pytest.fixture(autouse=True)
def _asked(monkeypatch):
    monkeypatch.setenv("DECAF_COMPILED", "1")


def digits(found):
    """Return the numbers of a truncation."""
    B, A = found.factors
    return [np.asarray(x) for x in (B, A, found.singular_values, found.tail)]


@pytest.mark.parametrize("exponent", [-70, -90])
def test_a_small_layer_is_as_exact_beside_a_large_one(exponent):
    """Of the core's entries fourth powers are formed: from 2^-70 beside 2^60 these vanish."""
    scale = 2.0 ** np.array([60, exponent])[:, None, None, None]
    factors = gaussian(6, 40, 30, 2, 2).map(lambda X: (X * scale).astype(np.float32))
    both, alone = (tsvd_of_mix(f, Pi, 2) for f in (factors, factors.map(lambda X: X[1:])))
    for beside, own in zip(digits(both), digits(alone), strict=True):
        assert np.array_equal(beside[1], own[0])


def test_factors_that_may_not_be_written_are_taken():
    factors = gaussian(6, 40, 30, 2).map(lambda X: X.astype(np.float32))
    wanted = digits(tsvd_of_mix(factors, Pi, 2))
    for X in factors:
        X.flags.writeable = False
    found = digits(tsvd_of_mix(factors, Pi, 2))
    assert all(map(np.array_equal, found, wanted))


def test_float64_in_the_other_byte_order_keeps_float64s_promise():
    """Their Gram matrices are not those of float32."""
    factors = gaussian(6, 40, 30, 2)
    swapped = factors.map(lambda X: X.astype(X.dtype.newbyteorder()))
    found, wanted = (digits(tsvd_of_mix(f, Pi, 2, method="panel")) for f in (swapped, factors))
    assert all(map(np.array_equal, found, wanted))


@pytest.mark.parametrize("error", [RuntimeError("locator"), OSError(28, "disk"), EOFError("cut")])
def test_a_cache_of_no_use_costs_time_and_not_the_result(monkeypatch, error):
    """Of these the first is Numba's where no folder can be written, the last of a damaged file."""
    from decaf_theory.tsvd import compiled

    def entries(texts, kept=True):
        if kept:
            raise error
        return texts, "compiled anew"

    monkeypatch.setattr(compiled, "_entries", entries)
    with pytest.warns(RuntimeWarning, match=r"not kept.*NUMBA_CACHE_DIR"):
        assert compiled._made(7) == (7, "compiled anew")
