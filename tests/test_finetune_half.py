"""Half types: autocast, the scaled loss, steps that overflow, and that a resumed run is equal."""

import pytest

torch = pytest.importorskip("torch")

from paper_checks import checkpoint, finetune, scaling  # noqa: E402
from tests import paper_runs  # noqa: E402
from tests.paper_runs import prepare, snapshot  # noqa: E402


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)


def at_scale(run, scale, interval=2000):
    """Set the scale of the loss, and after how many good steps it is doubled."""
    state = run.scaler.state_dict()
    run.scaler.load_state_dict({**state, "scale": scale, "growth_interval": interval})


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_products_with_the_base_are_in_the_half_type_and_adapters_are_not(half):
    run = prepare(train__autocast=half, mix__method="local")
    seen = {}
    for name in ("fc1", "fc2"):
        site = run.stacked.sites[name]
        site.base.register_forward_hook(lambda m, x, y, name=name: seen.update({name: y.dtype}))
    finetune.advance(run)
    assert set(seen.values()) == {getattr(torch, half)}
    assert {X.dtype for X in snapshot(run).values()} == {torch.float32}
    assert run.overflowed is False
    eps = torch.finfo(getattr(torch, half)).eps
    wide = prepare(mix__method="local")
    losses = (finetune.gradients(r, 0) for r in (prepare(train__autocast=half), wide))
    # two layers of numbers of size one, each rounded once, before a loss that is 1-Lipschitz in
    # each of three scores
    assert (next(losses) - next(losses)).abs().max() <= 2 * 3 * 4 * eps


def test_gradients_do_not_depend_on_the_scale_of_the_loss():
    found = []
    for scale in (1.0, 2.0**10):
        run = prepare(train__autocast="float16", mix__method="local")
        paper_runs.randomize(run.stacked)
        at_scale(run, scale)
        finetune.gradients(run, 0)
        found.append({n: X.grad.clone() for n, X in checkpoint.named(run.stacked).items()})
    for name, X in found[0].items():
        # the smaller scale's are rounded to float16, to its step 6e-8 where they are small
        slip = 8 * 2.0**-10 * float(X.abs().max()) + 8 * 2.0**-24
        assert (X - found[1][name]).abs().max() <= slip, name
        assert X.any() or name == "fc1.1"


def test_a_step_that_overflows_is_not_taken_by_any_agent_and_is_counted():
    run = prepare(train__autocast="float16", train__optimizer="adamw", mix__moments="keep")
    at_scale(run, 2.0**40)
    before = snapshot(run)
    finetune.advance(run)
    assert (run.step, run.skipped, run.overflowed, run.sent) == (1, 1, True, 0)
    assert run.scaler.get_scale() == 2.0**39
    assert all(torch.equal(X, before[name]) for name, X in snapshot(run).items())
    assert not run.optimizer.state
    at_scale(run, 2.0**4)
    finetune.advance(run)
    assert (run.step, run.skipped, run.overflowed) == (2, 1, False)
    assert run.records[-1]["skipped_steps"] == 1
    assert any(not torch.equal(X, before[name]) for name, X in snapshot(run).items())


@pytest.mark.parametrize("method", ["gradient_tracking", "centralized"])
def test_what_a_method_keeps_or_pools_is_not_touched_by_a_step_that_overflows(method):
    run = prepare(train__autocast="float16", mix__method=method)
    at_scale(run, 2.0**40)
    finetune.advance(run)
    assert (run.skipped, run.sent) == (1, 0)
    for kept in run.memory.values():
        assert not any(X.any() for pair in kept.values() for X in pair)


def test_the_scale_grows_after_good_steps():
    run = prepare(train__autocast="float16", mix__method="local")
    at_scale(run, 8.0, interval=2)
    scales = []
    for _ in range(4):
        finetune.advance(run)
        scales.append(run.scaler.get_scale())
    assert scales == [8.0, 16.0, 16.0, 32.0]


def test_a_gradient_that_overflows_at_any_scale_names_its_agent():
    run = prepare(train__autocast="float16", mix__method="local")
    at_scale(run, 2 * scaling.LEAST)
    run.stacked.sites["fc1"].B.register_hook(
        lambda g: g.index_fill(0, torch.tensor([2]), float("nan"))
    )
    finetune.advance(run)
    assert run.skipped == 1
    with pytest.raises(finetune.TrainingError, match="gradient of agent 2 at step 1 is not finite"):
        finetune.advance(run)


def test_a_run_under_a_scale_survives_the_process_bit_for_bit(tmp_path, monkeypatch):
    # the scale starts where the first steps overflow, and doubles after every second good one
    make = scaling.scaler_of

    def small(train, device):
        scaler = make(train, device)
        scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**34, "growth_interval": 2})
        return scaler

    monkeypatch.setattr(scaling, "scaler_of", small)
    config = paper_runs.config(train__autocast="float16", train__steps=30, lora__dropout=0.2)
    whole = finetune.finetune(config, tmp_path / "whole")
    stops = iter([False] * 17 + [True] * 99)
    half = finetune.finetune(config, tmp_path / "half", stop=lambda: next(stops))
    assert half.step == 17
    rest = finetune.finetune(config, tmp_path / "half")
    assert all(torch.equal(X, snapshot(rest)[name]) for name, X in snapshot(whole).items())
    assert whole.records == rest.records
    assert whole.scaler.state_dict() == rest.scaler.state_dict()
    assert 0 < whole.skipped < 30
    assert whole.records[-1]["skipped_steps"] == whole.skipped


def test_a_run_without_a_scale_says_nothing_of_it(tmp_path):
    run = finetune.finetune(paper_runs.config(train__autocast="bfloat16"), tmp_path)
    assert run.scaler is None
    assert not any("skipped_steps" in record for record in run.records)
