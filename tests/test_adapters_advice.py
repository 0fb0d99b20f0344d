"""What a diagnosis advises, which matrices it names, and what it draws, writes and refuses."""

import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from decaf_theory import adapters
from decaf_theory.adapters import advice, drawing, reasons
from decaf_theory.adapters.tables import percentage
from decaf_theory.cli import main, parser
from decaf_theory.commands import diagnose as command
from decaf_theory.lowrank import Factors
from decaf_theory.pictures import FORMATS, format_of
from decaf_theory.terminal import WIDTH
from decaf_theory.topology import TOPOLOGIES
from tests.adapter_files import EPS, STORED, pair, write, write_agents
from tests.test_adapters_geometry import balanced, dense_geometry

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = [str(folder) for folder in STORED]


def diagnosed(factors, rank=None):
    """Return the sites of agents with one matrix that all mix alike."""
    N = len(factors.B)
    agents = adapters.Agents(("",) * N, {"layer": factors}, {}, {}, (), {})
    return adapters.diagnose(agents, TOPOLOGIES["complete"](N), rank)


# ---------------------------------------------------------------- advice


def planted(kind):
    """Factors of 8 agents, 20 x 30 of rank 2, for which a kind of advice is right."""
    rng = np.random.default_rng(11)
    B, A = balanced(rng.standard_normal((20, 2)) @ rng.standard_normal((2, 30)), 2)
    noise = Factors(rng.standard_normal((8, 20, 2)), rng.standard_normal((8, 2, 30)))
    if kind == "average":  # near consensus
        return Factors(B + 0.02 * noise.B, A + 0.02 * noise.A)
    if kind == "align":  # equal products in turned factors
        turns = np.linalg.qr(rng.standard_normal((8, 2, 2)))[0]
        return Factors(B @ turns, turns.mT @ A)
    if kind == "mix":  # one A, turned; unlike B
        turns = np.linalg.qr(rng.standard_normal((8, 2, 2)))[0]
        return Factors(noise.B @ turns, turns.mT @ np.repeat(A[None], 8, 0))
    if kind == "raise_rank":  # two groups with updates of their own
        own = np.repeat(noise.B[:2], 4, 0), np.repeat(noise.A[:2], 4, 0)
        return Factors(*own)
    if kind == "common_A":
        return noise
    assert kind == "mix_at_a_loss"  # A nearly shared, B not at all
    return Factors(5 * noise.B, A + 0.3 * np.linalg.norm(A) / 60**0.5 * noise.A)


@pytest.mark.parametrize("kind", advice.RULES)
def test_every_advice_is_reached_and_true_by_the_numbers_that_it_cites(kind):
    factors = planted(kind)
    found = adapters.advise(diagnosed(factors))
    assert found.kind == kind, found.text
    dense = dense_geometry(factors, np.full((1, 8), 1 / 8), 2)
    M = np.mean(factors.B @ factors.A, axis=0)
    size = np.linalg.norm(M)
    averaged = np.linalg.norm(M - factors.B.mean(0) @ factors.A.mean(0)) / size
    aligned = dense["aligned"] / size
    losses = [dense[q] / size for q in range(21)]
    enough = next(q for q, loss in enumerate(losses) if loss <= 0.05)
    fine = {
        "average": averaged <= 0.05,
        "align": aligned <= 0.05 < averaged,
        "mix": losses[2] <= 0.05 < min(aligned, averaged),
        "raise_rank": enough <= 4 and losses[2] > 0.05,
        "common_A": enough > 4,
        "mix_at_a_loss": enough > 4,
    }
    assert fine[kind]
    shown = [text.rstrip(".,;") for text in re.findall(r"([\d.e-]+) %", found.text)]
    cited = {
        "average": (averaged, 0.05),
        "align": (aligned, 0.05, averaged),
        "mix": (losses[2], 0.05, averaged, aligned),
        "raise_rank": (0.05, losses[2], averaged, aligned),
        "common_A": (0.05,),
        "mix_at_a_loss": (losses[2], averaged, aligned, 0.05),
    }
    for text, ratio in zip(shown, cited[kind], strict=True):
        # three digits; a loss of nothing is 0, or rounding
        assert float(text) / 100 == pytest.approx(ratio, rel=5.1e-3, abs=1e-9)
    ranks = [int(text) for text in re.findall(r"[Rr]ank (?:to )?(\d+)", found.text)]
    named = {
        "average": [],
        "align": [],
        "mix": [2],
        "raise_rank": [enough, 2],
        "common_A": [enough, 2],
        "mix_at_a_loss": [2, enough],
    }
    assert ranks == named[kind]
    assert found.rank == {"raise_rank": enough}.get(kind, 2 if ranks else None)


def test_with_one_A_the_rank_of_the_agents_is_enough_as_the_advice_says():
    apart = planted("common_A")
    assert (
        "are 69 degrees from their consensus, of 69 possible"
        in adapters.advise(diagnosed(Factors(apart.B, _orthogonal_rows(8, 2, 30)))).text
    )
    one = Factors(apart.B, np.repeat(apart.A[:1], 8, 0))
    (site,) = diagnosed(one)
    assert site["relative_truncation"] <= 300 * EPS
    assert advice.enough_rank(site) <= 2


def _orthogonal_rows(N, r, k):
    return np.eye(N * r, k).reshape(N, r, k)


def test_thresholds_are_met_from_both_sides():
    (site,) = diagnosed(planted("mix_at_a_loss"))
    curve = [1.0, 0.4, 0.2, 0.05, 0.01]
    plain = {**site, "mix": 1.0, "truncation": 0.2, "truncation_by_rank": curve, "r": 2}

    def kind(**changed):
        return adapters.advise([{**plain, **changed}]).kind

    far = {"angle_A": 60.0}  # of 69.3 for 8 agents: sin^2 is .75 of .875
    assert kind(interference=0.05) == "average"
    assert kind(interference=0.0501, aligned=0.05) == "align"
    assert kind(interference=0.3, aligned=0.0501, truncation=0.05) == "mix"
    assert kind(interference=0.3, aligned=0.3) == "raise_rank"
    assert kind(interference=0.3, aligned=0.3, truncation_by_rank=[1, 0.4, 0.2, 0.1, 0.05]) == (
        "raise_rank"
    )
    slow = [1, 0.4, 0.2, 0.1, 0.06, 0.05]  # rank 5 is more than twice 2
    assert kind(interference=0.3, aligned=0.3, truncation_by_rank=slow, **far) == "common_A"
    half = math.degrees(math.asin(math.sqrt(0.875 / 2)))
    for angle, expected in ((half + 0.01, "common_A"), (half - 0.01, "mix_at_a_loss")):
        lossy = {"interference": 0.3, "aligned": 0.3, "truncation_by_rank": slow}
        assert kind(**lossy, angle_A=angle) == expected


def test_below_the_rank_of_the_agents_the_advice_returns_to_it():
    rng = np.random.default_rng(2)
    turns = np.linalg.qr(rng.standard_normal((4, 3, 3)))[0]
    shared = turns @ rng.standard_normal((3, 30))  # rank 3 in all agents, of which one is kept
    sites = diagnosed(Factors(rng.standard_normal((4, 9, 3)), shared), 1)
    found = adapters.advise(sites)
    assert (found.kind, found.rank) == ("raise_rank", 3)
    assert sites[0]["truncation_bound"] is None
    assert " - " in adapters.causes(sites).splitlines()[1]
    sites = diagnosed(planted("mix_at_a_loss"), 1)
    found = adapters.advise(sites)
    assert (found.kind, found.rank) == ("mix_at_a_loss", 2)  # where averaging loses no less
    assert f"keep rank 2: that loses {percentage(advice.facts(sites).cut_held)} %" in found.text
    assert advice.facts(sites).cut_held < advice.facts(sites).averaged


def test_agents_without_an_update_or_without_others_are_averaged():
    for N, scale in ((1, 1.0), (3, 0.0)):
        rng = np.random.default_rng(N)
        factors = Factors(scale * rng.standard_normal((N, 5, 2)), rng.standard_normal((N, 2, 4)))
        found = adapters.advise(diagnosed(factors))
        assert found == ("average", "Average the factors: that loses 0 %, at most 5 %.", None)


# ---------------------------------------------------------------- which matrices matter


def energies(*squares):
    """Return sites that lose these squares by averaging, and one hundredth by truncating."""
    (site,) = diagnosed(planted("common_A"))
    return [
        {**site, "site": f"m.{i}.q", "interference": x**0.5, "truncation": x**0.5 / 10, "mix": 1.0}
        for i, x in enumerate(squares)
    ]


def test_the_fewest_matrices_with_most_of_the_energy_are_named_largest_first():
    sites = energies(1, 50, 9, 30, 10)
    assert [site["site"] for site in reasons.decisive(sites, "interference")] == ["m.1.q", "m.3.q"]
    total = adapters.pool(sites)
    assert [adapters.share(site, total, "truncation") for site in sites] == pytest.approx(
        [0.01, 0.5, 0.09, 0.3, 0.1]
    )
    words = adapters.where(sites)
    assert "80 % of the energy that averaging loses is in 2 of 5 matrices: 1.q, 3.q." in words
    assert "80 % of the energy that truncating loses is in 2 of 5 matrices: 1.q, 3.q." in words
    many = adapters.where(energies(*[1] * 10))
    assert "in 8 of 10 matrices: 0.q, 1.q, 2.q, 3.q and 4 more." in many
    assert adapters.where(energies(1)) == adapters.where(energies(1, 1)) == ""


def test_nothing_lost_is_in_no_matrix():
    sites = [{**site, "truncation": 1e-16} for site in energies(1, 3)]
    assert reasons.decisive(sites, "truncation") == []
    assert adapters.share(sites[0], adapters.pool(sites), "truncation") == 0
    assert "truncating" not in adapters.where(sites)


def test_a_long_list_shows_the_worst_matrices_and_says_how_many_it_leaves_out(tmp_path, call):
    rng = np.random.default_rng(8)
    folders = []
    for j in range(2):
        sites = {
            f"model.layers.{i}.self_attn.rather_long_name_of_a_matrix": pair(
                (1 + i) * rng.standard_normal((3, 1)), rng.standard_normal((1, 4))
            )
            for i in range(reasons.ALL + 1)
        }
        folders.append(write(tmp_path / f"agent{j}", sites, r=1, lora_alpha=1))
    code, out, _ = call("diagnose", *folders)
    assert code == 0
    assert out.startswith("2 agents, complete graph, the 20 that lose most by averaging; 21 more")
    assert max(map(len, out.splitlines())) <= WIDTH
    listed = [line for line in out.splitlines() if "rather_lon" in line or "a_matrix" in line]
    sites = adapters.diagnose(adapters.load_agents(folders), adapters.mixing_matrix("ring", 2))
    worst = sorted(sites, key=lambda site: -site["interference"])[:20]
    first = [site["site"].split(".")[2] for site in worst]
    assert [line.split(".")[0] for line in listed if line[0].isdecimal()][:40] == first * 2
    _, out, _ = call("diagnose", *folders, "--all")
    assert sum(line[:1].isdecimal() and "x" in line for line in out.splitlines()) >= 41


# ---------------------------------------------------------------- the command


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


def test_the_second_table_has_the_causes(call):
    _, out, _ = call("diagnose", *FOLDERS, "--topology", "ring")
    assert max(map(len, out.splitlines())) <= WIDTH
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("matrix") and "share" in line)
    agents = adapters.load_agents(STORED)
    sites = adapters.diagnose(agents, adapters.mixing_matrix("ring", 4))
    total = adapters.pool(sites)
    for line, site in zip(
        [*lines[start + 1 : start + 4], lines[start + 5]], [*sites, total], strict=True
    ):
        name, shares, *numbers = line.split()
        assert name == site["site"]
        expected = [
            round(100 * adapters.share(site, total, loss))
            for loss in ("interference", "truncation")
        ]
        assert [int(part) for part in shares.split("/")] == expected
        ratios = ("aligned", "truncation_nuclear", "truncation_bound")
        for text, ratio in zip(numbers, ratios, strict=False):
            assert float(text) == pytest.approx(100 * site[f"relative_{ratio}"], rel=5.1e-3)
        *_, r5, of_A, of_B = numbers
        curve = site["truncation_by_rank"]
        assert curve[int(r5)] <= 0.05 * site["mix"] < curve[int(r5) - 1]
        for text, factor in ((of_A, "A"), (of_B, "B")):
            angles = [round(site[f"{kind}angle_{factor}"]) for kind in ("", "largest_")]
            assert [int(part) for part in text.split("/")] == angles
    assert " ".join(out.split()).endswith(f"Advice: {adapters.advise(sites).text}")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_files_are_written_where_the_lines_cannot_be_printed(tmp_path):
    words = ["diagnose", *map(str, FOLDERS), "--json", str(tmp_path / "r.json")]
    words += ["--plot", str(tmp_path / "p.svg")]
    code = f"from decaf_theory.cli import main; raise SystemExit(main({words}))"
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode != 0
    assert json.loads((tmp_path / "r.json").read_text())["topology"] == "complete"
    assert ElementTree.parse(tmp_path / "p.svg").getroot().tag.endswith("svg")


def test_the_report_as_json_has_every_number(call, tmp_path):
    stored = tmp_path / "deep" / "report.json"
    code, out, err = call("diagnose", *FOLDERS, "--json", stored)
    assert (code, err) == (0, "")
    assert out.startswith("4 agents, complete graph\n")
    data = json.loads(stored.read_text())
    agents = adapters.load_agents(STORED)
    sites = adapters.diagnose(agents, adapters.mixing_matrix("complete", 4))
    assert data["total"] == adapters.pool(sites)
    parts = [
        {name: site.pop(name) for name in list(site) if "share" in name} for site in data["sites"]
    ]
    assert data["sites"] == sites
    for name in ("share_of_interference", "share_of_truncation"):
        assert sum(part[name] for part in parts) == pytest.approx(1)
    assert data["advice"] == adapters.advise(sites)._asdict()
    assert (data["agents"], data["topology"]) == (list(agents.names), "complete")
    assert data["notes"] == adapters.notes(agents)
    code, out, err = call("diagnose", *FOLDERS, "--json", "-")
    assert (code, err, out) == (0, "", stored.read_text())


def test_huge_and_tiny_adapters_give_the_same_losses(call, tmp_path):
    rng = np.random.default_rng(9)
    products = [(rng.standard_normal((4, 2)), rng.standard_normal((2, 3))) for _ in range(3)]
    tables = []
    for name, scale in (("one", 1.0), ("huge", 2.0**520), ("tiny", 2.0**-600)):
        folders = write_agents(tmp_path / name, products, r=2, scale=scale)
        code, out, err = call("diagnose", *folders, "--json", "-")
        assert (code, err) == (0, "")
        data = json.loads(out)
        relative = {name: x for name, x in data["total"].items() if "relative" in name}
        tables.append((relative, data["advice"], data["sites"][0]["effective_rank"]))
    assert tables[0] == tables[1] == tables[2]
    assert 0 < tables[0][0]["relative_interference"] < 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--plot", "losses.jpg"], "--plot must end in one of .svg, .png, .pdf, got 'losses.jpg'"),
        (["--plot", "losses"], "--plot must end in one of"),
        (["--json", "there"], "there: exists already; overwrite it (--force) or name another"),
        (["--plot", "there.svg"], "there.svg: exists already; overwrite it (--force)"),
        (["--json", "folder", "--force"], "folder: is not a file; name another"),
        (["--json", "there/report.json"], "there is a file, not a folder; name another"),
        (["--json", "a.svg", "--plot", "./a.svg"], "a.svg: named twice"),
    ],
)
def test_a_target_is_refused_before_anything_is_read(call, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    for name in ("there", "there.svg"):
        (tmp_path / name).write_text("kept")
    (tmp_path / "folder").mkdir()
    code, out, err = call("diagnose", "nowhere", *options)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "there", "there.svg"]
    assert (tmp_path / "there").read_text() == "kept"


def test_force_replaces_files(call, tmp_path):
    report, plot = tmp_path / "report.json", tmp_path / "plot.svg"
    for path in (report, plot):
        path.write_text("old")
    code, _, err = call("diagnose", *FOLDERS, "--json", report, "--plot", plot, "--force")
    assert (code, err) == (0, "")
    assert json.loads(report.read_text())["topology"] == "complete"
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")


def test_a_check_refuses_a_report_that_is_there_before_it_calls_anything(call, tmp_path):
    stored = tmp_path / "report.json"
    stored.write_text("old")
    code, out, err = call("check", "no.such:module", "--json", stored)
    assert (code, out) == (2, "")
    assert (
        err == f"decaf: error: {stored}: exists already; overwrite it (--force) or name another\n"
    )
    assert stored.read_text() == "old"


def test_the_example_of_the_help_is_a_command():
    args = parser().parse_args(command.EXAMPLE.split()[1:])
    assert format_of(args.plot, "--plot") == "svg"


def test_the_page_shows_what_the_command_prints(call, monkeypatch):
    page = (ROOT / "docs" / "diagnose.md").read_text()
    line, shown = re.search(r"```sh\ndecaf (.*?)\n```\n\n```text\n(.*?)```", page, re.S).groups()
    monkeypatch.chdir(ROOT)
    _, out, _ = call(*line.split())
    number = re.compile(r"\d+(?:\.\d+)?")
    assert re.sub(r" +", " ", number.sub("0", out)) == re.sub(r" +", " ", number.sub("0", shown))
    for new, old in zip(number.findall(out), number.findall(shown), strict=True):
        assert float(new) == pytest.approx(float(old), rel=5.1e-3)  # a last digit may round


# ---------------------------------------------------------------- the picture


def test_a_picture_is_of_the_numbers_by_kind_and_layer():
    names = ["h.0.q", "h.10.q", "h.2.q", "h.0.v", "head"]
    (site,) = diagnosed(planted("common_A"))
    sites = [{**site, "site": name, "relative_x": 0} for name in names]
    sites[1] = {**sites[1], "interference": 2 * site["interference"], "angle_B": None}
    found = drawing.kinds(sites)
    assert {kind: list(layers) for kind, layers in found.items()} == {
        "q": [0, 10, 2],
        "v": [0],
        "": ["head"],
    }
    figure = drawing.picture(sites, "ring")
    above, below = figure.axes[:2]
    assert above.get_title(loc="left") == "q"
    for line, name in zip(above.lines, drawing.LOSSES, strict=False):
        shown = dict(zip(*line.get_data(), strict=True))
        pools = {at: adapters.pool(of_layer)[name] for at, of_layer in found["q"].items()}
        assert shown == {at: 100 * x for at, x in pools.items()}
    assert np.isnan(below.lines[1].get_ydata()[1])
    bars = [bar.get_height() for bar in above.patches]
    total = adapters.pool(sites)
    assert bars == [100 * adapters.share(s, total, "interference") for s in sites[:3]]
    assert "Lost: " in figure.get_suptitle()


def test_pictures_of_the_same_numbers_are_the_same_bytes_whatever_the_users_settings():
    sites = diagnosed(planted("common_A"))
    starts = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}
    assert tuple(starts) == FORMATS
    drawn = {kind: drawing.draw(sites, kind, "ring") for kind in starts}
    assert all(drawn[kind].startswith(start) for kind, start in starts.items())
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.grid": True}):
        assert drawing.draw(sites, "svg", "ring") == drawn["svg"]
        assert matplotlib.rcParams["lines.linewidth"] == 9
