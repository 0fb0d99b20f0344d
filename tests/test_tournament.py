"""The tournament: who tunes on what, what budgets are, and what its words say."""

from statistics import fmean

import numpy as np
import pytest

from decaf_theory.methods import METHODS
from decaf_theory.problems import PROBLEMS
from decaf_theory.simulate import Config, simulate
from decaf_theory.stats import Interval, bonferroni, paired_interval
from paper_checks.tournament import suite
from paper_checks.tournament.play import best_step, budgets, play
from paper_checks.tournament.simulated import Setting, problem_task, together, trial
from paper_checks.tournament.tasks import BASES, Scores, Task, graph_of, methods_on, plays
from paper_checks.tournament.verdicts import comparisons, counts, judged, word

TUNING, REPORTED = (0, 1), (5, 6, 7, 8)
GRID = (0.1, 0.2, 0.4)
NETWORKS = [*BASES]
EPS = float(np.finfo(np.float64).eps)


def small(**more):
    """P3 among four agents, d != k, a few rounds."""
    chosen = {"networks": (*BASES,), "rounds": 6, "longest": 4}
    chosen |= {"grid": GRID, "tuning": TUNING, "reported": REPORTED}

    def build(seed):
        return PROBLEMS["P3"](N=4, d=5, k=4, kappa=1.0, tau=0.01, seed=seed)

    return problem_task("small", "P3", Setting(build, rank=2, local_steps=2), **(chosen | more))


def planted(scores, *, lower=True, sent=None, networks=("ring",)):
    """A task whose scores are `scores(method, lr, seed, stop)`, and a log of its trials."""
    log = []

    def trial(method, network, lr, seeds, stops):
        log.append((method, lr, tuple(seeds), tuple(stops)))
        found = {s: [scores(method, lr, seed, s) for seed in seeds] for s in stops}
        return {s: Scores(own) for s, own in found.items() if None not in own}

    def count(method, network, rounds):
        return [(sent or {}).get(method, 10) * t for t in range(rounds + 1)]

    task = Task(
        name="planted",
        title="planted",
        score="score",
        lower=lower,
        networks=networks,
        rounds=4,
        longest=3,
        grid=GRID,
        tuning=TUNING,
        reported=REPORTED,
        settings={},
        trial=trial,
        sent=count,
    )
    return task, log


def rows_of(task, methods, network="ring"):
    return [row for method in methods for row in play(task, network, method)]


def verdicts_of(task, methods, budget="rounds", network="ring"):
    found = judged(rows_of(task, methods, network), {task.name: task.lower})
    return {row["method"]: row["verdict"] for row in found if row["budget"] == budget}


# ---------------------------------------------------------------- seeds and step sizes


def test_step_sizes_are_chosen_on_the_tuning_seeds_alone():
    def scores(method, lr, seed, stop):
        return abs(lr - 0.2) if seed in TUNING else -lr  # reported seeds would choose 0.4

    task, log = planted(scores)
    rows = play(task, "ring", "dlora")
    assert [row["lr"] for row in rows] == [0.2, 0.2]
    assert [entry[:3] for entry in log] == [
        *(("dlora", lr, TUNING) for lr in GRID),
        ("dlora", 0.2, REPORTED),
    ]


def test_more_is_better_where_it_is_and_equals_take_the_smaller_step():
    found = {lr: {4: Scores([score])} for lr, score in zip(GRID, (1.0, 3.0, 3.0), strict=True)}
    task, _ = planted(lambda *_: 0.0, lower=False)
    assert best_step(task, found, 4) == 0.2
    task, _ = planted(lambda *_: 0.0)
    assert best_step(task, found, 4) == 0.1


def test_a_step_size_with_which_a_tuning_run_diverged_is_not_chosen():
    def scores(method, lr, seed, stop):
        return None if lr == 0.4 and seed == 1 and stop > 0 else -lr

    task, _ = planted(scores)
    assert play(task, "ring", "dlora")[0]["lr"] == 0.2


def test_each_budget_has_a_step_size_of_its_own():
    def scores(method, lr, seed, stop):
        return lr if stop == 4 else -lr

    task, _ = planted(scores, sent={"dlora": 10, "choco": 5})
    rows = {row["budget"]: row for row in play(task, "ring", "choco")}
    assert (rows["rounds"]["lr"], rows["rounds"]["rounds"]) == (0.1, 4)
    assert (rows["bytes"]["lr"], rows["bytes"]["rounds"]) == (0.4, 8)
    assert rows["bytes"]["edge"]


@pytest.mark.parametrize("size", ["full", "quick"])
def test_no_task_reports_a_seed_that_it_tunes_on(size):
    for task in suite.tasks(size).values():
        assert not set(task.tuning) & set(task.reported)
        assert len(task.reported) >= 10
        assert len(task.grid) > 1


def test_a_seed_has_its_own_data_start_and_noise_the_same_for_all_methods():
    task = small()
    at_start = {
        name: task.trial(name, "ring", 0.1, REPORTED, [0])[0]
        for name in ("dlora", "decaf", "local")
    }
    assert at_start["dlora"] == at_start["decaf"] == at_start["local"]
    assert len(set(at_start["dlora"].own)) == len(REPORTED)
    # at equal ranks the two are one method, and noise is all that could tell them apart
    runs = [task.trial(m, "server", 0.1, REPORTED, [6])[6].own for m in ("fedavg", "raflora")]
    # twelve steps of rounding; other noise, of size 0.01, would move log10 by that much
    np.testing.assert_allclose(*runs, rtol=1e4 * EPS)


def test_seeds_that_are_tuned_on_and_reported_ones_meet_other_noise():
    def build(seed):
        return PROBLEMS["P12"](N=4, d=5, k=4, tau=0.1)  # one data set and one start

    trap = Setting(build, rank=2, local_steps=2)
    tuned, reported = (trial(trap, "dlora", "ring", 0.1, s, [2])[2].own for s in (TUNING, REPORTED))
    assert len({*tuned, *reported}) == len(TUNING) + len(REPORTED)


def test_problems_together_are_each_problem_at_its_run():
    problems = [PROBLEMS["P3"](N=4, d=5, k=4, seed=seed) for seed in range(3)]
    W = np.random.default_rng(0).standard_normal((3, 4, 5, 4))
    joined = together(problems)
    for name in ("loss", "grad"):
        found = getattr(joined, name)
        for i, problem in enumerate(problems):
            one = getattr(problem, name)
            np.testing.assert_array_equal(found(W)[i], one(W[i]))
            np.testing.assert_array_equal(found(W[:, :1])[i], one(W[i, :1]))
            np.testing.assert_array_equal(found(W[:1])[i], one(W[0]))


# ---------------------------------------------------------------- budgets


@pytest.mark.parametrize("network", NETWORKS)
def test_equal_bytes_are_spent_to_the_last_round_that_fits(network):
    task = small()
    limit = task.sent(BASES[network], network, task.rounds)[-1]
    for method in methods_on(network):
        if network == "one_peer" and needs_one_graph(method):
            continue
        given = budgets(task, network, method)
        if method == "local":
            assert given.keys() == {"rounds"}
            continue
        spent, more = given["bytes"], given["bytes"].rounds + 1
        counted = task.sent(method, network, more)
        assert spent.limit == limit
        assert spent.sent == counted[-2] <= limit
        if spent.cut:
            assert spent.rounds == 4 * task.rounds
        else:
            assert counted[-1] > limit, method
        assert given["rounds"].rounds == task.rounds
        assert given["rounds"].sent == task.sent(method, network, task.rounds)[-1]
    assert budgets(task, network, BASES[network])["bytes"].rounds == task.rounds


@pytest.mark.parametrize("method", ["dlora", "rolora", "centralized", "choco"])
def test_bytes_are_those_that_a_simulation_counts(method):
    network = next(name for name in NETWORKS if plays(METHODS[method], name))
    config = Config(
        problem=PROBLEMS["P3"](N=4, d=5, k=4),
        method=method,
        Pi=graph_of(network, 4),
        rank=2,
        lr=0.1,
        steps=7,
        local_steps=2,
    )
    assert small().sent(method, network, 7) == simulate(config).comm_bytes[0].tolist()


def needs_one_graph(method):
    return METHODS[method].one_graph or METHODS[method].tuned is not None


def test_a_method_that_sends_little_plays_at_most_the_longest_game():
    task, _ = planted(lambda *_: 0.0, sent={"dlora": 10, "choco": 1})
    given = budgets(task, "ring", "choco")["bytes"]
    assert (given.rounds, given.sent, given.limit, given.cut) == (12, 12, 40, True)
    task, _ = planted(lambda *_: 0.0, sent={"dlora": 10, "dsgd": 15})
    given = budgets(task, "ring", "dsgd")["bytes"]
    assert (given.rounds, given.sent, given.limit, given.cut) == (2, 30, 40, False)


def test_who_meets_a_server_plays_there_and_who_meets_nobody_everywhere():
    found = {name: methods_on(name) for name in NETWORKS}
    assert found["ring"] == found["complete"] == found["one_peer"]
    both = set(found["ring"]) & set(found["server"])
    assert both == {n for n, m in METHODS.items() if m.meets == m.pools == "none"}
    assert set(found["ring"]) | set(found["server"]) == set(METHODS)
    assert all(base in found[network] for network, base in BASES.items())


@pytest.mark.parametrize("method", [*filter(needs_one_graph, METHODS)])
def test_who_needs_one_graph_is_refused_by_name_on_a_schedule(method):
    (row,) = play(small(), "one_peer", method)
    assert row["status"] == "refused"
    assert row["why"].startswith(method)
    assert " at 0x" not in row["why"]  # stored rows are the same every time
    (found,) = judged([row], {"small": True})
    assert found["verdict"] == "refused"


# ---------------------------------------------------------------- scores and words


def test_the_scores_are_the_gaps_at_the_own_points_and_at_the_mean_point():
    task = small()
    own, mean = task.trial("dlora", "ring", 0.1, REPORTED, [6])[6]
    problems = [PROBLEMS["P3"](N=4, d=5, k=4, kappa=1.0, tau=0.01, seed=s) for s in REPORTED]
    trace = simulate(
        Config(
            problem=together(problems),
            method="dlora",
            Pi=graph_of("ring", 4),
            rank=2,
            lr=0.1,
            steps=6,
            local_steps=2,
            runs=len(REPORTED),
            seed=REPORTED[0],
        )
    )
    W = trace.final.B @ trace.final.A
    for i, problem in enumerate(problems):
        least = problem.constants.F_star
        gaps = [float(problem.loss(W[i, j : j + 1]).mean()) - least for j in range(4)]
        # sums of 160 squares in another order, a difference of two losses, a log
        assert own[i] == pytest.approx(np.log10(fmean(gaps)), rel=1e4 * EPS)
        at_mean = float(problem.loss(W[i].mean(axis=0, keepdims=True)).mean()) - least
        assert mean[i] == pytest.approx(np.log10(at_mean), rel=1e4 * EPS)


def test_the_known_winner_wins():
    # targets far apart: alone each agent ends at its own one, FedAvg near their mean
    rows = rows_of(small(rounds=30), ["fedavg", "local", "flexlora"], "server")
    found = judged(rows, {"small": True})
    words = {row["method"]: row["verdict"] for row in found if row["budget"] == "rounds"}
    assert words["local"] == "loses"
    assert words["fedavg"] == "base"
    local = next(row for row in found if row["method"] == "local")
    assert local["own_from_base"][1] > 0.5
    assert local["mean"] < local["own"]


GAIN = {"dlora": 0.0, "decaf": -0.5, "dsgd": +0.5, "local": 0.0}


def noisy(method, lr, seed, stop):
    """A start at 1, then the method's gain and noise of its own by seed."""
    draw = np.random.default_rng([seed, *method.encode()]).normal(0, 0.01)
    return 1.0 if stop == 0 else GAIN[method] + draw


@pytest.mark.parametrize("lower", [True, False])
def test_the_words_follow_the_intervals_and_the_direction(lower):
    def scores(*trial):
        return noisy(*trial) if lower else -noisy(*trial)

    task, _ = planted(scores, lower=lower)
    found = verdicts_of(task, [*GAIN])
    assert found == {"dlora": "base", "decaf": "wins", "dsgd": "loses", "local": "ties"}


def test_all_intervals_hold_together_and_compare_seed_by_seed():
    task, _ = planted(noisy)
    rows = rows_of(task, [*GAIN])
    found = judged(rows, {"planted": True}, level=0.9)
    # in each of two budgets three differences from the base and three from the best
    assert comparisons(found) == 12
    each = bonferroni(0.9, 12)
    own = {row["method"]: row["own"] for row in rows if row["budget"] == "rounds"}
    for row in found:
        if row["budget"] == "rounds" and row["method"] != "dlora":
            expected = paired_interval(own[row["method"]], own["dlora"], each)
            np.testing.assert_allclose(row["own_from_base"], expected, atol=5.1e-4)
            assert row["best"] == "decaf"


def test_the_best_is_the_best_on_the_tuning_seeds():
    def scores(method, lr, seed, stop):
        better = "decaf" if seed in TUNING else "dsgd"
        return 1.0 if stop == 0 else noisy(method, lr, seed, stop) - 2.0 * (method == better)

    task, _ = planted(scores)
    found = judged(rows_of(task, [*GAIN]), {"planted": True})
    assert {row["best"] for row in found} == {"decaf"}


@pytest.mark.parametrize(
    ("method", "scores", "why"),
    [
        ("decaf", lambda lr, seed, stop: None if stop else 1.0, "with every step size"),
        ("decaf", lambda lr, seed, stop: None if stop and seed == 6 else 1.0, "on a reported seed"),
        ("decaf", lambda lr, seed, stop: 1.0 + 0.01 * (seed % 3) * (stop > 0), None),
    ],
)
def test_a_method_fails_that_diverged_or_is_no_better_than_its_start(method, scores, why):
    def given(name, lr, seed, stop):
        return scores(lr, seed, stop) if name == method else noisy(name, lr, seed, stop)

    task, _ = planted(given)
    rows = rows_of(task, ["dlora", method])
    assert [row.get("why") and why in row["why"] for row in rows if row["method"] == method] == [
        why and True,
        why and True,
    ]
    found = judged(rows, {"planted": True})
    assert {row["verdict"] for row in found if row["method"] == method} == {"fails"}
    assert counts(found)[method, "rounds"]["fails"] == 1


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.5, -0.002, "wins"),
        (0.002, 0.5, "loses"),
        (-0.5, 0.5, "ties"),
        (-0.5, -0.001, "ties"),  # two stored scores err by half of this each
        (0.001, 0.5, "ties"),
        (-0.5, -0.5, "ties"),  # no spread among a few seeds is no evidence that there is none
    ],
)
def test_a_word_needs_an_interval_on_one_side_of_zero_by_more_than_rounding(low, high, expected):
    assert word(Interval((low + high) / 2, low, high), lower=True) == expected
    assert word(Interval(-(low + high) / 2, -high, -low), lower=False) == expected


def test_equal_runs_tie():
    task, _ = planted(lambda m, lr, seed, stop: 1.0 if stop == 0 else 0.1 * seed)
    assert verdicts_of(task, ["dlora", "decaf"])["decaf"] == "ties"
