"""The command `decaf merge`: options that are wrong, what it prints, reports, and never loses."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from decaf_theory import adapters
from decaf_theory.adapters.certificate import certificate, certificate_words, numbers_of
from decaf_theory.adapters.combining import Mixed
from decaf_theory.cli import main
from decaf_theory.lowrank import Factors
from tests.adapter_files import STORED, sites_of, write

FOLDERS = [str(folder) for folder in STORED]
SERVED = ", ".join(adapters.MERGES)


@pytest.fixture
def call(capsys, tmp_path):
    """Run a merge of the stored adapters: exit code, stdout, stderr."""

    def run(*arguments, folders=FOLDERS, out=tmp_path / "out"):
        words = ["merge", *folders, "--out", str(out), *map(str, arguments)]
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--method dsgd", "method dsgd cannot merge adapters: it trains W itself, which adapters"),
        ("--method flora", "flora cannot merge adapters: its W - W0 is s (base + B A), of which"),
        ("--method local", "method local cannot merge adapters: its agents mix nothing; take one"),
        ("--method decaf_ef", "decaf_ef cannot merge adapters: agents keep residual between round"),
        ("--method gradient_tracking", "agents keep tracker and last between rounds, which adap"),
        ("--method odelora", "odelora cannot merge adapters: it differs from others in its local"),
        ("--method tad_lora", "tad_lora cannot merge adapters: its parameters depend on the graph"),
        ("--method fedsa_lora", "fedsa_lora cannot merge adapters: each agent keeps what it does"),
        ("--method dekaf", f"method must be one of {SERVED}, got 'dekaf'"),
        ("--method dlora --exact", "exact belongs to methods that mix products, such as decaf"),
        ("--method dlora --rank auto", "rank belongs to methods that mix products, such as deca"),
        ("--method fedavg --topology ring", "fedavg has a server, whose mix is one for all agen"),
        ("--topology rnig", "topology must be one of "),
        ("--topology ring --weights 1,0,0,0", "a topology has weights of its own: give topology"),
        ("--exact --rank 3", "exact keeps the sum of the ranks: give exact or rank, not both"),
        ("--energy .9", "energy belongs to rank 'auto', which chooses a rank by it"),
        ("--rank 3 --energy .9", "energy belongs to rank 'auto', which chooses a rank by it"),
        ("--rank auto --energy 1.5", "energy must be in (0, 1], got 1.5; .99 keeps 99 %"),
        ("--rank auto --energy 0", "energy must be in (0, 1], got 0.0; .99 keeps 99 %"),
        ("--rank auto --energy nan", "energy must be in (0, 1], got nan; .99 keeps 99 %"),
        ("--rank 0", "rank must be in 1 ... min(d, k) = "),
        ("--dtype float8", "dtype must be one of float32, float16, bfloat16, got 'float8'"),
        ("--missing one", "missing must be one of ('refuse', 'zero'), got 'one'"),
        ("--weights .5,.5", "weights must be 4 numbers, one per agent, got 2"),
    ],
)
def test_options_that_are_wrong_or_do_not_fit_are_refused(call, tmp_path, options, message):
    code, out, err = call(*options.split())
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("decaf: error: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", ["--rank all", "--energy much", "--weights 1/2;1/2"])
def test_options_that_cannot_be_read_end_with_a_usage_line(call, options):
    code, out, err = call(*options.split())
    assert (code, out) == (2, "")
    assert err.startswith("usage: decaf merge")


def test_the_help_lists_the_methods_of_the_table(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["merge", "--help"])
    assert stop.value.code == 0
    below = capsys.readouterr().out.split("\nmethods:\n")[1]
    assert [line.split(":")[0].strip() for line in below.splitlines() if line[2] != " "] == list(
        adapters.MERGES
    )


def test_a_graph_gives_an_adapter_per_agent_that_force_replaces(call, tmp_path):
    code, out, err = call("--topology", "ring", "--rank", "auto", "--energy", ".9")
    assert (code, err) == (0, "")
    assert out.startswith("decaf of 4 agents: 3 matrices of ranks ")
    assert "for each of agent0, agent1, agent2, agent3 -> " in out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"agent{i}" for i in range(4)]
    assert call("--topology", "ring")[0] == 2
    code, out, _ = call("--topology", "ring", "--force")
    assert (code, "3 matrices of rank 4" in out) == (0, True)
    # one that this merge does not write would be lost
    for options, name in ((["--topology", "ring"], "agent3"), ([], "agent0")):
        code, _, err = call(*options, "--force", folders=FOLDERS[:3])
        assert code == 2
        assert f"holds '{name}', which is not part of an adapter" in err


def test_the_report_has_a_row_per_site_and_a_total(call, tmp_path):
    path = tmp_path / "reports" / "merge.json"
    code, out, _ = call("--report", path, "--dtype", "bfloat16")
    assert code == 0
    found = json.loads(path.read_text())
    assert [row["site"] for row in found["sites"]] == ["fc1", "fc2", "fc3"]
    assert found["weights"] == [[0.25] * 4]
    share = 100 * found["total"]["relative_dropped"]
    assert f"Dropped: {share:.1f} % of the mixed update" in out
    assert 1e-4 < found["total"]["relative_rounding"] < 2**-7


def test_a_report_to_stdout_is_all_that_is_printed_there(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("--report", "-")
    assert code == 0
    assert json.loads(out)["weights"] == [[0.25] * 4]
    assert not (tmp_path / "-").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out/report.json", "is in --out, which holds an adapter alone"),
        ("", "is not a file; name another"),
    ],
)
def test_a_report_has_a_place_of_its_own(call, tmp_path, name, message):
    code, _, err = call("--report", tmp_path / name)
    assert code == 2
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_report_replaces_a_file_only_if_asked(call, tmp_path):
    path = tmp_path / "r.json"
    path.write_text("mine")
    code, _, err = call("--report", path)
    assert code == 2
    assert "r.json: exists already; overwrite it (--force) or name another" in err
    assert path.read_text() == "mine"
    assert not (tmp_path / "out").exists()
    assert call("--report", path, "--force")[0] == 0
    assert json.loads(path.read_text())["total"]


def test_what_a_mix_of_nothing_drops_is_not_called_nothing():
    mean = Factors(np.ones((2, 1)), np.ones((1, 3)))
    found = [numbers_of("q", Mixed(mean, mix, 2.0), mean) for mix in (4.0, 0.0)]
    assert [numbers["relative_dropped"] for numbers in found] == [0.5, math.inf]
    whole = certificate({"dtype": "float32"}, ["a"], [found[1:]])
    assert certificate_words(whole).startswith("Dropped: inf % of the mixed update")


def test_settings_that_differ_are_said_before_anything_is_written(call, tmp_path):
    rng = np.random.default_rng(0)
    folders = [
        str(write(tmp_path / name, sites_of(rng), task_type=name, revision=revision))
        for name, revision in (("A", "1"), ("B", "2"))
    ]
    code, _, err = call("--dtype", "float8", folders=folders)
    assert code == 2
    assert not (tmp_path / "out").exists()
    words = " ".join(err.split())
    assert "The agents name different tasks (task_type: A, B)." in words
    assert "revisions of the base model (revision: 1, 2)." in words


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("buffered", [True, False])
def test_a_line_that_cannot_be_printed_loses_no_merge(tmp_path, buffered):
    words = ["merge", *FOLDERS, "--out", str(tmp_path / "out")]
    code = f"from decaf_theory.cli import main; raise SystemExit(main({words}))"
    command = [sys.executable, *(() if buffered else ("-u",)), "-c", code]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    said = f"decaf: the merge is written to {tmp_path / 'out'}; what follows failed: "
    assert done.stderr.startswith(said)
    assert done.stderr.endswith("No space left on device\n")
    assert done.stderr.count("\n") == 1
    assert done.returncode == 1
    assert adapters.load(tmp_path / "out").sites.keys() == {"fc1", "fc2", "fc3"}


def test_a_report_that_cannot_be_stored_at_the_end_loses_no_merge(call, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("decaf_theory.commands.merge.write_atomically", full)
    code, out, err = call("--report", tmp_path / "r.json")
    assert (code, out) == (1, "")
    assert "the merge is written to" in err
    assert adapters.load(tmp_path / "out").sites


@pytest.mark.parametrize("out", [".", "..", "link", "link/."])
def test_the_current_folder_is_not_replaced_under_whoever_is_in_it(
    call, tmp_path, monkeypatch, out
):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    os.symlink(tmp_path / "a" / "b", "link")
    code, _, err = call("--force", out=out)
    assert code == 2
    assert "is the current folder or one above it" in err
    assert [path.name for path in Path.cwd().iterdir()] == ["link"]


@pytest.mark.parametrize(
    ("out", "options"), [("run/a", ()), ("link", ()), ("run", ("--topology", "ring"))]
)
def test_an_adapter_that_is_mixed_is_not_replaced_by_the_mix(call, tmp_path, out, options):
    folders = [tmp_path / "run" / name for name in "abc"]
    for folder, stored in zip(folders, FOLDERS, strict=False):
        shutil.copytree(stored, folder)
    (tmp_path / "link").symlink_to(folders[0])
    before = (folders[0] / "adapter_model.safetensors").read_bytes()
    code, _, err = call("--force", *options, folders=map(str, folders), out=tmp_path / out)
    assert code == 2
    assert f"{tmp_path / out}: holds {folders[0]}, which is to be mixed and would be lost" in err
    assert (folders[0] / "adapter_model.safetensors").read_bytes() == before


def test_a_link_that_points_to_nothing_yet_gets_its_folder(call, tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "later" / "real")
    assert call()[0] == 0
    assert (tmp_path / "out").is_symlink()
    assert adapters.load(tmp_path / "later" / "real").sites


def test_progress_is_shown_when_a_merge_takes_long(call, monkeypatch):
    monkeypatch.setattr("decaf_theory.adapters.parts.LATE", 0.0)
    code, _, err = call()
    assert code == 0
    assert "merging" in err
    monkeypatch.undo()
    assert call("--force")[2] == ""
