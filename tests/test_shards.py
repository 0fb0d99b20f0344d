"""Who holds what, in numbers and words; and a server's weights by what agents hold."""

import sys

import numpy as np
import pytest
from tqdm import tqdm

torch = pytest.importorskip("torch", reason="the harness trains with torch")

from decaf_theory.methods import METHODS, Clock  # noqa: E402
from paper_checks import (  # noqa: E402
    beginning,
    dealt,
    finetune,
    mixing,
    record,
    shards,
    tasks,
)
from paper_checks.cli import main  # noqa: E402
from paper_checks.config import ADAPTER_METHODS, ConfigError  # noqa: E402
from tests import paper_runs  # noqa: E402
from tests.paper_runs import prepare  # noqa: E402

EPS32 = float(np.finfo(np.float32).eps)
SERVED = [n for n in ADAPTER_METHODS if "server" in (METHODS[n].meets, METHODS[n].pools)]
UNEQUAL = {"data__partition": "dirichlet", "mix__weights": "samples"}
UNEQUAL |= {"data__partitions": {"dirichlet": {"alpha": 1.0, "equal": False}}}


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)


# ---------------------------------------------------------------- in numbers and words


def test_counts_are_of_every_agent_and_class():
    labels = torch.tensor([0, 2, 2, 0, 1, 0])
    assert shards.counts(labels, [np.array([0, 1, 2]), np.array([3, 5])], 4) == [
        [1, 0, 2, 0],
        [2, 0, 0, 0],
    ]


def test_a_table_of_few_classes_has_them_all_and_of_many_how_many():
    assert shards.table([[8, 0, 2], [10, 1, 0]]).splitlines() == [
        "agent  examples  class 0  class 1  class 2",
        "    0        10        8        0        2",
        "    1        11       10        1        0",
    ]
    many = shards.table([[3, 0, 5] * 10, [0] * 29 + [7]])
    assert many.splitlines() == [
        "agent  examples  classes  largest",
        "    0        80       20        5",
        "    1         7        1        7",
    ]


def test_a_table_is_in_parts_where_the_terminal_is_narrow():
    held = [[10 * agent + label for label in range(10)] for agent in range(3)]
    whole = [line.split() for line in shards.table(held).splitlines()]
    assert shards.table(held, 105) == shards.table(held)
    parts = [part.splitlines() for part in shards.table(held, 60).split("\n\n")]
    assert max(len(line) for part in parts for line in part) <= 60
    lines = [[line.split() for line in part] for part in zip(*parts, strict=True)]
    assert [[*first, *second[1:]] for first, second in lines] == whole  # each with the agent
    assert {len(line) for line in shards.table(held).splitlines()} == {105}


def test_a_table_is_not_printed_behind_the_bar_and_fits(monkeypatch, capsys):
    held = [[10 * agent + label for label in range(10)] for agent in range(3)]
    found = {"counts": held, "notes": ["all of it"]}
    monkeypatch.setattr(record, "partition_of", lambda run: found)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    with tqdm(total=1, file=sys.stderr):
        dealt.show(None)
        *_, before, said, _ = capsys.readouterr().err.split("\r")
    assert before.strip() == ""
    assert said == f"{shards.table(held, 60)}\nnote: all of it\n"


def test_unequal_shards_are_said_unless_a_server_weighs_them():
    held = [[5, 5], [20, 0]]
    for weighing, words in (("equal", 'mix.weights = "samples"'), ("graph", "the graph weighs")):
        (note,) = shards.notes(held, weighing)
        assert note.startswith("agents hold 10 to 20 examples; ")
        assert words in note
    assert "nothing is mixed" in shards.notes(held, "none")[0]
    assert shards.notes(held, "samples") == []
    assert shards.notes([[5, 5], [7, 3]], "equal") == []


def test_a_class_that_nobody_holds_is_said():
    (note,) = shards.notes([[5, 0, 0, 5], [10, 0, 0, 0]], "samples")
    assert note == "nobody holds class 1, 2: tested on, but trained on by no agent"


def test_a_run_says_and_keeps_who_holds_what(tmp_path, capsys, monkeypatch):
    pytest.importorskip("transformers", reason="tiny-bert needs the extra finetune")
    dealt = "data.partitions={dirichlet={alpha=1.0,equal=false}}"
    args = ["run", "tiny-bert", "--out", str(tmp_path), "--set", dealt, "--set", "train.steps=2"]
    monkeypatch.setattr(finetune, "load_task", tasks.load_task)
    assert main([*args, "--partition", "dirichlet"]) == 0
    stored = record.read(tmp_path / "tiny-bert" / "decaf-ring-dirichlet-seed0").run
    held = stored["partition"]["counts"]
    assert [sum(row) for row in held] == stored["shards"]
    assert sum(stored["shards"]) == 160
    (note,) = stored["partition"]["notes"]
    said = capsys.readouterr().err
    assert said.startswith(f"{shards.table(held)}\nnote: {note}\n")
    assert "the graph weighs them" in note


# ---------------------------------------------------------------- weights by samples


def test_equal_shards_have_equal_weights_to_the_last_bit():
    for agents in (2, 3, 7, 10):
        row = mixing.graph_of(METHODS["fedavg"], "ring", agents, [24] * agents)
        assert np.array_equal(row, np.full((1, agents), 1 / agents))
    assert mixing.graph_of(METHODS["fedavg"], "ring", 3) is None


def test_a_servers_mix_is_the_mean_weighed_by_examples_heads_too():
    run = prepare(mix__method="fedavg", **UNEQUAL)
    paper_runs.randomize(run.stacked)
    sizes = np.array([len(shard) for shard in run.shards])
    assert len(set(sizes)) > 1
    rows = sizes / sizes.sum()
    before = {n: X.detach().double().numpy().copy() for n, X in named(run)}
    mixing.mix(run.stacked, run.config.mix.rule, run.Pi, run.memory, Clock())
    for name, X in named(run):
        mean = np.tensordot(rows, before[name], 1)
        # a product of three terms in float32, and the rounding of the weights
        slip = 8 * EPS32 * np.abs(before[name]).max()
        assert np.abs(X.detach().numpy() - mean).max() <= slip, name
        assert np.abs(before[name].mean(0) - mean).max() > 100 * slip, name


def named(run):
    for name, layer in (*run.stacked.sites.items(), *run.stacked.heads.items()):
        for part, X in layer.named_parameters(recurse=False):
            yield f"{name}.{part}", X


def test_pooled_gradients_are_weighed_by_examples():
    run, alone = (prepare(mix__method=name, **more) for name, more in (
        ("centralized", UNEQUAL),
        ("local", {k: v for k, v in UNEQUAL.items() if k != "mix__weights"}),
    ))  # fmt: skip
    for one in (run, alone):
        finetune.gradients(one, 0)
    rows = np.array([len(shard) for shard in run.shards]) / 72
    pairs = zip(named(run), named(alone), strict=True)
    found = [
        (X.grad, own.grad.double().numpy()) for (_, X), (_, own) in pairs if X.grad is not None
    ]
    assert found
    for pooled, own in found:
        mean = np.tensordot(rows, own, 1)
        slip = 8 * EPS32 * max(np.abs(own).max(), 1e-30)
        assert np.abs(pooled.numpy() - mean).max() <= slip


def moved_by_a_mix(method, t=0):
    """How far W - W0 of agents that are equal moves in a mix by unequal weights, over its size."""
    run = prepare(mix__method="fedavg", **UNEQUAL)
    rule = METHODS[method]
    with torch.no_grad():
        for site in run.stacked.sites.values():
            site.B.copy_(torch.ones_like(site.B))
    memory = beginning.begin(run.stacked, rule)

    def updates():
        pairs = run.stacked.factors().items()
        return {n: (p.B @ p.A + memory[n].get("base", 0)).detach().clone() for n, p in pairs}

    before = updates()
    mixing.mix(run.stacked, rule, run.Pi, memory, Clock(t, 1, 2))
    after = updates()
    return max(float((after[n] - X).abs().max() / X.abs().max()) for n, X in before.items())


@pytest.mark.parametrize("method", [name for name in SERVED if name not in ("salf", "air_fedavg")])
def test_agents_that_agree_stay_where_they_are_under_any_weights(method):
    # means of equal numbers by weights that sum to 1 up to 3 eps, products of rank 2, a truncation
    assert moved_by_a_mix(method) <= 50 * EPS32


def test_agents_that_agree_would_move_where_messages_are_rescaled_as_if_they_were_alike():
    # in some of ten rounds a message is late
    assert max(moved_by_a_mix("salf", t) for t in range(10)) > 0.01


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("decaf", "agents are weighed by mix.graph 'ring'"),
        ("dlora", "agents are weighed by mix.graph 'ring'"),
        ("local", "nothing is mixed"),
        ("salf", "it rescales by how many messages arrive"),
    ],
)
def test_weights_by_samples_are_refused_where_no_server_takes_a_mean(method, reason):
    with pytest.raises(ConfigError, match=rf"mix.weights must be 'equal' for {method}.*{reason}"):
        paper_runs.config(mix__method=method, mix__weights="samples")


@pytest.mark.parametrize("method", [name for name in SERVED if name != "salf"])
def test_weights_by_samples_are_taken_by_every_other_method_of_a_server(method):
    config = paper_runs.config(mix__method=method, mix__weights="samples")
    assert config.mix.weighing == "samples"


def test_a_weight_that_is_unknown_is_named():
    with pytest.raises(ConfigError, match=r"mix.weights must be one of .*near: samples"):
        paper_runs.config(mix__method="fedavg", mix__weights="sample")


def test_a_weighed_run_trains_with_bounds_that_hold(tmp_path):
    config = paper_runs.config(mix__method="fedavg", train__steps=4, **UNEQUAL)
    run = finetune.finetune(config, tmp_path)
    assert {row["topology"] for row in run.rows} == {"server"}
    found = record.verdicts(run.rows)
    assert {v["outcome"] for v in found.values()} <= {"holds", "not_applicable"}
    assert run.stamp["mix.weights"] == "samples"
