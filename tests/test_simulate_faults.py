"""What a simulation refuses, and how a run ends that goes wrong."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import eye_array

from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import METHODS
from decaf_theory.problems import PROBLEMS, approximation
from decaf_theory.simulate import (
    DIVERGED,
    Config,
    DisconnectedWarning,
    SimulationError,
    simulate,
)
from decaf_theory.simulate.divergence import Divergence, advice
from decaf_theory.simulate.rounds import visits
from decaf_theory.topology import SCHEDULES, TOPOLOGIES

EPS = np.finfo(np.float64).eps
PI = TOPOLOGIES["path"](4)


def gaussian(seed=0, *, d=5, k=3, r=2, shared=False):
    rng = np.random.default_rng(seed)
    B, A = rng.standard_normal((4, d, r)), rng.standard_normal((4, r, k))
    return Factors(B, np.stack([A[0]] * 4) if shared else A)


# ---------------------------------------------------------------- failures


def broken(what, *, agent, after, bad=np.nan):
    """Return P3 whose loss or gradient is bad at one agent from its call number `after` on."""
    problem = PROBLEMS["P3"](d=5, k=3)
    calls = []

    def poisoned(W):
        value = getattr(problem, what)(W).copy()
        if W.shape[-3] != problem.N:  # calls at the network's mean are left alone
            return value
        calls.append(1)
        if len(calls) > after:
            value[1, agent] = bad
        return value

    return replace(problem, **{what: poisoned})


@pytest.mark.parametrize("what", ["loss", "grad"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["dlora", "decaf"])
def test_a_bad_number_ends_the_run_naming_run_agent_and_step(what, bad, method):
    problem = broken(what, agent=2, after=4, bad=bad)
    config = Config(problem=problem, method=method, Pi=PI, rank=2, lr=0.1, steps=9, runs=3)
    named = {"loss": "loss", "grad": "gradient"}[what]
    message = f"{named} of agent 2 in run 1 not finite at step 4"
    with pytest.raises(SimulationError, match=message) as caught:
        simulate(config)
    error = caught.value
    assert (error.run, error.agent, error.step) == (1, 2, 4)
    np.testing.assert_array_equal(error.trace.step, np.arange(4))
    assert error.trace.status == "nonfinite"
    assert message in error.trace.note
    healthy = simulate(replace(config, problem=PROBLEMS["P3"](d=5, k=3), steps=3))
    np.testing.assert_array_equal(error.trace.loss, healthy.loss)
    for X, Y in zip(error.trace.final, healthy.final, strict=True):
        np.testing.assert_array_equal(X, Y)
    with pytest.raises(ValueError, match="the run ended nonfinite and is no data: "):
        error.trace.require_finished()


def test_a_bad_number_at_the_start_carries_no_trace():
    config = Config(
        problem=broken("grad", agent=0, after=0), Pi=PI, rank=2, lr=0.1, steps=2, runs=2
    )
    with pytest.raises(SimulationError, match=r"gradient of agent 0 in run 1 .* step 0") as caught:
        simulate(config)
    assert caught.value.trace is None


def test_a_bad_number_in_a_later_local_step_is_found_there():
    problem = broken("grad", agent=3, after=4)
    config = Config(
        problem=problem, Pi=PI, rank=2, lr=0.1, steps=9, runs=2, local_steps=3, method="dlora"
    )
    with pytest.raises(SimulationError, match=r"gradient of agent 3 in run 1 .* step 1"):
        simulate(config)


def test_bad_noise_is_found_in_the_factors():
    problem = replace(PROBLEMS["P3"](d=5, k=3), noise=lambda rng, shape: np.full(shape, np.inf))
    for order in ("step_first", "combine"):
        config = Config(
            problem=problem, method="dlora", Pi=PI, start=gaussian(), lr=0.1, steps=2, order=order
        )
        with pytest.raises(SimulationError, match="B of agent 0 in run 0 not finite at step 0"):
            simulate(config)


def test_losses_are_not_computed_as_long_as_the_factors_leave_them_no_room():
    """Up to x, the root mean square of |W_i - W0|, g x + L x^2/2 is half of what diverges."""
    problem = PROBLEMS["P2"](d=5, k=3, rank=2)
    config = Config(problem=problem, method="dlora", Pi=PI, rank=2, lr=0.1, steps=1, s=0.5)
    divergence = Divergence(config, next(visits(config)))
    slopes, losses = problem.grad(problem.W0[None]), problem.loss(problem.W0[None])
    g = np.sqrt(np.mean(np.sum(slopes**2, axis=(-2, -1))))
    x = 0.5 * np.sqrt(divergence.room / problem.N)
    more = g * x + problem.constants.L * x**2 / 2
    # the scale of the losses is the one at W0, where LoRA starts; some ten operations
    np.testing.assert_allclose(more, (DIVERGED / 2 - 1) * losses.mean(), rtol=32 * EPS)


def test_a_step_of_exactly_one_over_L_needs_no_advice():
    config = Config(problem=PROBLEMS["P2"](d=5, k=3), method="dsgd", Pi=PI, lr=1.0, steps=1)
    assert config.problem.constants.L == 1
    assert advice(config) == ""
    assert advice(replace(config, lr=1.0 + EPS)).startswith("; lr = 1 is above 1/L* = 1, L* = L;")


@pytest.mark.parametrize("method", ["dlora", "decaf", "dsgd"])
def test_divergence_keeps_the_run_up_to_it_and_never_passes_as_data(method):
    config = Config(
        problem=PROBLEMS["P3"](d=5, k=3), method=method, Pi=PI, start=gaussian(), lr=3.0, steps=500
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace = simulate(config)
    assert trace.status == "diverged"
    assert 0 < len(trace.step) < 100
    assert all(np.isfinite(getattr(trace, name)).all() for name in ("loss", "gradient"))
    assert trace.agent_loss.max() <= DIVERGED * max(trace.agent_loss[0, 0], 10)
    assert f"run 0 diverged at step {trace.step[-1] + 1}" in trace.note
    assert "; lr = 3 is above 1/L* = " in trace.note
    assert trace.note.endswith("; try a smaller lr (bounds.safe_step)")
    with pytest.raises(ValueError, match="the run ended diverged and is no data: run 0"):
        trace.require_finished()


def test_a_step_too_large_is_named_with_the_one_that_the_start_allows():
    # L = 1 and G = s c^2 + |W*|: L* = s (3 s c^2 + |W*|) = 5
    start = Factors(np.full((1, 1, 1), 2.0), np.full((1, 1, 1), 0.5))
    problem = PROBLEMS["P7"](w=-4.0)
    config = Config(problem=problem, Pi=np.eye(1), start=start, s=0.5, lr=8.0, steps=99)
    reason = "above 1/L* = 0.2, L* = s (2 s L c^2 + G), with c = 2 of the start; try a smaller lr"
    assert f"; lr = 8 is {reason}" in simulate(config).note
    with pytest.raises(SimulationError, match=re.escape(f"at step 0; lr = 1e+200 is {reason}")):
        simulate(replace(config, lr=1e200))
    # for full matrices L* is L itself
    whole = replace(config, method="dsgd", start=None, lr=2.5)
    assert "lr = 2.5 is above 1/L* = 1, L* = L; try a smaller lr" in simulate(whole).note


def test_a_step_within_is_not_blamed_for_a_bad_number():
    problem = broken("grad", agent=0, after=0)
    config = Config(problem=problem, Pi=PI, rank=2, lr=0.01, steps=2, runs=2)
    with pytest.raises(SimulationError, match=r"not finite at step 0$"):
        simulate(config)


def test_one_diverging_run_ends_the_batch_and_is_named():
    start = gaussian()
    wild = start.map(lambda X: np.stack([X, 30 * X]))
    config = Config(
        problem=PROBLEMS["P3"](d=5, k=3),
        method="dlora",
        Pi=PI,
        start=wild,
        lr=0.02,
        steps=99,
        runs=2,
    )
    trace = simulate(config)
    assert trace.status == "diverged"
    assert "run 1 diverged" in trace.note
    calm = simulate(replace(config, start=start, runs=1))
    assert calm.require_finished() is calm


@pytest.mark.parametrize("order", ["step_first", "combine"])
def test_a_run_from_the_optimum_may_leave_it_without_having_diverged(order):
    # start loss 0: noise, heterogeneity or a bad mix set the scale, not the zero
    flip = PROBLEMS["P1"]()
    products = product(flip.start)
    at_optimum = approximation(products, Pi=flip.Pi, start=flip.start)
    for problem in (
        at_optimum,
        PROBLEMS["P6"](),
        replace(at_optimum, noise=PROBLEMS["P2"](tau=1.0).noise),
    ):
        config = Config(problem=problem, method="dlora", lr=0.1, steps=50, order=order)
        trace = simulate(config)
        assert trace.agent_loss[0, 0] <= EPS
        assert trace.agent_loss[0, -1] > 0.01
        assert trace.status == "finished"


def test_a_start_at_the_optimum_up_to_rounding_is_no_divergence_either():
    flip = PROBLEMS["P1"]()
    nearly = Factors((1 + 4 * EPS) * flip.start.B, flip.start.A)
    # the loss of W0 sets the scale; where W0 is the optimum itself, the noise does
    at_optimum = approximation(product(flip.start), Pi=flip.Pi)
    around_zero = approximation(np.zeros((2, 4, 3)), tau=1.0, Pi=flip.Pi)
    tiny = Factors(1e-9 * flip.start.B, flip.start.A)
    for problem, start in ((at_optimum, nearly), (around_zero, tiny)):
        trace = simulate(Config(problem=problem, method="dlora", start=start, lr=0.1, steps=50))
        assert 0 < trace.agent_loss[0, 0] < 1e-15
        assert trace.agent_loss.max() > 1e6 * trace.agent_loss[0, 0]
        assert trace.status == "finished"


def test_zero_data_stay_zero():
    problem = approximation(np.zeros((4, 5, 3)))
    for method in METHODS:
        config = Config(problem=problem, method=method, Pi=PI, rank=2, lr=0.5, steps=5)
        trace = simulate(config).require_finished()
        np.testing.assert_array_equal(trace.loss, 0.0)
        np.testing.assert_array_equal(trace.interference, 0.0)
    # a start with zero loss whose mix has a loss: the first loss that is not zero is the scale
    B, A = np.zeros((2, 3, 1)), np.zeros((2, 1, 2))
    B[0], A[1] = 1.0, 1.0
    config = Config(
        problem=approximation(np.zeros((2, 3, 2))),
        method="dlora",
        Pi=np.full((2, 2), 0.5),
        start=Factors(B, A),
        lr=0.1,
        steps=9,
    )
    trace = simulate(config).require_finished()
    assert trace.loss[0, 0] == 0
    assert trace.loss[0, 1] > 0.1


# ---------------------------------------------------------------- graphs at the edge


def test_a_disconnected_graph_runs():
    Pi = np.kron(np.eye(2), np.full((2, 2), 0.5))
    config = Config(problem=PROBLEMS["P3"](d=5, k=3), Pi=Pi, rank=2, lr=0.2, steps=50)
    with pytest.warns(DisconnectedWarning, match="falls into 2 components, which cannot") as heard:
        trace = simulate(config)
    assert len(heard) == 1
    assert heard[0].filename == __file__
    assert trace.require_finished().consensus_products[0, -1] > 0.01


def test_who_wants_components_filters_the_warning_by_its_class():
    Pi = eye_array(4, format="csr")
    config = Config(problem=PROBLEMS["P3"](d=5, k=3), Pi=Pi, rank=2, lr=0.2, steps=2)
    with pytest.warns(DisconnectedWarning, match="falls into 4 components"):
        simulate(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DisconnectedWarning)
        simulate(config)


@pytest.mark.parametrize("changes", [{"method": "local"}, {"method": "fedavg"}, {"Pi": None}])
def test_no_warning_where_no_fixed_graph_is_met(changes):
    graph = {"Pi": np.eye(4), **changes}
    if graph["Pi"] is None:  # a matching a round is disconnected, and rounds together are not
        graph["Pi"] = SCHEDULES["one_peer_hypercube"](4)
    simulate(Config(problem=PROBLEMS["P3"](d=5, k=3), rank=2, lr=0.2, steps=2, **graph))


def test_one_agent_and_two_on_a_ring_run():
    for N in (1, 2):
        problem = PROBLEMS["P2"](N=N, d=5, k=3)
        trace = simulate(
            Config(problem=problem, Pi=TOPOLOGIES["ring"](N), rank=2, lr=0.5, steps=60)
        )
        assert trace.require_finished().loss[0, -1] < trace.loss[0, 0] / 10


# ---------------------------------------------------------------- bad configurations

P3 = PROBLEMS["P3"](d=5, k=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": "declora"},
            "method must be one of dsgd, .*, got 'declora'; the nearest",
        ),
        ({"order": "gossip"}, "order must be one of .*, got 'gossip'"),
        ({"order": "MS"}, "got 'MS'; the bounds' 'MS' is 'step_first' or 'mix_first' here"),
        ({"order": "CB"}, "got 'CB'; the bounds' 'CB' is 'combine' here"),
        ({"zero_directions": "pad"}, "zero_directions must be one of .*, got 'pad'"),
        (
            {"order": "combine"},
            "'combine' is not defined for decaf.* another gauge .* 'step_first'",
        ),
        (
            {"order": "combine", "method": "dlora", "local_steps": 2},
            "'combine' takes one gradient per mix, got local_steps = 2",
        ),
        ({"lr": -0.1}, "lr must be finite and >= 0, got -0.1"),
        ({"lr": float("nan")}, "lr must be finite and >= 0, got nan"),
        ({"s": 0.0}, "s must be finite and > 0, got 0.0"),
        (
            {"noise": np.zeros((9, 2, 4, 5, 3))},
            r"noise must be True, False or draws .* = \(3, 1, 4, 5, 3\), got shape \(9, 2,",
        ),
        ({"steps": -1}, "steps must be an integer >= 0, got -1"),
        ({"steps": 1.5}, "steps must be an integer >= 0, got 1.5"),
        *(
            ({name: True}, f"{name} must be an integer.*, got True")
            for name in ("steps", "local_steps", "runs", "record_every", "seed", "rank")
        ),
        ({"runs": 0}, "runs must be an integer >= 1, got 0"),
        ({"local_steps": 0}, "local_steps must be an integer >= 1, got 0"),
        ({"record_every": 0}, "record_every must be an integer >= 1, got 0"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"rank": None}, "rank must be given"),
        ({"rank": 4}, r"rank must be in 1 ... min\(d, k\) = 3 for 5 x 3 matrices, got 4"),
        ({"rank": 0}, "rank must be in 1 ...*got 0"),
        ({"Pi": None}, "Pi must be given: problem P3 prescribes none"),
        ({"Pi": np.eye(3)}, r"Pi must be 4 x 4 for 4 agents, got shape \(3, 3\)"),
        ({"Pi": np.tri(4) / 4}, "rows of Pi must sum to one, got 0.25 in row 0"),
        (
            {"Pi": np.eye(4)[[1, 1, 2, 3]]},
            "columns of Pi must sum to one, got 0 in column 0; mixing would move the mean",
        ),
        ({"Pi": 0.9 * PI}, "rows of Pi must sum to one"),
        ({"start": gaussian(), "rank": 1}, "rank must be that of the start, 2, got 1"),
        ({"start": gaussian(d=3, k=5)}, r"start must be B \[4, 5, r\] and A \[4, r, 3\]"),
        (
            {"start": gaussian().map(lambda X: X[:3])},
            r"start must be .* got B \(3, 5, 2\) and A \(3, 2, 3\)",
        ),
        (
            {"start": gaussian().map(lambda X: np.stack([X] * 2)), "runs": 3},
            "with or without a leading axis of 3 runs",
        ),
        ({"start": gaussian().map(lambda X: X * np.nan)}, "start must be finite"),
        ({"start": gaussian().map(lambda X: X.astype(int))}, "start.B must be a real"),
        (
            {"start": gaussian(), "method": "dlora_fa"},
            "start.A must be equal at all agents: dlora_fa starts without mixing it",
        ),
        (
            {"start": gaussian(shared=True), "method": "centralized"},
            "start must be equal at all agents: centralized is one run of all",
        ),
    ],
)
def test_a_bad_configuration_is_refused_by_name(changes, message):
    defaults = {"problem": P3, "Pi": PI, "rank": 2, "lr": 0.1, "steps": 3}
    with pytest.raises(ValueError, match=message):
        Config(**{**defaults, **changes})


def test_what_a_method_does_not_use_need_not_be_given():
    for name in ("local", "centralized", "fedavg"):
        simulate(Config(problem=P3, method=name, rank=2, lr=0.1, steps=1)).require_finished()
    simulate(Config(problem=P3, method="dsgd", Pi=PI, lr=0.1, steps=1)).require_finished()
    simulate(Config(problem=PROBLEMS["P1"](), lr=0.1, steps=1)).require_finished()


def test_a_method_object_serves_as_well_as_its_name():
    named = simulate(Config(problem=P3, method="dlora", Pi=PI, rank=2, lr=0.1, steps=3))
    given = simulate(Config(problem=P3, method=METHODS["dlora"], Pi=PI, rank=2, lr=0.1, steps=3))
    np.testing.assert_array_equal(named.loss, given.loss)


def test_a_bad_torch_number_is_named_too():
    start = gaussian().map(torch.tensor)
    config = Config(problem=P3, method="dlora", Pi=PI, start=start, lr=1e200, steps=3)
    with pytest.raises(SimulationError, match=r"[AB] of agent . in run 0 not finite at step 0"):
        simulate(config)
