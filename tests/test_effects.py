"""Reported effects at small scale: what is planted is found, and what is stored is shown."""

import json
import math

import numpy as np
import pytest

from decaf_theory import extras
from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS, Clock, fedrot
from decaf_theory.problems import PROBLEMS, quadratic
from decaf_theory.problems.frozen import curvatures
from decaf_theory.stats import bonferroni, mean_interval
from decaf_theory.topology import TOPOLOGIES, sqrt_rho
from paper_checks import cli, effects, reported
from paper_checks.effects import aggregation, alternating, engine, model, page

EPS = float(np.finfo(np.float64).eps)
TINY = engine.Effort(("isotropic",), (0, 1, 2), (1000,), False)
RESULTS = json.loads(page.STORED.read_text())


def finding(values, sign, **others):
    (found,) = engine.judge([engine.Comparison("p", "w", "x", values, sign, **others)])
    return found


# ---------------------------------------------------------------- the engine


@pytest.mark.parametrize(
    ("values", "sign", "word"),
    [
        ((1.0, 1.1, 0.9), +1, "reproduced in kind"),
        ((1.0, 1.1, 0.9), -1, "contradicted here"),
        ((-1.0, -1.1, -0.9), -1, "reproduced in kind"),
        ((-1.0, -1.1, -0.9), +1, "contradicted here"),
        ((1.0, -1.1, 0.9), +1, "not seen"),
        ((0.0, 0.0, 0.0), +1, "not seen"),
        ((1.0, 1.1, 0.9), 0, ""),
    ],
)
def test_the_verdict_is_the_side_of_zero_that_the_interval_is_on(values, sign, word):
    assert finding(values, sign).verdict == word


def test_the_intervals_of_an_effect_hold_together():
    values = (1.0, 2.0, 4.0)
    asked = [engine.Comparison("p", "w", "x", values, +1)] * 5
    for found in engine.judge(asked, 0.9):
        assert (found.estimate, found.low, found.high) == mean_interval(values, bonferroni(0.9, 5))
        assert found.seeds == 3


def test_the_step_size_is_tuned_on_other_seeds_than_those_that_count():
    asked = []

    def score(lr, seeds):
        asked.append((lr, tuple(seeds)))
        return np.array([abs(math.log(lr / 0.1)) + 0.1 + seed for seed in seeds])

    found, lr = engine.tuned(score, (1, 2), (5, 6), (0.01, 0.1, 1.0))
    assert lr == 0.1
    assert found.tolist() == [1.1, 2.1]
    assert asked == [(0.01, (5, 6)), (0.1, (5, 6)), (1.0, (5, 6)), (0.1, (1, 2))]
    with pytest.raises(ValueError, match=r"tuning must hold no seed that counts, got \{5\}"):
        engine.tuned(score, (1, 5), (5, 6))
    with pytest.raises(ValueError, match=r"must be finite; at lr = 0.1 seeds diverged"):
        engine.tuned(lambda lr, seeds: np.full(len(seeds), np.inf), (1,), (5,), (0.1,))


def test_a_planted_gain_is_found_and_a_planted_loss_contradicts():
    draw = np.random.default_rng(0)
    noise = draw.normal(0, 0.1, 30)
    assert finding(0.5 + noise, +1).verdict == engine.SEEN
    assert finding(-0.5 + noise, +1).verdict == engine.CONTRADICTED
    assert finding(noise - noise.mean(), +1).verdict == engine.NOT_SEEN


# ---------------------------------------------------------------- the model problems


def sizes(seed):
    shared = {"N": model.AGENTS, "k": model.K, "seed": seed}
    return shared, {"d": model.D, "rank": model.RANK, "kappa": model.KAPPA}


@pytest.mark.parametrize("kind", model.KINDS)
def test_each_run_is_the_problem_of_its_seed(kind):
    seeds = (3, 7)
    draws = model.draw(kind, seeds)
    W = np.random.default_rng(1).standard_normal((2, model.AGENTS, model.D, model.K))
    for run, seed in enumerate(seeds):
        shared, more = sizes(seed)
        one = PROBLEMS["P3"](**shared, **more)
        if kind == "curved":
            targets = -one.grad(np.zeros((model.AGENTS, model.D, model.K)))
            one = quadratic(curvatures(**shared, ratio=model.RATIO), targets)
        # a gradient is a difference of numbers below 8, and a product; a loss sums 48 squares
        assert np.abs(draws.problem.grad(W)[run] - one.grad(W[run])).max() <= 32 * EPS
        np.testing.assert_allclose(draws.problem.loss(W)[run], one.loss(W[run]), rtol=96 * EPS)
        F = [float(one.loss(X[None]).mean()) for X in W[run]]
        excess = np.array(F) - one.constants.F_star
        # the minimum is subtracted from losses that are larger by no more than a few times
        np.testing.assert_allclose(draws.excess(W)[run], excess, rtol=1e3 * EPS)


def test_methods_meet_the_same_start_and_noise_and_seeds_differ():
    lr, seeds = 0.02, (0, 1)
    ring = TOPOLOGIES["ring"](model.AGENTS)
    first = model.excess("curved", METHODS["dlora"], ring, lr, seeds, steps=2)
    again = model.excess("curved", METHODS["dlora"], ring, lr, seeds, steps=2)
    assert np.array_equal(first, again)
    assert first.shape == (2, model.AGENTS)
    assert (first[0] != first[1]).all()
    # one step of one round: ADF-LoRA trains B alone from B = 0, where A has no gradient
    once = {"steps": 1, "local_steps": 1}
    both, turns = (
        model.excess("curved", METHODS[name], ring, lr, seeds, **once)
        for name in ("dlora", "adf_lora")
    )
    assert np.array_equal(both, turns)


def test_a_run_that_diverges_is_infinitely_bad():
    ring = TOPOLOGIES["ring"](model.AGENTS)
    found = model.excess("isotropic", METHODS["dlora"], ring, 50.0, (0, 1))
    assert np.isinf(found).all()
    with pytest.raises(ValueError, match="kind must be one of"):
        model.draw("flat", (0,))


# ---------------------------------------------------------------- the methods


def test_rolora_on_a_graph_leaves_the_frozen_factor_where_it_is():
    draw = np.random.default_rng(2)
    N = 4
    factors = Factors(draw.standard_normal((N, 5, 2)), draw.standard_normal((N, 2, 3)))
    Pi = TOPOLOGIES["ring"](N)
    for t, (mixed, kept) in enumerate((("B", "A"), ("A", "B"))):
        after = alternating.ROLORA_ON_A_GRAPH.mix(factors, Pi, t)
        assert np.array_equal(getattr(after, kept), getattr(factors, kept))
        plain = getattr(METHODS["dlora"].mix(factors, Pi), mixed)
        assert np.array_equal(getattr(after, mixed), plain)


@pytest.mark.parametrize(("graph", "rho"), [("complete", 0.3), ("complete", 0.99), ("ring", 0.9)])
def test_a_lazy_graph_has_the_rho_that_was_asked_for(graph, rho):
    # an eigenvalue of size one, and its square
    assert abs(sqrt_rho(alternating.lazy(graph, rho)) ** 2 - rho) <= 100 * EPS
    with pytest.raises(ValueError, match="rho must be at least that of the ring"):
        alternating.lazy("ring", 0.3)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_planted_power_of_the_best_interval_is_found(power):
    rhos = np.array(alternating.RHOS["complete"])
    seeds = np.array([1.0, 2.0, 5.0])  # a factor of each seed's own, which no slope sees
    best = seeds * (1 - rhos[:, None]) ** -power
    # six logarithms below 7, whose slope divides by a spread above one
    assert np.abs(alternating.slopes(rhos, best) - 2 * power).max() <= 100 * EPS


def test_tad_has_the_interval_of_its_graph():
    found = []
    for p in alternating.CONTACTS:
        trains = alternating.tad(p).trains
        found.append(next(t for t in range(99) if trains(Clock(t)) == ("A",)))
    rho = [alternating.contact(p, 0).rho() for p in alternating.CONTACTS]
    assert found == [round(1 / math.sqrt(1 - x)) for x in rho] == [1, 2, 3]


@pytest.mark.parametrize("t", [0, 1])  # the rounds that turn to A and to B
def test_turning_undoes_planted_rotations_and_the_errors_say_so(t):
    draw = np.random.default_rng(3)
    N, d, k, r = 5, 6, 4, 3
    one = Factors(draw.standard_normal((1, d, r)), draw.standard_normal((1, r, k)))
    common = Factors(*(np.repeat(X, N, axis=0) for X in one))
    seen = []
    method = aggregation.watched(fedrot(), seen)
    state = method.begin(common)
    turns = np.linalg.qr(draw.standard_normal((N, r, r)))[0]
    turns[..., 0] *= np.linalg.det(turns)[:, None]
    turned = Factors(common.B @ turns, np.swapaxes(turns, -1, -2) @ common.A)
    row = np.full((1, N), 1 / N)
    mixed = method.exchange(state._replace(factors=turned), row, Clock(t)).state.factors
    ((held, sent),) = seen
    size = float(np.linalg.norm(one.B[0] @ one.A[0]))
    assert held.item() > 0.1 * size
    # factors that agree up to the rounding of an SVD, a product and a mean: their covariance
    assert sent.item() <= (1e3 * EPS) ** 2 * size
    np.testing.assert_allclose(mixed.B[0] @ mixed.A[0], one.B[0] @ one.A[0], atol=1e3 * EPS * size)


def test_what_turning_takes_from_the_drift_of_A_it_adds_to_that_of_B():
    # a step from balanced factors, B'B = AA' = S, moves them by B'b = a A' = H; turned, the
    # antisymmetric part N of a A' is gone and that of B'b is 2 N, up to second order in the step
    draw = np.random.default_rng(4)
    d, k, r, lr = 6, 5, 3, 1e-4
    B, A = (np.linalg.qr(draw.standard_normal((n, r)))[0] for n in (d, k))
    start = Factors(B[None], A.T[None])
    G = draw.standard_normal((1, d, k))
    stepped = Factors(
        start.B - lr * G @ np.swapaxes(start.A, -1, -2),
        start.A - lr * np.swapaxes(start.B, -1, -2) @ G,
    )
    state = fedrot().begin(start)._replace(factors=stepped)
    sent = fedrot().send(state, Clock())

    def antisymmetric(b, a):
        pairs = B.T @ b[0], a[0] @ A
        return [(H - H.T) / 2 for H in pairs]

    before = antisymmetric(stepped.B - start.B, stepped.A - start.A)
    after = antisymmetric(sent["B"] - start.B, sent["A"] - start.A)
    size = np.linalg.norm(before[0])
    assert size > lr / 10
    np.testing.assert_allclose(before[0], before[1], atol=100 * EPS)
    second_order = (lr * np.linalg.norm(G)) ** 2
    assert np.abs(after[0] - 2 * before[0]).max() <= 4 * second_order
    assert np.abs(after[1]).max() <= 4 * second_order


def test_the_servers_model_is_that_of_an_agent_of_the_largest_rank():
    assert aggregation.RANKS[aggregation.LARGEST] == max(aggregation.RANKS) == model.RANK
    assert len(aggregation.RANKS) == model.AGENTS


# ---------------------------------------------------------------- what is stored and shown


def stored():
    return [
        (name, finding)
        for name in RESULTS["effects"]
        for finding in RESULTS["effects"][name]["findings"]
    ]


def test_the_stored_results_are_a_full_run_of_all_effects():
    assert RESULTS["size"] == "full"
    assert list(RESULTS["effects"]) == list(effects.EFFECTS)
    for name, one in stored():
        assert one["verdict"] == engine.verdict(one["sign"], one["low"], one["high"]), name
        assert one["low"] <= one["estimate"] <= one["high"]
        assert one["seeds"] >= 10
    for name in effects.WITH_DIGITS:
        assert RESULTS["effects"][name]["findings"][-1]["problem"] == "vit-digits"


def test_the_page_shows_what_is_stored_and_what_is_reported():
    text = page.PAGE.read_text()
    assert page.filled(text, RESULTS, reported.read()) == text, (
        "python -m paper_checks effects --page"
    )
    names = [block[1] for block in page.BLOCK.finditer(text)]
    wanted = ["overview", "reported"]
    wanted += [f"{kind} {name}" for name in effects.EFFECTS for kind in ("findings", "reported")]
    assert sorted(names) == sorted(wanted)


def test_each_section_has_the_reported_numbers_of_its_effect():
    rows = reported.read()
    counts = {name: len(page.of_effect(name, rows)) for name in effects.EFFECTS}
    assert counts == {"rolora": 4, "thinning": 11, "interval": 4, "alignment": 4, "ranks": 4}


def test_logarithms_are_shown_as_ratios():
    shared = {"estimate": math.log(2), "low": -1.0, "high": 0.0}
    for unit, texts in (("log ratio", ["2.00", "0.368", "1.00"]), ("slope", ["+0.69", "-1.00"])):
        found = [page.shown({**shared, "unit": unit}, name) for name in shared]
        assert found[: len(texts)] == texts


@pytest.mark.slow
def test_the_stored_ratios_of_ranks_come_out_again():
    want = {
        (one["problem"], one["what"]): one
        for name, one in stored()
        if name == "ranks" and one["problem"] == "isotropic"
    }
    effort = engine.FULL._replace(kinds=("isotropic",), digits=False)
    for one in effects.comparisons("ranks", effort):
        kept = want[one.problem, one.what]
        assert list(one.steps) == kept["steps"]
        # 400 contracting steps on numbers of size one, excesses above 1e-3 of them
        assert np.mean(one.values) == pytest.approx(kept["estimate"], abs=1e-8)


# ---------------------------------------------------------------- the command


def test_the_command_stores_and_prints_what_it_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(effects.SIZES, "quick", TINY)
    out = tmp_path / "effects.json"
    assert cli.main(["effects", "--only", "ranks", "--quick", "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    assert (results["size"], list(results["effects"])) == ("quick", ["ranks"])
    printed = capsys.readouterr()
    found = results["effects"]["ranks"]["findings"]
    assert page.table(found) in printed.out
    assert printed.err.count("ranks: isotropic, ranks 1, 2, 4, flexlora / ") == len(found) == 3


def test_what_is_missing_is_said_before_anything_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    monkeypatch.setattr(effects, "comparisons", None)
    command = ["effects", "--only", "thinning", "ranks", "--out", str(tmp_path / "effects.json")]
    assert cli.main(command) == 2
    assert "transformers, sklearn not installed" in capsys.readouterr().err
    # neither a quick run nor one without images needs them
    effects.require_packages(["ranks"], engine.QUICK)
    effects.require_packages(["thinning", "interval"], engine.FULL)


def test_an_interrupted_run_leaves_the_effects_that_it_finished(monkeypatch, tmp_path):
    def comparisons(name, effort):
        if name == "ranks":
            raise KeyboardInterrupt
        yield engine.Comparison("p", "w", "x", (1.0, 2.0), +1)

    monkeypatch.setattr(effects, "comparisons", comparisons)
    out = tmp_path / "effects.json"
    assert cli.main(["effects", "--quick", "--only", "rolora", "ranks", "--out", str(out)]) == 130
    assert list(json.loads(out.read_text())["effects"]) == ["rolora"]


def test_an_unknown_effect_is_named(capsys):
    assert cli.main(["effects", "--only", "rank"]) == 2
    assert "unknown effect: 'rank'; near: ranks" in capsys.readouterr().err


def test_the_page_is_written_where_it_is_kept(monkeypatch):
    written = {}
    monkeypatch.setattr(page, "write_atomically", written.__setitem__)
    assert cli.main(["effects", "--page"]) == 0
    assert written == {page.PAGE: page.PAGE.read_bytes()}
