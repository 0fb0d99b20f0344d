"""What each function that takes Pi does with one that is not symmetric: an error, or the result.

Three kinds: directed but doubly stochastic; reversible for weights, whose columns do not sum to
one; rows alone that sum to one, for which push-sum would be needed.
"""

import inspect
import re
from types import FunctionType

import numpy as np
import pytest

from decaf_theory import adapters, lowrank, measure, methods, moments, small_steps, topology, tsvd
from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS
from decaf_theory.methods.cost import round_bytes
from decaf_theory.methods.listing import listing, rows
from decaf_theory.problems import approximation
from decaf_theory.simulate import Config, simulate
from decaf_theory.topology import SCHEDULES, TOPOLOGIES
from verification.adapter_report import report_on
from verification.claims.rates import reversible, time_varying
from verification.instances.consensus import amplified
from verification.instances.laws import Law
from verification.instances.quadratics import network

EPS = 2.0**-52
N, D, K, R = 3, 4, 5, 2
TARGET = [5.0, 2.0, 1.0]
KINDS = {
    "directed": (np.eye(N) + np.roll(np.eye(N), 1, axis=1)) / 2,
    "weighted": topology.reversible(TOPOLOGIES["path"](N), TARGET),
    "rows": np.array([[0.5, 0.4, 0.1], [0.1, 0.5, 0.4], [0.3, 0.2, 0.5]]),
}
rng = np.random.default_rng(0)
PAIRS = Factors(rng.standard_normal((N, D, R)), rng.standard_normal((N, R, K)))
PRODUCTS = PAIRS.B @ PAIRS.A
POINTS = rng.standard_normal((N, D, K))
QUADRATICS = moments.quadratics(np.ones((N, 1, 1)), b=rng.standard_normal((N, 1)))
AGENTS = adapters.Agents(tuple("abc"), {"site": PAIRS}, {"site": (1.0,) * N}, {}, ("",) * N, {})
PROBLEM = approximation(POINTS)


# ---------------------------------------------------------------- oracles, dense and plain


def means(Pi, X):
    return np.stack([sum(Pi[i, j] * X[j] for j in range(N)) for i in range(N)])


def lost(Pi):
    return means(Pi, PRODUCTS) - means(Pi, PAIRS.B) @ means(Pi, PAIRS.A)


def truncated(Pi):
    U, S, Vh = np.linalg.svd(means(Pi, PRODUCTS), full_matrices=False)
    return (U[..., :R] * S[:, None, :R]) @ Vh[:, :R]


def tails(Pi):
    return np.linalg.svd(means(Pi, PRODUCTS), compute_uv=False)[:, R:]


def settled(Pi):
    """Where x <- Pi (x - g) ends for constant g of mean zero, from equal agents: -kernel g."""
    g = np.eye(N) - 1 / N
    x = np.zeros((N, N))
    for _ in range(200):
        x = Pi @ (x - g)
    return -x


def run(Pi, method="dsgd", **more):
    config = Config(problem=PROBLEM, method=method, Pi=Pi, rank=R, lr=0.25, steps=3, **more)
    return simulate(config).final.B[0]


def by_hand(Pi):
    W = np.zeros((N, D, K))
    for _ in range(3):
        W = means(Pi, W - 0.25 * (W - POINTS))
    return W


def path(Pi, lr=0.25):
    x, found = np.zeros((N, 1)), []
    for _ in range(4):
        found.append(float(((x - x.mean()) ** 2).sum()) / N)
        x = Pi @ (x - lr * (x - QUADRATICS.b))
    return found


def trajectory(Pi):
    return moments.trajectory(QUADRATICS, Pi, 0.25, start=np.zeros((N, 1)), steps=4).consensus


# ---------------------------------------------------------------- the table


COLUMNS = r"^columns of Pi must sum to one, got .*; mixing would move the mean of the agents; a rev"
NOT_FOR_TARGET = r"^Pi must be reversible for target: .* others would need push-sum$"


def symmetric(wanted):
    return {
        "directed": rf"^Pi must be symmetric for {wanted}, got",
        **dict.fromkeys(("weighted", "rows"), COLUMNS),
    }


DOUBLY = dict.fromkeys(("weighted", "rows"), COLUMNS)
FOR_TARGET = dict.fromkeys(("directed", "rows"), NOT_FOR_TARGET)
ANY = {}


def none(Pi):
    return 0.0


# name: (call, what is right, {kind: error}); kinds without an error must be right
TABLE = {
    "topology.check_mixing_matrix": (
        lambda Pi: topology.check_mixing_matrix(Pi) or 0,
        none,
        DOUBLY,
    ),
    "topology.mixing_eigenvalues": (
        topology.mixing_eigenvalues,
        none,
        symmetric("mixing_eigenvalues"),
    ),
    "topology.sqrt_rho": (topology.sqrt_rho, none, symmetric("sqrt_rho")),
    "topology.spectral_gap": (topology.spectral_gap, none, symmetric("sqrt_rho")),
    "topology.require_mixing": (topology.require_mixing, none, symmetric("sqrt_rho")),
    "topology.reversible": (
        lambda Pi: topology.reversible(Pi, TARGET),
        none,
        symmetric("reversible"),
    ),
    "topology.check_reversible": (
        lambda Pi: topology.check_reversible(Pi, TARGET) or 0,
        none,
        FOR_TARGET,
    ),
    "topology.reversible_eigenvalues": (
        lambda Pi: topology.reversible_eigenvalues(Pi, TARGET),
        lambda Pi: np.sort(np.linalg.eigvals(Pi).real)[-2::-1],
        FOR_TARGET,
    ),
    **{
        f"topology.SCHEDULES[{name}]": (
            lambda Pi, name=name: SCHEDULES[name](N, Pi=Pi),
            none,
            symmetric(name),
        )
        for name in ("pairwise_gossip", "dropped_links", "stragglers")
    },
    "lowrank.mean_over_agents": (
        lambda Pi: lowrank.mean_over_agents(PRODUCTS, Pi),
        lambda Pi: means(Pi, PRODUCTS),
        ANY,
    ),
    "lowrank.mix_factors": (
        lambda Pi: lowrank.mix_factors(PAIRS, Pi).A,
        lambda Pi: means(Pi, PAIRS.A),
        ANY,
    ),
    "lowrank.mix_products": (
        lambda Pi: lowrank.mix_products(PAIRS, Pi),
        lambda Pi: means(Pi, PRODUCTS),
        ANY,
    ),
    "measure.interference": (lambda Pi: measure.interference(PAIRS, Pi), lost, ANY),
    "measure.interference_norm": (
        lambda Pi: measure.interference_norm(PAIRS, Pi),
        lambda Pi: np.linalg.norm(lost(Pi), axis=(1, 2)),
        ANY,
    ),
    "tsvd.tsvd_of_mix": (
        lambda Pi: lowrank.product(tsvd.tsvd_of_mix(PAIRS, Pi, R).factors),
        truncated,
        ANY,
    ),
    "methods.Method.mix": (
        lambda Pi: lowrank.product(METHODS["decaf"].mix(PAIRS, Pi)),
        truncated,
        ANY,
    ),
    "methods.Method.weights": (
        lambda Pi: METHODS["decaf"].weights(Pi, N, methods.Clock()),
        np.copy,
        ANY,
    ),
    "methods.Method.on": (METHODS["tad_lora"].on, none, symmetric("sqrt_rho")),
    "methods.listing.round_bytes": (
        lambda Pi: round_bytes(METHODS["dlora"], Pi, d=D, k=K, r=R)[0],
        lambda Pi: np.count_nonzero(Pi - np.diag(np.diag(Pi))) * 4 * R * (D + K),
        ANY,
    ),
    "methods.listing.listing": (
        lambda Pi: float("dlora" in listing(rows({"dlora": METHODS["dlora"]}, Pi, d=D, k=K, r=R))),
        lambda Pi: 1.0,
        ANY,
    ),
    "moments.mixing": (
        lambda Pi: moments.mixing(Pi, QUADRATICS).A,
        np.copy,
        ANY,
    ),
    "moments.decentralized_sgd": (
        lambda Pi: moments.decentralized_sgd(QUADRATICS, Pi, 0.25).A,
        lambda Pi: 0.75 * Pi,
        ANY,
    ),
    "moments.trajectory": (trajectory, path, ANY),
    "small_steps.interference_kernel": (
        small_steps.interference_kernel,
        none,
        symmetric("interference_kernel"),
    ),
    "small_steps.drift_kernel": (small_steps.drift_kernel, settled, DOUBLY),
    "small_steps.added_by_mixing": (
        lambda Pi: small_steps.added_by_mixing(Pi, POINTS, POINTS[0]),
        none,
        symmetric("interference_kernel"),
    ),
    "small_steps.gauge_drift": (
        lambda Pi: small_steps.gauge_drift(Pi[None], POINTS, PAIRS.B[:1], PAIRS.A[:1], 1.0),
        none,
        symmetric("gauge_drift"),
    ),
    "small_steps.slow_flow": (
        lambda Pi: small_steps.slow_flow(
            Pi, POINTS, np.ones(D), np.ones(K), size=1.0, s=1.0, tau=1.0
        ),
        none,
        symmetric("slow_flow"),
    ),
    "simulate.Config": (run, by_hand, DOUBLY),
    "simulate.Config, a schedule": (
        lambda Pi: run(lambda t: Pi),
        by_hand,
        {kind: f"{COLUMNS}.* in round 0$" for kind in DOUBLY},
    ),
    "simulate.Config, target": (lambda Pi: run(Pi, target=TARGET), by_hand, FOR_TARGET),
    "adapters.diagnose": (
        lambda Pi: adapters.diagnose(AGENTS, Pi)[0]["interference"],
        lambda Pi: np.linalg.norm(lost(Pi)) / np.sqrt(N),
        ANY,
    ),
    "adapters.truncate_mix": (
        lambda Pi: adapters.truncate_mix(adapters.compress(PAIRS), (D, K), Pi, R).tail[:, :1],
        lambda Pi: tails(Pi)[:, :1],
        ANY,
    ),
    "adapters.site_numbers": (
        lambda Pi: adapters.site_numbers("a", (D, K), adapters.compress(PAIRS), Pi, R)[
            "truncation"
        ],
        lambda Pi: np.linalg.norm(tails(Pi)) / np.sqrt(N),
        ANY,
    ),
    "verification.report_on": (
        lambda Pi: report_on(AGENTS, Pi, "mine").total["mix"],
        lambda Pi: np.linalg.norm(means(Pi, PRODUCTS)) / np.sqrt(N),
        ANY,
    ),
    "verification.network": (lambda Pi: network(Pi, "MS"), none, symmetric("sqrt_rho")),
    "verification.amplified": (
        lambda Pi: amplified(Pi, lambda **letters: (0.0, 0.0)),
        none,
        symmetric("sqrt_rho"),
    ),
    "verification.T37": (lambda Pi: time_varying.network_of([Pi]), none, symmetric("sqrt_rho")),
    "verification.T37-random": (
        lambda Pi: Law(Pi[None], np.ones(1)).rho,
        lambda Pi: np.linalg.norm(Pi - 1 / N, 2) ** 2,
        DOUBLY,
    ),
    "verification.T37-reversible": (
        lambda Pi: reversible.weighing(Pi, TARGET).lam,
        lambda Pi: np.sort(np.abs(np.linalg.eigvals(Pi)))[-2],
        FOR_TARGET,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TABLE)
def test_a_matrix_that_is_not_symmetric_is_refused_or_the_result_is_right(name, kind):
    call, right, errors = TABLE[name]
    Pi = KINDS[kind]
    if kind in errors:
        with pytest.raises(ValueError, match=errors[kind]):
            call(Pi.copy())
        return
    found, expected = np.asarray(call(Pi.copy())), np.asarray(right(Pi))
    assert found.shape == expected.shape
    # sums of up to ten terms, a few hundred times, and decompositions of matrices of 15 entries
    assert np.abs(found - expected).max() <= 1e3 * EPS * max(1.0, np.abs(expected).max())


GRAPHS = {"topology.metropolis", "topology.laplacian_weights"}  # of networkx, undirected
GRAPHS |= {"methods.Method.messages"}  # counts links, whatever their weights


def test_every_public_function_that_takes_a_mixing_matrix_is_in_the_table():
    found = set()
    for package in (topology, lowrank, measure, tsvd, methods, moments, small_steps, adapters):
        names = getattr(package, "__all__", vars(package))
        for name in names:
            thing = getattr(package, name)
            inside = vars(thing).items() if inspect.isclass(thing) else [("", thing)]
            for inner, f in inside:
                takes = isinstance(f, FunctionType) and {"Pi", "graph"} & set(
                    inspect.signature(f).parameters
                )
                ours = takes and f.__module__.startswith(package.__name__)
                if ours and not f.__name__.startswith("_"):
                    place = package.__name__.removeprefix("decaf_theory.")
                    found.add(".".join(filter(None, (place, name, inner))))
    for name, schedule in SCHEDULES.items():
        if "Pi" in inspect.signature(schedule).parameters:
            found.add(f"topology.SCHEDULES[{name}]")
    for name, method in METHODS.items():
        assert method.tuned is None or name == "tad_lora"
    assert found - GRAPHS <= {re.sub(", .*", "", name) for name in TABLE}
    assert {
        name for name in TABLE if name.split(".")[0] in ("topology", "measure", "lowrank")
    } <= found
