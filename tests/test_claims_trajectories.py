"""Claims T14 and T14-law: what refutes the law, and the bound by hypothesis."""

import numpy as np
from hypothesis import event, given
from hypothesis import strategies as st

from decaf_theory.lowrank import Factors
from decaf_theory.topology import TOPOLOGIES
from verification.claim import Context, Outcome
from verification.claims.interference import dlora_path, path_limit


def test_the_law_of_small_steps_fails_without_one_plus_Pi_or_by_two_percent(monkeypatch):
    right = path_limit.predicted

    def without_one_plus_Pi(runs):
        W, agents = runs.targets.mean(axis=0), len(runs.Pi)
        Gamma = np.linalg.pinv(np.eye(agents) - runs.Pi)
        D = runs.targets - W
        return runs.s**2 / agents * np.einsum("jl,jab,cb,lcd->ad", Gamma, D, W, D)

    for wrong in (without_one_plus_Pi, lambda runs: 1.02 * right(runs)):
        monkeypatch.setattr(path_limit, "predicted", wrong)
        rows = list(path_limit.law(Context("T14-law")))
        assert any(row.outcome == Outcome.VIOLATED for row in rows)


@given(
    st.sampled_from(("complete", "ring", "path", "star")),
    st.integers(2, 5),
    st.integers(1, 3),
    st.floats(-3, -1),
    st.integers(0, 2**32 - 1),
)
def test_interference_on_the_path_stays_below_its_bound(topology, N, r, power, seed):
    event(topology)
    rng = np.random.default_rng(seed)
    d, k = 3, 4
    start = Factors(rng.standard_normal((d, r)), rng.standard_normal((r, k)))
    targets = rng.standard_normal((N, d, k))
    Pi = TOPOLOGIES[topology](N)
    runs = dlora_path.Runs(topology, Pi, targets, start, np.array([10.0**power]), 0.75)
    row = dlora_path.along_path(Context("property"), "property", runs)
    event("lr L q < 1" if row.assumptions_held else "lr too large")
    assert row.outcome in (Outcome.HOLDS, Outcome.NOT_APPLICABLE)
