"""What a run is scored by: averaged models, the control without adapters, constant answers."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")

from decaf_theory.methods import METHODS  # noqa: E402
from decaf_theory.rng import generator  # noqa: E402
from decaf_theory.topology import TOPOLOGIES  # noqa: E402
from paper_checks import config as configs  # noqa: E402
from paper_checks import endpoints, finetune, record  # noqa: E402
from paper_checks.stacked import stack  # noqa: E402
from tests import paper_runs  # noqa: E402

EPS32 = float(np.finfo(np.float32).eps)


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)


def apart():
    """A stacked network whose agents all differ, and something merged into W0."""
    task = paper_runs.task()
    stacked = stack(task.model, targets=task.targets, agents=3, rank=2, scale=0.5, heads=task.heads)
    paper_runs.randomize(stacked)
    draw = np.random.default_rng(1)
    for site in stacked.sites.values():
        site.merged = torch.from_numpy(draw.standard_normal((1, *site.weight.shape))).float()
    return stacked, task


def dense(stacked, of_sites):
    """Scores of a plain network whose weights are written down from the definition."""
    net = paper_runs.task().model
    with torch.no_grad():
        for name, site in stacked.sites.items():
            update = 0.5 * (site.merged[0] + of_sites(site.B, site.A))
            net.get_submodule(name).weight += update
        for name, head in stacked.heads.items():
            net.get_submodule(name).weight.copy_(head.weight.mean(0))
            net.get_submodule(name).bias.copy_(head.bias.mean(0))
        return net(paper_runs.task().test.inputs["x"])


@pytest.mark.parametrize(
    ("pairs", "of_sites"),
    [
        (endpoints.mean_products, lambda B, A: sum(b @ a for b, a in zip(B, A, strict=True)) / 3),
        (endpoints.mean_factors, lambda B, A: B.mean(0) @ A.mean(0)),
    ],
)
def test_an_averaged_model_is_the_network_of_the_averaged_weights(pairs, of_sites):
    stacked, task = apart()
    wanted = dense(stacked, of_sites)
    before = stacked.parameters()
    with endpoints.as_one(stacked, pairs(stacked.factors())) as one, torch.no_grad():
        found = task.scores(one.model, task.test.inputs, one.agents)
    # three layers of sums over at most 7 + 6 terms, of numbers as large as the largest score
    assert torch.allclose(found, wanted, rtol=0, atol=3 * 13 * EPS32 * float(wanted.abs().max()))
    assert all(X is Y for X, Y in zip(before, stacked.parameters(), strict=True))
    assert stacked.agents == 3


def test_methods_that_average_factors_have_both_models_and_others_the_mean_of_updates():
    stacked, task = apart()
    updates = {f"averaged_{name}" for name in ("score", "loss", "ece")}
    factors = {f"averaged_factors_{name}" for name in ("score", "loss", "ece")}
    for name in ("dlora", "fedavg"):
        found = endpoints.averaged(stacked, task, METHODS[name], 5)
        assert found.keys() == updates | factors
        assert len({*found.values()}) == 6  # the interference of random factors is large
    for name in ("decaf", "local", "centralized", "flexlora"):
        assert endpoints.averaged(stacked, task, METHODS[name], 5).keys() == updates


def test_the_last_record_alone_has_the_averaged_models(tmp_path):
    run = finetune.finetune(paper_runs.config(mix__method="dlora"), tmp_path)
    names = {"averaged_score", "averaged_factors_score"}
    assert [names <= r.keys() for r in run.records] == [False, False, True]
    assert [bool(names & r.keys()) for r in run.records] == [False, False, True]
    assert record.read(tmp_path).run["floors"] == {"majority": {"accuracy": 1 / 3}}


# ---------------------------------------------------------------- the ensemble


def test_an_ensemble_predicts_by_the_mean_of_its_members_probabilities():
    stacked, task = apart()
    labels = task.test.labels
    members = []
    for agent in range(3):
        with stacked.only(agent), torch.no_grad():
            scores = stacked.model(task.test.inputs["x"]).double()
        members.append(scores.exp() / scores.exp().sum(-1, keepdim=True))
    mean = sum(members) / 3
    found = endpoints.scored(stacked, task, 5)
    assert found["ensemble_score"] == float((mean.argmax(-1) == labels).double().mean())
    nll = -float(mean[range(len(labels)), labels].log().mean())
    # float32 scores of three layers, in batches of other sizes
    slack = 3 * 13 * EPS32 * float(scores.abs().max())
    assert found["ensemble_loss"] == pytest.approx(nll, abs=2 * slack)
    assert found["ensemble_ece"] == pytest.approx(ece(mean, labels), abs=2 * slack)
    own = np.mean([ece(p, labels) for p in members])
    assert found["ece"] == pytest.approx(own, abs=2 * slack)
    assert found["ensemble_loss"] <= found["test_loss"] + 2 * slack


def ece(p, labels):
    """The calibration error of 15 bins, counted one by one."""
    gap = 0.0
    for b in range(15):
        inside = [i for i, row in enumerate(p) if b / 15 < float(row.max()) <= (b + 1) / 15]
        hits = sum(int(p[i].argmax()) == int(labels[i]) for i in inside)
        gap += abs(hits - sum(float(p[i].max()) for i in inside))
    return gap / len(p)


def test_equal_agents_are_their_own_ensemble():
    stacked, task = apart()
    for X in stacked.parameters():
        X.data.copy_(X.data[:1].expand_as(X))
    found = endpoints.scored(stacked, task, 5)
    for name in ("score", "ece"):
        assert found[f"ensemble_{name}"] == pytest.approx(found[name], abs=4 * EPS32)


def test_scores_of_validation_are_those_of_its_own_examples():
    stacked, task = apart()
    first = task.test._replace(
        inputs={name: x[:5] for name, x in task.test.inputs.items()}, labels=task.test.labels[:5]
    )
    found = endpoints.scored(stacked, task._replace(validation=first), 5)
    alone = endpoints.scored(stacked, task._replace(test=first), 5)
    assert found["validation_loss"] == alone["test_loss"] != found["test_loss"]
    assert found["validation_score"] == alone["score"]


# ---------------------------------------------------------------- without adapters


def heads_of_plain_networks(run, steps, Pi, every):
    """The heads that three plain networks train with SGD and average by Pi."""
    nets = [paper_runs.task().model for _ in range(3)]
    for net in nets:
        net.classifier.requires_grad_(True)
    optimizers = [torch.optim.SGD(net.classifier.parameters(), 0.05) for net in nets]
    for t in range(steps):
        for agent, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
            shard = run.shards[agent]
            order = generator(0, "order", agent, 0).permutation(
                len(shard)
            )  # six batches are one pass
            index = torch.from_numpy(shard[order[4 * t : 4 * t + 4]])
            x, labels = run.task.train.inputs["x"][index], run.task.train.labels[index]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x), labels).backward()
            optimizer.step()
        if (t + 1) % every == 0:
            with torch.no_grad():
                for part in ("weight", "bias"):
                    own = [getattr(net.classifier, part) for net in nets]
                    mixed = [sum(p * X for p, X in zip(row, own, strict=True)) for row in Pi]
                    for X, new in zip(own, mixed, strict=True):
                        X.copy_(new)
    return [net.classifier for net in nets]


def test_the_control_trains_and_mixes_heads_alone_as_plain_networks_do(tmp_path):
    control = paper_runs.config(lora__train_adapters=False, mix__method="dlora")
    run = finetune.finetune(control, tmp_path)
    assert run.stacked.sites == {}
    assert "averaged_score" in run.records[-1]
    assert "averaged_factors_score" not in run.records[-1]
    assert [name for name, _ in run.task.model.named_parameters() if ".A" in name] == []
    wanted = heads_of_plain_networks(run, 6, TOPOLOGIES["ring"](3).tolist(), 2)
    head = run.stacked.heads["classifier"]
    for agent, plain in enumerate(wanted):
        for part in ("weight", "bias"):
            X, Y = getattr(head, part)[agent].detach(), getattr(plain, part).detach()
            # six steps of lr 0.05 and three means of three, each rounded a few times
            assert torch.allclose(X, Y, rtol=0, atol=40 * EPS32 * float(Y.abs().max()))
    assert (
        float((head.weight[0].detach() - paper_runs.task().model.classifier.weight).abs().max())
        > 0.01
    )
    stored = record.read(tmp_path)
    assert stored.rows == []
    assert stored.run["verdicts"] == {}
    heads = 4 * (3 * 4 + 3)  # float32
    assert stored.run["message_bytes"] == heads
    assert stored.records[-1]["comm_bytes"] == 3 * 6 * heads  # three rounds, six links


def test_the_control_does_not_depend_on_how_adapters_would_mix(tmp_path):
    runs = [
        finetune.finetune(
            paper_runs.config(lora__train_adapters=False, mix__method=name), tmp_path / name
        )
        for name in ("dlora", "decaf", "la_lora")
    ]
    weights = [run.stacked.heads["classifier"].weight for run in runs]
    assert all(torch.equal(weights[0], X) for X in weights)


def test_the_control_has_a_folder_and_a_name_of_its_own():
    control = paper_runs.config(lora__train_adapters=False, mix__method="dlora")
    assert control.cell == "heads_only_dlora-ring-iid-seed0"
    assert control.settings()["lora.train_adapters"] is False
    assert configs.read("vit-digits").swept[-2:] == ("heads_only_centralized", "heads_only_dlora")
    assert configs.read("smollm2-boolq").swept == configs.SWEPT


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-clip"])
def test_a_model_without_heads_has_no_such_control(name):
    with pytest.raises(configs.ConfigError, match="which has no head to train instead"):
        configs.read(name, {"lora.train_adapters": False})


def test_with_frozen_heads_there_is_no_such_control_and_nothing_to_train():
    frozen = {"lora.train_heads": False}
    assert configs.read("vit-digits", frozen).swept == configs.SWEPT
    with pytest.raises(configs.ConfigError, match="must not both be false: nothing would train"):
        configs.read("vit-digits", frozen | {"lora.train_adapters": False})


# ---------------------------------------------------------------- constant answers


def test_floors_are_the_scores_of_constant_answers():
    task = paper_runs.task()
    test = task.test._replace(labels=torch.tensor([1, 1, 1, 0, 0] + [0] * 13))
    train = task.train._replace(labels=torch.tensor([0] * 30 + [1] * 42))
    yes = task._replace(test=test, train=train, classes=2, metric="f1")
    f1, accuracy = 2 * 3 / (2 * 3 + 15), 3 / 18
    assert endpoints.floors(yes) == {
        "majority": {"f1": f1, "accuracy": accuracy},
        "always_yes": {"f1": f1, "accuracy": accuracy},
    }
    no = yes._replace(train=train._replace(labels=1 - train.labels))
    assert endpoints.floors(no)["majority"] == {"f1": 0.0, "accuracy": 15 / 18}


def test_f1_is_recorded_with_accuracy(tmp_path, monkeypatch):
    task = paper_runs.task()
    parts = {
        name: getattr(task, name)._replace(labels=getattr(task, name).labels.clamp(max=1))
        for name in ("train", "test")
    }
    monkeypatch.setattr(
        finetune, "load_task", lambda config: task._replace(metric="f1", classes=2, **parts)
    )
    run = finetune.finetune(paper_runs.config(), tmp_path)
    assert all({"score", "accuracy"} <= r.keys() for r in run.records)
    own = []
    for agent in range(3):
        with run.stacked.only(agent), torch.no_grad():
            found = run.stacked.model(task.test.inputs["x"]).argmax(-1)
        own.append(float((found == parts["test"].labels).double().mean()))
    assert run.records[-1]["accuracy"] == np.mean(own) != run.records[-1]["score"]
