"""A sweep with a grid and a primary contrast, from its command line to its table; its status."""

import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")

from paper_checks import cli, finetune, record, sweep, sweeping, tasks  # noqa: E402
from paper_checks.protocol import Plan  # noqa: E402
from paper_checks.tasks.records import divided  # noqa: E402
from tests import paper_runs  # noqa: E402
from tests.test_paper_cli import folders  # noqa: E402
from verification import store  # noqa: E402


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)
    monkeypatch.setattr(tasks, "load_task", paper_runs.task)  # of the baseline


@pytest.fixture
def toml(tmp_path):
    return str(paper_runs.written(tmp_path))


@pytest.fixture
def validated(monkeypatch):
    task = paper_runs.task()
    train, apart = divided(task.train, 24)
    for module in (finetune, tasks):
        monkeypatch.setattr(
            module,
            "load_task",
            lambda config: paper_runs.task()._replace(train=train, validation=apart),
        )


GRID = ["--set", "train.lr=0.01,0.05,0.2", "--set", "data.validation=24", "--methods", "dlora"]


def test_a_grid_has_a_folder_for_each_value_and_a_table_of_the_chosen_one(
    toml, tmp_path, capsys, validated
):
    out = tmp_path / "out"
    command = ["sweep", toml, "--out", str(out), *GRID, "decaf", "--seeds", "0,1"]
    command += ["--primary", "decaf - dlora on ring, iid"]
    assert cli.main([*command, "--status"]) == 0
    assert capsys.readouterr().out.startswith("12 cells: 12 missing\nmissing: train.lr=0.01/dlora-")
    assert not out.exists()
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "train.lr=0.2/decaf-ring-iid-seed1: finished" in printed
    assert folders(out) == ["train.lr=0.01", "train.lr=0.05", "train.lr=0.2"]
    runs = {path.parent for path in out.rglob(record.RUN)}
    assert len(runs) == 12
    for folder in runs:
        lr = record.read(folder).settings["train.lr"]
        assert folder.parent.name == f"train.lr={lr}"
    assert cli.main([*command, "--status"]) == 0
    assert capsys.readouterr().out == "12 cells: 12 finished\n"
    assert cli.main(["table", str(out)]) == 0
    printed = capsys.readouterr().out
    means = {
        lr: sum(
            record.read(out / "net" / f"train.lr={lr}" / f"dlora-ring-iid-seed{seed}").records[-1][
                "validation_score"
            ]
            for seed in (0, 1)
        )
        for lr in (0.01, 0.05, 0.2)
    }
    chosen = max(means, key=means.get)
    mark = "*" if chosen != 0.05 else ""
    part = printed.split("### Chosen on validation\n")[1].split("###")[0]
    assert f"| dlora  | {chosen}{mark} " in part
    assert "Named before any result." in printed
    assert "### Best round (chosen on validation)" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "train.lr=0.1,0.2"], "set data.validation, such as data.validation=0.2"),
        (["--primary", "decaf - local on ring, iid"], "needs local in --methods, got dlora"),
        (["--primary", "decaf"], "protocol.primary must be as"),
        (["--jobs", "0"], "--jobs must be >= 1"),
    ],
)
def test_a_sweep_that_could_not_be_judged_trains_nothing(
    toml, tmp_path, capsys, arguments, message
):
    out = tmp_path / "out"
    command = ["sweep", toml, "--out", str(out), "--methods", "dlora", "decaf"]
    assert cli.main([*command, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(out.rglob("*.json*"))


def test_one_run_takes_one_value(toml, tmp_path, capsys):
    command = ["run", toml, "--out", str(tmp_path), "--set", "train.lr=0.1,0.2"]
    assert cli.main(command) == 2
    assert "--set train.lr has 2 values; `sweep` tries several" in capsys.readouterr().err


def test_values_are_several_only_where_toml_sees_no_single_one():
    assert sweeping.values_of("1e-3,2e-3") == [1e-3, 2e-3]
    assert sweeping.values_of("adamw, sgd") == ["adamw", "sgd"]
    assert sweeping.values_of("[1, 2]") == [[1, 2]]
    assert sweeping.values_of('"a,b"') == ["a,b"]
    assert sweeping.values_of("eta/r") == ["eta/r"]


def test_the_status_of_a_sweep_names_what_runs_failed_and_is_missing(toml, tmp_path, monkeypatch):
    base = sweep.Cell(toml, {}, tmp_path, None, "cpu")
    wanted = sweep.cells(base, Plan(("dlora", "decaf", "local"), ("ring",), ("iid",), (0, 1)))
    done, fails, half, runs, *_ = wanted
    advance = finetune.advance

    def fail(run):
        raise finetune.TrainingError("the loss of agent 1 is not finite")

    assert sweep.run_cell(done).status == "finished"
    monkeypatch.setattr(finetune, "advance", fail)
    assert sweep.run_cell(fails).status == "failed"
    monkeypatch.setattr(finetune, "advance", advance)
    steps = iter([False, False, True])
    assert sweep.run_cell(half, lambda: next(steps)).status == "interrupted"
    place = sweep.folder_of(tmp_path, runs.read())
    place.mkdir(parents=True)
    with store.locked(place):
        first, *lines = sweeping.status(wanted).splitlines()
    assert first == "6 cells: 1 finished, 1 running, 1 unfinished, 1 failed, 2 missing"
    assert f"{fails.name}: failed; the loss of agent 1 is not finite; earlier states" in lines[0]
    assert lines[1].startswith(f"{half.name}: unfinished; the same command resumes it")
    assert lines[2:] == [f"{runs.name}: running", f"missing: {wanted[4].name}, {wanted[5].name}"]
    assert sweep.run_cell(fails).status == "finished"
    assert sweep.state(fails) == ("finished", "")


def test_the_time_left_counts_what_was_trained_and_not_what_was_skipped():
    assert sweeping.time_left(["skipped", "finished", "failed"], 7, 100.0) == ", 3 min left"
    assert sweeping.time_left(["finished"] * 3, 4, 90.0) == ", 30 s left"
    assert sweeping.time_left(["skipped"], 4, 1.0) == ""
    assert sweeping.time_left(["finished"], 1, 1.0) == ""
