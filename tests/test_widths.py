"""What the programs print fits the terminal; in a pipe it is the same whatever COLUMNS says."""

import re
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from decaf_theory import bench, terminal
from decaf_theory import cli as decaf
from decaf_theory.bench import rows, scaling
from decaf_theory.conformance.report import Finding, Report
from figures import cli as figures
from paper_checks import cli as harness
from paper_checks import sweep, sweeping
from tests.conftest import WIDTHS
from verification import cli as verification
from verification import everything, table
from verification.claim import Outcome
from verification.claims import CLAIMS
from verification.everything import End
from verification.judge import Regime, Verdict
from verification.run import LEDGER

HERE = Path(__file__).resolve().parent
AGENTS = [str(HERE / "adapters" / f"agent{i}") for i in range(4)]
PRINTS = {
    "decaf bench scaling": (decaf.main, ["bench", "scaling", "--quick"]),
    "decaf diagnose": (decaf.main, ["diagnose", *AGENTS]),
    "decaf methods": (decaf.main, ["methods"]),
    "decaf plan": (decaf.main, ["plan", "--no-measure", "--graph", "ring", "star", "exponential"]),
    "verification list": (verification.main, ["list"]),
    "verification explain": (verification.main, ["explain", "T18-rank"]),
    "verification replay": (verification.main, ["replay", "T13-nuclear"]),
    "verification adapters": (verification.main, ["adapters", *AGENTS]),
    "figures list": (figures.main, ["--list"]),
    "paper_checks list": (harness.main, ["list"]),
    "paper_checks sweep --status": (harness.main, ["sweep", "vit-digits", "--status"]),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder with results of one claim, for `explain` and `adapters`, which only adds to them."""
    folder = tmp_path_factory.mktemp("here")
    out = str(folder / "results")
    assert verification.main(["run", "--only", "T18-rank", "--out", out]) == 0
    return folder


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    """Rows of any number of agents at once, the widest that are shown among them."""

    def row(case, _):
        cost = {"low": 1.23, "median": 4.56, "high": 7.89, "memory": 1.2e5, "comm_bytes": 1.23e7}
        flops = None if case.method == "choco" else 4.56e7
        return {"kind": "scaling", **case._asdict(), **cost, "flops": flops}

    monkeypatch.setattr(scaling, "measured", row)


@pytest.fixture
def printed(results, monkeypatch, capsys):
    """What a command prints, on a terminal of so many columns or in a pipe."""

    def run(name, columns, *, terminal):
        main, words = PRINTS[name]
        if words[0] == "sweep":
            pytest.importorskip("torch", reason="the harness asks it for the device")
        with monkeypatch.context() as patch:
            patch.setenv("COLUMNS", str(columns))
            patch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
            patch.chdir(results)
            assert main(words) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", PRINTS)
def test_no_line_is_longer_than_the_terminal_is_wide(name, printed):
    texts = {columns: printed(name, columns, terminal=True) for columns in WIDTHS}
    for columns, text in texts.items():
        for line in text.splitlines():  # a name or a path stays whole
            assert len(line) <= columns or len(line.split()) == 1, (columns, line)
    assert texts[60] != texts[200]
    piped = [printed(name, columns, terminal=False) for columns in (60, 200)]
    assert piped[0] == piped[1]


def test_parts_of_a_table_have_all_its_columns(printed):
    wide, narrow = (printed("decaf diagnose", columns, terminal=True) for columns in (96, 60))
    words = {word for line in wide.splitlines() for word in line.split() if word != "-" * len(word)}
    assert words <= set(narrow.split())
    assert narrow.count("matrix  ") == 4  # two tables, in two parts each


def test_a_legend_is_filled_anew_where_it_does_not_fit(monkeypatch):
    text = "a      one two three\n       four\nb, c   five\nA sentence of two\nlines."
    monkeypatch.setattr(terminal, "columns", lambda: 20)
    assert terminal.legend(text) == text
    monkeypatch.setattr(terminal, "columns", lambda: 16)
    assert terminal.legend(text).splitlines() == [
        *("a      one two", "       three", "       four", "b, c   five"),
        *("A sentence of", "two lines."),
    ]


def test_verdicts_do_without_columns_that_a_narrow_terminal_has_no_room_for():
    records = [
        {"claim": c.id, "outcome": c.expected, "expected": c.expected} for c in CLAIMS[:-1]
    ] + [{"claim": CLAIMS[-1].id, "outcome": "slack", "expected": CLAIMS[-1].expected}]
    numbers = {"tightness": 1.0, "rows": 1234, "seconds": 12.5}
    statements = {c.id: c.statement for c in CLAIMS}
    heads = {}
    for columns in WIDTHS:
        text = table.table([record | numbers for record in records], statements, columns)
        lines = text.splitlines()
        assert max(map(len, lines)) <= columns
        assert len(lines) == 1 + len(CLAIMS)
        assert lines[-1].endswith(table.MARK)
        heads[columns] = lines[0].split()
    assert heads[60] == ["claim", "outcome", "tightness"]
    assert heads[80] == ["claim", "statement", "outcome", "expected", "tightness"]
    assert heads[96] == heads[200] == list(table.COLUMNS)


def test_a_goal_of_the_benchmark_is_two_lines_where_the_terminal_is_narrow(
    monkeypatch, capsys, fitted
):
    case = "ring of 10, one layer of 4096 x 4096, rank 4"
    row = rows.verdict("G1", case, "time over the byte floor", [1.9, 2.1], "<=", 1.5)
    lines = [rows.HEADER, rows.line(row)]
    assert max(map(len, lines)) <= rows.WHOLE

    def run(*_, show, **__):
        for line in lines:
            show(line)
        return [row]

    def printed():
        assert decaf.main(["bench", "--quick"]) == 1
        out = capsys.readouterr().out
        assert (len(out.splitlines()) == 2) is (terminal.columns() in (None, 200))
        return out

    monkeypatch.setattr(bench, "run", run)
    assert fitted(printed).splitlines() == lines


def test_the_lines_of_a_sweep_fit(monkeypatch, capsys, fitted):
    line = "score 0.9312, 12.3 s, mixing 1.2% and observing 3.4% of training, at 10 of 10 rounds"
    ended = sweep.Outcome("train.lr=0.01/decaf-ring-iid-seed0", "finished", line)
    monkeypatch.setattr(sweep, "run_all", lambda *_: iter([ended]))

    def printed():
        assert sweeping.train([ended], Namespace(jobs=1, out=Path("results/paper"))) == 0
        return capsys.readouterr().out

    assert fitted(printed).splitlines() == [
        f"[1/1] {ended.cell}: finished; {line}",
        "table: python -m paper_checks table results/paper",
    ]


@pytest.mark.parametrize("drawn", [True, False])
def test_the_line_of_a_figure_fits(drawn, monkeypatch, capsys, fitted):
    files = [Path(f"results/figures/truncation.{ending}") for ending in figures.ENDINGS]

    def draw(*_):
        if not drawn:
            raise ValueError("no rows of claims T16, T17; run python -m verification --only T16")
        return files

    def printed():
        assert figures.say("truncation", Namespace()) is drawn
        return capsys.readouterr().out

    monkeypatch.setattr(figures, "draw", draw)
    assert fitted(printed).count("\n") == 1


def test_the_report_of_a_check_fits(fitted):
    called = "B [N, d, r] and A [N, r, k], matrix by matrix, weights: weights, in NumPy"
    report = Report("mix.py:aggregate", "decaf", called, 40, 40, notes=(Finding(called, ()),))
    assert f"called with {called}" in fitted(lambda: str(report)).splitlines()


def test_the_stages_of_a_whole_run_fit(tmp_path, monkeypatch, capsys, fitted):
    words = "12.3 s; a goal is missed by more than a fifth, which is said at some length here"

    def run_all(plan, out, say):
        say(f"[2/4] bench: {words}")
        return {name: End(0, words, ran=True) for name in ("verify", "bench", "draw", "report")}

    def printed():
        assert verification.main(["all", "--out", "results"]) == 0
        return capsys.readouterr().out

    monkeypatch.setattr(everything, "run_all", run_all)
    assert f"\nbench   {words}\n" in fitted(printed)


def test_what_went_slack_fits(fitted):
    regimes = (Regime("norm nuclear, order combine", 12, 0.5, 0.875), Regime("op", 3, 0.9, 0.9))
    verdict = Verdict("T9", "proved", Outcome.SLACK, 0.9, 0.1, 15, 1.0, regimes)
    assert fitted(lambda: table.why(verdict, [])) == (
        "regime 'norm nuclear, order combine' reaches 0.5000 of its bound, stored: 0.875 (12 rows)"
    )


def test_the_rows_of_counterexamples_fit(tmp_path, monkeypatch, capsys, fitted):
    ledger = replace(LEDGER, folder=tmp_path)
    monkeypatch.chdir(tmp_path)

    def printed():
        assert verification.main(["counterexamples", "T18-op"], ledger=ledger) == 0
        return capsys.readouterr().out

    assert fitted(printed).count("\n") == 1


def test_columns_of_a_folded_line_stand_under_their_heads(printed):
    lines = printed("decaf bench scaling", 60, terminal=True).splitlines()

    def below(*words):
        """Return the second lines of a table's head and of its first row."""
        first = [line.split() for line in lines].index(list(words))
        return lines[first], lines[first + 2]

    def ends(line):
        return [word.end() for word in re.finditer(r"\S+", line)]

    head, row = below("spread", "memory", "bytes", "flops")
    assert row.split() == ["1.23", "...", "7.89", "120000", "1.23e+07", "4.56e+07"]
    assert head.index("spread") == row.index("1.23")
    assert ends(head)[1:] == ends(row)[3:]
    head, row = below("bytes", "flops", "bytes", "flops")
    assert ends(head) == ends(row)
