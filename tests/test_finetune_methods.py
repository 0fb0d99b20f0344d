"""The harness runs what a method says: memory, phases, rounds without a mix."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from decaf_theory.methods import METHODS, adf_lora, channel, noisy, odelora, salf  # noqa: E402
from decaf_theory.methods.form import LORA  # noqa: E402
from paper_checks import dryrun, finetune, mixing  # noqa: E402
from paper_checks.config import ADAPTER_METHODS, ConfigError  # noqa: E402
from paper_checks.stacked import export  # noqa: E402
from tests import paper_runs  # noqa: E402
from tests.paper_runs import snapshot  # noqa: E402

EPS32 = 2.0**-23
TRACKING = METHODS["gradient_tracking"]


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)


def config_of(monkeypatch, method, **overrides):
    monkeypatch.setitem(METHODS, method.name, method)
    config = paper_runs.config(**overrides)
    return replace(config, mix=replace(config.mix, method=method.name))


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_a_round_of_every_method_trains_and_sends_what_a_dry_run_counts(monkeypatch, name):
    config = config_of(monkeypatch, METHODS[name], mix__every=4, train__steps=4)
    run = finetune.prepare(config, device="cpu")
    counted, before = dryrun.traffic(run.stacked, config, 4), snapshot(run)
    for _ in range(4):
        finetune.advance(run)
    assert (run.step, run.sent) == (4, counted.total_round)
    after = snapshot(run)
    assert all(bool(torch.isfinite(X).all()) for X in after.values())
    assert any(not torch.equal(X, before[part]) for part, X in after.items())


def test_trackers_follow_the_mean_gradient_and_are_what_agents_step_along(monkeypatch):
    config = config_of(monkeypatch, TRACKING, mix__every=1, train__lr=0.1)
    run = finetune.prepare(config, device="cpu")
    for _ in range(4):
        before = snapshot(run)
        finetune.gradients(run, run.step)
        # the tracker was put in place of the gradient
        for name, site in run.stacked.sites.items():
            tracker, last = run.memory[name]["tracker"], run.memory[name]["last"]
            assert torch.equal(site.B.grad, tracker.B)
            assert torch.equal(site.A.grad, tracker.A)
            for y, g in zip(tracker, last, strict=True):
                size = float(torch.maximum(y.abs().max(), g.abs().max()))
                # sums of three agents over four steps and mixes
                assert (y.mean(0) - g.mean(0)).abs().max() <= 4 * 3 * 8 * EPS32 * size
        run.optimizer.step()
        assert any(not torch.equal(X, before[name]) for name, X in snapshot(run).items())
        run.step += 1
        finetune.mix(run, run.step)


KEEPING = [
    TRACKING,
    *(METHODS[name] for name in ("decaf_ef", "air_fedavg", "salf", "la_lora", "fedagg")),
]


@pytest.mark.parametrize("method", KEEPING, ids=lambda m: m.name)
def test_what_a_method_keeps_survives_the_process(monkeypatch, tmp_path, method):
    config = config_of(monkeypatch, method, train__steps=6, mix__every=1)
    whole = finetune.finetune(config, tmp_path / "whole")
    stops = iter([False] * 3 + [True] * 9)
    half = finetune.finetune(config, tmp_path / "half", stop=lambda: next(stops))
    assert half.step == 3
    rest = finetune.finetune(config, tmp_path / "half")
    for name, X in snapshot(whole).items():
        assert torch.equal(X, snapshot(rest)[name]), name
    for site, kept in whole.memory.items():
        for what, pair in kept.items():
            for X, Y in zip(pair, rest.memory[site][what], strict=True):
                assert X.any() or what == "moved"  # since the last mix, which ends the run
                assert torch.equal(X, Y)
    assert whole.records == rest.records
    assert whole.sent == rest.sent > 0


def test_memory_changes_the_run(monkeypatch):
    runs = {}
    for name, method in (("tracking", TRACKING), ("dlora", METHODS["dlora"])):
        config = config_of(monkeypatch, method, train__steps=4, mix__every=1)
        run = finetune.prepare(config, device="cpu")
        for _ in range(4):
            finetune.advance(run)
        runs[name] = run
    tracked, plain = runs["tracking"], runs["dlora"]
    assert not torch.equal(tracked.stacked.sites["fc1"].B, plain.stacked.sites["fc1"].B)
    heads = mixing.head_bytes(plain.stacked) * 2 * 3 * 4  # travel once either way
    assert tracked.sent - heads == 2 * (plain.sent - heads)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_factor_whose_turn_it_is_not_stands_still(monkeypatch, optimizer):
    config = config_of(
        monkeypatch, adf_lora(1), train__optimizer=optimizer, train__weight_decay=0.1
    )
    run = finetune.prepare(config, device="cpu")
    paper_runs.randomize(run.stacked)
    for step in range(8):
        before = snapshot(run)
        finetune.gradients(run, step)
        run.optimizer.step()
        trained = "A" if step // run.every % 2 else "B"
        for name, site in run.stacked.sites.items():
            B, A = (
                not torch.equal(X, Y)
                for X, Y in zip(
                    (site.B, site.A), (before[f"{name}.0"], before[f"{name}.1"]), strict=True
                )
            )
            assert {"B": B, "A": A} == {"B": trained == "B", "A": trained == "A"}


def test_rounds_that_do_not_mix_send_nothing(monkeypatch):
    rare = replace(METHODS["decaf"], name="rare", mixes=lambda clock: clock.round % 2 == 1)
    run = finetune.prepare(config_of(monkeypatch, rare, train__steps=8, mix__every=1), device="cpu")
    sent = []
    for _ in range(4):
        finetune.advance(run)
        sent.append(run.sent)
    assert sent[0] == 0 < sent[1] == sent[2]
    assert sent[3] == 2 * sent[1]


def test_a_form_of_W_that_the_model_does_not_compute_is_refused_by_name(monkeypatch):
    odd = replace(METHODS["dlora"], name="odd", form=replace(LORA, name="B g A"))
    with pytest.raises(ValueError, match=r"training knows .*, not 'B g A', that of odd"):
        finetune.prepare(config_of(monkeypatch, odd), device="cpu")


# ---------------------------------------------------------------- what is merged into W0

MERGING = ["flora", "fedex_lora", "rac_lora"]


def weights_of(run):
    """The weight of each agent at each site, [N, d, k] in float64, by a forward pass of units."""
    found = {}
    for name, site in run.stacked.sites.items():
        k = site.A.shape[-1]
        units = torch.eye(k, dtype=site.A.dtype).repeat(run.stacked.agents, 1)
        with torch.no_grad():
            y = site(units) - site.base(torch.zeros_like(units))
        found[name] = y.reshape(run.stacked.agents, k, -1).mT.double()
    return found


@pytest.mark.parametrize("name", MERGING)
def test_the_mean_weight_of_the_model_is_kept_by_merging(monkeypatch, name):
    config = config_of(monkeypatch, METHODS[name], mix__every=1, train__lr=0.1)
    run = finetune.prepare(config, device="cpu")
    for step in range(3):
        finetune.gradients(run, step)
        run.optimizer.step()
        before = weights_of(run)
        finetune.mix(run, step + 1)
        for site, W in weights_of(run).items():
            mean = before[site].mean(0)
            # a dot product of at most 7 + 2 x 3 terms in each of three sums
            slip = 50 * EPS32 * max(1.0, float(before[site].abs().max()))
            assert (W - mean).abs().max() <= slip
            assert run.stacked.sites[site].merged.shape[0] == 1  # one for all agents
    assert all(site.merged.any() for site in run.stacked.sites.values())


@pytest.mark.parametrize("name", [*MERGING, "fedhl", "fed_sb"])
def test_a_run_that_merges_survives_the_process(monkeypatch, tmp_path, name):
    config = config_of(monkeypatch, METHODS[name], train__steps=6, mix__every=1)
    whole = finetune.finetune(config, tmp_path / "whole")
    stops = iter([False] * 3 + [True] * 9)
    half = finetune.finetune(config, tmp_path / "half", stop=lambda: next(stops))
    assert half.step == 3
    rest = finetune.finetune(config, tmp_path / "half")
    for site, W in weights_of(whole).items():
        assert torch.equal(W, weights_of(rest)[site])
        assert (W - whole.stacked.sites[site].base.weight).abs().max() > 1000 * EPS32
    for site, kept in whole.memory.items():
        for what, held in kept.items():
            for X, Y in zip(held, rest.memory[site][what], strict=True):
                assert torch.equal(X, Y)
    assert whole.records == rest.records


def test_a_server_that_answers_with_all_pairs_answers_with_one_head(monkeypatch):
    sent = {}
    for name in ("fedavg", "flora"):
        run = finetune.prepare(config_of(monkeypatch, METHODS[name], mix__every=1), device="cpu")
        finetune.advance(run)
        sent[name] = run.sent
    heads = 2 * 3 * mixing.head_bytes(run.stacked)
    adapters = (sent["fedavg"] - heads) // (2 * 3)
    assert sent["flora"] - heads == (3 + 3 * 3) * adapters


def test_what_is_merged_is_not_written_as_an_adapter(monkeypatch, tmp_path):
    run = finetune.prepare(config_of(monkeypatch, METHODS["flora"], mix__every=1), device="cpu")
    export(run.stacked, 0, tmp_path / "start", base="net")  # nothing is merged yet
    finetune.advance(run)
    with pytest.raises(ValueError, match=r"agent 1 cannot be written as an adapter: .*site fc1"):
        export(run.stacked, 1, tmp_path / "later", base="net")


def test_only_a_small_square_matrix_trains(monkeypatch):
    config = config_of(monkeypatch, METHODS["fed_sb"], mix__every=2, train__momentum=0.9)
    run = finetune.prepare(config, device="cpu")
    for _ in range(3):
        finetune.advance(run)
        for name, site in run.stacked.sites.items():
            B0 = run.memory[name]["frame"][0]
            outside = site.B - B0 @ (B0.mT @ site.B)
            assert site.B.any()
            assert outside.abs().max() <= 50 * EPS32 * site.B.abs().max()
    with pytest.raises(ConfigError, match=r"train.optimizer must be 'sgd' for fed_sb"):
        config_of(monkeypatch, METHODS["fed_sb"], mix__method="fed_sb", train__optimizer="adamw")


@pytest.mark.parametrize("name", MERGING)
def test_gradients_at_unmixed_factors_do_not_move_merged_ones(monkeypatch, name):
    with pytest.raises(ConfigError, match=f"train.order 'combine' is not defined for {name}"):
        config_of(monkeypatch, METHODS[name], mix__method=name, train__order="combine")


STEPPING = [
    *(METHODS[name] for name in ("air_fedavg", "salf", "la_lora", "odelora", "fedagg")),
    odelora(METHODS["dlora"], runge_kutta=True),
    noisy(METHODS["dlora"], 0.01),
]


@pytest.mark.parametrize("method", STEPPING, ids=lambda m: f"{m.name}, {m.meets}")
def test_a_round_of_training_with_each_channel_and_step(monkeypatch, method):
    config = config_of(monkeypatch, method, mix__every=4, train__lr=0.02)
    run = finetune.prepare(config, device="cpu")
    before = snapshot(run)
    for _ in range(4):
        finetune.advance(run)
    assert run.step == 4
    assert run.sent > 0
    for name, site in run.stacked.sites.items():
        for part, X in (("0", site.B), ("1", site.A)):
            assert torch.isfinite(X).all()
            assert not torch.equal(X, before[f"{name}.{part}"])


def test_each_layer_has_its_own_stragglers(monkeypatch):
    seen = []

    def listening(factors, *rest):
        seen.append((factors.shape, arrivals(factors, *rest).flatten().tolist()))
        return arrivals(factors, *rest)

    arrivals = channel.arrivals
    monkeypatch.setattr(channel, "arrivals", listening)
    run = finetune.prepare(config_of(monkeypatch, salf(0.5), mix__every=1), device="cpu")
    for step in range(12):
        finetune.mix(run, step + 1)
    first, second = ([came for shape, came in seen if shape == s] for s in ((7, 5), (4, 7)))
    assert len(first) == len(second) == 12
    # twelve pairs of three fair coins agree with probability 2^-36
    assert first != second
    assert len({tuple(came) for came in first}) > 2
