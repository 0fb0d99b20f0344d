"""The command line of the harness: what it prints, what it leaves, and how it ends."""

import dataclasses
import os
import signal
import threading

import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")

from decaf_theory.files import to_json  # noqa: E402
from figures import partition  # noqa: E402
from paper_checks import cli, dealt, finetune, record, sweep, sweeping, tasks  # noqa: E402
from paper_checks import config as configs  # noqa: E402
from paper_checks.protocol import Plan  # noqa: E402
from tests import paper_runs  # noqa: E402

BERT = paper_runs.TOML.replace(
    'name = "net"\n[model]', 'name = "toy-text"\n[model]\nkind = "classifier"'
)
BERT = BERT.replace("batch = 4", "batch = 4\nmax_length = 16")


LOAD_TASK = tasks.load_task


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)
    monkeypatch.setattr(tasks, "load_task", paper_runs.task)  # of the baseline
    monkeypatch.setattr(partition, "picture", quick_picture)


def quick_picture(row, path):
    """Write what `figures.partition` draws, which takes a tenth of a second."""
    path.write_bytes(to_json({"kind": row["data.partition"], "counts": row["counts"]}))


@pytest.fixture
def toml(tmp_path):
    return str(paper_runs.written(tmp_path))


def folders(out):
    return sorted(path.name for path in (out / "net").iterdir() if path.is_dir())


# ---------------------------------------------------------------- run


def test_a_run_leaves_rows_and_says_what_came_out(toml, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["run", toml, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("net decaf-ring-iid-seed0: score ")
    assert "mixing" in printed.out
    assert "T9 holds" in printed.out
    for word in ("loss", "score", "consensus", "interference", "truncation", "rank", "kB sent"):
        assert word in printed.err.splitlines()[-1]
    stored = record.read(out / "net" / "decaf-ring-iid-seed0")
    assert stored.finished
    assert [r["step"] for r in stored.records] == [2, 4, 6]
    assert {"training", "mixing", "observing", "evaluating"} == stored.run["seconds"].keys()
    assert not any("seconds" in row or "time" in row for row in stored.records)
    assert "at 3 of 3 rounds" in printed.out
    assert (stored.folder / dealt.PICTURE).read_bytes() == picture_of(stored, tmp_path)


def picture_of(stored, folder):
    """What is drawn of who holds what in a stored run."""
    row = {**stored.settings, "counts": stored.run["partition"]["counts"]}
    partition.picture(row, folder / "drawn.png")
    return (folder / "drawn.png").read_bytes()


def test_a_finished_run_is_not_run_again(toml, tmp_path, capsys, monkeypatch, fitted):
    command = ["run", toml, "--out", str(tmp_path / "out")]

    def printed():
        assert cli.main(command) == 0
        return capsys.readouterr().out

    first = printed()
    monkeypatch.setattr(finetune, "load_task", None)
    again = fitted(printed)
    assert again == first.replace(": ", " is finished: ", 1)
    assert again.count("\n") == 1


def test_a_run_of_other_data_or_another_start_does_not_count_as_this_one(toml, tmp_path):
    out = tmp_path / "out"
    assert cli.main(["run", toml, "--out", str(out)]) == 0
    cell = sweep.Cell(toml, {}, out, None, "cpu")
    config = cell.read()
    folder = sweep.folder_of(out, config)
    assert sweep.finished(folder, cell, config) is not None
    assert sweep.finished(folder, cell, config, ["agent0"]) is None
    elsewhere = dataclasses.replace(config, data_dir=str(tmp_path))
    assert sweep.finished(folder, cell, elsewhere) is None


def test_flags_choose_the_cell(toml, tmp_path):
    out = tmp_path / "out"
    flags = ["--method", "dlora", "--graph", "complete", "--partition", "skew", "--seed", "3"]
    assert cli.main(["run", toml, *flags, "--set", "train.steps=2", "--out", str(out)]) == 0
    assert folders(out) == ["dlora-complete-skew-seed3"]
    assert (
        record.read(out / "net" / "dlora-complete-skew-seed3").run["settings"]["train.steps"] == 2
    )


def test_the_same_command_leaves_the_same_rows(toml, tmp_path):
    rows = []
    for name in ("a", "b"):
        assert cli.main(["run", toml, "--out", str(tmp_path / name)]) == 0
        rows.append((tmp_path / name / "net" / "decaf-ring-iid-seed0" / record.ROWS).read_bytes())
    assert rows[0] == rows[1]


def test_an_export_is_an_adapter_for_every_agent(toml, tmp_path):
    from decaf_theory.adapters import load_agents

    command = ["run", toml, "--out", str(tmp_path / "out"), "--export", str(tmp_path / "peft")]
    assert cli.main(command) == 0
    agents = load_agents(sorted((tmp_path / "peft").iterdir()))
    assert len(agents.names) == 4
    again = ["run", toml, "--out", str(tmp_path / "more"), "--adapters"]
    again += [str(path) for path in sorted((tmp_path / "peft").iterdir())]
    assert cli.main([*again, "--set", "train.steps=2"]) == 0


def interrupted(run_at, number, monkeypatch):
    """Send this process a signal after some step."""
    advance, seen = finetune.advance, []

    def then_signal(run):
        advance(run)
        seen.append(run.step)
        if len(seen) == run_at:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(finetune, "advance", then_signal)
    return seen


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_how_to_go_on(toml, tmp_path, capsys, monkeypatch, number, code):
    command = ["run", toml, "--out", str(tmp_path / "out")]
    seen = interrupted(3, number, monkeypatch)
    assert cli.main(command) == code
    assert "stopped after step 3 of 6; the same command resumes" in capsys.readouterr().err
    assert cli.main(command) == 0
    assert seen == [1, 2, 3, 4, 5, 6]


def test_a_run_that_fails_ends_with_one(toml, tmp_path, capsys, monkeypatch):
    def fail(run):
        raise finetune.TrainingError("the loss of agent 1 at step 0 is not finite")

    monkeypatch.setattr(finetune, "advance", fail)
    assert cli.main(["run", toml, "--out", str(tmp_path / "out")]) == 1
    assert "agent 1 at step 0" in capsys.readouterr().err


def test_a_bound_that_does_not_hold_ends_with_one(toml, tmp_path, monkeypatch):
    fine = {"T9": {"outcome": "holds"}, "T21": {"outcome": "not_applicable"}}
    monkeypatch.setattr(record, "verdicts", lambda rows: {**fine, "T17": {"outcome": "violated"}})
    assert cli.main(["run", toml, "--out", str(tmp_path / "out")]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "decafe"], "mix.method must be one of"),
        (["--graph", "rnig"], "near: ring"),
        (["--set", "train.lrr=1"], "unknown setting in [train]: 'lrr'; near: lr"),
        (["--set", "train.lr"], "--set needs KEY=VALUE"),
        (["--device", "cuda:77"], "cannot be used"),
        (["--adapters", "nowhere"], "need 4 adapter folders"),
        (["--seed", "-1"], "train.seed must be >= 0"),
        (["--dry-run"], "for a dry run"),
        (["--method", "flora", "--export", "peft"], "--export writes adapters, and flora merges"),
    ],
)
def test_bad_usage_ends_with_two_and_names_the_argument(toml, tmp_path, capsys, arguments, message):
    assert cli.main(["run", toml, "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_another_setting_in_the_same_folder_is_refused(toml, tmp_path, capsys):
    command = ["run", toml, "--out", str(tmp_path / "out")]
    assert cli.main(command) == 0
    assert cli.main([*command, "--set", "train.lr=0.2"]) == 2
    assert "train.lr: 0.05 -> 0.2" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["run"], ["sweep", "x", "--seeds", "a"]])
def test_usage_that_argparse_sees_ends_with_two(command, capsys):
    with pytest.raises(SystemExit) as info:
        cli.main(command)
    assert info.value.code == 2


def test_a_command_that_is_mistyped_is_answered_with_the_nearest(capsys):
    assert cli.main(["lst"]) == 2
    assert capsys.readouterr().err == "error: unknown command 'lst'; near: list\n"


@pytest.mark.parametrize(
    "command", [["--help"], ["run", "--help"], ["sweep", "--help"], ["table", "--help"]]
)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as info:
        cli.main(command)
    assert info.value.code == 0
    assert "usage: python -m paper_checks" in capsys.readouterr().out


def test_the_experiments_are_listed(capsys):
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == configs.names()


# ---------------------------------------------------------------- sweep and table


def test_a_sweep_runs_each_cell_once_and_skips_finished_ones(toml, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["sweep", toml, "--out", str(out), "--methods", "local", "dlora", "decaf"]
    command += ["--graphs", "ring", "complete", "--partitions", "iid", "skew", "--seeds", "0,2"]
    assert cli.main(command) == 0
    first = capsys.readouterr().out
    assert first.count("finished") == len(folders(out)) == 2 * 2 * (1 + 2 + 2)
    stored = record.read(out / "net" / "decaf-complete-skew-seed2")
    assert (stored.folder / dealt.PICTURE).read_bytes() == picture_of(stored, tmp_path)
    assert cli.main(command) == 0
    assert capsys.readouterr().out.count("skipped") == 20
    assert cli.main(["table", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| method " in printed
    assert "skew complete" in printed


def test_a_sweep_that_is_interrupted_goes_on(toml, tmp_path, capsys, monkeypatch):
    command = ["sweep", toml, "--out", str(tmp_path / "out"), "--methods", "dlora", "decaf"]
    seen = interrupted(8, signal.SIGINT, monkeypatch)
    assert cli.main(command) == 130
    assert "decaf-ring-iid-seed0: interrupted; after step 2" in capsys.readouterr().out
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "dlora-ring-iid-seed0: skipped" in printed
    assert "decaf-ring-iid-seed0: finished" in printed
    assert len(seen) == 12


def test_a_sweep_with_a_failing_run_does_the_others_and_ends_with_one(
    toml, tmp_path, capsys, monkeypatch
):
    advance = finetune.advance

    def fail(run):
        if run.config.mix.method == "dlora":
            raise finetune.TrainingError("the loss of agent 1 at step 0 is not finite")
        advance(run)

    monkeypatch.setattr(finetune, "advance", fail)
    command = ["sweep", toml, "--out", str(tmp_path / "out"), "--methods", "dlora", "decaf"]
    assert cli.main(command) == 1
    printed = capsys.readouterr().out
    assert "dlora-ring-iid-seed0: failed; the loss of agent 1" in printed
    assert "decaf-ring-iid-seed0: finished" in printed


def test_seeds_are_ranges_and_lists():
    assert sweeping.seeds("0-4") == [0, 1, 2, 3, 4]
    assert sweeping.seeds("0,2-3,7") == [0, 2, 3, 7]


def test_a_sweep_with_a_wrong_name_trains_nothing(toml, tmp_path, capsys):
    command = ["sweep", toml, "--out", str(tmp_path / "out"), "--methods", "decaf", "dolra"]
    assert cli.main(command) == 2
    assert "near: dlora" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no finished run below nowhere"),
        (["--level", "2"], "--level must lie in (0, 1)"),
    ],
)
def test_a_table_of_nothing_ends_with_two(arguments, message, capsys):
    assert cli.main(["table", *arguments]) == 2
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------- a real model, in processes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers")
def test_other_processes_train_what_this_one_trains(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="a tiny BERT needs transformers")
    for module in (finetune, tasks):
        monkeypatch.setattr(module, "load_task", LOAD_TASK)
    path = tmp_path / "bert.toml"
    path.write_text(BERT)
    rows = {}
    for jobs in ("1", "2"):
        out = tmp_path / jobs
        command = ["sweep", str(path), "--out", str(out), "--methods", "dlora", "decaf"]
        assert cli.main([*command, "--jobs", jobs]) == 0
        rows[jobs] = {
            path.parent.name: path.read_bytes() for path in sorted(out.rglob(record.ROWS))
        }
    assert len(rows["1"]) == 2
    assert rows["1"] == rows["2"]


@pytest.mark.slow
def test_other_processes_stop_once_a_signal_came(tmp_path):
    pytest.importorskip("transformers", reason="a tiny BERT needs transformers")
    path = tmp_path / "bert.toml"
    path.write_text(BERT)
    base = sweep.Cell(str(path), {"train.steps": 100_000}, tmp_path, None, "cpu")
    wanted = sweep.cells(base, Plan(("dlora", "decaf", "local"), ("ring",), ("iid",), (0,)))
    signals = []
    threading.Timer(1.0, lambda: signals.append(signal.SIGTERM)).start()
    outcomes = list(sweep.run_all(wanted, 2, signals))
    assert len(outcomes) == 2  # the third is not begun
    assert {outcome.status for outcome in outcomes} == {"interrupted"}
    assert list(sweep.run_all(wanted, 2, signals)) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers")
def test_checkpointed_activations_give_the_same_steps(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="a tiny BERT needs transformers")
    from paper_checks.checkpoint import named

    monkeypatch.setattr(finetune, "load_task", LOAD_TASK)
    path = tmp_path / "bert.toml"
    path.write_text(BERT)
    found, calls = [], []
    for on in (False, True):
        settings = {"train.gradient_checkpointing": on, "lora.dropout": 0.5}
        run = finetune.prepare(configs.read(str(path), settings), device="cpu")
        site = next(iter(run.stacked.sites.values()))
        calls.append([])
        site.register_forward_hook(lambda *_, seen=calls[-1]: seen.append(1))
        for _ in range(2):
            finetune.advance(run)
        found.append(named(run.stacked))
    assert all(torch.equal(X, found[1][name]) for name, X in found[0].items())
    # two steps and one evaluation at the round's end; each step's forward pass is done twice
    assert len(calls[1]) == len(calls[0]) + 2


def test_cells_are_plain_values_for_other_processes(toml, tmp_path):
    cell = sweep.Cell(toml, {"mix.method": "dlora"}, tmp_path, None, "cpu")
    assert cell.read().cell == "dlora-ring-iid-seed0"
