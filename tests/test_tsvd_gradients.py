"""torch's gradients through the kernel: equal to differences, or refused by name."""

import pytest

torch = pytest.importorskip("torch", reason="gradients are torch's")

from decaf_theory.lowrank import Factors  # noqa: E402
from decaf_theory.tsvd import tsvd_of_mix  # noqa: E402

N, D, R, K = 3, 8, 2, 9
PI = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)


def drawn(*shape):
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))
    )


def padded(X, axis, fill=0.0):
    shape = list(X.shape)
    shape[axis] = 1
    return torch.cat([X, torch.full(shape, fill, dtype=X.dtype)], dim=axis)


B, A = drawn(N, D, R), drawn(N, R, K)
STARTS = {
    "generic": (B, A),
    "equal agents": (B[:1].repeat(N, 1, 1), A[:1].repeat(N, 1, 1)),
    "equal A": (B, A[:1].repeat(N, 1, 1)),
    "zero-padded": (padded(B, -1), padded(A, -2)),
    "a column of B not trained yet": (padded(B, -1), padded(A, -2, 1.0)),
}


def value(B, A, method):
    """A smooth function of the truncation that does not depend on its gauge."""
    found = tsvd_of_mix(Factors(B, A), PI, R, method=method)
    weights = torch.arange(D * K, dtype=torch.float64).reshape(D, K).sin()
    return torch.sum(found.factors.B @ found.factors.A * weights) + found.singular_values.sum()


def gradients(start, method):
    B, A = (X.clone().requires_grad_() for X in STARTS[start])
    value(B, A, method).backward()
    return B.grad, A.grad


def difference(start, method, step=1e-5):
    """Return the derivative along one direction twice: by gradients, by central differences."""
    X = STARTS[start]
    to = [drawn(*x.shape) for x in X]
    ends = [value(*(x + s * step * v for x, v in zip(X, to, strict=True)), method) for s in (1, -1)]
    along = sum(float((g * v).sum()) for g, v in zip(gradients(start, method), to, strict=True))
    return along, float(ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("start", STARTS)
def test_dense_gradients_are_those_of_differences(start):
    along, expected = difference(start, "dense")
    # sums of D K = 72 terms near 10, over the step: 72 x 10 eps/1e-5 = 1.6e-8; third derivatives
    # times step^2 are smaller
    assert along == pytest.approx(expected, abs=1e-7)


def test_gradients_of_factors_are_those_of_differences():
    along, expected = difference("generic", "qr")
    assert along == pytest.approx(expected, abs=1e-7)
    for mine, dense in zip(gradients("generic", "qr"), gradients("generic", "dense"), strict=True):
        # both solve systems with the same gaps of singular values, which are above 1e-2 here
        torch.testing.assert_close(mine, dense, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("start", [name for name in STARTS if name != "generic"])
def test_qr_refuses_stacks_without_full_rank(start):
    with pytest.raises(ValueError, match=r"method 'qr' has no gradient .*; use method='dense'"):
        gradients(start, "qr")


@pytest.mark.parametrize("method", ["qr", "dense"])
def test_a_gradient_is_never_nan(method):
    zero = torch.zeros_like(B, requires_grad=True)
    with pytest.raises(ValueError, match="gradient"):
        value(zero, A.clone().requires_grad_(), method).backward()


def test_values_do_not_depend_on_whether_gradients_are_carried():
    for start, (B, A) in STARTS.items():
        plain = tsvd_of_mix(Factors(B, A), PI, R, method="dense")
        carried = tsvd_of_mix(Factors(B.clone().requires_grad_(), A), PI, R, method="dense")
        assert torch.equal(plain.singular_values, carried.singular_values.detach()), start
        assert not B.requires_grad
