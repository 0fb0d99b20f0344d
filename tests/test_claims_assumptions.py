"""Every assumption of a claim is looked at: where it alone fails, the row does not apply."""

import numpy as np
import pytest

from decaf_theory.lowrank import Factors
from tests.claim_rows import CLAIMS
from tests.dense import PI, Path, agents, case
from verification.claim import Context, Outcome
from verification.claims.interference import dlora_path
from verification.claims.rates import dsgd_sharp
from verification.instances import quadratics, slopes
from verification.instances.omega import inside_omega
from verification.instances.pairs import Pair

C = 2.0
WEIGHTS = [0.5, 0.3, 0.2]
EYE = {"B": np.eye(3, 2), "A": np.eye(2, 4)}  # isometries


def outcome(name, instance):
    """How the row of an instance is judged."""
    plain = {key: x.tolist() if isinstance(x, np.ndarray) else x for key, x in instance.items()}
    return CLAIMS[name].replay(plain).outcome


def applies(name, instance):
    """Whether it is judged at all."""
    return outcome(name, instance) != Outcome.NOT_APPLICABLE


# ---------------------------------------------------------------- Omega_c


@pytest.mark.parametrize("out", ["", "B", "A"])
def test_a_point_is_inside_only_if_both_factors_are(out):
    at = {name: (1.001 if name == out else 1.0) * C * X for name, X in EYE.items()}
    assert bool(inside_omega(Factors(**at), C)) is not bool(out)


@pytest.mark.parametrize("out", ["B", "A"])
@pytest.mark.parametrize("end", ["start", "end"])
def test_a_pair_is_inside_only_if_both_ends_are(out, end):
    inside = Factors(**EYE).map(lambda X: C * X[None])
    outside = inside._replace(**{out: 1.001 * getattr(inside, out)})
    assert Pair("inside", C, inside, inside).held
    assert not Pair("outside", C, **{"start": inside, "end": inside, end: outside}).held


def slope(*, steep=0.9, tops=(0.9, 0.9), out=1.0):
    """A slope with |g - h| and the sizes of g and h at these shares of what is allowed."""
    start = Factors(**EYE).map(lambda X: C * X[None])
    pair = Pair("slope", C, start.map(lambda X: out * X), start.map(lambda X: 0.5 * X))
    L, G, s = 0.5, 3.0, 0.6
    E = np.eye(3, 4)[None] * [[[1.0], [0.0], [0.0]]]
    g, h = (G * top * E for top in tops)
    apart = np.zeros((1, 3, 4))
    apart[0, 1, 1] = steep * L * s * np.linalg.norm(pair.product_step)
    return slopes.Slope(pair, g, h + apart, L, G, s)


def test_a_slope_is_held_only_if_it_is_lipschitz_bounded_and_inside():
    assert slope().held
    assert not slope(steep=1.001).held
    assert slope(steep=0.0, tops=(1, 1)).held
    assert not slope(steep=0.0, tops=(1.001, 1)).held
    assert not slope(steep=0.0, tops=(1, 1.001)).held
    assert not slope(out=1.001).held
    row = slopes.steepness("steep", slope(steep=1.001), 1e9, "euclid")
    assert row.outcome == Outcome.NOT_APPLICABLE


@pytest.mark.parametrize("out", ["", "B", "A"])
@pytest.mark.parametrize("agent", [0, 2])
@pytest.mark.parametrize("name", ["T7", "T11", "T11-odd", "T13", "T16"])
def test_assumption_2_is_asked_of_both_factors_of_every_agent(name, agent, out):
    factors = dict(zip("BA", agents(5, 4, 2, top=1.9), strict=True))
    if out:
        factors[out][agent] *= 1.2 * C / np.linalg.norm(factors[out][agent], 2)
    instance = {**factors, "weights": WEIGHTS, "c": C, "norm": "fro", "method": "dlora"}
    assert applies(name, instance) is not bool(out)


# ---------------------------------------------------------------- gaps


@pytest.mark.parametrize("share", [0.99, 1.01])
def test_t19_ends_where_the_change_is_half_of_the_gap(share):
    M, dM = np.diag([3.0, 2.0, 1.0]), np.zeros((3, 3))
    dM[0, 2] = 0.5 * share
    for part in ({}, {"part": "integrated"}):
        assert applies("T19", {"M": M, "N": M + dM, "rank": 1, **part}) is (share < 1)
    other = np.diag([2.0 / share, 0.0, 0.0])  # sigma_1 beyond sigma_2 = 2 of M
    spaces = {"M": M, "N": other, "rank": 1, "part": "spaces"}
    assert applies("T19", spaces) is (share < 1)


@pytest.mark.parametrize("flat", [(), (0,), (1,), (0, 1)])
def test_t20_distance_needs_full_rank_of_one_product(flat):
    B, A = agents(5, 4, 2, m=2)
    for agent in flat:
        B[agent, :, 0] = 0.0  # rank one
    instance = {"B": B, "A": A, "weights": [0.5, 0.5]}
    assert applies("T20-distance", instance) is (len(flat) < 2)


@pytest.mark.parametrize("share", [0.99, 1.01])
def test_t21_ends_where_an_agent_is_sigma_r_away(share):
    e = np.eye(3)
    P0 = np.diag([3.0, 2.0, 0.0])
    B = np.stack([e[:, :2], e[:, :2]])
    A = np.stack([P0[:2], P0[:2]])
    A[1, 0, 0] += 2.0 * share
    instance = {"B": B, "A": A, "weights": [0.7, 0.3], "reference": P0}
    assert applies("T21", instance) is (share < 1)


def test_t30_needs_a_mean_of_full_rank():
    B, A = agents(5, 4, 2)
    assert applies("T30", {"B": B, "A": A, "weights": WEIGHTS})
    A[:, 1] = 0.0
    assert not applies("T30", {"B": B, "A": A, "weights": WEIGHTS})


# ---------------------------------------------------------------- step sizes

L = Path(case()).letters[0]
LAM = np.sort(abs(np.linalg.eigvalsh(PI)))[-2]
Q = LAM / (1 - LAM)
BELOW, BEYOND = 1 - 1e-6, 1 + 1e-6


@pytest.mark.parametrize(
    ("name", "settings", "largest", "closed"),
    [
        ("T25", {"part": "mean gradient, measured Xi"}, min(1, 1 / Q), Q < 1),
        ("T25", {"part": "mean gradient, textbook"}, min(1, 1 / (2 * Q)), True),
        ("T25", {}, min(1, 1 / Q), Q < 1),
        ("T25-sharp", {}, 2, False),
        ("T29", {}, 1, True),
        ("T29", {"part": "E Xi_t"}, min(1, 1 / Q), Q < 1),
        ("T29-sharp", {}, 2, False),
        ("T29-joint", {}, 2, False),
        ("T35", {"K": 3}, 1 / (3 * Q + 2), False),
        ("T36", {"beta": 0.4}, 0.6 / Q, False),
        ("T37", {"Pis": [PI.tolist()]}, 1 / Q, False),
    ],
)
def test_a_rate_ends_at_its_largest_step(name, settings, largest, closed):
    errors = {"K": 0 * np.eye(6), "k": np.zeros(6), "G": 0 * np.eye(6), "dependent": False}
    others = {"order": "MS", "steps": 3, "rounds": 3, **errors, **settings}
    shares = {BELOW: True, BEYOND: False} | ({1 - 1e-15: True} if closed else {})
    for share, inside in shares.items():
        assert applies(name, {**case(share * largest / L), **others}) is inside


def test_the_sharp_rate_is_judged_up_to_two_over_L():
    for share, inside in ((1.5, True), (1.999, True), (2.001, False)):
        row = next(dsgd_sharp.judged(quadratics.load(case(share / L)), "MS", 7))
        assert row.assumptions_held is inside


@pytest.mark.parametrize(("name", "part"), [("T25", "mean gradient, measured Xi"), ("T29", "")])
def test_a_step_of_exactly_one_over_L_is_inside(name, part):
    half, none = np.full((2, 2), 0.5), np.zeros((2, 2))
    errors = {"K": none, "k": np.zeros(2), "G": none, "dependent": False}
    others = {"order": "MS", "steps": 3, "part": part, **errors}
    for lr, inside in ((1.0, True), (1 + 1e-12, False)):
        pair = quadratics.stored(np.ones((2, 1, 1)), [[1.0], [-1.0]], half, lr, [2.0])
        assert applies(name, {**pair, **others}) is inside


def test_the_textbook_form_reaches_lr_L_q_of_one_half():
    others = {"order": "MS", "steps": 3, "part": "mean gradient, textbook"}
    for lr, inside in ((0.5, True), (0.5 + 1e-12, False)):
        Pi = [[0.75, 0.25], [0.25, 0.75]]  # q = 1
        pair = quadratics.stored(np.ones((2, 1, 1)), [[1.0], [-1.0]], Pi, lr, [2.0])
        assert applies("T25", {**pair, **others}) is inside


@pytest.mark.parametrize("name", ["T25", "T25-sharp", "T29", "T29-sharp", "T29-joint"])
def test_a_rate_needs_a_loss_that_is_bounded_below(name):
    errors = {"K": 0 * np.eye(6), "k": np.zeros(6), "G": 0 * np.eye(6), "dependent": False}
    part = {"part": "mean gradient, measured Xi"} if name == "T25" else {}
    for least, inside in ((0.1, True), (-0.1, False)):
        stored = case(0.01, quiet=True)
        stored["H"] = [np.diag([1.0, least]).tolist()] * 3
        found = outcome(name, {**stored, "order": "CB", "steps": 3, **errors, **part})
        assert (found == Outcome.HOLDS) is inside


def test_t28_begins_at_its_horizon():
    horizon = 3 * L**2 * max(1, 4 * Q**2)
    for T in (int(horizon), int(horizon) + 1):
        assert applies("T28", {**case(), "order": "MS", "steps": T}) is bool(horizon < T)


def test_r6_ends_where_a_round_of_local_steps_undoes_the_mix():
    largest = (LAM ** (-1 / 3) - 1) / L
    for share, inside in ((BELOW, True), (BEYOND, False)):
        stored = case(share * largest, quiet=True)
        assert applies("R6", {**stored, "K": 3, "rounds": 2}) is inside


def test_t14_ends_where_the_feedback_closes():
    runs = dlora_path.network_runs(Context("step"), "path", "fitted")
    c = max(np.linalg.norm(X, 2) for X in runs.start)
    largest = max(np.linalg.norm(W, 2) for W in runs.targets)
    smooth = runs.s * (2 * runs.s * c**2 + runs.s * c**2 + largest)
    q = 1 / (1 - np.sort(abs(np.linalg.eigvalsh(runs.Pi)))[-2])
    for share, inside in ((BELOW, True), (BEYOND, False)):
        one = runs._replace(lr=np.array([share / (smooth * q)]))
        row = dlora_path.along_path(Context("step"), "one step", one, last=1)
        assert row.assumptions_held is inside
