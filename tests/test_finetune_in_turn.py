"""The harness learns tasks in turn: shards, losses and scores by task, forms that begin anew."""

from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from decaf_theory import continual  # noqa: E402
from decaf_theory.methods.pool import ROUTER, USED  # noqa: E402
from paper_checks import checkpoint, cli, endpoints, finetune, mixing, rules, turns  # noqa: E402
from paper_checks import config as configs  # noqa: E402
from paper_checks.config import ConfigError  # noqa: E402
from paper_checks.tasks import in_turn  # noqa: E402
from tests import paper_runs  # noqa: E402
from tests.paper_runs import snapshot  # noqa: E402

EPS32 = 2.0**-23
SEQUENCE = {"task__sequence": 2, "train__steps": 8, "mix__method": "dlora", "train__seed": 3}
FORMS = {
    "lora": {},
    "sd_lora": {"mix__form": "sd_lora"},
    "rank1_pool": {"mix__form": "rank1_pool", "mix__active": 1, "mix__merged": 1},
}


def task(config=None):
    """Four classes in two tasks, rows of five numbers."""
    three = paper_runs.task()
    model = three.model
    with torch.random.fork_rng():
        torch.manual_seed(8)
        model.classifier = torch.nn.Linear(4, 4).requires_grad_(False)
    labels = torch.arange(90) % 4
    parts = int(config.task.get("sequence", 1))
    return three._replace(
        classes=4,
        train=three.train._replace(labels=labels[:72]),
        test=three.test._replace(labels=labels[72:]),
        parts=parts,
    )


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setitem(rules.SEQUENTIAL, "net", {"sequence": int})
    monkeypatch.setattr(finetune, "load_task", task)


def advanced(steps, run=None, **overrides):
    run = run or paper_runs.prepare(**{**SEQUENCE, **overrides})
    while run.step < steps:
        finetune.advance(run)
    return run


def test_each_task_has_its_own_examples_and_steps():
    run = paper_runs.prepare(**SEQUENCE)
    labels = run.task.train.labels.numpy()
    for t, classes in enumerate(({0, 1}, {2, 3})):
        for agent, shard in enumerate(run.turns.shards[t]):
            assert set(labels[shard]) == classes
            assert set(shard) <= set(run.shards[agent])
    for step in range(8):
        (batch,) = run.batches.at(step)
        assert set(batch.labels.tolist()) <= ({0, 1} if step < 4 else {2, 3})
    assert [run.turns.begins(t) for t in range(8)] == [t == 4 for t in range(8)]
    assert [run.turns.ends(t) for t in range(1, 9)] == [t in (4, 8) for t in range(1, 9)]


def test_without_a_sequence_there_is_one_task_of_all_classes():
    run = paper_runs.prepare(train__steps=4, mix__method="dlora")
    assert run.turns.classes == (range(4),)
    scores, labels = torch.randn(3, 4), torch.tensor([0, 3, 1])
    same = turns.of_classes(scores, labels, run.turns.classes[0])
    assert same[0] is scores
    assert same[1] is labels
    for step in range(4):
        finetune.advance(run)
        assert not run.turns.ends(step + 1)
    assert not {"score_task_1", turns.FORGOTTEN} & set(run.records[-1])


def test_heads_of_other_classes_get_no_gradient():
    run = advanced(4)
    finetune.begin_task(run, 1)
    finetune.gradients(run, 4)
    (head,) = run.stacked.heads.values()
    assert bool((head.weight.grad[:, :2] == 0).all())
    assert bool((head.weight.grad[:, 2:] != 0).any())


def test_scores_of_a_task_are_among_its_own_classes():
    scores = torch.tensor([[[9.0, 0, 3, 2], [0, 9, 1, 4], [8, 7, 2, 5]], [[0.0, 9, 3, 2]] * 3])
    labels = torch.tensor([0, 2, 3])
    classes = [range(2), range(2, 4)]
    # task 1: example 0, told rightly by agent 0 alone; task 2: agent 0 misses example 1, agent 1
    # example 2; among all four agent 0 is right on example 0, agent 1 never
    found = turns.scored(scores, labels, classes)
    assert found == {"score_task_1": 1 / 2, "score_task_2": 1 / 2, "score_seen": 1 / 6}
    assert turns.scored(scores, labels, classes[:1]) == {"score_task_1": 0.5, "score_seen": 0.5}


@pytest.mark.parametrize("form", FORMS)
def test_a_run_that_is_resumed_where_a_task_ends_is_the_same_bit_for_bit(form, tmp_path):
    whole = advanced(8, **FORMS[form])
    first = advanced(4, **FORMS[form])
    checkpoint.save(first, tmp_path)
    second = paper_runs.prepare(**{**SEQUENCE, **FORMS[form]})
    checkpoint.resume(second, tmp_path)
    advanced(8, second)
    expected, found = snapshot(whole), snapshot(second)
    assert expected.keys() == found.keys()
    assert all(torch.equal(X, found[name]) for name, X in expected.items())
    assert second.records == whole.records
    rows = [record for record in whole.records if "score_task_1" in record]
    table = [[rows[0]["score_task_1"], 0.0], [rows[1]["score_task_1"], rows[1]["score_task_2"]]]
    last = whole.records[-1]
    assert last[turns.AVERAGE] == continual.average(table)
    assert last[turns.FORGOTTEN] == continual.forgetting(table)
    exact = Fraction(table[1][0]) - Fraction(table[0][0])
    assert last[turns.TRANSFER] == float(exact)


def test_sd_lora_computes_what_its_form_says_and_freezes_the_old_pair():
    run = advanced(8, mix__form="sd_lora")
    form = run.config.mix.rule.form
    factors = run.stacked.factors()
    for name, site in run.stacked.sites.items():
        state = mixing.state_of(factors, run.memory, [name])
        update = form.update(state, site.scale)[0].double()
        x = torch.randn(3 * 4, site.base.in_features)
        own = torch.bmm(x.reshape(3, 4, -1).double(), update.mT).reshape(12, -1)
        found = site(x) - site.base(x)
        size = float(own.abs().max()) + float(site.base(x).abs().max())
        assert torch.allclose(found.double(), own, rtol=0, atol=64 * EPS32 * size)
        assert site.magnitudes.shape == (3, 5, 1)
        moved = site.magnitudes.detach() != run.config.mix.magnitude
        # the old pair's and the current one's; of tasks that never came none
        assert moved[:, 0].all()
        assert moved[:, -1].all()
        assert not moved[:, 1:-1].any()
        old = run.memory[name]["old"]
        rank = run.config.lora.rank
        for X in (old.B[..., :rank], old.A[:, :rank]):
            assert torch.allclose(torch.linalg.matrix_norm(X), torch.ones(3), atol=16 * EPS32)
    pairs = run.stacked.pairs()
    assert pairs[name].rank == 5 * rank
    plain, clock = paper_runs.prepare(**SEQUENCE), run.rounds.clock(0)
    sent, less = (
        mixing.message_bytes(each.stacked, each.config.mix.rule, each.memory, clock)
        for each in (run, plain)
    )
    assert sent - less == len(run.stacked.sites) * 5 * 4  # five magnitudes per site


def test_an_input_of_a_pool_uses_its_own_pairs_chosen_by_its_first_row():
    run = paper_runs.prepare(**{**SEQUENCE, **FORMS["rank1_pool"], "mix__merged": 2})
    paper_runs.randomize(run.stacked)
    for name, site in run.stacked.sites.items():
        x = torch.randn(3 * 4, 2, site.base.in_features)  # two rows each
        site.train(True)
        found = site(x) - site.base(x)
        router, (B, A) = run.memory[name][ROUTER][0], run.stacked.factors()[name]
        used = torch.zeros(3, 2, 1)
        for at, one in enumerate(x):
            pair = int((router @ one[0]).argmax())
            agent = at // 4
            used[agent, pair] += 1
            own = site.scale * torch.outer(one @ A[agent, pair], B[agent, :, pair]).reshape(2, -1)
            size = float(own.abs().max()) + float(site.base(x).abs().max())
            assert torch.allclose(found[at], own, rtol=0, atol=64 * EPS32 * size)
        assert torch.equal(run.memory[name][USED], used)
        assert bool((used > 0).all())  # inputs of one batch choose differently


def test_a_pool_merges_its_pairs_where_a_task_ends_and_begins_with_fresh_ones():
    run = advanced(4, **FORMS["rank1_pool"])
    first = snapshot(run)
    for name, site in run.stacked.sites.items():
        assert bool((site.B == 0).all())
        assert site.merged.shape[0] == 3
        assert bool((site.merged != 0).any())
        assert torch.equal(run.memory[name]["base"], site.merged)
        merged = torch.linalg.matrix_rank(site.merged)
        assert merged.tolist() == [1, 1, 1]
    router = run.memory[name][ROUTER].clone()
    finetune.advance(run)
    assert not torch.equal(router, run.memory[name][ROUTER])
    assert not torch.equal(first[f"{name}.1"], snapshot(run)[f"{name}.1"])
    assert int(run.memory[name][USED].sum()) == 3 * run.config.data.batch


@pytest.mark.parametrize("form", FORMS)
def test_the_averaged_model_holds_old_pairs_and_what_was_merged(form):
    run = advanced(8, **FORMS[form])
    rule, factors = run.config.mix.rule, run.stacked.factors()
    updates = {
        name: rule.form.update(mixing.state_of(factors, run.memory, [name]), site.scale)[0].mean(0)
        for name, site in run.stacked.sites.items()
    }
    with endpoints.as_one(run.stacked, endpoints.mean_products(run.stacked.pairs())) as one:
        for name, site in one.sites.items():
            x = torch.randn(6, site.base.in_features)
            found, own = site(x) - site.base(x), x @ updates[name].mT
            size = float(own.abs().max()) + float(site.base(x).abs().max())
            assert torch.allclose(found, own, rtol=0, atol=64 * EPS32 * size)
    for site in run.stacked.sites.values():
        assert (site.active is None) == (form != "rank1_pool")
        assert (site.magnitudes is None) == (form != "sd_lora")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train__steps": 7}, "train.steps must be a multiple of 2, the tasks"),
        ({"mix__every": 3}, "mix.every must be given, and divide the 4 steps of a task"),
        ({"mix__every_epochs": 1}, "mix.every must be given"),
        ({"mix__after": 1}, "mix.after must be left out: each task has whole rounds"),
        ({"train__order": "mix_first"}, "train.order must be 'step_first'"),
        ({"train__schedule": "cosine"}, "train.period must be 'round', or train.schedule"),
        ({"data__validation": 4}, "data.validation must be left out"),
        ({"task__sequence": 0}, "task.sequence must be >= 1"),
        ({"mix__magnitude": 0.5}, "mix.magnitude = 0.5 would have no effect"),
        ({"mix__router_seed": 5}, "mix.router_seed = 5 would have no effect"),
        ({"mix__form": "rank1_pool"}, "mix.active must be <= lora.rank = 2, the pairs of the pool"),
        (
            {**FORMS["rank1_pool"], "mix__merged": 3},
            "mix.merged must be <= lora.rank = 2, the pairs of the pool, got 3",
        ),
        ({"mix__form": "sd_lora", "mix__method": "salf"}, "mix.form 'sd_lora' with mix.method"),
    ],
)
def test_what_does_not_go_with_tasks_in_turn_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        paper_runs.config(**{**SEQUENCE, **change})


@pytest.mark.parametrize("form", ["sd_lora", "rank1_pool"])
def test_forms_for_tasks_in_turn_need_them(form):
    with pytest.raises(ConfigError, match=f"mix.form '{form}' needs tasks in turn, task.sequence"):
        paper_runs.config(**FORMS[form])
    with pytest.raises(ConfigError, match="which digits, net can have, or use 'lora'"):
        configs.read("tiny-bert", {"mix.form": form})
    with pytest.raises(ConfigError, match=r"unknown setting in \[task\]: 'sequence'"):
        configs.read("tiny-bert", {"task.sequence": 2})


def test_ten_classes_are_five_digits_upright_and_turned():
    data = in_turn.digits.Data(
        {"pixel_values": torch.arange(128.0).reshape(2, 1, 8, 8)}, torch.tensor([0, 4])
    )
    both = in_turn._in_both_forms(data)
    assert both.labels.tolist() == [0, 4, 5, 9]
    pictures = both.inputs["pixel_values"]
    assert torch.equal(pictures[:2], data.inputs["pixel_values"])
    assert torch.equal(pictures[2:], torch.rot90(pictures[:2], 1, (2, 3)))
    assert np.array_equal(pictures[2, 0], np.rot90(pictures[0, 0]))


@pytest.mark.parametrize("form", ["sd_lora", "rank1_pool"])
def test_what_no_adapter_holds_is_not_exported(form, tmp_path, capsys):
    setting = ["--set", f"mix.form={form}", "--out", str(tmp_path), "--export", str(tmp_path / "x")]
    assert cli.main(["run", "vit-digits-in-turn", *setting]) == 2
    assert f"none holds what {form} keeps of earlier tasks" in capsys.readouterr().err
