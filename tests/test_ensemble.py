"""Ensembles against averaged weights: starts, endpoints, bytes, step sizes, differences."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")

from decaf_theory.stats import bonferroni, mean_interval  # noqa: E402
from paper_checks import calibration, endpoints, finetune, observe, trials  # noqa: E402
from paper_checks.cli import main  # noqa: E402
from paper_checks.ensemble import command, judge, page, play  # noqa: E402
from paper_checks.ensemble.cells import (  # noqa: E402
    BY_NAME,
    CELLS,
    PARTITIONS,
    SEEDS,
    STEP_SIZES,
    TUNING,
    Job,
    config_of,
    jobs,
)
from paper_checks.rounds import rounds_of  # noqa: E402
from tests import paper_runs  # noqa: E402

ADAPTERS = 2 * (5 + 7 + 7 + 4)  # numbers of rank 2 on 5 -> 7 -> 4
HEAD = 4 * 3 + 3


@pytest.fixture
def net(monkeypatch):
    """The network of three layers and three agents in the place of vit-digits."""
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)

    def config(job):
        apart = {"mix__method": "local", "observe__every": 99, "observe__eval_every": 99}
        return paper_runs.config(**apart, train__seed=job.seed, train__lr=job.lr)

    monkeypatch.setattr(play, "config_of", config)


def test_members_start_apart_with_a_of_the_published_law_and_no_update(net):
    run = paper_runs.prepare()
    play.start_apart(run.stacked, 3)
    drawn = [site.A for site in run.stacked.sites.values()]
    drawn += [head.weight for head in run.stacked.heads.values()]
    for X in drawn:
        assert len({tuple(x.flatten().tolist()) for x in X}) == 3
    every = torch.cat([X.detach().flatten() for X in drawn])
    n = len(every)  # 108 normal numbers: the deviation of their deviation is 0.07 of it
    assert float(every.std()) == pytest.approx(0.02, rel=5 / (2 * n) ** 0.5)
    assert not any(bool(site.B.any()) for site in run.stacked.sites.values())
    assert not any(bool(head.bias.any()) for head in run.stacked.heads.values())


def test_a_training_is_scored_at_all_its_endpoints_with_their_bytes(net):
    rows = play.play(Job("members", "iid", 0.05, 1))
    by = {row["endpoint"]: row for row in rows}
    assert [*by] == ["own", "ensemble", "averaged", "dlora_once", "decaf_once"]
    gathered = 3 * 2 * 4 * (ADAPTERS + HEAD)  # float32
    assert by["own"]["bytes"] == 0
    assert {row["bytes"] for row in rows[1:]} == {gathered}
    assert by["ensemble"]["nll"] < by["own"]["nll"]
    assert len({row["nll"] for row in rows}) == 5
    assert play.play(Job("members", "iid", 0.05, 1)) == rows


def test_the_endpoints_are_those_of_the_harness(net):
    job = Job("common", "iid", 0.05, 1)
    by = {row["endpoint"]: row for row in play.play(job)}
    run = finetune.prepare(play.config_of(job), device="cpu")
    while not run.finished:
        finetune.advance(run)
    found = endpoints.scored(run.stacked, run.task, 4)
    assert by["ensemble"]["accuracy"] == found["ensemble_score"]
    assert by["ensemble"]["nll"] == found["ensemble_loss"]
    assert by["ensemble"]["ece"] == found["ensemble_ece"]
    assert by["own"]["accuracy"] == found["score"]
    one = endpoints.averaged(run.stacked, run.task, run.config.mix.rule, 4)
    assert by["averaged"]["accuracy"] == one["averaged_score"]
    with endpoints.as_one(run.stacked, endpoints.mean_apart(run.stacked)) as mean:
        scores = observe.class_scores(mean, run.task, 4)[0].double().log_softmax(-1)
    wanted = calibration.summary(scores, run.task.test.labels)
    for name, value in wanted.items():  # means of three factors in another order
        assert by["dlora_once"][name] == pytest.approx(value, abs=1e-5)


def test_the_cells_mix_as_often_as_their_bytes_allow():
    count = {}
    for cell in CELLS:
        config = config_of(Job(cell.name, "iid", 0.001, 1))
        rounds = rounds_of(config, [])
        steps = config.train.steps
        mixes = rounds.whole(steps) if config.mix.rule.meets != "none" else 0
        count[cell.name] = mixes
        if mixes:  # the last mix is the last of all
            assert rounds.first + (mixes - 1) * rounds.every == steps
    few = {name for name, mixes in count.items() if mixes == 4}
    assert few == {"dlora_4", "decaf_4"}
    assert 4 * 2 * 10 <= 10 * 9 < 5 * 2 * 10


# ---------------------------------------------------------------- judged


def made_up():
    """Rows in which the second step size is better, and a model is worse by its place and seed."""
    rows = []
    for job in jobs([*TUNING, *SEEDS]):
        for place, end in enumerate(judge.ENDS):
            worse = place + (job.lr == STEP_SIZES[0]) + [*BY_NAME].index(job.cell)
            score = {"accuracy": 0.8 - 0.01 * worse, "nll": 1.0 + worse + 0.01 * job.seed * place}
            rows.append(
                {
                    **job._asdict(),
                    "endpoint": end,
                    "bytes": 1e6,
                    "ece": 0.1,
                    "confidence": 0.9,
                    **score,
                }
            )
    return rows


def test_step_sizes_are_chosen_on_the_tuning_seed_alone():
    rows = made_up()
    assert set(judge.step_sizes(rows).values()) == {STEP_SIZES[1]}
    for row in rows:
        if row["seed"] in TUNING and row["lr"] == STEP_SIZES[0] and row["cell"] == "common":
            row["nll"] = 0.0 if row["endpoint"] == BY_NAME["common"].tuned else 99.0
    chosen = judge.step_sizes(rows)
    assert chosen["common", "iid"] == STEP_SIZES[0]
    assert chosen["members", "iid"] == STEP_SIZES[1]


def test_differences_are_paired_with_the_ensemble_and_hold_together():
    rows = made_up()
    lines = judge.lines(rows)
    own = next(line for line in lines if line.partition == "skew" and line.endpoint == "own")
    place = judge.ENDS.index("ensemble")
    values = [-place - 0.01 * seed * place for seed in SEEDS]
    family = (len(lines) - len(PARTITIONS)) * 3
    wanted = mean_interval(values, bonferroni(0.95, family))
    assert own.differences["nll"] == pytest.approx(wanted)
    assert own.seeds == len(SEEDS)
    bases = [line for line in lines if not line.differences]
    assert {(line.cell, line.endpoint) for line in bases} == {judge.BASE}
    assert len(bases) == len(PARTITIONS)
    fewer = [row for row in rows if row["cell"] in ("members", "dlora_4")]
    assert {line.cell for line in judge.lines(fewer)} == {"members", "dlora_4"}
    other = judge.lines(fewer)[0].differences  # the level is that of all, run or not
    assert other == lines[0].differences


def test_the_command_tunes_then_trains_and_refuses_what_it_does_not_know(
    tmp_path, monkeypatch, capsys
):
    every = made_up()

    def trial(job, stop):
        own = [row for row in every if all(row[n] == x for n, x in job._asdict().items())]
        return command.sweep.Outcome(job.name, "finished", "made up", 0, own, 1.0)

    monkeypatch.setattr(command, "play_job", trial)
    args = ["ensemble", "--cells", "members", "--seeds", "2", "--out", str(tmp_path / "out")]
    assert main(args) == 0
    about, *rows = trials.read(tmp_path / "out.jsonl", "")
    assert about["trainings"] == 2 * len(STEP_SIZES) + 2 * 2
    assert {row["lr"] for row in rows if row["seed"] in SEEDS} == {STEP_SIZES[1]}
    capsys.readouterr()
    for wrong, words in (
        (["--cells", "member"], "cell"),
        (["--seeds", "0"], "--seeds must be >= 1, got 0"),
        (["--jobs", "0"], "--jobs must be >= 1, got 0"),
    ):
        assert main(["ensemble", *wrong, "--out", str(tmp_path / "other")]) == 2
        assert words in capsys.readouterr().err


def test_the_page_is_that_of_the_stored_rows():
    text = Path(page.PAGE).read_text()
    assert page.filled(text, command.STUDY.read()) == text
