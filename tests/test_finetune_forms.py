"""The harness trains W - W0 in another form: SoRA's gates, their bytes, their adapters."""

import pytest

torch = pytest.importorskip("torch")

from decaf_theory.adapters import load_agents  # noqa: E402
from paper_checks import config as configs  # noqa: E402
from paper_checks import dryrun, endpoints, finetune, observe  # noqa: E402
from paper_checks.config import ConfigError  # noqa: E402
from paper_checks.stacked import export  # noqa: E402
from tests import paper_runs  # noqa: E402
from tests.paper_runs import snapshot  # noqa: E402

EPS32 = 2.0**-23
SORA = {"mix__form": "sora", "mix__zero_directions": "drop"}


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)


def advanced(steps, **overrides):
    run = paper_runs.prepare(**overrides)
    for _ in range(steps):
        finetune.advance(run)
    return run


def gates(run):
    return {name: site.gate.detach() for name, site in run.stacked.sites.items()}


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [("dlora", "adamw"), ("decaf", "sgd"), ("decaf", "adamw"), ("centralized", "sgd")],
)
def test_gates_that_do_not_train_leave_the_run_as_it_is(method, optimizer):
    common = {"mix__method": method, "train__optimizer": optimizer, "mix__zero_directions": "drop"}
    plain = snapshot(advanced(4, **common))
    same = advanced(4, **common, mix__form="sora", mix__gate_speed=0.0, mix__lam=0.5)
    assert all(bool((g == 1).all()) for g in gates(same).values())
    # gates come third at each site
    kept = {name: X for name, X in snapshot(same).items() if name not in gate_names(same)}
    assert kept.keys() == plain.keys()
    assert all(torch.equal(X, kept[name]) for name, X in plain.items())


def gate_names(run):
    return {f"{name}.2" for name in run.stacked.sites}


@pytest.mark.parametrize("method", ["local", "centralized", "dlora", "decaf", "fedavg", "rolora"])
def test_a_round_of_gates_sends_what_a_dry_run_counts(method):
    options = {**SORA, "mix__method": method, "mix__every": 4, "train__lr": 0.2}
    run = paper_runs.prepare(**options)
    counted = dryrun.traffic(run.stacked, run.config, 4)
    before = gates(run)
    start = {name: g.clone() for name, g in before.items()}
    for _ in range(4):
        finetune.advance(run)
    assert (run.step, run.sent) == (4, counted.total_round)
    for name, g in gates(run).items():
        assert not torch.equal(g, start[name])
        assert run.memory[name]["gate"].data_ptr() == g.data_ptr()
    plain = paper_runs.prepare(**{**options, "mix__form": "lora"})
    more = counted.total_round - dryrun.traffic(plain.stacked, plain.config, 4).total_round
    numbers = sum(g.shape[-1] for g in start.values()) * 4  # bytes of float32
    # N = 3 on a ring: six messages of a mix; to a server and back six, too; pooled in each step
    expected = {"dlora": 6, "fedavg": 6, "rolora": 6, "centralized": 4 * 6}
    assert more == expected.get(method, 0) * numbers


def test_a_strong_threshold_closes_gates_exactly_and_a_mean_keeps_them_closed():
    run = advanced(6, **SORA, mix__method="dlora", mix__lam=50.0)
    assert all(bool((g == 0).all()) for g in gates(run).values())
    assert observe.least_rank(run.stacked) == 0
    weak = advanced(6, **SORA, mix__method="dlora", mix__lam=0.0)
    assert all(bool((g != 0).all()) for g in gates(weak).values())


def test_gates_survive_the_process_and_their_moments_do(tmp_path):
    options = {**SORA, "mix__moments": "keep", "train__optimizer": "adamw", "mix__method": "dlora"}
    config = paper_runs.config(**options, train__steps=6, mix__lam=0.1)
    whole = finetune.finetune(config, tmp_path / "whole")
    stops = iter([False] * 3 + [True] * 9)
    half = finetune.finetune(config, tmp_path / "half", stop=lambda: next(stops))
    assert half.step == 3
    rest = finetune.finetune(config, tmp_path / "half")
    for name, X in snapshot(whole).items():
        assert torch.equal(X, snapshot(rest)[name]), name
    assert whole.records == rest.records
    assert whole.sent == rest.sent > 0


def test_an_adapter_holds_the_gate_in_its_B(tmp_path):
    run = advanced(3, **SORA, mix__method="local")
    folders = [tmp_path / str(agent) for agent in range(3)]
    for agent, folder in enumerate(folders):
        export(run.stacked, agent, folder, base="net")
    found = load_agents(folders)
    for name, site in run.stacked.sites.items():
        B, A = found.factors[name]
        W = site.scale * (site.B * site.gate) @ site.A
        error = (torch.from_numpy(B @ A) - W).abs().max()
        assert error <= 8 * EPS32 * W.abs().max()


def test_the_deployed_models_are_the_mean_of_W_and_the_product_of_means():
    run = advanced(3, **SORA, mix__method="local")
    for name, site in run.stacked.sites.items():
        B, A = endpoints.mean_products(run.stacked)[name]
        mean = ((site.B * site.gate) @ site.A).mean(0)
        assert (B[0] @ A[0] - mean).abs().max() <= 16 * EPS32 * mean.abs().max()
        B, A = endpoints.mean_factors(run.stacked)[name]
        assert torch.equal(B, site.B.detach().mean(0, keepdim=True) * site.gate.mean(0))
    before = snapshot(run)
    with endpoints.as_one(run.stacked, endpoints.mean_products(run.stacked)) as one:
        assert all(site.gate is None for site in one.sites.values())
    assert all(torch.equal(X, before[name]) for name, X in snapshot(run).items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mix__form": "sorra"}, r"mix\.form must be one of .*near: sora"),
        (
            {"mix__lam": 0.5},
            r"mix\.lam = 0\.5 would have no effect, as it needs mix\.form = 'sora'",
        ),
        ({**SORA, "mix__lam": -1.0}, r"mix\.lam must be >= 0 and finite in float32, got -1"),
        ({"mix__form": "sora"}, r"'sora' with mix\.method 'decaf': zero_directions 'keep' is not"),
        (
            {**SORA, "mix__moments": "rotate", "train__momentum": 0.5},
            r"mix\.moments must be 'reset' or 'keep' for mix\.form 'sora'",
        ),
        (
            {**SORA, "mix__method": "dlora", "lora__train_adapters": False},
            r"mix\.form must be 'lora' where lora\.train_adapters is false",
        ),
        ({**SORA, "mix__method": "flora"}, r"'sora' with mix\.method 'flora': .*has W - W0 = s \("),
        ({**SORA, "mix__method": "choco"}, r"'choco': .*mixes neither the means"),
    ],
)
def test_settings_that_no_form_goes_with_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        paper_runs.config(**changes)


def test_the_form_is_in_the_stamp():
    plain, gated = (
        configs.parse(paper_runs.TABLES).settings(),
        paper_runs.config(**SORA).settings(),
    )
    assert (plain["mix.form"], gated["mix.form"], gated["mix.lam"]) == ("lora", "sora", 1e-3)
