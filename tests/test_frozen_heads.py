"""lora.train_heads = false: heads stay at their common start, unsent, and go out with adapters."""

import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")

from decaf_theory import adapters  # noqa: E402
from decaf_theory.methods import METHODS  # noqa: E402
from paper_checks import checkpoint, dryrun, finetune, mixing, record  # noqa: E402
from paper_checks import config as configs  # noqa: E402
from paper_checks.config import ADAPTER_METHODS, ConfigError  # noqa: E402
from paper_checks.rounds import Rounds  # noqa: E402
from paper_checks.stacked import export, load_into  # noqa: E402
from tests import paper_runs  # noqa: E402

HEAD = {"classifier.weight": (3, 4), "classifier.bias": (3,)}
MESSAGE = 4 * ((7 + 5) * 2 + (4 + 7) * 2)  # bytes of an agent's factors at both sites


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)


def frozen(**overrides):
    return paper_runs.config(lora__train_heads=False, **overrides)


def heads(run):
    head = run.stacked.heads["classifier"]
    return {f"classifier.{name}": X.detach().clone() for name, X in head.named_parameters()}


@pytest.mark.parametrize("method", ADAPTER_METHODS)
def test_only_adapters_train_mix_and_are_sent(method):
    config = frozen(mix__method=method, train__steps=4, mix__every=4)
    run = finetune.prepare(config, device="cpu")
    start, counted = heads(run), dryrun.traffic(run.stacked, config, 4)
    sites = checkpoint.named(run.stacked)
    before = {name: X.detach().clone() for name, X in sites.items()}
    for _ in range(4):
        finetune.advance(run)
    assert {name: X.shape[1:] for name, X in start.items()} == HEAD
    assert all(torch.equal(X, start[name]) for name, X in heads(run).items())
    assert any(not torch.equal(X, before[name]) for name, X in sites.items())
    assert run.sent == counted.total_round
    assert mixing.head_bytes(run.stacked) == 0


def test_bytes_and_parameters_are_those_of_the_factors():
    run = finetune.prepare(frozen(mix__method="dlora"), device="cpu")
    assert mixing.message_bytes(run.stacked, METHODS["dlora"], {}, Rounds(2, 2).clock(0)) == MESSAGE
    assert record.trained_parameters(run.stacked) == MESSAGE // 4


def test_the_adapters_start_and_move_as_without_a_trained_head_beside_them():
    """The first step of B depends on the head's start alone, so that it is the same either way."""
    runs = [finetune.prepare(c, device="cpu") for c in (paper_runs.config(), frozen())]
    for run in runs:
        finetune.advance(run)
    one, other = (run.stacked.factors() for run in runs)
    for name in one:
        assert one[name].B.any()
        assert torch.equal(one[name].B, other[name].B)


def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path):
    config = frozen()
    whole = finetune.finetune(config, tmp_path / "whole")
    stops = iter([False] * 3 + [True] * 9)
    assert finetune.finetune(config, tmp_path / "half", stop=lambda: next(stops)).step == 3
    rest = finetune.finetune(config, tmp_path / "half")
    for name, X in checkpoint.named(whole.stacked).items():
        assert torch.equal(X, checkpoint.named(rest.stacked)[name]), name
    assert whole.records == rest.records


def test_a_checkpoint_of_trained_heads_is_not_taken(tmp_path):
    finetune.finetune(paper_runs.config(), tmp_path)
    with pytest.raises(checkpoint.stamp.OtherStampError, match=r"lora\.train_heads"):
        finetune.finetune(frozen(), tmp_path)


def test_an_export_holds_the_frozen_head_and_starts_agents_again(tmp_path):
    run = finetune.prepare(frozen(), device="cpu")
    finetune.advance(run)
    folders = [tmp_path / f"agent{i}" for i in range(3)]
    for agent, folder in enumerate(folders):
        export(run.stacked, agent, folder, base="net")
    found = adapters.load_agents(folders)
    for name, X in heads(run).items():
        assert (found.others[name] == X.numpy()).all()
    again = finetune.prepare(frozen(), device="cpu")
    load_into(again.stacked, folders)
    for name, X in checkpoint.named(run.stacked).items():
        # the scale 2, folded into B and out of it, is exact
        assert torch.equal(X, checkpoint.named(again.stacked)[name]), name


def test_agents_of_different_heads_are_refused(tmp_path):
    run = finetune.prepare(paper_runs.config(), device="cpu")
    paper_runs.randomize(run.stacked)
    folders = [tmp_path / f"agent{i}" for i in range(3)]
    for agent, folder in enumerate(folders):
        export(run.stacked, agent, folder, base="net")
    with pytest.raises(ValueError, match=r"head classifier must be equal .*train_heads is false"):
        finetune.prepare(frozen(), device="cpu", adapters=folders)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-clip"])
def test_models_without_a_head_have_none_to_freeze(name):
    with pytest.raises(ConfigError, match=r"train_heads must be true for model\.kind .*leave it"):
        configs.read(name, {"lora.train_heads": False})
