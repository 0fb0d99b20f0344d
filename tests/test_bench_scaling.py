"""The benchmark of the number of agents, and what is extrapolated. No speed is tested here."""

import re
import subprocess
import sys
from math import ceil, log2
from pathlib import Path

import numpy as np
import pytest

from decaf_theory import bench, cli
from decaf_theory.bench import extrapolation, scaling
from decaf_theory.bench.extrapolation import LAWS, rounds_to
from decaf_theory.bench.race import Settings
from decaf_theory.bench.scaling import GRAPHS, Case
from decaf_theory.sums import seal_lines, unseal_lines
from decaf_theory.topology import SCHEDULES, TOPOLOGIES, sqrt_rho
from tests.test_bench import FakeClock

EPS = np.finfo(float).eps
FEW = Case("ring", "dlora", 5)


def ticking():
    """Return settings whose clock moves by one second whenever it is asked."""
    clock = FakeClock()

    def tick():
        clock.now += 1.0
        return clock.now

    return Settings(True, "cpu", tick, 3)


def fake(case, settings=None):
    """Return a row without measuring anything."""
    cost = {"low": 1.0, "median": 3.6, "high": 5.0, "repeats": 3, "memory": 1e4}
    return {"kind": "scaling", **case._asdict(), **cost, "comm_bytes": 1, "flops": 2.0}


# ---------------------------------------------------------------- one case


def test_agents_come_in_the_numbers_that_graphs_can_have():
    found = scaling.cases(quick=False)
    assert len(found) == len(set(found)) == 5 * (3 * 6 - 1)  # choco on no schedule
    sizes = {graph: sorted({c.N for c in found if c.graph == graph}) for graph in GRAPHS}
    assert sizes["ring"] == sizes["one_peer_exponential"] == [10, 100, 1000, 10**4, 10**5]
    assert sizes["torus"] == [9, 100, 32**2, 100**2, 316**2]
    # few agents first, so that a run that is stopped has all that is cheap
    assert [c.N for c in found[::17]] == sizes["ring"]
    assert scaling.cases(quick=True) == found[: 3 * 17]
    for graph, law in GRAPHS.items():
        made = law.build(law.nearest(10))
        assert (made(0) if callable(made) else made).shape == (law.nearest(10),) * 2, graph


def test_time_is_that_of_one_agents_step():
    row = scaling.measured(FEW, ticking())
    assert (row["low"], row["median"], row["high"]) == (1e6 / 5,) * 3
    assert row["repeats"] == 3
    assert (row["graph"], row["method"], row["N"], row["d"], row["k"], row["r"]) == (
        *FEW,
        *(16, 16, 2),
    )
    # ten links, five own weights, 64 numbers of an agent, 6 d k r flops of its step and 2 a number
    assert (row["comm_bytes"], row["flops"]) == (
        10 * 64 * 4,
        5 * (6 * 16 * 16 * 2 + 2 * 64) + 15 * 64 * 2,
    )


def test_each_call_is_one_step_of_all_agents():
    step, _ = scaling.begun(FEW)
    first, second = step(), step()
    assert second.step == first.step + 1
    assert first.factors.B.shape == (1, 5, 16, 2)


def test_memory_is_what_a_step_holds_at_most(monkeypatch):
    """Also what it gives back within the step; not what building the problem took."""
    honest = scaling.visits
    build = scaling.PROBLEMS["P3"]

    def wasteful(config):
        for visit in honest(config):
            np.ones(config.problem.N * 10**5)
            yield visit

    def extravagant(**sizes):
        np.ones(sizes["N"] * 10**6)
        return build(**sizes)

    _, plain = scaling.begun(FEW)
    assert plain > 3 * 8 * 16 * 16  # target, point, gradient
    monkeypatch.setitem(scaling.PROBLEMS, "P3", extravagant)
    _, same = scaling.begun(FEW)
    assert same < 2 * plain
    monkeypatch.setattr(scaling, "visits", wasteful)
    _, more = scaling.begun(FEW)
    assert more - plain > 0.9 * 8 * 10**5


# ---------------------------------------------------------------- all of them


@pytest.fixture
def told(monkeypatch):
    """Put a list in the place of measurements."""
    asked = []
    monkeypatch.setattr(scaling, "measured", lambda case, _: asked.append(case) or fake(case))
    return asked


def test_what_is_done_is_kept_and_not_done_again(told, tmp_path, monkeypatch):
    path, shown = tmp_path / "scaling.jsonl", []
    whole = scaling.measured

    def stopped(case, settings):
        if len(told) == 4:
            raise KeyboardInterrupt
        return whole(case, settings)

    monkeypatch.setattr(scaling, "measured", stopped)
    with pytest.raises(KeyboardInterrupt):
        scaling.run(ticking(), to=path)
    first = unseal_lines(path.read_bytes())
    assert [row["kind"] for row in first] == ["machine"] + ["scaling"] * 4
    monkeypatch.setattr(scaling, "measured", whole)
    rows = scaling.run(ticking(), to=path, show=shown.append)
    assert told == scaling.cases(quick=True)  # each once
    assert rows == unseal_lines(path.read_bytes()) == first + rows[5:]
    assert shown[:2] == [scaling.TITLE, scaling.HEADER]
    assert shown[2:] == [scaling.line(row) for row in rows[1:]]
    assert all(not isinstance(value, (list, dict)) for row in rows for value in row.values())


def test_lines_stand_under_their_heads():
    row = scaling.line(fake(FEW))
    assert row.split() == "ring dlora 5 3.60 1.00 ... 5.00 10000 1.00 2.00".split()
    assert len(row) == len(scaling.HEADER)
    assert scaling.line({**fake(FEW), "flops": None}).endswith(" not counted")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"kind": ', "is damaged"),
        (b"", "is damaged"),
        (seal_lines([]), "was measured on another machine"),
        (seal_lines([{"kind": "machine", "processor": "x"}]), "was measured on another machine"),
    ],
)
def test_rows_from_elsewhere_are_not_mixed_with_these(data, message, told, tmp_path):
    path = tmp_path / "scaling.jsonl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        scaling.run(ticking(), to=path)
    assert (told, path.read_bytes()) == ([], data)


def test_a_folder_that_is_missing_is_named_before_anything_is_timed(told, tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        scaling.run(ticking(), to=tmp_path / "no" / "rows")
    assert told == []


# ---------------------------------------------------------------- on paper


@pytest.mark.parametrize(
    ("graph", "sizes"),
    [
        ("ring", range(5, 60)),
        ("torus", [n**2 for n in range(3, 16)]),
        ("exponential", [2**tau for tau in range(3, 12)]),
    ],
)
def test_a_gap_is_that_of_the_graph(graph, sizes):
    for N in sizes:
        # eigenvalues of a symmetric matrix of norm one are off by some N eps
        gap = LAWS[graph].gap(N)
        assert gap == pytest.approx(1 - sqrt_rho(TOPOLOGIES[graph](N)), abs=10 * N * EPS)


@pytest.mark.parametrize("graph", ["ring", "torus", "exponential"])
def test_rounds_are_as_many_as_it_takes(graph):
    N, J = 64, np.full((64, 64), 1 / 64)
    Pi, t = TOPOLOGIES[graph](N), rounds_to(0.01, graph, N)
    left = [np.linalg.norm(np.linalg.matrix_power(Pi, n) - J, 2) for n in (t - 1, t)]
    assert left[0] > 0.01 >= left[1]


def test_one_peer_rounds_agree_exactly_and_no_sooner():
    for N in (2, 8, 32):
        Pi, t = SCHEDULES["one_peer_exponential"](N), rounds_to(1e-3, "one_peer_exponential", N)
        products = [
            np.linalg.multi_dot([np.eye(N)] * 2 + [Pi(s) for s in range(n)]) for n in (t - 1, t)
        ]
        assert t == log2(N)
        assert np.abs(products[1] - 1 / N).max() == 0.0
        assert np.linalg.norm(products[0] - 1 / N, 2) >= 0.5


def test_a_billion_agents_on_a_ring_need_as_many_rounds_as_the_square_says():
    """There 1 - sqrt(rho) is below the spacing of numbers at one."""
    N = 10**9
    assert rounds_to(1e-3, "ring", N) == pytest.approx(
        np.log(1e3) * 3 / (4 * np.pi**2) * N**2, rel=20 * EPS
    )
    assert rounds_to(1e-3, "torus", 10**8) == pytest.approx(
        # the next terms of sine and logarithm
        np.log(1e3) * 5 / (4 * np.pi**2) * 10**8,
        rel=(np.pi / 10**4) ** 2,
    )
    assert rounds_to(1e-3, "one_peer_exponential", N) == ceil(log2(N)) == 30


def test_an_agents_round_costs_the_same_however_many_there_are():
    for graph in GRAPHS:
        for method in scaling.compared(graph):
            small, large = (scaling.a_round(Case(graph, method, N)) for N in (1024, 4096))
            assert large == {name: 4 * x for name, x in small.items()}


def test_the_table_scales_a_round_and_a_measured_time():
    rows = [{"kind": "machine"}, *(fake(Case("ring", "dlora", N)) for N in (10, 1000, 100))]
    rows[2]["median"] = 7.2  # the row of most agents counts, wherever it stands
    text = extrapolation.table(rows)
    assert max(map(len, text.splitlines())) <= 100
    assert text.isascii()
    lines = [line.split() for line in text.splitlines()]
    (cost,) = (line for line in lines if line[:2] == ["ring", "dlora"])
    rounds = [rounds_to(1e-3, "ring", N) for N in (10**6, 10**9)]
    flops = 6 * 16 * 16 * 2 + 2 * 64 + 3 * 64 * 2
    numbers = [2 * 64 * 4e9, flops * 1e9, 2.0]
    numbers += [t * x for t in rounds for x in (2 * 64 * 4, flops)]
    assert [float(x) for x in cost[2:]] == pytest.approx(numbers, rel=5e-3)  # three digits
    (other,) = (line for line in lines if line[:2] == ["torus", "dlora"])
    assert other[4] == "-"


# ---------------------------------------------------------------- the command


def test_the_command_measures_and_extrapolates(told, tmp_path, capsys):
    path = tmp_path / "scaling.jsonl"
    assert cli.main(["bench", "scaling", "--quick", "--json", str(path)]) == 0
    out, _ = capsys.readouterr()
    machine, *rows = unseal_lines(path.read_bytes())
    assert (machine["kind"], machine["quick"], len(rows)) == ("machine", True, len(told))
    lines = "\n".join([scaling.TITLE, scaling.HEADER, *map(scaling.line, rows)])
    assert out == f"{lines}\n\n{extrapolation.table(rows)}\n"


@pytest.mark.parametrize("more", [["--only", "G1"], ["--device", "cuda"], ["--force"]])
def test_what_belongs_to_the_goals_is_refused(more, told, capsys):
    assert cli.main(["bench", "scaling", *more]) == 2
    assert re.search("belongs? to the goals", capsys.readouterr().err)
    assert told == []


@pytest.mark.slow
def test_every_case_of_a_few_agents_is_measured(monkeypatch):
    monkeypatch.setattr(scaling, "FEW_AGENTS", (9,))
    rows = scaling.run(bench.settings(quick=True))
    assert len(rows) == 1 + 17
    for row in rows[1:]:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert row["memory"] > 3 * 8 * 16 * 16
        assert min(row["flops"], row["comm_bytes"]) > 0


# ---------------------------------------------------------------- the page


@pytest.mark.parametrize(
    ("method", "N", "rounds"),
    [
        pytest.param("decaf", 50, 30, marks=pytest.mark.slow),
        *(pytest.param(name, 10**5, 10, marks=pytest.mark.night) for name in ("dlora", "decaf")),
    ],
)
def test_the_run_of_many_agents_on_the_page_runs(method, N, rounds):
    page = (Path(__file__).parent.parent / "docs" / "scaling.md").read_text()
    code = re.search(r"many agents: begin -->\n```python\n(.*?)```", page, re.S)[1]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, method, str(N), str(rounds)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, last, _, apart, sent = map(float, re.findall(r"[\d.]+(?:e[+-]\d+)?", done.stdout))
    assert last < first
    assert apart > 0
    assert sent == rounds * 2 * N * 64 * 8


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("bench scaling --json kept.jsonl", "kept.jsonl keeps what was measured, and the same"),
        ("bench scaling", "nothing is written"),
        ("bench --json kept.jsonl", "kept.jsonl keeps what was measured\n"),
        ("bench", "nothing is written"),
        ("methods", "nothing is written"),
    ],
)
def test_an_interrupted_command_says_what_it_leaves(line, left, monkeypatch, capsys):
    def stopped(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.COMMANDS[line.split()[0]], "run", stopped)
    assert cli.main(line.split()) == 130
    assert f"decaf: interrupted; {left}" in capsys.readouterr().err
