"""The tournament's command line: its store, how it resumes, its page; and the harness as a task."""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from paper_checks import cli
from paper_checks.config import TABLES
from paper_checks.tournament import command
from paper_checks.tournament.page import page
from paper_checks.tournament.trained import Setting, harness_task
from tests.test_tournament import REPORTED, TUNING, planted, small
from verification import provenance

ROOT = Path(__file__).resolve().parent.parent
METHODS = ["dlora", "decaf", "tad_lora", "fedavg", "local"]


@pytest.fixture
def tiny(monkeypatch):
    """A tournament of one small task."""
    task = small(networks=("ring", "one_peer", "server"), rounds=2)
    monkeypatch.setattr(command, "tasks", lambda size: {"small": task})
    return task


def tournament(out, *more):
    return cli.main(["tournament", "--methods", *METHODS, "--out", str(out / "rows"), *more])


def files(out):
    return {p.name: p.read_bytes() for p in sorted((out / "rows" / "rows").iterdir())}


def judged(out):
    return (out / "rows.jsonl").read_text().splitlines()[1:]


def test_it_prints_the_page_of_the_rows_that_it_leaves(tiny, tmp_path, capsys):
    assert tournament(tmp_path) == 0
    printed = capsys.readouterr()
    assert printed.out == page(command.read(tmp_path / "rows.jsonl"))
    assert "[10/10] small-server-fedavg: rounds " in printed.err
    for text in ("### small: ring, equal rounds", "| fedavg | ", "- tad_lora: "):
        assert text in printed.out
    assert cli.main(["tournament", "--rows", str(tmp_path / "rows.jsonl")]) == 0
    assert capsys.readouterr().out == printed.out


def test_a_match_that_is_stored_is_not_played_again(tiny, tmp_path, monkeypatch, capsys):
    assert tournament(tmp_path) == 0
    monkeypatch.setattr(command, "play", None)
    before = files(tmp_path), judged(tmp_path)
    assert tournament(tmp_path) == 0
    assert (files(tmp_path), judged(tmp_path)) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_tournament_resumes_bit_for_bit(tiny, tmp_path, monkeypatch, capsys, number):
    assert tournament(tmp_path / "whole") == 0
    real, played = command.play, []

    def interrupted(*match):
        if len(played) == 2:
            os.kill(os.getpid(), number)
        played.append(match[1:])
        return real(*match)

    monkeypatch.setattr(command, "play", interrupted)
    assert tournament(tmp_path / "stopped") == 128 + number
    assert len(played) == len(files(tmp_path / "stopped")) == 3  # the match under way is kept
    assert "the same command resumes" in capsys.readouterr().err
    assert not (tmp_path / "stopped" / "rows.jsonl").exists()
    assert tournament(tmp_path / "stopped") == 0
    assert len(played) == len(set(played)) == 10
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert judged(tmp_path / "stopped") == judged(tmp_path / "whole")


def test_a_damaged_match_is_played_again(tiny, tmp_path, capsys):
    assert tournament(tmp_path) == 0
    before = files(tmp_path)
    path = tmp_path / "rows" / "rows" / "small-ring-decaf.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert tournament(tmp_path) == 0
    assert "done again" in capsys.readouterr().err
    assert files(tmp_path) == before


def test_rows_of_other_settings_or_code_are_refused(tiny, tmp_path, monkeypatch, capsys):
    assert tournament(tmp_path) == 0
    before = files(tmp_path)
    other = small(networks=tiny.networks, rounds=2, grid=(0.1, 0.3))
    with monkeypatch.context() as patch:
        patch.setattr(command, "tasks", lambda size: {"small": other})
        assert tournament(tmp_path) == 2
        assert "another configuration (tasks: " in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "code_sum", lambda *modules: "other")
        assert tournament(tmp_path) == 2
        assert "code: " in capsys.readouterr().err
    assert files(tmp_path) == before


def test_the_code_of_the_harness_counts():
    counted = provenance.sources(*command.PLAYING)
    assert {"paper_checks.finetune", "decaf_theory.simulate.rounds"} <= counted.keys()
    assert "paper_checks.tournament.page" not in counted


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tasks", "smal"], "unknown task: 'smal'; near: small"),
        (["--methods", "decaff"], "unknown method: 'decaff'; near: decaf"),
        (["--jobs", "0"], "--jobs must be >= 1, got 0"),
        (["--rows", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
    ],
)
def test_bad_usage_is_named(tiny, tmp_path, capsys, more, message):
    assert tournament(tmp_path, *more) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_leave_the_rows_of_one(tmp_path, capsys):
    chosen = ["--quick", "--tasks", "rank_trap", "--methods", "dlora", "fedavg"]
    for jobs in ("1", "2"):
        out = tmp_path / jobs / "rows"
        assert cli.main(["tournament", *chosen, "--jobs", jobs, "--out", str(out)]) == 0
    assert files(tmp_path / "1") == files(tmp_path / "2")


def test_a_diverged_match_is_on_the_page():
    def scores(method, lr, seed, stop):
        return None if stop and method == "decaf" else 1.0 - 0.1 * seed * (stop > 0)

    task, _ = planted(scores)
    rows = [row for m in ("dlora", "decaf") for row in command.play(task, "ring", m)]
    about = {"tasks": {"planted": task.described()}, "size": "full", "level": 0.95}
    about |= {"matches": 2, "minutes": 0.1}
    text = page([about, *command.judged(rows, {"planted": True})])
    assert "| diverged | with every step size of the grid |" in text
    assert "| decaf |  |  |  | 1 |  |  |  | 1 |" in text


# ---------------------------------------------------------------- the harness as a task


@pytest.fixture
def net(tmp_path, monkeypatch):
    """The harness on a network of three layers."""
    pytest.importorskip("torch")
    from paper_checks import finetune
    from tests import paper_runs

    monkeypatch.setattr(finetune, "load_task", paper_runs.task)
    path = paper_runs.written(tmp_path)
    return harness_task(
        "net",
        "a small network",
        Setting(str(path), {"train.optimizer": "sgd"}),
        networks=("ring", "server"),
        rounds=2,
        longest=2,
        grid=(0.05, 0.1),
        tuning=TUNING,
        reported=REPORTED,
    )


def test_the_harness_plays_and_its_accuracy_is_scored(net):
    rows = {row["budget"]: row for row in command.play(net, "ring", "dlora")}
    assert rows["rounds"]["own"] == rows["bytes"]["own"]
    assert len(rows["rounds"]["own"]) == len(REPORTED)
    assert rows["rounds"]["mean"] is None
    assert all(0 <= score <= 100 for score in rows["rounds"]["own"])
    assert rows["rounds"]["own"] != [rows["rounds"]["start"]] * len(REPORTED)


def test_the_bytes_of_a_training_are_those_of_its_messages(net, tmp_path):
    from paper_checks import config, finetune, mixing

    sent = net.sent("rolora", "server", 3)
    run = finetune.prepare(
        config.read(str(tmp_path / "net.toml"), {"mix.method": "rolora"}),
        device="cpu",
    )
    rule = run.config.mix.rule
    messages = [
        2 * run.stacked.agents * mixing.message_bytes(run.stacked, rule, {}, clock)
        for clock in (run.rounds.clock(t * run.every) for t in range(3))
    ]
    assert sent == [0, messages[0], sum(messages[:2]), sum(messages)]
    assert messages[0] != messages[1]


def test_what_the_harness_cannot_train_is_refused_by_name(net):
    (row,) = command.play(net, "ring", "dsgd")
    assert row["status"] == "refused"
    assert "mix.method must be one of" in row["why"]


def test_without_its_packages_nothing_is_played_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    out = tmp_path / "rows"
    assert cli.main(["tournament", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "transformers" in said
    assert "not installed: pip install" in said
    assert "--quick" in said
    assert not out.exists()


def test_a_training_that_diverges_has_no_scores_after_that(net):
    found = net.trial("dlora", "ring", 3e38, TUNING, [0, 2])
    assert found.keys() == {0}


# ---------------------------------------------------------------- what is stored with the project


def test_the_page_is_that_of_the_stored_rows():
    stored = ROOT / "docs" / "rows" / "tournament.jsonl"
    text = (ROOT / "docs" / "tournament.md").read_text()
    assert page(command.read(stored)) == text
    assert stored.stat().st_size < 250_000


def default(table, name):
    (found,) = (field.default for field in dataclasses.fields(table) if field.name == name)
    return found


def test_the_stored_tournament_is_of_the_tasks_as_they_are():
    about, *rows = command.read(ROOT / "docs" / "rows" / "tournament.jsonl")
    tasks = {name: task.described() for name, task in command.tasks("full").items()}
    later = tasks["vit-digits"]["settings"]
    stored = about["tasks"]["vit-digits"]["settings"]
    for setting in later.keys() - stored.keys():  # that came later, and are at their defaults
        table, name = setting.split(".")
        assert later.pop(setting) == default(TABLES[table], name)
    assert about["tasks"] == json.loads(json.dumps(tasks))
    assert len({(row["task"], row["network"], row["method"]) for row in rows}) == about["matches"]
