"""The command line `decaf`: what it prints, what it writes, how it fails."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from decaf_theory import adapters, bench, cli, conformance
from decaf_theory.adapters.tables import percentage
from decaf_theory.cli import main
from decaf_theory.commands.merge import weights
from decaf_theory.conformance.calls import SHAPES
from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import METHODS
from decaf_theory.plan.assumed import MEANINGS
from decaf_theory.plan.mixing import graph_methods
from decaf_theory.plan.models import MODELS
from decaf_theory.plan.networks import NETWORKS
from decaf_theory.topology import TOPOLOGIES
from tests.adapter_files import STORED, gaussian, pair, write

KNOWN = f"topology must be one of {', '.join(TOPOLOGIES)}"
FOLDERS = [str(folder) for folder in STORED]
SMALLEST = "site fc3, the smallest: rank must be in 1 ... min(d, k) = 32 for 32 x 40 matrices"


@pytest.fixture
def call(capsys):
    """Run a command line: exit code, stdout, stderr."""

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def elsewhere(code, folder):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=True
    ).stdout


def test_help_works_from_any_folder_and_loads_nothing_heavy(tmp_path):
    code = (
        "import sys; from decaf_theory.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: print('exit', stop.code)\n"
        "print(sorted({'numpy', 'scipy', 'torch', 'safetensors'} & set(sys.modules)))"
    )
    out = elsewhere(code, tmp_path)
    assert "usage: decaf" in out
    assert out.endswith("exit 0\n[]\n")
    for command in ("diagnose", "merge", "methods", "bench", "plan"):
        assert command in out


def test_the_installed_command_answers_from_another_folder(tmp_path):
    command = os.path.join(os.path.dirname(sys.executable), "decaf")
    if not os.path.exists(command):
        pytest.skip("the package is not installed with its command")
    done = subprocess.run(
        [command, "diagnose", *FOLDERS], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stderr == ""
    assert done.stdout.startswith("4 agents, complete graph\n")


@pytest.mark.parametrize("command", cli.COMMANDS)
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_help_of_every_command_fits(call, command, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, err = call(command, "--help")
    assert (code, err) == (0, "")
    assert f"usage: decaf {command}" in out
    assert max(map(len, out.splitlines())) <= columns


@pytest.mark.parametrize(
    ("command", "title", "known"),
    [
        *((command, "graphs", TOPOLOGIES) for command in ("diagnose", "merge", "check", "methods")),
        ("plan", "graphs", NETWORKS),
        ("plan", "methods", graph_methods()),
        ("plan", "models", MODELS),
        ("check", "rules", conformance.RULES),
    ],
)
def test_the_help_lists_what_may_be_named(call, command, title, known, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = call(command, "--help")
    listed = out.split(f"\n\n{title}:\n")[1].split("\n\n")[0]
    assert re.split(r",\s+", listed.strip()) == list(known)


@pytest.mark.parametrize(
    ("command", "title", "known"),
    [
        ("plan", "constants", MEANINGS),
        ("check", "calls", SHAPES),
        ("bench", "goals", {name: goal.__doc__ for name, goal in bench.GOALS.items()}),
    ],
)
def test_the_help_says_what_names_mean(call, command, title, known, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = call(command, "--help")
    listed = out.split(f"\n\n{title}:\n")[1]
    assert listed.splitlines() == [f"  {name}: {words}" for name, words in known.items()]


def test_a_diagnosis_is_a_table_and_a_paragraph(call):
    code, out, err = call("diagnose", *FOLDERS, "--topology", "ring")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert out.isascii()
    assert lines[0] == "4 agents, ring graph"
    assert lines[1].split() == "matrix d x k r ranks Xi_A Xi_B |M| I % E % D % c bal".split()
    names = [line.split()[0] for line in lines[2:7]]
    assert names[:3] == ["fc1", "fc2", "fc3"]
    assert set(names[3]) == {"-"}
    assert names[4] == "total"
    sites = adapters.diagnose(adapters.load_agents(STORED), adapters.mixing_matrix("ring", 4))
    total = adapters.pool(sites)
    for line, site in zip([*lines[2:5], lines[6]], [*sites, total], strict=True):
        shown = line.split()[-8:]
        keys = ("Xi_A", "Xi_B", "mix", *(f"relative_{name}" for name in LOSSES))
        expected = [site[key] * (100 if "relative" in key else 1) for key in keys]
        expected += [site["sigma_max"], site["imbalance"]]
        for text, value in zip(shown, expected, strict=True):
            # three significant digits
            assert float(text) == pytest.approx(value, rel=5.1e-3)
    assert "Averaging the factors of these 4 agents would lose 46.6 % of the mixed update" in out


LOSSES = ("interference", "truncation", "difference")


def test_the_common_stem_of_the_names_is_cut_and_long_names_are_shortened():
    site = adapters.diagnose(adapters.load_agents(STORED), adapters.mixing_matrix("ring", 4))[0]
    long = "model.layers.0." + "very_long_block_name.inner_module.q_proj"
    text = adapters.table([{**site, "site": long}, {**site, "site": "model.layers.1.v"}])
    lines = text.splitlines()
    assert lines[0] == "matrices of model.layers"
    assert lines[2].startswith("0.very_long_b...module.q_proj ")
    assert lines[3].startswith("1.v ")
    assert max(map(len, lines)) <= 100


def test_one_agent_is_no_plural(call):
    _, out, _ = call("diagnose", FOLDERS[0])
    assert out.startswith("1 agent, complete graph\n")
    assert "Averaging the factors of 1 agent would lose 0 % of the mixed update" in out


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (FOLDERS[:1], "A single agent has nobody to mix with"),
        ([*FOLDERS[:2], FOLDERS[0]], f"{FOLDERS[0]} and {FOLDERS[0]} hold equal factors: an agent"),
    ],
)
def test_what_looks_like_an_oversight_is_remarked(tmp_path, call, folders, message):
    for arguments in (["diagnose"], ["merge", "--out", tmp_path / "mixed"]):
        code, out, err = call(*arguments, *folders)
        assert code == 0
        # a merge says so before it writes
        assert message in " ".join((out if arguments[0] == "diagnose" else err).split())


def test_an_agent_whose_update_is_zero_everywhere_is_told(tmp_path, call):
    rng = np.random.default_rng(0)
    idle = {"q": pair(np.zeros((5, 2)), np.ones((2, 4)))}
    half = {"q": gaussian(rng, 5, 4, 2), "v": pair(np.zeros((5, 2)), np.ones((2, 4)))}
    folders = [
        write(tmp_path / "half", half),
        write(tmp_path / "idle", idle | {"v": pair(np.ones((5, 2)), np.zeros((2, 4)))}),
    ]
    for arguments in (["diagnose"], ["merge", "--out", tmp_path / "mixed"]):
        code, out, err = call(*arguments, *folders)
        assert code == 0
        text = " ".join((out if arguments[0] == "diagnose" else err).split())
        assert f"{folders[1]} has an update of zero at every matrix" in text
        assert text.count("has an update of zero") == 1  # and the half is at work at q


def test_bases_that_differ_are_told(tmp_path, call):
    rng = np.random.default_rng(0)
    folders = [
        write(tmp_path / name, {"q": gaussian(rng, 5, 4, 2)}, base_model_name_or_path=f"org/{name}")
        for name in ("a", "b")
    ]
    _, out, _ = call("diagnose", *folders)
    assert "The agents name different base models (org/a, org/b)" in out


def test_a_ratio_within_rounding_is_zero_percent():
    assert (percentage(3e-12), percentage(3e-10), percentage(0.5)) == ("0", "3.00e-08", "50.0")


# ---------------------------------------------------------------- merge


def test_a_merge_writes_the_mix_and_says_so(call, tmp_path):
    out = tmp_path / "mixed"
    code, text, err = call("merge", *FOLDERS, "--out", out, "--weights", "1/2,1/4,.125,0.125")
    assert (code, err) == (0, "")
    expected = f"decaf of 4 agents: 3 matrices of rank 4, 2 other tensors averaged -> {out}\n"
    assert text.startswith(expected)
    agents = adapters.load_agents(STORED)
    mixed = adapters.merge(agents, weights=[0.5, 0.25, 0.125, 0.125])
    read = adapters.load(out)
    for site, factors in mixed.sites.items():
        slip = 2**-22 * np.linalg.norm(factors.B) * np.linalg.norm(factors.A)
        assert np.linalg.norm(product(read.sites[site]) - product(factors)) <= slip


def test_a_merge_by_dlora_averages_the_factors(call, tmp_path):
    code, text, _ = call("merge", *FOLDERS, "--out", tmp_path / "mixed", "--method", "dlora")
    assert code == 0
    assert text.startswith("dlora of 4 agents: 3 matrices of rank 4")
    B, A = adapters.load_agents(STORED).factors["fc1"]
    mean = product(Factors(B.mean(0), A.mean(0)))
    read = product(adapters.load(tmp_path / "mixed").sites["fc1"])
    # balanced factors have |B|_F |A|_F = |BA|_*
    assert np.linalg.norm(read - mean) <= 2**-22 * np.linalg.norm(mean, "nuc")


def test_the_rank_of_a_merge_can_be_chosen(call, tmp_path):
    code, text, _ = call("merge", *FOLDERS, "--out", tmp_path / "mixed", "--rank", 16)
    assert code == 0
    assert "3 matrices of rank 16" in text
    agents = adapters.load_agents(STORED)
    read = adapters.load(tmp_path / "mixed")
    for site, factors in agents.factors.items():
        # 4 agents of rank 4: nothing is lost but the rounding to float32
        M = product(factors).mean(0)
        slip = 2**-22 * np.linalg.norm(M, "nuc")
        assert np.linalg.norm(product(read.sites[site]) - M) <= slip


def test_an_adapter_that_is_there_needs_force(call, tmp_path):
    out = tmp_path / "mixed"
    call("merge", *FOLDERS, "--out", out)
    code, text, err = call("merge", *FOLDERS[:2], "--out", out)
    assert (code, text) == (2, "")
    message = f"{out}: exists already; overwrite it (--force) or name another"
    assert err == f"decaf: error: {message}\n"
    code, text, _ = call("merge", *FOLDERS[:2], "--out", out, "--force")
    assert code == 0
    assert text.startswith("decaf of 2 agents")


@pytest.mark.parametrize(
    ("text", "numbers"), [("1/3,1/3, 1/3", [1 / 3] * 3), (".5,0.5", [0.5, 0.5]), ("1e-1", [0.1])]
)
def test_weights_are_decimals_or_fractions(text, numbers):
    assert weights(text) == numbers


def test_a_folder_may_be_called_as_a_number(call, monkeypatch, tmp_path):
    for at, folder in enumerate(FOLDERS[:2]):
        (tmp_path / str(at)).symlink_to(os.path.abspath(folder))
    monkeypatch.chdir(tmp_path)
    assert call("merge", "--out", "mixed", "--weights", "1/2,1/2", 0, 1)[0] == 0


# ---------------------------------------------------------------- bad usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (
            ["bnch"],
            "'bnch'; the nearest of diagnose, merge, check, methods, bench, plan is bench",
        ),
        (["diagnose"], "the following arguments are required: DIR"),
        (["merge", *FOLDERS], "the following arguments are required: --out"),
        (["diagnose", *FOLDERS, "--rank", "two"], "argument --rank: invalid int value: 'two'"),
        (["merge", *FOLDERS, "--out", "x", "--rank", "all"], "a whole number or auto, got 'all'"),
        (
            ["merge", *FOLDERS, "--out", "x", "--weights", "1/2,1/0"],
            "argument --weights: must be numbers separated by commas, such as 0.5,1/4,1/4; got",
        ),
        (
            ["merge", *FOLDERS, "--out", "x", "--weights", "1/2", "1/2"],
            "weights have commas between them and no spaces: --weights 1/2,1/2",
        ),
        (
            ["merge", "--weights=0.25,", ".25", ",.5", *FOLDERS[:3], "--out", "x"],
            "weights have commas between them and no spaces: --weights 0.25,.25,.5",
        ),
    ],
)
def test_bad_usage_ends_with_two_and_a_usage_line(call, arguments, message):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: decaf")
    assert message in " ".join(err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diagnose", "nowhere"], "nowhere: no such folder; give one folder per trained adapter"),
        (
            ["diagnose", *FOLDERS, "--topology", "rnig"],
            f"{KNOWN}, got 'rnig'; the nearest name is ring",
        ),
        (["diagnose", *FOLDERS, "--topology", "nonsense"], f"{KNOWN}, got 'nonsense'; the nearest"),
        (["diagnose", *FOLDERS, "--rank", "0"], f"{SMALLEST}, got 0; take 1"),
        (["diagnose", *FOLDERS, "--rank", "48"], f"{SMALLEST}, got 48; take 32, which drops no"),
        (
            ["merge", *FOLDERS, "--weights", "1,1"],
            "weights must be 4 numbers, one per agent, got 2",
        ),
        (["merge", *FOLDERS, "--weights", "1,1,1,1"], "weights must sum to one, got sum 4; divide"),
        (["merge", *FOLDERS, "--weights", "2,-1,0,0"], "weights must be nonnegative numbers, got"),
        (["merge", *FOLDERS, "--rank", "33"], f"{SMALLEST}, got 33; take 32, which drops nothing"),
        (["merge", *FOLDERS, "--rank", "1000"], f"{SMALLEST}, got 1000; take 32, which drops"),
        (["merge", *FOLDERS, "--rank", "2", "--method", "dlora"], "rank belongs to methods that"),
    ],
)
def test_a_bad_input_ends_with_two_and_one_line(call, tmp_path, arguments, message):
    if arguments[0] == "merge":
        arguments = [*arguments, "--out", tmp_path / "mixed"]
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"decaf: error: {message}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_written_is_told_before_anything_is_read(call, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = call("merge", "nowhere", "--out", tmp_path / "file" / "mixed")
    assert code == 2
    assert err.endswith("mixed: cannot be written: Not a directory; name another folder (--out)\n")
    assert "nowhere" not in err
    assert "Errno" not in err


def test_a_reader_that_has_seen_enough_is_no_error():
    code = f"from decaf_theory.cli import main; raise SystemExit(main(['diagnose', *{FOLDERS}]))"
    read, write_end = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=write_end, stderr=subprocess.PIPE, text=True
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_list_of_methods_has_a_line_for_each_with_its_bytes(call):
    code, out, err = call("methods", "--shape", 7, 4, "--rank", 3, "--agents", 5)
    assert (code, err) == (0, "")
    assert out.isascii()
    assert max(map(len, out.splitlines())) <= 96
    lines = {line.split()[0]: line for line in out.splitlines() if not line.startswith(" ")}
    assert list(lines) == ["method", *METHODS]
    # in float32, on ten links or by a server from and to five agents
    numbers = {"dsgd": 7 * 4, "dlora": 11 * 3, "dlora_fa": 7 * 3, "local": 0, "centralized": 11 * 3}
    for name, count in numbers.items():
        assert f"  {4 * 10 * count:,}  " in lines[name]
    assert f"  {4 * (5 + 5 * 5) * 33:,}  " in lines["flora"]  # each hears all pairs
    # a step 6 d k r and 2 for each number, a mean over fifteen weights 2 for each number
    assert f"  {5 * (6 * 7 * 4 * 3 + 2 * 11 * 3) + 2 * 15 * 11 * 3}  " in lines["dlora"]
    assert f"  {5 * 2 * 7 * 4 + 2 * 15 * 7 * 4}  " in lines["dsgd"]
    assert "  840 / 480  " in lines["rolora"]
    assert "  B / A  " in lines["rolora"]
    assert "product up to E" in lines["decaf"]
    assert "    arXiv 2602.00451" in out


def test_the_list_of_methods_is_stored_whole_and_never_over_another(call, tmp_path):
    path = tmp_path / "methods.json"
    sizes = ["--shape", 7, 4, "--rank", 3, "--agents", 5, "--json", path]
    code, out, err = call("methods", *sizes)
    assert (code, err) == (0, "")
    stored = {row["method"]: row for row in json.loads(path.read_text())}
    assert list(stored) == [*METHODS]
    assert out == call("methods", *sizes[:-2])[1]
    flops = 5 * (6 * 7 * 4 * 3 + 2 * 11 * 3) + 2 * 15 * 11 * 3
    found = stored["dlora"]
    assert (found["bytes_first"], found["flops_first"]) == (4 * 10 * 33, flops)
    assert (stored["rolora"]["sends_first"], stored["rolora"]["sends_second"]) == ("B", "A")
    assert stored["decaf"]["preserves"] == "product up to E"
    assert all(not isinstance(x, (list, dict)) for row in stored.values() for x in row.values())
    path.write_text("mine")
    code, out, err = call("methods", *sizes)
    assert (code, out) == (2, "")
    assert "exists already; overwrite it (--force) or name another" in err
    assert path.read_text() == "mine"
    assert call("methods", *sizes, "--force")[0] == 0
    assert len(json.loads(path.read_text())) == len(METHODS)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("command", ["methods", "bench"])
def test_where_a_table_cannot_go_is_said_before_it_is_made(call, command, tmp_path):
    code, out, err = call(command, "--json", tmp_path)
    assert (code, out) == (2, "")
    assert "is not a file; name another" in err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_has_an_example_and_the_exit_codes(call, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = call(command, "--help")
    assert f"example: decaf {command} " in out
    assert "exit code: 0 done, " in out
    assert "2 bad usage or input, 3 a defect, 130 interrupted" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rank", 9, "--shape", 4, 4], "rank must be in 1 ... min(d, k) = 4"),
        (["--shape", 0, 4], "shape must be two numbers >= 1, got 0 4"),
        (["--topology", "rnig"], "topology must be one of"),
        (["--agents", 0], "N must be an integer >= 1, got 0"),
    ],
)
def test_a_list_of_methods_for_no_such_network_is_refused(call, arguments, words):
    code, out, err = call("methods", *arguments)
    assert (code, out) == (2, "")
    assert words in err
