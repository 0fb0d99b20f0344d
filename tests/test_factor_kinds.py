"""Factors of unlike kinds are refused by name, and Pi may be of any kind: one rule everywhere."""

import re

import numpy as np
import pytest
import torch

from decaf_theory import lowrank, measure
from decaf_theory.lowrank import Factors
from decaf_theory.problems import PROBLEMS
from decaf_theory.simulate import Config
from decaf_theory.topology import TOPOLOGIES
from decaf_theory.tsvd import tsvd_of_mix

RNG = np.random.default_rng(0)
B, A = RNG.standard_normal((3, 5, 2)), RNG.standard_normal((3, 2, 4))
GOOD = Factors(B, A)
TENSORS = Factors(torch.tensor(B), torch.tensor(A))
PI = TOPOLOGIES["path"](3)

FUNCTIONS = {
    "product": lowrank.product,
    "spectrum": lowrank.spectrum,
    "balance": lowrank.balance,
    "inner": lambda f: lowrank.inner(f, f),
    "subtract": lambda f: lowrank.subtract(f, f),
    "pad_rank": lambda f: lowrank.pad_rank(f, 3),
    "gauge": lambda f: lowrank.gauge(f, np.eye(2)),
    "align": lambda f: lowrank.align(f, f),
    "mix_factors": lambda f: lowrank.mix_factors(f, PI),
    "mix_products": lambda f: lowrank.mix_products(f, PI),
    "check_factors": lowrank.check_factors,
    "product_norm": measure.product_norm,
    "consensus_distance": measure.consensus_distance,
    "weighted_deviations": lambda f: measure.weighted_deviations(f, PI[0]),
    "interference": lambda f: measure.interference(f, PI),
    "interference_norm": lambda f: measure.interference_norm(f, PI),
    "product_distance": lambda f: measure.product_distance(f, f),
    "factor_gradients": lambda f: measure.factor_gradients(f.B, f, 1.0),
    "sigma_max": measure.sigma_max,
    "imbalance": measure.imbalance,
    "tsvd_of_mix": lambda f: tsvd_of_mix(f, PI, 2),
    "simulate": lambda f: Config(problem=P2, Pi=PI, start=f, lr=0.1, steps=1),
}
P2 = PROBLEMS["P2"](N=3, d=5, k=4)
KIND = "arrays must be NumPy's or torch's, all of one kind, got "
UNLIKE = {
    "lists": (Factors(B.tolist(), A.tolist()), f"{KIND}builtins.list; convert them first"),
    "NumPy's B and torch's A": (
        Factors(B, TENSORS.A),
        f"{KIND}numpy.ndarray and torch.Tensor; convert them first",
    ),
    "NumPy dtypes": (
        Factors(B, A.astype(np.float32)),
        "factors must share one dtype, got float64 and float32; convert them first",
    ),
    "torch dtypes": (
        Factors(TENSORS.B, TENSORS.A.float()),
        "factors must share one dtype, got torch.float64 and torch.float32; convert them first",
    ),
    "devices": (
        Factors(TENSORS.B, TENSORS.A.to("meta")),
        "factors must be on one device, got cpu and meta; move one",
    ),
}


@pytest.mark.parametrize("unlike", UNLIKE)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_factors_that_are_no_pair_are_refused_by_every_function(name, unlike):
    factors, message = UNLIKE[unlike]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        FUNCTIONS[name](factors)


PIS = {
    "a list": PI.tolist(),
    "a tensor": torch.tensor(PI),
    "float32": PI.astype(np.float32),
    "a tensor of float32": torch.tensor(PI, dtype=torch.float32),
}
MIXES = {
    "mix_factors": lowrank.mix_factors,
    "mix_products": lowrank.mix_products,
    "interference_norm": measure.interference_norm,
    "tsvd_of_mix": lambda f, Pi: tsvd_of_mix(f, Pi, 2).factors,
}


@pytest.mark.parametrize("kind", PIS)
@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("factors", [GOOD, TENSORS], ids=["arrays", "tensors"])
def test_pi_may_be_of_any_kind_and_the_result_is_of_the_factors_kind(name, kind, factors):
    found, expected = (MIXES[name](factors, Pi) for Pi in (PIS[kind], PI))
    pairs = zip(found, expected, strict=True) if isinstance(found, Factors) else [(found, expected)]
    for X, Y in pairs:
        assert type(X) is type(factors.B)
        assert X.dtype == factors.B.dtype
        # thirds in float32 are off by 2^-26 each, of numbers below 100
        assert np.abs(np.asarray(X) - np.asarray(Y)).max() <= 3 * 2**-26 * 100


@pytest.mark.parametrize("Pi", [PI[:, :2], PI[0], np.eye(4)])
def test_a_pi_of_another_size_is_named(Pi):
    shape = re.escape(str(Pi.shape))
    with pytest.raises(ValueError, match=rf"Pi must be \[n, 3\] for 3 agents, got shape {shape}"):
        lowrank.mix_factors(GOOD, Pi)


def test_a_start_that_is_a_bare_pair_is_refused():
    with pytest.raises(ValueError, match=r"start must be lowrank\.Factors\(B, A\), got tuple"):
        Config(problem=P2, Pi=PI, start=(B, A), lr=0.1, steps=1)
