"""The benchmark's trainings on a net of three layers: first mixes, controls, both ends."""

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the benchmark trains with torch")

from decaf_theory.lowrank import Factors, balance, product  # noqa: E402
from decaf_theory.methods import METHODS  # noqa: E402
from decaf_theory.topology import TOPOLOGIES  # noqa: E402
from paper_checks import finetune, observe  # noqa: E402
from paper_checks.benchmark import cells, command, controls, join, once, play  # noqa: E402
from paper_checks.benchmark.cells import Cell, Job, Suite, why_not  # noqa: E402
from paper_checks.config import ADAPTER_METHODS  # noqa: E402
from paper_checks.rounds import Rounds  # noqa: E402
from tests import paper_runs  # noqa: E402

EPS, EPS32 = (float(np.finfo(x).eps) for x in (np.float64, np.float32))
# of |M|: what is lost is measured in two ways, each by some ten sums or factorizations of matrices
# with no more than d + k + N r = 7 + 5 + 10 rows
ROUNDING = 2 * 10 * (7 + 5 + 10) * EPS
ALIKE = [name for name in ADAPTER_METHODS if not why_not(METHODS[name], 2)]


@pytest.fixture
def suite(monkeypatch, tmp_path):
    """The net as a suite: own A, a mix every two of six steps, or one after all."""
    tables = {**paper_runs.TABLES, "observe": {"every": 99, "eval_every": 99}}
    lines = []
    for name, table in tables.items():
        if isinstance(table, dict):
            lines += [f"[{name}]", *(f"{key} = {json.dumps(x)}" for key, x in table.items())]
        else:
            lines.insert(0, f"{name} = {json.dumps(table)}")
    path = tmp_path / "net.toml"
    path.write_text("\n".join(lines))
    net = Suite(
        str(path),
        {"lora.train_heads": False},
        (
            Cell("primary", "here", seeds=(20, 21)),
            Cell("half", "here", spread=0.5),
            Cell("pairs", "pairs", graph="random_matching"),
            Cell("once", "one mix", once=("ring", "complete"), methods=("once",)),
            Cell("controls", "here", methods=cells.CONTROLS),
            Cell("joined", "joined", joined=(2, 3), methods=(cells.JOIN,)),
        ),
    )
    monkeypatch.setitem(cells.SUITES, "digits", net)
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)
    return net


def nothing(*_):
    pass


@pytest.mark.parametrize("name", ALIKE)
def test_the_first_mix_of_copies_is_that_of_the_methods_own_run(suite, name):
    job = Job("digits", "once", name, 20)
    own = play.started(job, nothing)
    own.config = replace(own.config, mix=replace(own.config.mix, moments="keep"))
    play.train(own, cells.cell_of("digits", "once"))
    local = play.started(job._replace(method="local"), nothing)
    begun = play.held(local.stacked)
    play.train(local, cells.cell_of("digits", "once"))
    once.first_mix(local, name, begun, play.held(local.stacked), "ring")
    for part, X in play.held(own.stacked).items():
        assert torch.equal(X, play.held(local.stacked)[part]), part
    for part, site in own.stacked.sites.items():
        other = local.stacked.sites[part].merged
        assert (site.merged is None) == (other is None)
        assert site.merged is None or torch.equal(site.merged, other)
    assert own.sent == local.sent


def test_methods_that_train_otherwise_are_left_out_by_name():
    left = {name for name in ADAPTER_METHODS if why_not(METHODS[name], 2)}
    assert {"centralized", "dlora_fa", "rolora", "gradient_tracking", "fed_sb"} <= left
    assert {"local", "dlora", "decaf", "fedavg", "choco", "flora", "fedhl"} <= {*ALIKE}


def test_one_training_gives_a_row_for_each_graph_and_method_and_is_left_as_it_was(suite):
    rows = once.play(Job("digits", "once", "once", 20))
    places = [(row["method"], row["graph"]) for row in rows]
    assert len(places) == len(set(places))
    assert {("dlora", "ring"), ("dlora", "complete"), ("flora", "any")} <= {*places}
    by = {place: row for place, row in zip(places, rows, strict=True)}
    # all end at the mean of the products: as one model, before and after a mix that loses nothing
    exact = by["flora", "any"]["mean"]
    assert by["local", "any"]["mean"] == exact == by["flora", "any"]["own"]
    lost = [by[place]["first_truncation"] for place in (("decaf", "complete"), ("flexlora", "any"))]
    assert lost[0] == pytest.approx(lost[1], abs=ROUNDING)  # ten rows of weights, or one
    assert once.play(Job("digits", "once", "once", 20)) == rows


def test_models_that_agree_to_rounding_are_scored_once(suite, monkeypatch):
    run = play.started(Job("digits", "once", "local", 20), nothing)
    play.train_alone(run)
    scores, played = once.Scores(), []
    monkeypatch.setattr(once, "ends", lambda run: played.append(run.step) or {"sent": 0})
    scores.of(run)
    run.sent = 7
    with torch.no_grad():
        for site in run.stacked.sites.values():  # another gauge of the same products
            site.B.mul_(3)
            site.A.div_(3)
        assert scores.of(run) == {"sent": 7}
        assert len(played) == 1
        next(iter(run.stacked.sites.values())).B[1].mul_(1 + 1e3 * EPS32)
        scores.of(run)
    assert len(played) == 2


def test_training_alone_leaves_the_factors_of_a_run_without_a_mix(suite):
    runs = [play.started(Job("digits", "once", "local", 20), nothing) for _ in range(2)]
    play.train_alone(runs[0])
    play.train(runs[1], cells.cell_of("digits", "once"))
    one, other = (play.held(run.stacked) for run in runs)
    assert all(torch.equal(X, other[name]) for name, X in one.items())


def test_joins_are_the_first_mixes_of_as_many_agents(suite):
    """On a complete graph the joined models are those that DLoRA, DeCAF and FLoRA leave."""
    rows = {
        (row["method"], row["graph"]): row for row in join.play(Job("digits", "joined", "join", 20))
    }
    assert {graph for _, graph in rows} == {"2 members", "3 members"}
    mixed = {
        (row["method"], row["graph"]): row for row in once.play(Job("digits", "once", "once", 20))
    }
    for name, graph in (
        ("dlora", "complete"),
        ("decaf", "complete"),
        ("flora", "any"),
        ("local", "any"),
    ):
        one, other = rows[name, "3 members"], mixed[name, graph]
        assert one["own"] == other["own"]
        assert one["own_loss"] == pytest.approx(other["own_loss"], rel=1e3 * EPS32)
    for what in ("first_interference", "first_truncation"):
        found = mixed["decaf", "complete"][what]
        assert rows["decaf", "3 members"][what] == pytest.approx(found, abs=ROUNDING)
        assert (
            rows["decaf", "2 members"][what] <= 0.5**0.5 + ROUNDING
        )  # rank m r: at least 1/m is kept


def test_what_a_mix_loses_is_what_is_observed_there(suite):
    rows = [play.play(Job("digits", "primary", name, 20))[0] for name in ("dlora", "decaf")]
    run = play.started(Job("digits", "primary", "decaf", 20), nothing)
    finetune.gradients(run, 0)
    run.optimizer.step()
    run.step = 1
    finetune.gradients(run, 1)
    run.optimizer.step()
    numbers = observe.theory(run.stacked, np.asarray(run.Pi), "ring").numbers
    for row in rows:  # until the first mix both methods are the same
        for what in ("interference", "truncation"):
            found = numbers[f"relative_{what}"]  # of the same float32 factors
            assert row[f"first_{what}"] == pytest.approx(found, abs=ROUNDING)


def test_agents_start_as_far_apart_as_the_cell_has_them(suite):
    far, half = (
        play.spread(play.started(Job("digits", name, "decaf", 20), nothing).stacked)
        for name in ("primary", "half")
    )
    # three agents of independent rows: 2/3 of the energy on average; half the sine, a quarter of it
    assert far == pytest.approx((2 / 3) ** 0.5, abs=0.2)
    assert half == pytest.approx(far / 2, abs=0.15)
    common = paper_runs.config(lora__train_heads=False)
    assert play.spread(finetune.prepare(common, device="cpu").stacked) == 0


def test_random_pairs_are_drawn_by_the_seed_and_not_by_the_method(suite):
    seen = {}
    for name in ("dlora", "decaf"):
        found = seen[name] = []
        run = play.started(Job("digits", "pairs", name, 20), lambda s, W, c, f=found: f.append(W))
        play.train(run, cells.cell_of("digits", "pairs"))
    assert np.array_equal(seen["dlora"], seen["decaf"])
    assert any(not np.array_equal(W, seen["decaf"][0]) for W in seen["decaf"])
    assert {0.0, 0.5, 1.0} == set(np.unique(seen["decaf"]))


# ---------------------------------------------------------------- controls


def agents(seed=0):
    draw = np.random.default_rng(seed)
    return Factors(draw.standard_normal((5, 7, 2)), draw.standard_normal((5, 2, 6)))


def mixed(method, factors):
    state = method.begin(factors)
    clock = Rounds(2, 2).clock(1)
    Pi = np.asarray(TOPOLOGIES["ring"](5))
    return method.exchange(state, Pi, clock).state.factors


def close(one, other):
    # products and factorizations of matrices of size 10
    return np.abs(one - other).max() <= 1e3 * EPS * np.abs(other).max()


def test_decafs_product_in_loras_gauge_has_rows_as_long_as_at_the_start():
    found, decaf = (mixed(m, agents()) for m in (controls.decaf_lora_gauge(), METHODS["decaf"]))
    assert close(product(found), product(decaf))
    assert close(np.linalg.norm(found.A, axis=-1), np.full((5, 2), 3**-0.5))
    gram = found.A @ found.A.swapaxes(-1, -2)
    assert close(gram, np.broadcast_to(np.eye(2) / 3, gram.shape))


def test_rows_that_are_zero_stay_so():
    factors = agents()
    factors.A[2, 1] = 0
    found = controls.in_loras_gauge(factors)
    assert not found.A[2, 1].any()
    assert np.isfinite(found.B).all()
    assert close(product(found), product(factors))


def test_dlora_rebalanced_keeps_dloras_product_and_balances_it():
    found, dlora = (mixed(m, agents()) for m in (controls.dlora_rebalanced(), METHODS["dlora"]))
    assert close(product(found), product(dlora))
    assert close(found.B.swapaxes(-1, -2) @ found.B, found.A @ found.A.swapaxes(-1, -2))
    assert close(product(balance(dlora)), product(found))


def test_controls_train_from_what_they_mix(suite):
    rows = [play.play(Job("digits", "controls", name, 20))[0] for name in cells.CONTROLS]
    plain = [play.play(Job("digits", "primary", name, 20))[0] for name in ("decaf", "dlora")]
    for control, row in zip(rows, plain, strict=True):
        assert control["first_interference"] == row["first_interference"]  # one start
        assert control["own_loss"] != row["own_loss"]  # another gauge afterwards
        assert control["sent"] == row["sent"] > 0


def test_a_training_that_diverges_leaves_a_row_that_says_so(suite, monkeypatch):
    def fail(run, t):
        raise finetune.TrainingError("the loss of agent 0 at step 0 is not finite")

    monkeypatch.setattr(finetune, "gradients", fail)
    found = command.play_job(Job("digits", "primary", "decaf", 20), lambda: False)
    assert found.rows[0]["diverged"].startswith("the loss of agent 0")
    assert "own" not in found.rows[0]
