"""The clock of rounds, the first of which may be longer or shorter: mixes, bytes, resume."""

from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")

from decaf_theory.methods import Clock  # noqa: E402
from paper_checks import dryrun, finetune, needs, observe  # noqa: E402
from paper_checks.rounds import Rounds  # noqa: E402
from tests import paper_runs  # noqa: E402
from tests.paper_runs import prepare, snapshot  # noqa: E402


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)


def test_the_clock_counts_rounds_and_their_steps():
    rounds = Rounds(every=2, first=3)
    expected = [(0, 0, 3), (0, 1, 3), (0, 2, 3), (1, 0, 2), (1, 1, 2), (2, 0, 2), (2, 1, 2)]
    assert [rounds.clock(t) for t in range(7)] == [Clock(*each) for each in expected]
    assert [rounds.whole(steps) for steps in range(8)] == [0, 0, 0, 1, 1, 2, 2, 3]
    assert [rounds.before(mix) for mix in range(1, 4)] == [rounds.clock(t) for t in (2, 4, 6)]
    assert Rounds(2, 2).before(0) == Clock(0, 0, 2)
    for t in range(20):
        assert Rounds(4, 4).clock(t) == Clock(t // 4, t % 4, 4)


@pytest.mark.parametrize("after", [1, 5])
def test_the_first_mix_comes_after_its_own_number_of_steps(after):
    run = prepare(mix__method="fedavg", mix__every=2, mix__after=after, train__steps=10)
    mixed, sent = [], []
    for _ in range(10):
        finetune.advance(run)
        mixed.append(observe.equal(run.stacked))
        sent.append(run.sent)
    times = list(range(after, 11, 2))
    assert [t + 1 for t in range(10) if mixed[t]] == times
    one = sent[after - 1]
    assert sent == [one * sum(m <= t + 1 for m in times) for t in range(10)]
    # an unfinished round at the end has a record, too
    ends = times if times[-1] == 10 else [*times, 10]
    assert [r["step"] for r in run.records] == ends
    assert [r["round"] for r in run.records] == list(range(1, len(ends) + 1))
    assert [r["comm_bytes"] for r in run.records] == [sent[t - 1] for t in ends]
    assert sorted({row["step"] for row in run.rows}) == times


def test_as_many_steps_as_between_the_others_change_nothing():
    runs = [prepare(mix__every=2, **more) for more in ({}, {"mix__after": 2})]
    for run in runs:
        for _ in range(6):
            finetune.advance(run)
    left, right = map(snapshot, runs)
    assert all(torch.equal(X, right[name]) for name, X in left.items())
    assert runs[0].records == runs[1].records


def test_a_run_survives_the_process_before_and_after_its_first_mix(tmp_path):
    config = paper_runs.config(mix__after=4, train__steps=7, train__optimizer="adamw")
    whole = finetune.finetune(config, tmp_path / "whole")
    for cut in (2, 3):  # in the first round, and in the one after it
        stops = iter([False] * cut + [True])
        rest = finetune.finetune(config, tmp_path / "half", stop=lambda s=stops: next(s))
    assert rest.step == 5
    rest = finetune.finetune(config, tmp_path / "half")
    assert all(torch.equal(X, snapshot(rest)[name]) for name, X in snapshot(whole).items())
    assert (whole.records, whole.rows, whole.sent) == (rest.records, rest.rows, rest.sent)


@pytest.mark.parametrize("method", ["decaf", "centralized", "flora"])
def test_a_dry_run_counts_the_bytes_of_the_rounds_after_the_first(method):
    config = paper_runs.config(mix__method=method, mix__after=3, mix__every=2, train__steps=7)
    run = finetune.prepare(config, device="cpu")
    counted = dryrun.traffic(run.stacked, config, 2).total_round
    for _ in range(7):
        finetune.advance(run)
    sent = [record["comm_bytes"] for record in run.records]
    assert [b - a for a, b in pairwise(sent)] == [counted, counted]


def test_a_dry_run_says_when_the_first_mix_is():
    assert needs._first(paper_runs.config(mix__after=4)) == ", the first mix after 4"
    assert needs._first(paper_runs.config()) == ""
