"""The flops of a round, compared with those that torch counts while a round runs: no tolerance."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from decaf_theory import lowrank, tsvd
from decaf_theory.bench.cases import mixing
from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS, Clock, error_feedback
from decaf_theory.methods.cost import round_flops
from decaf_theory.methods.form import LORA
from decaf_theory.methods.listing import listing, rows
from decaf_theory.problems import Constants, Problem
from decaf_theory.simulate import Config, simulate, visit
from decaf_theory.topology import TOPOLOGIES
from decaf_theory.tsvd import panel, tsvd_of_mix
from decaf_theory.tsvd.flops import mix_flops

ATEN = torch.ops.aten
D, K, R = 23, 17, 2


def factorization(flops):
    """Return a count of a batch of p x q matrices, p >= q."""

    def count(shape, *_, **__):
        p, q = max(shape[-2:]), min(shape[-2:])
        return prod(shape[:-2]) * flops(p, q)

    return count


def each_number(*_, out_shape, **__):
    """Count an operation on each number."""
    return prod(out_shape)


COUNTS = {
    ATEN.sub: each_number,
    ATEN.linalg_qr: factorization(lambda p, q: 4 * p * q**2 - 4 * q**3 / 3),
    ATEN._linalg_svd: factorization(lambda p, q: 14 * p * q**2 + 8 * q**3),
    ATEN._linalg_eigh: factorization(lambda p, q: 9 * q**3),
    ATEN.linalg_cholesky_ex: factorization(lambda p, q: q**3 / 3),
}
PRODUCTS = (ATEN.mm, ATEN.bmm)
FACTORIZATIONS = (ATEN.linalg_qr, ATEN._linalg_svd, ATEN._linalg_eigh, ATEN.linalg_cholesky_ex)


@pytest.fixture
def counted(monkeypatch):
    """Return a function that runs something and returns its flops by operation.

    What the formula leaves out goes to "left out": the second half of a Gram matrix, and products
    with a selection, which copy.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes seconds to load

    left_out = 0
    gram, spread = panel._gram, panel._spread

    def whole_gram(X, to, group):
        nonlocal left_out
        left_out += X.numel() * X.shape[-2]
        gram(X, to, group)

    def copied(X, chosen):
        nonlocal left_out
        left_out += 2 * X.numel() * chosen.shape[1]
        return spread(X, chosen)

    monkeypatch.setattr(tsvd, "on_host", lambda factors: factors)
    monkeypatch.setattr(panel, "_gram", whole_gram)
    monkeypatch.setattr(panel, "_spread", copied)

    def run(work):
        nonlocal left_out
        left_out = 0
        with FlopCounterMode(display=False, custom_mapping=COUNTS) as counter:
            work()
        return {**counter.get_flop_counts()["Global"], "left out": left_out}

    return run


def kernel_flops(seen):
    """Return the products and factorizations that were seen, without what is left out."""
    return sum(seen.get(name, 0) for name in (*PRODUCTS, *FACTORIZATIONS)) - seen["left out"]


# ---------------------------------------------------------------- rounds


@pytest.fixture
def rounds(counted, monkeypatch):
    """Return a function method, Pi -> the flops of its rounds 0, 2, ... and 1, 3, ..."""
    # the look at every number that finds infinities belongs to no method
    monkeypatch.setattr(visit, "squares", lambda X: np.zeros(1))

    def flops(method, Pi):
        N = Pi.shape[0]
        given = torch.Generator().manual_seed(0)
        G = torch.randn(N, D, K, generator=given)
        problem = Problem(
            *("constant slopes", N, D, K),
            loss=lambda W: torch.ones(W.shape[:-2]),
            grad=lambda W: G.expand(W.shape[:-3] + G.shape),
            constants=Constants(L=1.0),
        )
        draw = lambda *shape: torch.randn(*shape, generator=given)  # noqa: E731
        apart = Factors(draw(N, D, R), draw(N, R, K))
        same = apart.map(lambda X: X[:1].expand(X.shape))
        alike = method.fixed or method.pools == "server"
        letters = {"Pi": Pi, "start": same if alike else apart, "lr": 0.01, "record_every": 9}
        record = ("consensus_factors",)

        def after(steps):
            config = Config(problem=problem, method=method, steps=steps, record=record, **letters)
            seen = counted(lambda: simulate(config))
            # only steps x - lr g subtract, and each number that they subtract was multiplied
            return kernel_flops(seen) + 2 * seen.get(ATEN.sub, 0)

        one, two, three = map(after, (1, 2, 3))
        return three - two, two - one  # the first round has what a run begins with

    return flops


EXACT = ("local", "centralized", "dlora", "fedavg", "fedsa_lora", "dsgd")


@pytest.mark.slow
@pytest.mark.parametrize("method", EXACT)
def test_the_flops_of_a_round_are_those_that_torch_counts(method, rounds):
    Pi = TOPOLOGIES["complete"](5)
    assert round_flops(METHODS[method], Pi, d=D, k=K, r=R) == rounds(METHODS[method], Pi)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dlora_fa", "ffa_lora", "rolora", "adf_lora"])
def test_the_simulator_also_computes_the_gradient_that_a_frozen_factor_does_not_use(method, rounds):
    Pi = TOPOLOGIES["complete"](5)
    unused = 5 * 2 * D * K * R
    first, second = round_flops(METHODS[method], Pi, d=D, k=K, r=R)
    assert (first + unused, second + unused) == rounds(METHODS[method], Pi)


@pytest.mark.slow
def test_a_sparse_graph_costs_two_flops_for_each_weight_and_number(rounds, monkeypatch):
    seen = 0

    class Counting(csr_array):
        def __matmul__(self, dense):
            nonlocal seen
            seen += 2 * self.nnz * dense.shape[1]
            return super().__matmul__(dense)

    monkeypatch.setattr(lowrank.scipy.sparse, "csr_array", Counting)
    Pi = TOPOLOGIES["star"](5, sparse=True)
    dense, _ = rounds(METHODS["dlora"], Pi)
    per_round = 2 * (3 * 5 - 2) * (D + K) * R  # eight directed links, five own weights
    assert seen == (1 + 2 + 3) * per_round
    assert round_flops(METHODS["dlora"], Pi, d=D, k=K, r=R) == (dense + per_round,) * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "graph"),
    [
        (METHODS["decaf"], "ring"),
        (METHODS["decaf"], "complete"),
        (METHODS["flexlora"], "ring"),
        *((error_feedback(rank), "ring") for rank in (1, 2)),
    ],
    ids=lambda given: getattr(given, "name", given),
)
def test_a_round_of_truncations_costs_what_torch_counts(method, graph, rounds):
    Pi = TOPOLOGIES[graph](5)
    assert round_flops(method, Pi, d=D, k=K, r=R) == pytest.approx(
        rounds(method, Pi),
        rel=1e-12,  # of sums of thirds
    )


MEANS, PRODUCTS_OF_ALL = 2 * 5 * R * (D + K), 5 * 2 * D * K * R
APART = {
    "flora": -MEANS,  # it stacks the factors, and takes no means of them
    "fedex_lora": 2 * MEANS,  # deviations, for I, subtract twice; subtractions count as steps here
    "rac_lora": PRODUCTS_OF_ALL,  # the gradient of the frozen A
}


@pytest.mark.slow
@pytest.mark.parametrize("name", APART)
def test_a_merge_costs_a_product_for_each_pair_that_is_merged(name, rounds):
    Pi, method = TOPOLOGIES["complete"](5), METHODS[name]
    flops = round_flops(method, Pi, d=D, k=K, r=R)
    # where W is more than s B A the simulator looks at every loss, at points of its own
    looked = PRODUCTS_OF_ALL
    assert tuple(x + looked + APART[name] for x in flops) == rounds(method, Pi)


@pytest.mark.slow
def test_a_server_that_keeps_W_decomposes_all_of_it(counted):
    method, N = METHODS["fedhl"], 5
    row = method.weights(None, N, Clock())
    state = method.begin(Factors(torch.randn(N, D, R), torch.randn(N, R, K)))
    state = method.exchange(state, row, Clock(0)).state
    seen = counted(lambda: method.exchange(state, row, Clock(1)))
    steps = 2 * N * (3 * D * K * R + (D + K) * R)
    weighing = 2 * N * (1 + R)  # of clients and of their directions, which the formula leaves out
    expected = steps + kernel_flops(seen) - weighing
    assert round_flops(method, np.ones((N, N)), d=D, k=K, r=R) == (expected, expected)


# ---------------------------------------------------------------- the kernel


CASES = {
    "panels of each row": ("panel", "ring", 60, (40, 30, 2), torch.float32),
    "panels of one stack": ("panel", "ring", 6, (40, 30, 2), torch.float32),
    "rows that are equal": ("panel", "complete", 6, (40, 30, 2), torch.float32),
    "rows that differ, of all agents": ("panel", "unequal", 5, (40, 30, 2), torch.float32),
    "QR factors of each row": ("qr", "ring", 5, (1500, 20, 4), torch.float64),
    "QR factors of all agents": ("qr", "star", 3, (1500, 20, 4), torch.float64),
    "products": ("dense", "ring", 5, (9, 7, 3), torch.float32),
    "a hub, and leaves": ("dense and panel", "star", 40, (40, 30, 2), torch.float32),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_truncated_mix_costs_what_torch_counts(name, counted):
    path, graph, N, (d, k, r), dtype = CASES[name]
    drawn = torch.Generator().manual_seed(1)
    factors = Factors(
        torch.randn(N, d, r, generator=drawn, dtype=dtype),
        torch.randn(N, r, k, generator=drawn, dtype=dtype),
    )
    Pi = mixing(graph, N)
    info = tsvd_of_mix(factors, Pi, r).info
    assert (info.path, info.fell_back) == (path, ())
    seen = counted(lambda: tsvd_of_mix(factors, Pi, r))
    rel = 1e-12  # of sums of thirds
    assert mix_flops(factors, Pi, r) == pytest.approx(kernel_flops(seen), rel=rel)


# ---------------------------------------------------------------- what is known of a method


def test_a_form_of_its_own_is_not_counted():
    """Two pairs for one W: what its products cost, nobody has said."""
    own = replace(LORA, name="twice", update=lambda state, s: 2 * LORA.update(state, s))
    method = replace(METHODS["dlora"], name="mine", form=own)
    Pi = TOPOLOGIES["ring"](5)
    assert round_flops(method, Pi, d=D, k=K, r=R) is None
    line = listing(rows({"mine": method}, Pi, d=D, k=K, r=R)).splitlines()[1]
    assert "  not counted  " in line


def test_every_method_of_the_table_has_its_flops():
    Pi = TOPOLOGIES["ring"](6)
    found = {n: round_flops(m.on(Pi), Pi, d=64, k=48, r=2) for n, m in METHODS.items()}
    assert all(flops is None or min(flops) > 0 for flops in found.values())
    # nothing sent, one factor frozen, more numbers sent, residuals truncated with the mix
    order = ("dlora_fa", "local", "dlora", "gradient_tracking")
    assert sorted(order, key=lambda name: found[name]) == list(order)
    assert found["decaf_ef"] > found["decaf"] > found["dlora"]
    # of what CHOCO sends, the places of the quarter of entries are not multiplied
    sent = 3 * 6 * 2 * (64 * 2 // 4 + 2 * 48 // 4)
    assert found["choco"] == (found["local"][0] + sent,) * 2
