"""Claims T1-T7: the search for steep slopes, and properties by hypothesis."""

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from decaf_theory import bounds
from decaf_theory.lowrank import Factors
from decaf_theory.measure import sigma_max
from decaf_theory.methods import METHODS
from verification.claim import Context, Outcome
from verification.instances.slopes import climb, steepness

EPS = np.finfo(float).eps


@pytest.mark.parametrize("norm", ["euclid", "sum", "max"])
def test_the_search_finds_the_sharp_constant_from_random_starts(norm):
    letters = {"L": 0.8, "c": 1.3, "G": 2.0, "s": 0.6}
    ctx = Context("search")
    found = climb(ctx, ctx.rng(norm), (3, 5, 2), norm, 12, **letters)
    row = steepness("search", found, bounds.smoothness_sharp(**letters), norm)
    assert row.outcome is Outcome.HOLDS
    assert 0.999 <= row.tightness <= 1
    weaker = steepness("search", found, 0.98 * bounds.smoothness_sharp(**letters), norm)
    assert weaker.outcome is Outcome.VIOLATED


# ---------------------------------------------------------------- properties

BRANCHES = (
    "generic",
    "near",
    "towards zero",
    "one factor moves",
    "rank-deficient",
    "tie",
    "gauge-rotated",
    "same point",
)
each_branch = pytest.mark.parametrize("branch", BRANCHES)  # drawn first, so that each is met
some = settings(max_examples=settings.default.max_examples // 2)  # of each branch


@st.composite
def pairs(draw, branch):
    """Two points of Omega_c, c = 1e-8 ... 1e8, and c: (B, A), (B', A'), c."""
    d, k = draw(st.sampled_from([(1, 1), (2, 5), (5, 2), (4, 3), (3, 7), (6, 6)]))
    r = draw(st.integers(1, 5))
    c = draw(st.sampled_from([1e-8, 0.5, 1.0, 3.0, 1e8]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    B, A = rng.standard_normal((d, r)), rng.standard_normal((r, k))
    end = rng.standard_normal((d, r)), rng.standard_normal((r, k))
    if branch == "near":
        size = 10.0 ** draw(st.integers(-6, -1))
        end = B + size * end[0], A + size * end[1]
    elif branch == "towards zero":
        t = draw(st.floats(0, 1))
        end = t * B, t * A
    elif branch == "one factor moves":
        end = end[0], A
    elif branch == "rank-deficient":
        B[:, 1:], end = 0.0, (0 * B, A / 2)
    elif branch == "tie":
        B, A, *end = (polar(X) for X in (B, A, *end))
    elif branch == "gauge-rotated":
        R = polar(rng.standard_normal((r, r)))
        end = B @ R.T, R @ A
    elif branch == "same point":
        end = B, A
    top = max(np.linalg.norm(X, 2) for X in (B, A, *end))
    B, A, B_end, A_end = (c * X / top for X in (B, A, *end))
    event(f"{branch}, {'d = k' if d == k else 'd != k'}")
    return (B, A), (B_end, A_end), c, rng


def polar(X):
    U, _, Vh = np.linalg.svd(X, full_matrices=False)
    return U @ Vh


def lengths(B, A):
    """The two blocks' norms in the norms in which they are combined."""
    b, a = np.linalg.norm(B), np.linalg.norm(A)
    return {"sum": b + a, "euclid": np.hypot(b, a), "max": max(b, a)}


def rounding_of(B, A):
    """Products and norms of d x r and r x k matrices: 20 times all their sizes, in eps."""
    return 20 * sum(B.shape + A.shape) * EPS


@each_branch
@some
@given(data=st.data(), s=st.sampled_from([0.01, 1.0, 4.0]))
def test_the_product_is_lipschitz_in_the_factors(branch, data, s):
    (B, A), (B_end, A_end), c, _ = data.draw(pairs(branch))
    moved = s * np.linalg.norm(B @ A - B_end @ A_end)
    step = lengths(B - B_end, A - A_end)
    slip = s * rounding_of(B, A) * A.shape[0] * c**2
    for norm in ("sum", "euclid"):
        assert moved <= bounds.product_lipschitz(s=s, c=c, norm=norm) * step[norm] + slip


@each_branch
@some
@given(data=st.data(), s=st.sampled_from([0.01, 1.0, 4.0]), L=st.sampled_from([0.1, 1.0, 30.0]))
def test_the_factor_gradient_is_lipschitz_for_any_two_allowed_gradients(branch, data, s, L):
    (B, A), (B_end, A_end), c, rng = data.draw(pairs(branch))
    G = data.draw(st.sampled_from([1e-3, 1.0, 1e3]))
    dW = s * (B @ A - B_end @ A_end)
    h = G * polar(rng.standard_normal(dW.shape)) * data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    along = dW if data.draw(st.booleans()) else -dW
    # both are projected onto |.|_op <= G, which does not increase their distance
    g, h = (clipped(x, G) for x in (h + L * along, h))
    change = lengths(s * (g @ A.T - h @ A_end.T), s * (B.T @ g - B_end.T @ h))
    step = lengths(B - B_end, A - A_end)
    letters = {"L": L, "c": c, "G": G, "s": s}
    sharp, r = bounds.smoothness_sharp(**letters), A.shape[0]
    paper = bounds.lemma1_smoothness(C=s * c, r=r, **letters)
    mixed = bounds.smoothness_mixed_norm(**letters)
    slip = rounding_of(B, A) * r * (s * c * G + s**2 * L * c**3)
    for norm in ("sum", "euclid", "max"):
        assert change[norm] <= sharp * step[norm] + slip
    assert change["sum"] <= mixed * step["euclid"] + slip
    assert sharp <= paper * (1 + 4 * EPS)
    assert bounds.lemma1_without_rank(C=s * c, **letters) == pytest.approx(sharp, rel=4 * EPS)


def clipped(X, top):
    U, S, Vh = np.linalg.svd(X, full_matrices=False)
    return (U * np.minimum(S, top)) @ Vh


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(0.1, 10), st.floats(1e-3, 1e3))
def test_the_gap_of_lemma_1_is_largest_where_it_is_said_to_be(L, eta, c, G):
    letters = {"L": L, "eta": eta, "c": c, "G": G}
    r_worst, most = bounds.lemma1_gap_worst(**letters)
    event("r >= 16" if r_worst >= 16 else "r < 16")
    for r in (1, 2, 3, 10, 100, 0.9 * r_worst + 0.1, 1.1 * r_worst, 1e6 * r_worst):
        s = eta / r
        sharp = bounds.smoothness_sharp(L=L, c=c, G=G, s=s)
        paper = s * (2 * L * s * c * np.sqrt(r) * c + G)
        assert paper / sharp <= most * (1 + 20 * EPS)
        assert bounds.lemma1_gap(r=r, **letters) == pytest.approx(paper / sharp, rel=20 * EPS)
    assert bounds.lemma1_gap(r=r_worst, **letters) == pytest.approx(most, rel=20 * EPS)


@each_branch
@some
@given(data=st.data(), s=st.sampled_from([0.01, 1.0, 4.0]))
def test_gradients_noise_and_spread_grow_by_sqrt2_s_c_at_most(branch, data, s):
    _, (B, A), c, rng = data.draw(pairs(branch))
    d, k = B.shape[0], A.shape[1]
    g = rng.standard_normal((4, d, k))
    if data.draw(st.booleans()):
        u, v = rng.standard_normal(d), rng.standard_normal(k)
        g = rng.standard_normal((4, 1, 1)) * np.outer(u, v)
    spread = g - g.mean(axis=0)
    slip = 1 + rounding_of(B, A)

    def squares(x):
        return np.sum((s * x @ A.T) ** 2, axis=(1, 2)) + np.sum((s * B.T @ x) ** 2, axis=(1, 2))

    sizes = np.linalg.norm(g, axis=(1, 2))
    local = s * np.hypot(np.linalg.norm(B, 2), np.linalg.norm(A, 2)) * sizes
    assert np.all(np.sqrt(squares(g)) <= local * slip)
    assert np.sqrt(squares(g)[0]) <= bounds.factor_gradient(s=s, c=c, g=sizes[0]) * slip
    rms, rms_W = np.sqrt(np.mean(squares(spread))), np.sqrt(np.sum(spread**2) / 4)
    assert rms <= bounds.factor_sigma(s=s, c=c, sigma_W=rms_W) * slip
    assert rms <= bounds.factor_kappa(s=s, c=c, kappa_W=rms_W) * slip
    units = np.eye(d * k).reshape(-1, d, k)
    letters = {"A_norm": np.linalg.norm(A), "B_norm": np.linalg.norm(B), "d": d, "k": k}
    exact = bounds.isotropic_factor_variance(s=s, tau=0.5, **letters)
    assert 0.25 * np.sum(squares(units)) == pytest.approx(exact, rel=d * k * rounding_of(B, A))


@each_branch
@some
@given(data=st.data(), scale=st.sampled_from([1e-8, 1.0, 1e8]))
def test_a_frozen_adapter_is_smooth_and_convex_without_bounds_on_B(branch, data, scale):
    (B, A), (B_end, _), _, rng = data.draw(pairs(branch))
    s, L = 0.5, 3.0
    target = rng.standard_normal((B.shape[0], A.shape[1]))
    B, B_end = scale * B, scale * B_end
    points = [s * X @ A - target for X in (B, B_end)]
    huber = data.draw(st.booleans())
    g, h = (L * np.clip(x, -1, 1) if huber else L * x for x in points)
    change, step = s * (g - h) @ A.T, B - B_end
    top = np.linalg.norm(A, 2)
    size = s * L * top * sum(np.linalg.norm(x) for x in points)
    slip = rounding_of(B, A) * A.shape[0] * size
    bound = bounds.frozen_smoothness(s=s, L=L, sigma_max_A=top) * np.linalg.norm(step)
    assert np.linalg.norm(change) <= bound + slip
    assert np.sum(change * step) >= -slip * np.linalg.norm(step)


@each_branch
@some
@given(data=st.data(), weight=st.sampled_from([0.5, 0.9, 1 - 1e-9, 1.0]))
def test_mixing_keeps_both_methods_in_omega(branch, data, weight):
    (B, A), (B_end, A_end), c, _ = data.draw(pairs(branch))
    agents = Factors(np.stack([B, B_end]), np.stack([A, A_end]))
    Pi = np.array([[weight, 1 - weight]])
    # the root of a product of two sigma_1, each off by its rounding
    slip = 1 + rounding_of(B, A)
    assert sigma_max(METHODS["dlora"].mix(agents, Pi, 0))[0] <= c * slip
    if A.shape[0] <= min(agents.shape):
        assert sigma_max(METHODS["decaf"].mix(agents, Pi, 0))[0] <= c * slip
