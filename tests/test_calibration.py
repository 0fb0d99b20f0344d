"""The mean of softmaxes, its likelihood and its calibration, against fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from paper_checks import calibration  # noqa: E402

EPS = float(np.finfo(np.float64).eps)
# of the logarithms of three whole numbers, their exponentials, sums and quotients
ROUNDING = 50 * EPS

# weights of classes: a softmax of their logarithms is w / sum(w), a fraction
WEIGHTS = [
    [[1, 2, 5], [3, 3, 1], [1, 1, 7]],
    [[4, 1, 1], [1, 6, 2], [2, 1, 1]],
]  # [members, examples, classes]
LABELS = [2, 1, 2]


def scores(weights=WEIGHTS):
    return torch.log(torch.tensor(weights, dtype=torch.float64))


def probabilities(weights=WEIGHTS):
    """The members' mean probabilities as fractions, [examples][classes]."""
    members = [[[Fraction(w, sum(row)) for w in row] for row in member] for member in weights]
    return [
        [sum(column) / len(members) for column in zip(*rows, strict=True)]
        for rows in zip(*members, strict=True)
    ]


def test_the_ensemble_is_the_mean_of_the_members_probabilities():
    found = calibration.mean_of_softmaxes(scores()).exp()
    wanted = probabilities()
    for row, exact in zip(found.tolist(), wanted, strict=True):
        assert row == pytest.approx([float(p) for p in exact], rel=ROUNDING)
    likelihood = math.prod(row[label] for row, label in zip(wanted, LABELS, strict=True))
    nll = calibration.nll(calibration.mean_of_softmaxes(scores()), torch.tensor(LABELS))
    assert nll == pytest.approx(-math.log(likelihood) / 3, rel=ROUNDING)


def test_one_member_is_itself_and_equal_members_are_one():
    one = scores()[:1]
    own = one[0].log_softmax(-1)
    assert torch.equal(calibration.mean_of_softmaxes(one), own)
    four = calibration.mean_of_softmaxes(one.expand(4, -1, -1))
    # log 4 is added in a sum of logarithms and taken away again
    assert torch.allclose(four, own, rtol=0, atol=4 * EPS * (math.log(4) + float(own.abs().max())))


@given(
    st.integers(1, 5),
    st.integers(2, 4),
    st.sampled_from([0.1, 1.0, 30.0]),
    st.integers(0, 2**32 - 1),
)
def test_the_ensemble_is_as_likely_as_its_members_on_average_or_more(N, C, size, seed):
    draw = np.random.default_rng(seed)
    z = torch.from_numpy(size * draw.standard_normal((N, 6, C)))
    labels = torch.from_numpy(draw.integers(C, size=6))
    each = [calibration.nll(row.log_softmax(-1), labels) for row in z]
    together = calibration.nll(calibration.mean_of_softmaxes(z), labels)
    # each logarithm is known to a few eps of the largest score
    lost = 20 * EPS * (1 + float(z.abs().max()))
    assert together <= sum(each) / N + lost
    assert together <= min(each) + math.log(N) + lost  # a mean is at least a member's share


def log_p(rows):
    return torch.log(torch.tensor([[float(p) for p in row] for row in rows], dtype=torch.float64))


def test_the_calibration_error_is_that_of_a_count_by_hand():
    half, sixth = Fraction(1, 2), Fraction(1, 6)
    rows = [
        [Fraction(9, 10), Fraction(1, 10), 0],  # bin (8/10, 9/10], right
        [Fraction(7, 8), 0, Fraction(1, 8)],  # the same bin, wrong
        [Fraction(1, 4), Fraction(3, 4), 0],  # (7/10, 8/10], right
        [half - sixth, sixth, half],  # (4/10, 6/10], wrong
        [0, 0, 1],  # (9/10, 1], right
    ]
    labels = torch.tensor([0, 1, 1, 0, 2])
    # (n_b / n) |accuracy_b - confidence_b| of the bins above, in this order
    gaps = [abs(1 - (Fraction(9, 10) + Fraction(7, 8))), Fraction(1, 4), half, 0]
    found = calibration.ece(log_p(rows), labels, bins=10)
    assert found == pytest.approx(float(sum(gaps) / 5), rel=ROUNDING)
    # one bin: |3/5 - mean confidence|
    mean = sum(max(row) for row in rows) / 5
    assert calibration.ece(log_p(rows), labels, bins=1) == pytest.approx(
        float(abs(Fraction(3, 5) - mean)), rel=ROUNDING
    )
    summary = calibration.summary(log_p(rows), labels)
    assert summary["accuracy"] == 3 / 5
    assert summary["confidence"] == pytest.approx(float(mean), rel=ROUNDING)
    assert summary["ece"] == calibration.ece(log_p(rows), labels, bins=15)
    assert summary["nll"] == math.inf  # of a label that was impossible


@given(st.integers(1, 40), st.integers(2, 15), st.integers(0, 2**32 - 1))
def test_finer_bins_see_no_smaller_error_than_one(n, bins, seed):
    draw = np.random.default_rng(seed)
    p = torch.from_numpy(draw.dirichlet(np.ones(3), size=n)).log()
    labels = torch.from_numpy(draw.integers(3, size=n))
    coarse, fine = (calibration.ece(p, labels, b) for b in (1, bins))
    assert coarse <= fine + n * EPS
    assert 0 <= fine <= 1


def test_true_probabilities_have_no_error():
    rows = [[Fraction(3, 4), Fraction(1, 4)]] * 4
    assert calibration.ece(log_p(rows), torch.tensor([0, 0, 0, 1])) <= 4 * EPS


def test_no_bins_are_refused():
    with pytest.raises(ValueError, match="bins must be >= 1, got 0"):
        calibration.ece(log_p([[1, 0]]), torch.tensor([0]), bins=0)
