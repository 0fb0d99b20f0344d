"""Factors of unlike kinds are refused by name, and Pi may be of any kind: one rule everywhere."""

import re

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from decaf_theory import lowrank, measure
from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS
from decaf_theory.problems import PROBLEMS
from decaf_theory.simulate import Config
from decaf_theory.topology import TOPOLOGIES, check_mixing_matrix, sqrt_rho
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
PAIR = " must be lowrank.Factors(B, A), got tuple; Factors(*pair) is one of a bare pair"
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


# with shapes and dtypes that only the functions of agents and of one product look at
MISMATCHED = {
    "ranks": (Factors(B, A[:, :1]), "with equal leading axes, got B (3, 5, 2) and A (3, 1, 4)"),
    "integers": (Factors(B.astype(int), A.astype(int)), "B must be a real floating-point array"),
    "integer tensors": (TENSORS.map(lambda X: X.long()), "got dtype torch.int64; convert it first"),
    "complex numbers": (GOOD.map(lambda X: X + 0j), "got dtype complex128; convert it first"),
    "one agent": (
        GOOD.map(lambda X: X[0]),
        "factors must be B [..., agent, d, r] and A [..., agent, r, k] with no empty axis, "
        "got B (5, 2) and A (2, 4)",
    ),
    "no agents": (GOOD.map(lambda X: X[:0]), "with no empty axis, got B (0, 5, 2) and A (0, 2, 4)"),
}
OF_AGENTS = {
    "consensus_distance": measure.consensus_distance,
    "weighted_deviations": FUNCTIONS["weighted_deviations"],
    "interference": FUNCTIONS["interference"],
    "interference_norm": FUNCTIONS["interference_norm"],
    "tsvd_of_mix": FUNCTIONS["tsvd_of_mix"],
    **{name: lambda f, m=method: m.mix(f, PI) for name, method in METHODS.items()},
}
OF_PRODUCTS = ("product_norm", "product_distance", "sigma_max", "imbalance", "check_factors")


@pytest.mark.parametrize("unlike", MISMATCHED)
@pytest.mark.parametrize("name", [*OF_AGENTS, *OF_PRODUCTS])
def test_factors_that_do_not_fit_are_refused_by_measures_and_methods(name, unlike):
    if name in OF_PRODUCTS and "agent" in unlike:  # one product needs none
        return
    factors, message = MISMATCHED[unlike]
    with pytest.raises(ValueError, match=re.escape(message)):
        {**FUNCTIONS, **OF_AGENTS}[name](factors)


OF_FACTORS = {
    **{name: f for name, f in FUNCTIONS.items() if hasattr(lowrank, name)},
    "consensus_distance of one factor": lambda f: measure.consensus_distance(f.B),
    "deviations": lambda f: measure.deviations(f.B),
}


@pytest.mark.parametrize("dtype", [np.longdouble, int, complex, object])
@pytest.mark.parametrize("name", OF_FACTORS)
def test_numbers_that_are_not_floats_of_64_bits_at_most_are_refused_by_every_function(name, dtype):
    with pytest.raises(ValueError, match="must be a real floating-point array of at most 64 bits"):
        OF_FACTORS[name](GOOD.map(lambda X: X.astype(dtype)))


@pytest.mark.parametrize("kind", [np.array, torch.tensor, csr_array, np.ndarray.tolist])
@pytest.mark.parametrize(
    "name", ["interference", "interference_norm", "dlora", "dlora_fa", "decaf"]
)
def test_rows_that_do_not_sum_to_one_are_refused_by_what_needs_them(name, kind):
    call = getattr(measure, name, None) or METHODS[name].mix
    with pytest.raises(ValueError, match=r"^rows of Pi must sum to one, got 0\.9 in row 0;"):
        call(GOOD, kind(0.9 * PI))
    tsvd_of_mix(GOOD, kind(0.9 * PI), 2)  # documented to take them
    with pytest.raises(ValueError, match=r"^rows of Pi must sum to one, got 1 in row 0;"):
        call(GOOD, kind((1 + 1e-7) * PI))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_that_sum_to_one_to_their_own_rounding_pass(dtype):
    thirds = np.full((3, 3), 1 / 3).astype(dtype)
    assert np.any(thirds.astype(float).sum(axis=1) != 1)
    measure.interference(TENSORS, torch.tensor(PI).bfloat16())
    for Pi in (thirds, torch.tensor(thirds)):
        measure.interference(GOOD, Pi)
        METHODS["dlora"].mix(GOOD, Pi)
        measure.weighted_deviations(GOOD, Pi[0])
    with pytest.raises(ValueError, match="rows of Pi must sum to one"):
        measure.interference(GOOD, (0.9 * thirds).astype(dtype))


def test_weights_of_deviations_must_sum_to_one():
    with pytest.raises(ValueError, match=r"^rows of Pi must sum to one, got 0\.9 in row 0;"):
        measure.weighted_deviations(GOOD, 0.9 * PI[0])
    with pytest.raises(ValueError, match=r"^rows of Pi must sum to one, got 0\.5 in row 1;"):
        measure.weighted_deviations(GOOD, PI * np.array([[1.0], [0.5], [1.0]]))


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
    "longdouble": PI.astype(np.longdouble),
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


@pytest.mark.parametrize(
    "door", [lambda Pi: lowrank.mix_factors(GOOD, Pi), check_mixing_matrix, sqrt_rho]
)
def test_rows_of_unequal_length_are_no_pi(door):
    with pytest.raises(ValueError, match="Pi must be a matrix, got rows of unequal length"):
        door([[1.0, 0.0, 0.0], [0.5, 0.5], [1.0]])


@pytest.mark.parametrize(
    "name", [n for n in FUNCTIONS if n not in ("simulate", "factor_gradients")]
)
def test_a_bare_pair_is_refused_by_every_function(name):
    message = PAIR if name != "consensus_distance" else "factors are lowrank.Factors(B, A)"
    with pytest.raises(ValueError, match=re.escape(message)):
        FUNCTIONS[name]((B, A))


def test_a_start_that_is_a_bare_pair_is_refused():
    with pytest.raises(ValueError, match=r"start must be lowrank\.Factors\(B, A\), got tuple"):
        Config(problem=P2, Pi=PI, start=(B, A), lr=0.1, steps=1)
