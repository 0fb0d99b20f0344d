"""The full-scale harness: mixes against formulas, orders, data order, the four traps, failures."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")

from decaf_theory import adapters  # noqa: E402
from decaf_theory.lowrank import Factors, gauge  # noqa: E402
from decaf_theory.methods import METHODS, Clock, keeping_directions  # noqa: E402
from decaf_theory.simulate import DeadStartWarning  # noqa: E402
from decaf_theory.topology import TOPOLOGIES  # noqa: E402
from paper_checks import (  # noqa: E402
    batches,
    beginning,
    checkpoint,
    finetune,
    mixing,
    moments,
    observe,
    record,
    stamp,
)
from paper_checks.config import ADAPTER_METHODS, ConfigError  # noqa: E402
from paper_checks.rounds import Rounds  # noqa: E402
from tests import paper_runs  # noqa: E402
from tests.paper_runs import prepare, snapshot  # noqa: E402
from verification.adapter_evidence import EVIDENCE  # noqa: E402

EPS32 = float(np.finfo(np.float32).eps)


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)


def train(run, steps):
    for _ in range(steps):
        finetune.advance(run)
    return snapshot(run)


def close(left, right, slip):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.allclose(left[name], right[name], rtol=0, atol=slip), name


def one_mix(run):
    choice = run.config.mix
    return mixing.mix(
        run.stacked,
        choice.rule,
        run.Pi,
        run.memory,
        Clock(),
        moments=choice.moments,
        optimizer=run.optimizer,
    )


DECAF = keeping_directions(METHODS["decaf"])


# ---------------------------------------------------------------- one round against the formula


def truncated(M, r):
    U, S, Vh = np.linalg.svd(M)
    return (U[:, :r] * S[:r]) @ Vh[:r]


def mean(P, X):
    """Each agent's average of matrices X [N, a, b] under the rows P."""
    return np.einsum("ij,jab->iab", P, X)


def uniform(B):
    """Weights 1/N of every agent for every other."""
    return np.full((len(B), len(B)), 1 / len(B))


# the products B_i A_i after one mix, from dense float64 matrices and the paper's words
FORMULAS = {
    "decaf": lambda B, A, Pi: np.stack([truncated(M, B.shape[-1]) for M in mean(Pi, B @ A)]),
    "dlora": lambda B, A, Pi: mean(Pi, B) @ mean(Pi, A),
    "dlora_fa": lambda B, A, Pi: mean(Pi, B) @ A,
    "fedavg": lambda B, A, Pi: mean(uniform(B), B) @ mean(uniform(B), A),
    "centralized": lambda B, A, Pi: B @ A,
    "local": lambda B, A, Pi: B @ A,
}


@pytest.mark.parametrize("graph", ["ring", "complete", "bipartite"])
@pytest.mark.parametrize("method", FORMULAS)
def test_one_round_of_a_method_is_its_formula(method, graph):
    run = prepare(mix__method=method, mix__graph=graph, mix__agents=6)
    paper_runs.randomize(run.stacked)
    if method == "dlora_fa":
        for site in run.stacked.sites.values():
            site.A.data.copy_(site.A.data[:1].expand_as(site.A))
    before = {n: [X.double().numpy().copy() for X in p] for n, p in run.stacked.factors().items()}
    heads = {
        n: X.detach().double().numpy()
        for n, X in run.stacked.heads["classifier"].named_parameters()
    }
    heads = {name: X.copy() for name, X in heads.items()}
    one_mix(run)
    Pi = TOPOLOGIES[graph](6)
    for name, pair in run.stacked.factors().items():
        B, A = before[name]
        expected = FORMULAS[method](B, A, Pi)
        # a mix, a factorization and a product of float32 factors, each off by their size
        slip = (
            20 * 7 * EPS32 * np.linalg.norm(B, 2, (1, 2)).max() * np.linalg.norm(A, 2, (1, 2)).max()
        )
        assert np.abs((pair.B @ pair.A).double().numpy() - expected).max() <= slip
    rows = {"graph": Pi, "server": np.full((6, 6), 1 / 6), "none": np.eye(6)}[METHODS[method].meets]
    for name, X in run.stacked.heads["classifier"].named_parameters():
        expected = np.tensordot(rows, heads[name], 1)
        assert np.abs(X.detach().numpy() - expected).max() <= 20 * EPS32 * np.abs(heads[name]).max()


@pytest.mark.parametrize("method", ADAPTER_METHODS)
def test_each_site_is_mixed_as_the_method_mixes_it_alone(method):
    run = prepare(mix__method=method)
    paper_runs.randomize(run.stacked)
    run.memory = beginning.begin(run.stacked, run.config.mix.rule)
    Pi = TOPOLOGIES[run.config.mix.graph](run.stacked.agents)
    rule = run.config.mix.rule
    weights = rule.weights(Pi, run.stacked.agents, Clock(0, 1, 2))
    alone = {}
    for name, pair in run.stacked.factors().items():
        state = rule.begin(pair.map(lambda X: X.detach().clone()))
        if weights is not None:
            state = rule.exchange(state, weights, Clock(0, 1, 2)).state
        alone[name] = state.factors
    before = {name: _largest(*pair) for name, pair in run.stacked.factors().items()}
    one_mix(run)
    for name, pair in run.stacked.factors().items():
        # sums of N terms, which a CPU may take in another order for two sites than for one: each is
        # off by N/2 eps of its largest term; factorizations run in float64 and are rounded once
        off = run.stacked.agents * torch.finfo().eps * max(before[name], _largest(*pair))
        assert _largest(pair.B - alone[name].B, pair.A - alone[name].A) <= off


def _largest(*arrays):
    return max(float(X.detach().abs().max()) for X in arrays)


def test_sites_of_one_shape_are_mixed_alike():
    run = prepare()
    paper_runs.randomize(run.stacked)
    together = mixing.together([run.stacked.factors()["fc1"]] * 2)
    both = DECAF.mix(together.map(torch.Tensor.detach), run.Pi)
    assert torch.equal(both.B[0], both.B[1])


def test_bytes_count_links_factors_and_heads():
    numbers = {"fc1": (7 + 5) * 2, "fc2": (4 + 7) * 2, "head": 4 * 3 + 3}
    only_B = 7 * 2 + 4 * 2 + numbers["head"]
    message = 4 * sum(numbers.values())

    def sent(method, graph="ring", N=5):
        run = prepare(mix__method=method, mix__graph=graph, mix__agents=N)
        return one_mix(run)

    assert sent("decaf") == sent("dlora") == 2 * 5 * message
    assert sent("dlora", "complete") == 5 * 4 * message
    assert sent("dlora_fa") == 2 * 5 * 4 * only_B
    assert sent("fedavg") == 2 * 5 * message
    assert sent("local") == 0
    assert sent("decaf", N=1) == 0


def test_pooled_gradients_travel_at_every_step():
    run = prepare(mix__method="centralized")
    message = 4 * ((7 + 5) * 2 + (4 + 7) * 2 + 15)
    train(run, 3)
    assert run.sent == 2 * 3 * 3 * message


@pytest.mark.parametrize(
    ("method", "order", "times"),
    [("dlora", "step_first", 2), ("dlora", "mix_first", 3), ("centralized", "step_first", 5)],
)
def test_bytes_are_counted_mix_by_mix_or_step_by_step_to_the_end(method, order, times):
    run = prepare(mix__method=method, train__order=order, train__steps=5, mix__every=2)
    for _ in range(5):
        finetune.advance(run)
    message = 4 * ((7 + 5) * 2 + (4 + 7) * 2 + 15)
    assert run.stacked.agents == 3  # on a ring of three, or by a server, two messages per agent
    assert run.records[-1]["comm_bytes"] == times * 2 * 3 * message


def test_pooled_gradients_need_one_model_to_start_from():
    with pytest.raises(ValueError, match=r"adapters must be equal at all agents for centralized"):
        prepare(mix__method="centralized", lora__equal_start=False)


def test_one_model_has_one_head_to_start_from(tmp_path):
    from paper_checks.stacked import export

    run = prepare()
    with torch.no_grad():
        run.stacked.heads["classifier"].bias[1, 0] += 1
    folders = [tmp_path / f"agent{agent}" for agent in range(3)]
    for agent, folder in enumerate(folders):
        export(run.stacked, agent, folder, base="net")
    config = paper_runs.config(mix__method="centralized")
    with pytest.raises(ValueError, match=r"heads must be equal .*centralized.*head classifier"):
        finetune.prepare(config, device="cpu", adapters=folders)
    finetune.prepare(paper_runs.config(), device="cpu", adapters=folders)


# ---------------------------------------------------------------- steps and orders


def test_every_agent_takes_the_gradient_of_its_own_mean_loss():
    run = prepare(mix__method="local")
    paper_runs.randomize(run.stacked)
    finetune.gradients(run, 0)
    index = batches.batch(run.shards, 0, 0, 4)
    for agent in range(3):
        with run.stacked.only(agent):
            loss = finetune.agents_losses(run, run.task.train.take(index[agent]), 1)[0]
            for X in run.stacked.parameters():
                (own,) = torch.autograd.grad(loss, X, retain_graph=True)
                assert torch.allclose(own[agent], X.grad[agent], rtol=1e-4, atol=100 * EPS32)
                assert not own[[i for i in range(3) if i != agent]].any()


def test_sequential_agents_take_the_same_steps():
    both = [train(prepare(train__sequential=s, train__optimizer="sgd"), 4) for s in (False, True)]
    # four steps and two mixes in float32 of numbers of size one
    close(*both, 1000 * EPS32)


def test_stacked_adamw_is_one_optimizer_an_agent():
    run = prepare(mix__method="local", train__optimizer="adamw", train__weight_decay=0.1)
    paper_runs.randomize(run.stacked)
    start = snapshot(run)
    alone = {n: [X[i].clone().requires_grad_() for i in range(3)] for n, X in start.items()}
    optimizers = [
        torch.optim.AdamW([X[i] for X in alone.values()], 0.05, weight_decay=0.1) for i in range(3)
    ]
    for t in range(3):
        finetune.gradients(run, t)
        for name, X in checkpoint.named(run.stacked).items():
            for i in range(3):
                alone[name][i].grad = X.grad[i].clone()
        run.optimizer.step()
        for optimizer in optimizers:
            optimizer.step()
    for name, X in checkpoint.named(run.stacked).items():
        for i in range(3):
            assert torch.allclose(X[i], alone[name][i], rtol=0, atol=10 * EPS32), name


def test_centralized_agents_stay_equal_and_follow_the_mean_gradient():
    run = prepare(mix__method="centralized", train__optimizer="sgd")
    start = snapshot(run)
    finetune.gradients(prepared := prepare(mix__method="local"), 0)
    mean = {n: X.grad.mean(0) for n, X in checkpoint.named(prepared.stacked).items()}
    train(run, 1)
    for name, X in snapshot(run).items():
        assert torch.equal(X, X[:1].expand_as(X))
        assert torch.allclose(X[0], start[name][0] - 0.05 * mean[name], rtol=0, atol=10 * EPS32)


@pytest.mark.parametrize("method", ["dlora", "fedavg"])
def test_mix_first_is_step_first_half_a_step_apart(method):
    # equal agents at the start: the first mix changes nothing
    first = prepare(mix__method=method, mix__agents=5, train__order="mix_first")
    after = prepare(mix__method=method, mix__agents=5, train__order="step_first")
    train(first, 6)
    one_mix(first)  # the run's last step is not followed by a mix
    close(snapshot(first), train(after, 6), 100 * EPS32)


def test_combine_takes_the_gradient_at_the_unmixed_point():
    run = prepare(mix__method="dlora", train__order="combine", mix__every=1)
    paper_runs.randomize(run.stacked)
    other = prepare(mix__method="dlora")
    paper_runs.randomize(other.stacked)
    finetune.gradients(other, 0)
    steps = {n: -0.05 * X.grad.clone() for n, X in checkpoint.named(other.stacked).items()}
    one_mix(other)
    expected = {n: X.detach() + steps[n] for n, X in checkpoint.named(other.stacked).items()}
    close(train(run, 1), expected, 10 * EPS32)


def test_agents_mix_at_the_end_of_a_round_alone():
    run = prepare(mix__method="fedavg", mix__every=3)
    for t in range(1, 7):
        finetune.advance(run)
        assert observe.equal(run.stacked) == (t % 3 == 0)


def test_rounds_can_be_counted_in_passes_over_a_shard():
    assert prepare(mix__every_epochs=2, train__steps=12).every == 2 * math.ceil(24 / 4)
    with pytest.raises(ValueError, match=r"mix\.every_epochs = 2 is 12 steps .*train\.steps = 11"):
        prepare(mix__every_epochs=2, train__steps=11)


def test_the_step_size_falls_as_half_a_cosine():
    train = paper_runs.config(train__schedule="cosine", train__lr_min=0.01).train
    rounds = Rounds(2, 2)
    sizes = [finetune.step_size(train, t, rounds.clock(t)) for t in range(6)]
    assert sizes[0] == 0.05
    assert sizes[3] == pytest.approx(0.03)  # half way
    assert sizes == sorted(sizes, reverse=True)
    again = paper_runs.config(train__schedule="cosine", train__period="round").train
    sizes = [finetune.step_size(again, t, rounds.clock(t)) for t in range(4)]
    assert sizes == pytest.approx([0.05, 0.025] * 2)
    sizes = [finetune.step_size(again, t, Rounds(1, 2).clock(t)) for t in range(4)]
    assert sizes == pytest.approx([0.05, 0.025, 0.05, 0.05])


# ---------------------------------------------------------------- data order and noise


def test_all_methods_meet_the_same_batches_and_masks():
    losses = set()
    for method in ADAPTER_METHODS:
        run = prepare(mix__method=method, lora__dropout=0.5)
        paper_runs.randomize(run.stacked)  # at B = 0 masks would change nothing
        losses.add(tuple(finetune.gradients(run, 0).tolist()))
    assert len(losses) == 1


def test_dropout_is_drawn_anew_at_every_step_and_off_in_evaluations():
    run = prepare(lora__dropout=0.5, train__lr=1e-30)
    paper_runs.randomize(run.stacked)
    found = {t: finetune.gradients(run, t).tolist() for t in (0, 1)}
    assert found[0] != found[1]
    assert finetune.gradients(run, 0).tolist() == found[0]
    scores = [observe.evaluate(run.stacked, run.task, 5)["test_loss"] for _ in range(2)]
    assert scores[0] == scores[1]


def test_every_pass_over_a_shard_is_a_permutation():
    shards = [np.arange(7), np.arange(10, 17)]
    walked = np.concatenate([batches.batch(shards, 3, t, 2).numpy() for t in range(7)], axis=1)
    for agent, shard in enumerate(shards):
        passes = walked[agent].reshape(2, 7)
        assert [sorted(one) for one in passes] == [list(shard)] * 2
        assert list(passes[0]) != list(passes[1])


def test_a_shard_smaller_than_the_batch_is_walked_more_than_once():
    found = batches.batch([np.array([4, 9, 11])], 0, 2, 8).numpy()[0]
    assert len(found) == 8
    assert set(found) == {4, 9, 11}
    run = prepare(data__batch=40)  # of shards of 24
    train(run, 2)


@pytest.mark.parametrize("method", ADAPTER_METHODS)
def test_a_single_agent_trains_with_every_method(method, tmp_path):
    config = paper_runs.config(mix__method=method, mix__agents=1, mix__graph="complete")
    run = finetune.finetune(config, tmp_path)
    assert run.records[-1]["consensus_products"] <= (10 * EPS32) ** 2
    assert run.records[-1]["loss"] < run.records[0]["loss"]


# ---------------------------------------------------------------- the four traps


def test_a_dead_start_stays_dead_unless_directions_are_kept():
    dead = {"mix__method": "decaf", "train__order": "mix_first", "mix__every": 1}
    with pytest.warns(DeadStartWarning, match="step_first"):
        run = prepare(**dead, mix__zero_directions="drop")
    train(run, 3)
    for pair in run.stacked.factors().values():
        assert not pair.B.any()
        assert not pair.A.any()
    alive = prepare(**dead, mix__zero_directions="keep")
    train(alive, 3)
    assert all(pair.B.any() for pair in alive.stacked.factors().values())
    assert observe.least_rank(alive.stacked) >= 1


def test_the_default_start_is_alive_with_either_rule():
    for rule in ("keep", "drop"):
        run = prepare(mix__zero_directions=rule)
        train(run, 4)
        assert all(pair.B.any() and pair.A.any() for pair in run.stacked.factors().values())


def test_unequal_frozen_factors_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"lora\.equal_start must be true for dlora_fa"):
        paper_runs.config(mix__method="dlora_fa", lora__equal_start=False)
    from paper_checks.stacked import export

    run = prepare(lora__equal_start=False)
    for agent in range(3):
        export(run.stacked, agent, tmp_path / f"agent{agent}", base="net")
    folders = sorted(tmp_path.glob("agent*"))
    config = paper_runs.config(mix__method="dlora_fa")
    with pytest.raises(
        ValueError, match=r"A must be equal at all agents for dlora_fa.*fc1 differs"
    ):
        finetune.prepare(config, device="cpu", adapters=folders)
    started = finetune.prepare(paper_runs.config(), device="cpu", adapters=folders)
    # the scale is folded into B in the file, and taken out again
    close(snapshot(started), snapshot(run), 10 * EPS32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_factored_in_float32(dtype):
    draw = torch.Generator().manual_seed(0)
    B, A = (torch.randn(shape, generator=draw).to(dtype) for shape in ((4, 9, 2), (4, 2, 6)))
    Pi = TOPOLOGIES["ring"](4)
    half = DECAF.mix(Factors(B[None], A[None]), Pi)
    wide = DECAF.mix(Factors(B.float()[None], A.float()[None]), Pi)
    assert half.B.dtype == dtype
    # the same factorization, rounded once to the half type
    for X, Y in zip(half, wide, strict=True):
        assert (X.float() - Y).abs().max() <= torch.finfo(dtype).eps * Y.abs().max()


def test_a_half_precision_base_trains_and_mixes_float32_factors(monkeypatch, tmp_path):
    wide = finetune.finetune(paper_runs.config(), tmp_path / "float32")
    task = lambda config: paper_runs.task(dtype=torch.bfloat16)  # noqa: E731
    monkeypatch.setattr(finetune, "load_task", task)
    run = finetune.finetune(paper_runs.config(), tmp_path / "bfloat16")
    assert {X.dtype for X in snapshot(run).values()} == {torch.float32}
    # three layers of numbers of size one, each rounded to 8 bits
    assert run.records[-1]["loss"] == pytest.approx(wide.records[-1]["loss"], abs=3 * 2**-8)


def gauge_pair(seed=0):
    """Old factors, new ones of the same product, R, and a weight gradient, in float64."""
    draw = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.randn(shape, generator=draw, dtype=torch.float64)  # noqa: E731
    old = Factors(rand(2, 3, 9, 2), rand(2, 3, 2, 6))
    R = rand(2, 3, 2, 2) + 2 * torch.eye(2, dtype=torch.float64)
    return old, gauge(old, R), R, rand(2, 3, 9, 6)


def gradient(G, factors):
    return Factors(G @ factors.A.mT, factors.B.mT @ G)


def test_rotated_first_moments_are_exact_under_a_change_of_gauge():
    old, new, R, G = gauge_pair()
    moved = moments.rotated(gradient(G, old), old, new)
    for X, Y in zip(moved, gradient(G, new), strict=True):
        # a pseudo-inverse and two products, each off by the condition number of the factors
        slip = 100 * 9 * 2.3e-16 * float(torch.linalg.cond(R).max()) * float(Y.abs().max())
        assert (X - Y).abs().max() <= slip
    kept = gradient(G, old)
    assert (kept.A - gradient(G, new).A).abs().max() > 0.1  # left alone, they are wrong


def test_rotated_second_moments_are_exact_where_directions_do_not_mix():
    old, _, _, G = gauge_pair()
    R = torch.diag(torch.tensor([-2.0, 0.5], dtype=torch.float64)).flip(0)
    new = gauge(old, R.expand(2, 3, 2, 2))
    squares = lambda pair: Factors(pair.B**2, pair.A**2)  # noqa: E731
    moved = moments.rotated(squares(gradient(G, old)), old, new, squares=True)
    for X, Y in zip(moved, squares(gradient(G, new)), strict=True):
        assert torch.allclose(X, Y, rtol=1e-11, atol=1e-12 * float(Y.max()))
    _, mixed, _, _ = gauge_pair()
    assert all(
        (X >= 0).all() for X in moments.rotated(squares(gradient(G, old)), old, mixed, squares=True)
    )


def test_directions_without_a_product_carry_no_moments():
    old, new, _, G = gauge_pair()
    dead = Factors(torch.zeros_like(old.B), old.A)
    moved = moments.rotated(gradient(G, old), dead, new)
    assert not moved.A.any()
    assert torch.isfinite(moved.B).all()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_moments_follow_the_basis_of_a_truncation(optimizer):
    settings = {"train__optimizer": optimizer, "mix__agents": 1}
    settings |= {"train__momentum": 0.9} if optimizer == "sgd" else {}
    settings |= {"mix__graph": "complete", "mix__every": 4}
    name = moments.FIRST[0] if optimizer == "adamw" else moments.FIRST[1]
    found = {}
    for policy in ("reset", "keep", "rotate"):
        run = prepare(**settings, mix__moments=policy)
        train(run, 3)
        site = run.stacked.sites["fc1"]
        old = Factors(site.B.detach().clone(), site.A.detach().clone())
        before = Factors(*(run.optimizer.state[X][name].clone() for X in (site.B, site.A)))
        one_mix(run)  # of one agent: a change of gauge to balanced factors
        after = [run.optimizer.state.get(X, {}).get(name) for X in (site.B, site.A)]
        found[policy] = after
        if policy == "rotate":
            R, _ = moments.basis_maps(old, Factors(site.B.detach(), site.A.detach()))
            exact = Factors(before.B.double() @ R.mT, torch.linalg.solve(R.mT, before.A.double()))
            for X, Y in zip(after, exact, strict=True):
                slip = (
                    100 * 7 * EPS32 * float(torch.linalg.cond(old.B).max()) * float(Y.abs().max())
                )
                assert (X - Y).abs().max() <= slip
        if policy == "keep":
            assert all(torch.equal(X, Y) for X, Y in zip(after, before, strict=True))
    assert found["reset"] == [None, None]


def test_factor_methods_keep_their_basis_and_so_their_moments():
    run = prepare(mix__method="dlora", mix__moments="rotate", train__optimizer="adamw")
    train(run, 1)
    before = checkpoint.optimizer_tensors(run.optimizer, checkpoint.named(run.stacked))
    before = {name: X.clone() for name, X in before.items()}
    one_mix(run)
    after = checkpoint.optimizer_tensors(run.optimizer, checkpoint.named(run.stacked))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("method", ADAPTER_METHODS)
def test_a_reset_is_that_of_every_method(method):
    momentum = {"train__optimizer": "adamw"}
    if METHODS[method].confined:  # SGD's momentum is linear in the gradients
        momentum = {"train__optimizer": "sgd", "train__momentum": 0.9}
    run = prepare(mix__method=method, mix__moments="reset", **momentum)
    train(run, 2)
    assert not run.optimizer.state
    train(run, 1)
    assert run.optimizer.state


def test_the_frozen_factor_does_not_move():
    run = prepare(mix__method="dlora_fa", train__weight_decay=0.1, train__optimizer="adamw")
    A = run.stacked.sites["fc1"].A.clone()
    train(run, 4)
    assert torch.equal(run.stacked.sites["fc1"].A, A)
    assert run.stacked.sites["fc1"].B.any()


# ---------------------------------------------------------------- what is looked at


def test_the_quantities_are_those_of_dense_updates():
    run = prepare(mix__agents=4)
    paper_runs.randomize(run.stacked)
    seen = observe.theory(run.stacked, run.Pi, "ring", step=1, round=1)
    Xi = interference = truncation = mix = size = 0.0
    for name, pair in run.stacked.factors().items():
        B, A = run.stacked.sites[name].scale * pair.B.double().numpy(), pair.A.double().numpy()
        W = B @ A
        Xi += np.sum((W - W.mean(0)) ** 2) / 4
        size += np.sum(W**2) / 4
        for row in run.Pi:
            M = np.tensordot(row, W, 1)
            mix += np.sum(M**2) / 4
            interference += np.sum((M - np.tensordot(row, B, 1) @ np.tensordot(row, A, 1)) ** 2) / 4
            truncation += np.sum((M - truncated(M, 2)) ** 2) / 4
    numbers = seen.numbers
    assert numbers["consensus_products"] == pytest.approx(Xi, rel=1e-12)
    assert numbers["adapter_norm"] == pytest.approx(size**0.5, rel=1e-12)
    assert numbers["interference"] == pytest.approx(interference**0.5, rel=1e-12)
    assert numbers["truncation"] == pytest.approx(truncation**0.5, rel=1e-12)
    assert numbers["relative_truncation"] == pytest.approx((truncation / mix) ** 0.5, rel=1e-12)
    assert numbers["numerical_rank"] == 2


@pytest.mark.parametrize(
    ("order", "every", "steps", "seen"),
    [
        ("step_first", 2, 7, [4, 6]),
        ("step_first", 99, 8, [8]),
        ("mix_first", 2, 8, [0, 4, 6]),
        ("mix_first", 99, 9, [0, 8]),
    ],
)
def test_the_last_mix_is_observed_however_rarely_others_are(order, every, steps, seen):
    settings = {"train__steps": steps, "train__order": order, "mix__method": "dlora"}
    run = prepare(**settings, observe__every=every)
    train(run, steps)
    assert sorted({row["step"] for row in run.rows}) == seen
    assert [record["step"] for record in run.records if "interference" in record] == [
        min(step + 2 * (order == "mix_first"), steps) for step in seen
    ]


def test_every_case_of_the_claims_has_one_row_per_mix():
    run = prepare(mix__agents=4)
    train(run, 4)
    assert {row["claim"] for row in run.rows} == set(EVIDENCE)
    found = [(row["claim"], row["case"], row["step"]) for row in run.rows]
    assert len(found) == len(set(found)) == 2 * (3 + 3 + 4 + 3 + 1 + 1)
    assert {row["step"] for row in run.rows} == {2, 4}
    assert all(row["outcome"] in ("holds", "not_applicable") for row in run.rows)
    assert all(row["sites"] == 2 and row["instances"] == 8 for row in run.rows)


def test_a_bound_that_is_broken_at_one_site_decides():
    run = prepare(mix__agents=4)
    paper_runs.randomize(run.stacked)
    found = observe.report(run.stacked, observe.compressed_sites(run.stacked), run.Pi, "ring")
    rows = found.rows["T17"]
    broken = [
        type(row)(**{**vars(row), "bound": row.measured / 2})
        for row in rows
        if row.params["site"] == "fc2"
    ]
    found.rows["T17"][:] = [row for row in rows if row.params["site"] == "fc1"] + broken
    chosen = observe.worst_over_sites(found, {"step": 1})["T17"]
    assert {row.params["site"] for row in chosen} == {"fc2"}
    assert {row.outcome.value for row in chosen} == {"violated"}


@pytest.mark.parametrize("sequential", [False, True])
def test_the_score_is_the_mean_of_the_agents_own(sequential):
    run = prepare()
    paper_runs.randomize(run.stacked)
    found = observe.evaluate(run.stacked, run.task, 5, sequential=sequential)
    values, losses = [], []
    for agent in range(3):
        with run.stacked.only(agent), torch.no_grad():
            scores = run.stacked.model(run.task.test.inputs["x"])
        values.append(float((scores.argmax(-1) == run.task.test.labels).double().mean()))
        losses.append(float(torch.nn.functional.cross_entropy(scores, run.task.test.labels)))
    assert len(set(values)) > 1
    assert found["score"] == pytest.approx(np.mean(values), rel=1e-12)
    assert (found["score_least"], found["score_most"]) == (min(values), max(values))
    assert found["test_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_equal_agents_are_scored_once_and_alike():
    run = prepare()
    calls = []
    task = run.task._replace(scores=lambda *a: calls.append(a[2]) or run.task.scores(*a))
    once = observe.evaluate(run.stacked, task, 9)
    assert calls == [1, 1]
    run.stacked.sites["fc1"].B.data[0, 0, 0] = 1e-12  # equal no more
    several = observe.evaluate(run.stacked, task, 9)
    assert calls[2:] == [3, 3]
    assert once["score"] == several["score"]


def test_f1_is_that_of_class_one():
    labels, found = torch.tensor([1, 1, 1, 0, 0, 2]), torch.tensor([1, 1, 0, 1, 0, 1])
    assert observe.f1(found, labels) == pytest.approx(2 * 2 / (3 + 4))
    assert observe.f1(torch.zeros(3), torch.zeros(3)) == 0
    assert observe.accuracy(found, labels) == 0.5


# ---------------------------------------------------------------- failures


def test_a_loss_that_is_not_finite_names_agent_and_step(monkeypatch, tmp_path):
    config = paper_runs.config(mix__method="local")
    poisoned = paper_runs.task()
    shards = finetune.prepare(config, device="cpu").shards
    bad = batches.batch(shards, 0, 3, 4)[1, 0]
    poisoned.train.inputs["x"][bad] = float("nan")
    stamped = stamp.of(config) | stamp.of_loaded(poisoned)  # before its model gets adapters
    steps = [t for t in range(6) if bad in batches.batch(shards, 0, t, 4)[1]]
    monkeypatch.setattr(finetune, "load_task", lambda config: poisoned)
    with pytest.raises(
        finetune.TrainingError, match=f"loss of agent 1 at step {steps[0]} "
    ) as info:
        finetune.finetune(config, tmp_path)
    assert "train.lr = 0.05" in str(info.value)
    assert f"step-{steps[0]:09d}.ckpt" in str(info.value)
    found, _ = checkpoint.read(tmp_path / "checkpoint", stamped)
    assert found.step == steps[0]
    assert all(torch.isfinite(X).all() for X in found.tensors.values())


def test_a_gradient_that_is_not_finite_is_met_before_the_step():
    run = prepare(mix__method="local")
    before = snapshot(run)
    run.stacked.sites["fc1"].B.register_hook(lambda g: g.index_fill(0, torch.tensor([2]), math.inf))
    with pytest.raises(finetune.TrainingError, match="gradient of agent 2 at step 0"):
        finetune.advance(run)
    close(snapshot(run), before, 0)


def test_a_step_that_overflows_leaves_the_state_before_it(tmp_path, monkeypatch):
    class Overflows(torch.optim.SGD):
        taken = 0

        def step(self):
            super().step()
            self.taken += 1
            if self.taken == 4:
                self.param_groups[0]["params"][0].data[1] = math.inf

    as_it_is = finetune.optimizer_of
    make = lambda *given: Overflows(as_it_is(*given).param_groups)  # noqa: E731
    monkeypatch.setattr(finetune, "optimizer_of", make)
    config = paper_runs.config()  # a checkpoint every second step
    with pytest.raises(finetune.TrainingError, match=r"step 3 of size 0.05 overflowed; lower"):
        finetune.finetune(config, tmp_path)
    found, _ = checkpoint.read(
        tmp_path / "checkpoint", stamp.of(config) | stamp.of_loaded(paper_runs.task())
    )
    assert found.step == 2
    assert all(torch.isfinite(X).all() for X in found.tensors.values())


def test_observed_agents_are_those_of_an_export(tmp_path):
    from paper_checks.stacked import export

    run = prepare()
    train(run, 3)
    for agent in range(3):
        export(run.stacked, agent, tmp_path / f"agent{agent}", base="net")
    stored = adapters.load_agents(sorted(tmp_path.glob("agent*")))
    ours = observe.compressed_sites(run.stacked)
    assert sorted(stored.factors) == sorted(ours)
    for name, pair in stored.factors.items():
        small, shape = ours[name]
        assert shape == pair.shape
        for X, Y in zip(small, adapters.compress(pair), strict=True):
            # exported in float32; p columns of a triangle err by p roundings, either way
            assert np.abs(X - Y).max() <= 2 * len(pair.B) * 2 * EPS32 * np.linalg.norm(Y)


def test_observing_at_a_share_measures_first_and_last_and_as_often_as_the_share_allows(
    monkeypatch,
):
    now = [0.0]
    monkeypatch.setattr(record.time, "perf_counter", lambda: now[0])
    real, taken = observe.theory, []

    def theory(*args, **where):
        now[0] += 3.0  # an observation takes 3 seconds, a gradient 1
        taken.append(where["round"])
        return real(*args, **where)

    def slow(*args):
        now[0] += 1.0
        return losses(*args)

    losses = finetune.agents_losses
    monkeypatch.setattr(observe, "theory", theory)
    monkeypatch.setattr(finetune, "agents_losses", slow)
    run = prepare(train__steps=40, mix__every=1, observe__share=0.25)
    with_share = train(run, 40)
    # another fits once 3 more are at most a quarter of the steps so far: 24, 36; and the last
    assert taken == [1, 24, 36, 40]
    every = prepare(train__steps=40, mix__every=1)
    close(train(every, 40), with_share, 0)  # the training is the same bit for bit
    assert [r["loss"] for r in every.records] == [r["loss"] for r in run.records]
    assert record.share(run.seconds, "observing") == 12 / 40
