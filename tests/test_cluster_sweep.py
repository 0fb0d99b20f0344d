"""Sweeps on a Dask cluster leave what sweeps in processes leave, stored by the one that submits."""

import sys
from threading import current_thread

import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")
distributed = pytest.importorskip("distributed", reason="a cluster needs Dask: .[cluster]")

from paper_checks import baseline, cli, finetune, record, sweep, trials  # noqa: E402
from paper_checks.protocol import Plan  # noqa: E402
from tests import paper_runs  # noqa: E402
from verification import cli as verification  # noqa: E402
from verification import harness, store  # noqa: E402
from verification.cluster import Cluster  # noqa: E402


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)
    monkeypatch.setattr(baseline, "keep", lambda config, folder: None)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of a scheduler and one worker, both in this process."""
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        dashboard_address=":0",
        local_directory=str(tmp_path_factory.mktemp("workers")),
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def command(tmp_path, address):
    toml = str(paper_runs.written(tmp_path))
    methods = ["--methods", "dlora", "decaf", "local"]
    return ["sweep", toml, *methods, "--out", str(tmp_path / "out"), "--scheduler", address]


def cells(tmp_path):
    base = sweep.Cell(str(tmp_path / "net.toml"), {}, tmp_path / "out", None, "cpu")
    return sweep.cells(base, Plan(("dlora", "decaf", "local"), ("ring",), ("iid",), (0,)))


def folder(cell):
    return sweep.folder_of(cell.out, cell.read())


def test_a_cluster_leaves_the_files_of_processes(tmp_path, command, capsys):
    assert cli.main(command) == 0
    assert "[3/3] local-any-iid-seed0: finished; score" in capsys.readouterr().out
    assert cli.main([*command[:-2], "--out", str(tmp_path / "here")]) == 0
    there, here = (
        {path.relative_to(out): path for path in sorted(out.rglob("*")) if path.is_file()}
        for out in (tmp_path / "out", tmp_path / "here")
    )
    assert there.keys() == here.keys()
    same = [name for name in there if name.name in (record.ROWS, "rounds.jsonl")]
    assert len(same) == 6
    assert all(there[name].read_bytes() == here[name].read_bytes() for name in same)
    assert cli.main(command) == 0
    assert "[3/3] local-any-iid-seed0: skipped; score" in capsys.readouterr().out
    longer = [*command[:-2], "--set", "train.steps=8"]  # from the checkpoints that came with it
    assert cli.main(longer) == 0
    assert all(record.read(folder(cell)).run["step"] == 8 for cell in cells(tmp_path))


def test_a_cell_that_fails_or_was_begun_elsewhere_is_named_and_costs_no_other(
    tmp_path, command, capsys, monkeypatch
):
    fails, begun, fine = cells(tmp_path)
    steps = iter([True])
    assert sweep.run_cell(begun, lambda: next(steps)).status == "interrupted"
    advance = finetune.advance

    def fail(run):
        if run.config.mix.method == "dlora":
            raise finetune.TrainingError("the loss of agent 1 is not finite")
        assert sweep.state(fine)[0] == "running"  # as another process sees it
        advance(run)

    monkeypatch.setattr(finetune, "advance", fail)
    assert cli.main(command) == 1
    printed = capsys.readouterr().out
    assert f"{fails.name}: failed; the loss of agent 1 is not finite" in printed
    assert f"{begun.name}: failed; {folder(begun)} holds an unfinished run" in printed
    assert f"{fine.name}: finished" in printed
    assert cli.main([*command, "--status"]) == 0
    assert capsys.readouterr().out.startswith("3 cells: 1 finished, 2 failed\n")
    monkeypatch.setattr(finetune, "advance", advance)
    assert cli.main([*command, "--restart"]) == 0
    assert sweep.state(fails) == sweep.state(begun) == ("finished", "")


def test_a_cell_of_other_code_is_named_and_neither_taken_nor_trained(
    tmp_path, command, capsys, monkeypatch
):
    for cell in cells(tmp_path):
        assert sweep.run_cell(cell).status == "finished"
    before = [(folder(cell) / store.RUN).read_bytes() for cell in cells(tmp_path)]
    code = harness.code()
    monkeypatch.setattr(harness, "code", lambda: "0123456789ab")
    assert cli.main([*command, "--status"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("3 cells: 3 differing\n")
    assert f"differing; stored with other settings, code or data (code: {code} -> 01" in printed
    assert cli.main(command) == 1
    assert capsys.readouterr().out.count(f"code or data (code: {code} -> 0123456789ab)") == 3
    assert [(folder(cell) / store.RUN).read_bytes() for cell in cells(tmp_path)] == before
    assert cli.main([*command, "--accept-code"]) == 0
    assert capsys.readouterr().out.count("skipped") == 3


def play(trial, stop):
    """A trial that leaves rows to its caller, with the thread that it ran in."""
    return sweep.Outcome(trial.name, "finished", "played", 0, [{"in": current_thread().name}])


def test_a_study_and_the_claims_are_worked_on_by_the_same_workers(tmp_path, address):
    wanted = [trials.Trial("one"), trials.Trial("two")]
    found = list(sweep.run_all(wanted, Cluster(address), [], play))
    assert [outcome.cell for outcome in found] == ["one", "two"]
    assert all("Dask" in outcome.rows[0]["in"] for outcome in found)
    rows = {}
    for places in (["--jobs", "1"], ["--scheduler", address]):
        out = tmp_path / places[0]
        assert verification.main(["run", "--only", "T1", "T18-op", *places, "--out", str(out)]) == 0
        rows[places[0]] = [path.read_bytes() for path in sorted((out / "rows").iterdir())]
    assert rows["--jobs"] == rows["--scheduler"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scheduler", "nowhere"], "must be tcp://HOST:PORT or the file of a scheduler, got 'no"),
        (["--jobs", "2", "--scheduler", "tcp://a:1"], "--scheduler: not allowed with argument"),
    ],
)
def test_a_scheduler_that_cannot_be_one_is_refused(capsys, words, said):
    sweeps, claims = cli.parser().parse_args, verification.options.parse
    for parse, command in ((sweeps, ["sweep", "net"]), (claims, ["run"])):
        with pytest.raises(SystemExit):
            parse([*command, *words])
        assert said in capsys.readouterr().err


def test_without_dask_a_line_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["sweep", "net", "--scheduler", "tcp://127.0.0.1:8786"])
    assert "distributed not installed: pip install -e '.[cluster]'" in capsys.readouterr().err
