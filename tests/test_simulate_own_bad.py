"""What the simulator refuses of a loss, noise, a graph or a schedule of one's own."""

import re
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
import torch

from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS, Mixed
from decaf_theory.problems import PROBLEMS, Problem
from decaf_theory.simulate import Config, SimulationError, simulate
from decaf_theory.topology import SCHEDULES, TOPOLOGIES, metropolis, sqrt_rho

EPS = np.finfo(np.float64).eps
PI = TOPOLOGIES["path"](4)
P3 = PROBLEMS["P3"](d=5, k=3)
GRAD = "grad must return shape (2, 4, 5, 3) = [runs, N, d, k] "


def gaussian(*, N=4, d=5, k=3, r=2):
    rng = np.random.default_rng(0)
    return Factors(rng.standard_normal((N, d, r)) / 2, rng.standard_normal((N, r, k)) / 2)


def run_of(**changes):
    defaults = {"problem": P3, "Pi": PI, "start": gaussian(), "lr": 0.1, "steps": 10}
    return Config(**{**defaults, "method": "dlora", **changes})


# ---------------------------------------------------------------- arguments and schedules


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Pi": "ring"}, "Pi must be a matrix, got 'ring'; TOPOLOGIES['ring'](4) is one"),
        ({"problem": "P3"}, "problem must be a Problem, got 'P3'; PROBLEMS['P3'](N=8"),
        ({"method": 3}, "method must be a name in METHODS or a Method, got 3"),
        *(
            ({"lr": bad}, f"lr must be one number, one for each run, or a .*, got {bad!r}")
            for bad in ("a", "0.1", True, 1j)
        ),
        ({"lr": lambda t: "a"}, "got 'a' in round 0"),
        ({"lr": lambda t: -1.0}, "lr must be finite and >= 0, got -1.0 in round 0"),
        ({"Pi": np.eye(3) / 2}, "Pi must be 4 x 4 for 4 agents, got shape (3, 3)"),
        ({"Pi": lambda t: None}, "Pi must return a matrix, got None in round 0"),
    ],
)
def test_a_bad_argument_is_refused_with_what_to_give_instead(changes, message):
    with pytest.raises(ValueError, match=re.escape(message).replace(re.escape(".*"), ".*")):
        run_of(**changes)


def halved(own, sent, weights, clock):
    mixed = METHODS["dlora"].receive(own, sent, weights, clock)
    return mixed._replace(state=mixed.state.each(lambda X: X[..., :2, :, :]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # without a word this was a server's mean over all agents
        ({"meets": "ring"}, "meets must be one of graph, server, none, got 'ring'"),
        ({"pools": "all"}, "pools must be one of graph, server, none, got 'all'"),
        ({"answer": "two"}, "answer must be one of one, all, got 'two'"),
        ({"space": "factor"}, "space must be one of factors, products, got 'factor'"),
        ({"keeps": ("C",)}, "keeps must be one of B, A, product, product up to E, got 'C'"),
        ({"keeps": "B"}, """keeps must be a tuple, such as ("B", "A"), got 'B'"""),
        ({"receive": None}, "receive must be a function, got None"),
        ({"trains": "B"}, "trains must be a function, got 'B'"),
    ],
)
def test_a_method_of_ones_own_is_refused_at_a_word_that_there_is_not(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(METHODS["dlora"], **changes)


@pytest.mark.parametrize(
    ("receive", "got"),
    [
        (lambda *given: None, "must return Mixed(own._replace(factors=...)), got NoneType"),
        (lambda own, *others: own, "must return Mixed(own._replace(factors=...)), got State"),
        (lambda own, *others: Mixed(own.factors), "got Mixed of Factors"),
        (halved, "must return B of shape (1, 4, 5, 2), as the agents have it, got (1, 2, 5, 2)"),
    ],
)
def test_what_a_method_of_ones_own_receives_must_be_the_agents_state(receive, got):
    mine = replace(METHODS["dlora"], name="mine", receive=receive)
    with pytest.raises(ValueError, match=f"^receive of method mine .*{re.escape(got)}"):
        simulate(run_of(method=mine))
    with pytest.raises(ValueError, match="receive of method mine must return"):
        mine.mix(gaussian(), PI)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Pi": lambda t: PI if t < 3 else 0.9 * PI}, "rows of Pi must sum to one, .* in round 3"),
        (
            {"Pi": lambda t: PI if t < 3 else np.eye(3) / 2},
            "got shape .3, 3.; give each agent one row in round 3",
        ),
        ({"lr": lambda t: 0.1 if t < 3 else np.nan}, "lr must be finite .* got nan in round 3"),
        ({"lr": lambda t: 0.1 if t < 3 else [1, 2]}, "got shape .2,. in round 3"),
    ],
)
def test_a_schedule_that_goes_bad_names_the_round(changes, message):
    config = run_of(**changes)
    with pytest.raises(ValueError, match=f"{message}$"):
        simulate(config)


def test_a_watch_that_cannot_be_called_is_refused():
    with pytest.raises(ValueError, match="watch must be a function of a Visit, got 3"):
        simulate(run_of(), 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"N": 0}, "N must be an integer >= 1, got 0"),
        ({"loss": None}, "loss must be a function, got None"),
        ({"loss": 3}, "loss must be a function, got 3"),
        ({"grad": None}, "grad must be a function, got None"),
        ({"noise": 0.1}, "noise must be a function, got 0.1"),
        ({"noise_at": 0.1}, "noise_at must be a function, got 0.1"),
    ],
)
def test_a_bad_problem_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(P3, **changes)


@pytest.mark.parametrize(
    ("table", "name", "near"),
    [
        (PROBLEMS, "P99", "P9"),
        (TOPOLOGIES, "rng", "ring"),
        (SCHEDULES, "random", "random_matching"),
        (METHODS, "DeCAF", "decaf"),
        (TOPOLOGIES, 3, ""),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(table, name, near):
    with pytest.raises(KeyError, match=f"got {name!r}; the nearest name is {near}"):
        table[name]
    assert table.get(name) is None


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (
            np.ones((3, 3)),
            "got ndarray; networkx.from_numpy_array makes one of an adjacency matrix",
        ),
        ([[1], [0, 2], [1]], "got list; networkx.from_dict_of_lists makes one of the neighbours"),
        ({0: [1], 1: [0]}, "got dict; networkx.from_dict_of_lists makes one of the neighbours"),
        ("ring", "got str; networkx.Graph makes one of edges; TOPOLOGIES has matrices by name"),
    ],
)
def test_what_is_not_a_graph_is_answered_with_what_makes_one(given, hint):
    with pytest.raises(ValueError, match=re.escape(f"graph must be a networkx graph, {hint}")):
        metropolis(given)


LISTS = "networkx.from_dict_of_lists"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("ring", "got 'ring'; TOPOLOGIES['ring'](4) is one"),
        (TOPOLOGIES["ring"], "got what builds 'ring'; TOPOLOGIES['ring'](4) is one"),
        (nx.cycle_graph(4), "edges; topology.metropolis(graph) makes one"),
        ({0: [1], 1: [0, 2], 2: [1, 3], 3: [2]}, "got a dict; of neighbours by agent, topology."),
        (
            [[1], [0, 2], [1, 3], [2]],
            f"topology.metropolis({LISTS}(dict(enumerate(Pi)))) makes one",
        ),
        ([[1, 3], [0, 2], [1, 3], [2, 0]], f"{LISTS}(dict(enumerate(Pi)))) makes one"),
        (nx.to_numpy_array(nx.cycle_graph(4)), "or take topology.metropolis of the graph"),
        (np.ma.masked_array(PI, PI == 0), "Pi must be plain, got numpy.ma.MaskedArray"),
    ],
)
def test_what_is_not_a_mixing_matrix_is_answered_with_what_makes_one(given, hint):
    with pytest.raises(ValueError, match=re.escape(hint)):
        Config(problem=P3, Pi=given, rank=2, lr=0.1, steps=1)
    if not callable(given) and not isinstance(given, str):
        with pytest.raises(ValueError, match=re.escape(hint)):
            sqrt_rho(given)


def test_the_hint_of_an_adjacency_list_makes_a_mixing_matrix():
    Pi = [[1], [0, 2], [1, 3], [2]]
    made = metropolis(nx.from_dict_of_lists(dict(enumerate(Pi))))
    np.testing.assert_array_equal(made, TOPOLOGIES["path"](4))


def test_a_matrix_in_the_place_of_a_number_is_named_by_its_shape():
    with pytest.raises(ValueError, match=r"N must be an integer .* got an array of shape \(4, 4\)"):
        TOPOLOGIES["ring"](PI)


def test_kinds_of_arrays_that_serve_and_that_do_not():
    wide = np.asarray(PI, dtype=np.longdouble)
    run = {"problem": P3, "rank": 2, "lr": 0.1, "steps": 1}
    for Pi in (wide, torch.tensor(PI).bfloat16()):  # weights of any real kind
        simulate(Config(Pi=Pi, **run))
    half = Factors(torch.zeros(4, 5, 2).bfloat16(), torch.ones(4, 2, 3).bfloat16())
    final = simulate(Config(Pi=PI, start=half, **run)).final
    assert final.B.dtype == torch.bfloat16
    for cast in (lambda X: X.astype(np.longdouble), np.ma.masked_array):
        start = Factors(np.zeros((4, 5, 2)), np.ones((4, 2, 3))).map(cast)
        with pytest.raises(ValueError, match=r"must be plain|at most 64 bits"):
            Config(Pi=PI, start=start, **run)


def test_a_problem_by_its_number_or_builder_is_answered_with_what_builds_it():
    for given in ("P3", PROBLEMS["P3"]):
        with pytest.raises(ValueError, match=r"PROBLEMS\['P3'\]\(N=8, d=6, k=5\) builds one"):
            Config(problem=given, Pi=PI, rank=2, lr=0.1, steps=1)


# ---------------------------------------------------------------- losses and noise


def test_a_bad_number_of_a_loss_of_ones_own_is_met_with_a_smaller_step_unless_the_start_is_bad():
    unknown = Problem("P3", 4, 5, 3, P3.loss, P3.grad)
    hint = r"; lr = 1e\+200 may be too large \(no limit .* lack L and G\); try a smaller lr$"
    with pytest.raises(SimulationError, match=hint):
        simulate(run_of(problem=unknown, lr=1e200))
    for bad in (replace(P3, grad=lambda W: np.nan * P3.grad(W)), unknown):
        start = gaussian() if bad is not unknown else gaussian().map(lambda X: 1e200 * X)
        with pytest.raises(SimulationError, match=r"not finite at step 0$"):
            simulate(run_of(problem=bad, lr=1e200, start=start))
    with pytest.raises(SimulationError, match=r"not finite at step 0$"):
        simulate(
            run_of(
                problem=replace(unknown, noise=lambda rng, shape: np.full(shape, np.inf)), lr=0.0
            )
        )


@pytest.mark.parametrize(
    "noise",
    [
        lambda rng, shape: rng.standard_normal(shape[1:]),  # one draw for all steps
        lambda rng, shape: rng.standard_normal(shape[2:]),  # one draw for all agents
        lambda rng, shape: rng.standard_normal((*shape[:2], 3, 5)),
        lambda rng, shape: rng.standard_normal((*shape[:-1], 1)),
        lambda rng, shape: rng.standard_normal((1, *shape[1:])),
        lambda rng, shape: 0.1,
        lambda rng, shape: None,
    ],
)
def test_noise_of_another_shape_is_refused(noise):
    message = re.escape("noise must return shape (64, 4, 5, 3) = [steps, N, d, k], got (") + ".*"
    with pytest.raises(ValueError, match=message):
        simulate(run_of(problem=replace(P3, noise=noise)))


def test_noise_made_from_draws_keeps_their_shape_too():
    problem = replace(P3, noise=lambda rng, shape: rng.standard_normal(shape))
    same = replace(problem, noise_at=lambda draws, W: draws[..., :1, :, :])
    message = r"noise_at must return shape \(1, 4, 5, 3\) = \[runs, N, d, k\], got \(1, 1, 5, 3\)"
    with pytest.raises(ValueError, match=message):
        simulate(run_of(problem=same))


def at_the_mean_only(f, wrong):
    """Return f, and at one point of all agents what `wrong` makes of it."""
    return lambda W: wrong(f(W)) if W.shape[-3] == 1 else f(W)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": lambda W: ((W - 1) ** 2).sum(-1)},
            "loss must return shape (2, 4) = [runs, N] at W (2, 4, 5, 3), got (2, 4, 5)",
        ),
        (
            {"loss": at_the_mean_only(P3.loss, lambda f: f[..., None])},
            "loss must return shape (2, 4) = [runs, N] at W (2, 1, 5, 3), got (2, 4, 1)",
        ),
        (
            {"loss": lambda W: 1.0},
            "loss must return shape (2, 4) = [runs, N] at W (2, 4, 5, 3), got ()",
        ),
        (
            {"grad": lambda W: W.sum(axis=-3, keepdims=True)},
            GRAD + "at W (2, 4, 5, 3), got (2, 1, 5, 3)",
        ),
        (
            {"grad": at_the_mean_only(P3.grad, lambda g: g.sum(-1))},
            GRAD + "at W (2, 1, 5, 3), got (2, 4, 5)",
        ),
    ],
)
def test_a_loss_or_gradient_of_another_shape_is_refused(changes, message):
    problem = Problem(
        **{"name": "own", "N": 4, "d": 5, "k": 3, "loss": P3.loss, "grad": P3.grad} | changes
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        simulate(run_of(problem=problem, runs=2))


def test_a_loss_that_all_agents_share_may_be_one_at_a_point_that_they_share():
    shared = Problem("own", 4, 5, 3, lambda W: (W**2).sum((-2, -1)) / 2, lambda W: W)
    trace = simulate(run_of(problem=shared)).require_finished()
    spread = Problem("own", 4, 5, 3, lambda W: np.zeros(4) + (W**2).sum((-2, -1)) / 2, lambda W: W)
    # means of four equal numbers
    np.testing.assert_allclose(trace.loss, simulate(run_of(problem=spread)).loss, rtol=4 * EPS)


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_a_graph_in_half_precision_runs_as_the_same_numbers_in_double(convert):
    Pi = TOPOLOGIES["complete"](4).astype(np.float16)  # of quarters, exactly
    found = simulate(run_of(Pi=convert(Pi), steps=2))
    same = simulate(run_of(Pi=Pi.astype(np.float64), steps=2))
    for X, Y in zip(found.final, same.final, strict=True):
        np.testing.assert_array_equal(X, Y)
