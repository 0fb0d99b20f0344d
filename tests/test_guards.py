"""Masks of assumptions: an instance that breaks one condition alone is masked out."""

import numpy as np
import pytest

from decaf_theory import moments
from decaf_theory.lowrank import Factors
from verification.claim import Context
from verification.instances.omega import inside_omega
from verification.instances.pairs import pair_of
from verification.instances.quadratics import Case, constants, network, step_allowed
from verification.instances.slopes import Slope

HELD = {"start": (1.0, 1.0), "end": (0.5, 0.5), "g": 0.8, "h": 0.1}
BROKEN = {
    "B of the start": {"start": (1.1, 1.0)},
    "A of the start": {"start": (1.0, 1.1)},
    "B of the end": {"end": (1.2, 0.1)},
    "A of the end": {"end": (0.1, 1.2)},
    "Lipschitz": {"h": 0.0},
    "bounded at the start": {"g": 1.05, "h": 0.35},
    "bounded at the end": {"g": -0.35, "h": -1.05},
}


def slope(start, end, g, h):
    """Scalars with L = G = c = s = 1: |g - h| <= |b a - b'a'|, all at most one."""
    points = [tuple(np.array([[x]]) for x in point) for point in (start, end)]
    pair = pair_of(Context("guards"), "scalar", 1.0, *points)
    return Slope(pair, np.array([[[g]]]), np.array([[[h]]]), L=1.0, G=1.0, s=1.0)


def test_a_slope_that_keeps_all_conditions_is_held():
    assert slope(**HELD).held.tolist() == [True]


@pytest.mark.parametrize("name", BROKEN)
def test_a_slope_that_breaks_one_condition_is_not_held(name):
    assert slope(**{**HELD, **BROKEN[name]}).held.tolist() == [False]


@pytest.mark.parametrize("name", [name for name in BROKEN if " of the " in name])
def test_a_pair_with_one_factor_outside_is_not_held(name):
    assert slope(**{**HELD, **BROKEN[name]}).pair.held.tolist() == [False]


@pytest.mark.parametrize(("B", "A"), [(1.0, 1.0), (1 + 1e-12, 1.0), (1.0, 1 + 1e-12)])
def test_omega_is_closed_and_its_edge_is_sharp(B, A):
    unit = np.eye(3)[:, :2]
    found = inside_omega(Factors(B * unit, A * unit.T), 1.0)
    assert bool(found) is (B == A == 1.0)


@pytest.mark.parametrize(("u", "lam", "allowed"), [(1, 0.4, 1), (1.1, 0.4, 0), (0.9, 0.6, 0)])
def test_a_step_must_be_short_for_the_losses_and_for_the_graph(u, lam, allowed):
    # q = lam/(1 - lam) = 2/3 and 3/2: lr L q = 2/3, 0.73, 1.35
    Pi = np.array([[1 + lam, 1 - lam], [1 - lam, 1 + lam]]) / 2
    problem = moments.quadratics(np.ones((1, 2, 1, 1)), b=np.zeros((1, 2, 1)))
    case = Case(problem, Pi, np.array([float(u)]), np.zeros((1, 1)), {})
    found = step_allowed(case, network(Pi, "MS"), constants(case))
    assert found.tolist() == [bool(allowed)]
