"""The effects' training runs, on a network of three layers in place of the ViT."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")

from decaf_theory.methods import METHODS  # noqa: E402
from decaf_theory.topology import TOPOLOGIES  # noqa: E402
from paper_checks import finetune  # noqa: E402
from paper_checks.effects import aggregation, alternating, digits  # noqa: E402
from tests import paper_runs  # noqa: E402

RANKS = (1, 2, 2)


@pytest.fixture(autouse=True)
def net(monkeypatch):
    asked = {"mix__agents": 3, "data__partition": "iid"}

    def read(name, settings):
        given = {key.replace(".", "__"): value for key, value in settings.items()}
        return paper_runs.config(**given | asked)

    monkeypatch.setattr(digits.configs, "read", read)
    monkeypatch.setattr(digits, "STEPS_OF_A_RUN", 6)
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)


def test_each_round_has_the_graph_of_its_schedule(monkeypatch):
    asked = []

    def graph(seed):
        def schedule(t):
            asked.append((seed, t))
            return TOPOLOGIES["complete"](3) if t == 2 else np.eye(3)

        return schedule

    run = digits.train(alternating.ROLORA_ON_A_GRAPH, 0.05, 4, graph)
    assert asked == [(4, t // 2) for t in range(6)]
    assert run.config.mix.rule.meets == "graph"
    # the last round, the only one with links, trained and mixed B alone
    for factors in run.stacked.factors().values():
        assert bool((factors.B == factors.B[:1]).all())
        assert not bool((factors.A == factors.A[:1]).all())


@pytest.mark.parametrize("name", ["fedavg", "flexlora"])
def test_no_agent_leaves_its_rank(name):
    run = digits.train(METHODS[name], 0.05, 0, ranks=RANKS)
    for factors in run.stacked.factors().values():
        assert not bool(factors.B[0, :, 1:].any() or factors.A[0, 1:].any())
        assert bool(factors.B[1].any())


def test_the_servers_model_is_scored_alone():
    run = digits.train(METHODS["fedavg"], 0.05, 0, ranks=RANKS)
    largest = run.stacked.factors()["fc1"].B[1].clone()
    mean = digits.errors_of(run)
    assert 0 <= mean <= 1
    server = digits.errors_of(run, agent=1)
    assert all(torch.equal(B, largest) for B in run.stacked.factors()["fc1"].B)
    assert 0 <= server <= 1


def test_the_errors_of_aggregation_are_seen_at_every_mix_of_every_shape():
    seen = []
    digits.train(aggregation.watched(METHODS["fedrot"], seen), 0.05, 0)
    assert len(seen) == 3 * 2  # rounds, shapes
    assert all(float(x) >= 0 for pair in seen for x in pair)


def test_points_are_differences_of_accuracy_at_tuned_steps():
    def wrong(best, share):
        return lambda lr, seed: share + 0.01 * seed + abs(np.log(lr / best))

    values, steps = digits.points(wrong(0.001, 0.2), wrong(0.004, 0.25))
    assert steps == (0.001, 0.004)
    # 100 times a difference of numbers below one half, each of a few roundings
    np.testing.assert_allclose(values, 5.0, rtol=0, atol=100 * 4 * np.finfo(float).eps)
