import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from decaf_theory import terminal
from decaf_theory.sums import unsealed
from decaf_theory.topology import TOPOLOGIES
from tests import fake_ledger
from verification import options, provenance, store, table
from verification.adapter_evidence import EVIDENCE
from verification.cli import ACTIONS, main
from verification.run import LEDGER

ROOT = Path(__file__).parents[1]


@pytest.fixture
def ledger(tmp_path):
    return fake_ledger.ledger_in(tmp_path / "ledger")


@pytest.fixture
def call(tmp_path, ledger, capsys):
    """Run a command line against the fake ledger: exit code, stdout, stderr."""

    def run(*arguments, out=tmp_path / "out"):
        writes = arguments[0] not in ("list", "counterexamples", "reaches")
        try:
            code = main([*arguments, *(["--out", str(out)] * writes)], ledger=ledger)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def stored(tmp_path, name):
    return json.loads((tmp_path / "out" / name).read_text())


def test_outcomes_as_expected_end_with_zero_and_a_line_that_counts(call, tmp_path):
    code, out, err = call("--only", "T2-square", "T1")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == list(table.COLUMNS)
    assert lines[1].startswith("T1         A random number is below one.  ")
    assert re.search(r"  violated  violated     2\.0000     1     0\.\d\d$", lines[2])
    assert re.fullmatch(
        r"2 claims: 1 hold, 1 violated as expected, 0 unexpected "
        r"\(\d\.\d s, quick, seed 0\) -> .*out",
        lines[-1],
    )
    assert err.splitlines()[0].startswith("T1: holds, 0.")
    assert err.splitlines()[1].startswith("T2-square: violated as expected, 0.")
    assert [v["claim"] for v in stored(tmp_path, "verdicts.json")] == ["T1", "T2-square"]


def test_an_outcome_while_running_says_whether_it_was_expected():
    assert table.outcome_words("violated", "holds") == "violated, unexpected"
    assert table.outcome_words("holds", "violated") == "holds, unexpected"
    assert table.outcome_words("error", None) == "error, unexpected"
    assert table.outcome_words("holds", "holds") == "holds"


def test_a_list_fits_the_terminal_and_is_whole_elsewhere(call, monkeypatch):
    whole = call("list")[1].splitlines()
    monkeypatch.setattr(terminal, "columns", lambda: 30)
    lines = call("list")[1].splitlines()
    assert max(map(len, whole)) > 30
    assert max(map(len, lines)) <= 30
    cut = {line for line in whole if len(line) > 30}
    for line, short in zip(whole, lines, strict=True):
        assert (short == line) == (line not in cut)
        assert line.startswith(short.removesuffix("..."))


def test_a_verdict_is_stored_with_its_nine_fields_and_their_checksum(call, tmp_path):
    call("--only", "T2-square")
    verdict = unsealed(*stored(tmp_path, "verdicts.json"))
    seconds = verdict.pop("seconds")
    assert 0 <= seconds < 1
    assert verdict == {
        "claim": "T2-square",
        "status": "derived",
        "outcome": "violated",
        "expected": "violated",
        "tightness": 2.0,
        "slack": -2.0,
        "rows": 1,
        "regimes": [{"name": "square", "rows": 1, "tightness": 2.0, "reaches": None}],
    }


def expect(monkeypatch, claim, outcome):
    """Let the fake ledger hold one claim alone, of which this is expected."""
    monkeypatch.setattr(fake_ledger, "CLAIMS", [replace(claim, expected=outcome)])


def test_an_unexpected_outcome_is_marked_shown_and_ends_with_one(call, monkeypatch):
    expect(monkeypatch, fake_ledger.FALSE, "holds")
    code, out, _ = call("--only", "T2-square")
    assert code == 1
    (marked,) = [line for line in out.splitlines() if line.endswith(table.MARK)]
    assert marked.startswith("T2-square")
    assert "deciding row square: 4 <= 2 (rounding 0.0e+00) violated" in out
    assert "0 hold, 0 violated as expected, 1 unexpected" in out


def reaching(monkeypatch, **reaches):
    """Let the true claim of the fake ledger store what its regimes reach."""
    claim = replace(fake_ledger.TRUE, reaches=reaches)
    monkeypatch.setattr(fake_ledger, "CLAIMS", [claim])


def test_a_regime_that_went_slack_is_unexpected_named_and_shown(call, monkeypatch):
    reaching(monkeypatch, largest=1.0, smallest=0.5)
    code, out, _ = call("--only", "T1")
    assert code == 1
    (marked,) = [line for line in out.splitlines() if line.endswith(table.MARK)]
    assert " slack " in marked
    assert re.search(
        r"^T1: regime 'largest' reaches 0\.\d{4} of its bound, stored: 1 \(1 rows\)\n"
        r"regime 'smallest' reaches - of its bound, stored: 0.5 \(0 rows\)$",
        out,
        re.MULTILINE,
    )
    _, out, _ = call("explain", "T1")
    assert re.search(r"^regime +rows +tightness +stored$", out, re.MULTILINE)
    assert re.search(r"^largest +1 +0\.\d{4} +1 +<- slack$", out, re.MULTILINE)
    assert re.search(r"^smallest +0 +- +0.5 +<- slack$", out, re.MULTILINE)
    assert "0.5 to 1 in 2" in call("list")[1]


def test_what_is_missing_is_printed_and_once_stored_no_longer(call, monkeypatch):
    monkeypatch.setattr(fake_ledger, "CLAIMS", [fake_ledger.TRUE, fake_ledger.FALSE])
    code, out, _ = call("reaches")
    assert code == 0
    (value,) = re.findall(r'^ +"largest": ([\d.]+),$', out, re.MULTILINE)
    assert out.splitlines()[::2] == ["T1", f'            "largest": {value},']
    reaching(monkeypatch, largest=float(value))
    assert call("reaches") == (0, "", "")
    assert call("reaches", "T1") == (0, out, "")
    assert call("--only", "T1")[0] == 0


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_claim_that_raises_is_named_and_the_others_are_judged(call, tmp_path, jobs):
    code, out, _ = call("--only", "T1", "T3", "T2-square", "--jobs", jobs)
    assert code == 1
    assert re.search(rf"^T3 .* error  .*{table.MARK}$", out, re.MULTILINE)
    assert "ZeroDivisionError: the defect" in out
    assert "3 claims: 1 hold, 1 violated as expected, 1 unexpected" in out
    assert [v["outcome"] for v in stored(tmp_path, "verdicts.json")] == [
        "holds",
        "violated",
        "error",
    ]
    assert sorted(p.name for p in (tmp_path / "out" / "rows").iterdir()) == [
        "T1.jsonl",
        "T2-square.jsonl",
    ]


@pytest.mark.slow
def test_a_killed_process_costs_only_its_claim_a_second_try(call, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FAKE_LEDGER_NOTE", str(tmp_path / "note"))
    code, out, _ = call("--only", "T1", "T2-square", "T4", "T5", "--jobs", "2")
    assert code == 1
    assert "claim T4: its process ended with exit code -9; trying once more" in caplog.text
    assert "T5: its process ended with exit code -9, 2 times" in out
    assert {v["claim"]: v["outcome"] for v in stored(tmp_path, "verdicts.json")} == {
        "T1": "holds",
        "T2-square": "violated",
        "T4": "holds",
        "T5": "error",
    }


def test_only_adds_to_the_results_of_the_same_run_and_prints_its_own(call, tmp_path):
    call("--only", "T1")
    before = (tmp_path / "out" / "rows" / "T1.jsonl").read_bytes()
    _, out, _ = call("--only", "T2-square")
    assert out.splitlines()[-1].startswith("1 claim: 0 hold, 1 violated")
    assert (tmp_path / "out" / "rows" / "T1.jsonl").read_bytes() == before
    assert [v["claim"] for v in stored(tmp_path, "verdicts.json")] == ["T1", "T2-square"]


@pytest.mark.parametrize(
    "words", [["t1", "t2-SQUARE"], ["T1,T2-square"], ["T[12]*"], ["t1,", "T2*"]]
)
def test_claims_are_chosen_in_any_case_by_commas_and_by_patterns(call, words):
    code, out, _ = call("list", *words)
    names = [line.split()[0] for line in out.splitlines()]
    assert code == 0
    assert [name for name in names if name.startswith("T")] == ["T1", "T2-square"]


def test_results_of_another_size_are_not_mixed_in_and_the_reason_is_printed(
    call, tmp_path, monkeypatch
):
    monkeypatch.setattr(fake_ledger, "CLAIMS", [fake_ledger.TRUE, fake_ledger.FALSE])
    call("--only", "T1")
    _, _, err = call("--size", "full")
    assert "earlier results are replaced: size: quick -> full" in err
    assert stored(tmp_path, "run.json")["size"] == "full"


def test_a_run_of_some_claims_does_not_remove_the_results_of_another_configuration(call, tmp_path):
    call("--only", "T1")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json*")}
    code, _, err = call("--only", "T2-square", "--seed", "1")
    assert code == 2
    assert "results of another configuration (seed: 0 -> 1); choose another folder" in err
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json*")} == before


def test_a_resumed_run_keeps_finished_claims_byte_by_byte_and_judges_the_others(call, tmp_path):
    call("--only", "T1", "T3")
    files = {path: path.read_bytes() for path in (tmp_path / "out" / "rows").iterdir()}
    (before,) = [v for v in stored(tmp_path, "verdicts.json") if v["claim"] == "T1"]
    code, out, err = call("--only", "T1", "T2-square", "T3", "--resume")
    assert code == 1  # T3 raises again: a claim without rows is not finished
    assert err.splitlines()[0] == "1 of 3 claims are kept from before"
    assert [line.split(":")[0] for line in err.splitlines()[1:]] == ["T2-square", "T3"]
    assert "3 claims: 1 hold, 1 violated as expected, 1 unexpected" in out
    assert {path: path.read_bytes() for path in files} == files
    assert stored(tmp_path, "verdicts.json")[0] == before


def test_a_resumed_run_is_told_what_is_expected_now(call, monkeypatch):
    call("--only", "T1")
    expect(monkeypatch, fake_ledger.TRUE, "violated")
    code, out, _ = call("--only", "T1", "--resume")
    assert code == 1
    assert "T1: deciding row largest: 0." in out


def test_size_and_seed_reach_the_claims(call, tmp_path):
    def row(*arguments):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        call("--only", "T1", *arguments)
        return json.loads((tmp_path / "out/rows/T1.jsonl").read_text().splitlines()[0])

    quick, full, other = row(), row("--size", "full"), row("--seed", "1")
    assert (quick["n"], full["n"], other["n"]) == (3, 30, 3)
    assert quick["measured"] != other["measured"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "T11"], "unknown claim 'T11'; did you mean T1"),
        (["--only", "square"], "did you mean T2-square?"),
        (["--only", "T1,T11"], "unknown claim 'T11'; did you mean T1"),
        (["--only", "T9*"], "unknown claim 'T9*'"),
        (["explain", "T*"], "explain: shows one claim, and 'T*' fits T1, T2-square"),
        (["--only", "???"], "unknown claim '???'; see python -m verification list"),
        (["explain", "T33"], "did you mean T3"),
        (["--jobs", "0"], "argument --jobs: must be a whole number >= 1, got '0'"),
        (["--jobs", "two"], "must be a whole number >= 1, got 'two'"),
        (["--seed", "-1"], "argument --seed: must be a whole number >= 0, got '-1'"),
        (["--size", "huge"], "invalid choice: 'huge'"),
        pytest.param(
            ["attack", "T2-square"],
            "claim T2-square is false as worded and its counterexample is stored: python -m "
            "verification replay ",
            marks=pytest.mark.slow,  # loads torch
        ),
        (["attack", "T33"], "did you mean T3"),
        (["attack", "T1", "--minutes", "0"], "argument --minutes: must be a number > 0, got '0'"),
        (["attack", "T1", "--minutes", "nan"], "must be a number > 0, got 'nan'"),
        (["attack"], "the following arguments are required: ID"),
        (["explian", "T1"], "unknown command 'explian'; did you mean explain?"),
        (["rnu"], "unknown command 'rnu'; did you mean run?"),
        (["???"], "unknown command '???'; see python -m verification --help"),
        (
            ["explain", "T1", "T3"],
            "explain: unrecognized arguments: T3; see python -m verification",
        ),
        (["explain", "T1", "--size", "full"], "explain: unrecognized arguments: --size full; see"),
        (["attack", "T1", "--device", "cpu"], "attack: unrecognized arguments: --device cpu"),
        (["--minutes", "2"], "run: unrecognized arguments: --minutes 2; see"),
        (["--topology", "ring"], "run: unrecognized arguments: --topology ring"),
        (["--script"], "run: unrecognized arguments: --script"),
        (["explain", ""], "unknown claim ''; see python -m verification list"),
        (
            ["--onyl", "T1"],
            "run: unrecognized arguments: --onyl T1; see python -m verification run",
        ),
    ],
)
def test_bad_usage_ends_with_two_and_says_what_is_wrong(call, tmp_path, arguments, message):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_no_command_means_run():
    assert options.parse([]) == options.parse(["run"])
    assert options.parse(["--only", "T1"]) == options.parse(["run", "--only", "T1"])
    assert options.parse([]).command == "run"


def test_the_help_names_every_command_and_every_command_is_served(capsys):
    assert options.COMMANDS.keys() == ACTIONS.keys()
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = re.findall(r"^    (\w+)(?:\n|  )", capsys.readouterr().out, re.MULTILINE)
    assert shown == ["run", *list(options.COMMANDS)[1:]]


@pytest.mark.parametrize("name", ["", *options.COMMANDS])
@pytest.mark.parametrize("columns", [60, 80])
def test_the_help_fits_the_terminal(name, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))

    def shown(terminal):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
        with pytest.raises(SystemExit):
            main([*name.split(), "--help"])
        return capsys.readouterr().out

    text = shown(True)
    lines = text.partition("\n\n")[2].splitlines()  # the usage is argparse's own
    if name:
        del lines[lines.index("examples:") :]  # command lines stay whole, to be copied
    assert max(map(len, lines)) <= columns
    assert text.split() == shown(False).split()


@pytest.mark.parametrize("name", options.COMMANDS)
def test_the_examples_in_a_command_s_help_are_command_lines_of_it(capsys, name):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out.split("examples:\n")[1].splitlines()
    assert len(shown) == len(options.COMMANDS[name].examples) > 0
    for line in shown:
        program, _, rest = line.strip().partition("verification")
        assert program == "python -m "
        words = shlex.split(rest.split("|")[0])
        assert options.parse(words).command == name


@pytest.mark.parametrize(("flag", "command"), options.MOVED.items())
def test_a_flag_that_is_a_command_now_is_refused_with_the_command(call, tmp_path, flag, command):
    assert command in options.COMMANDS
    now = f"error: {flag} is now: python -m verification {command}"
    for typed, told in (
        ([flag], now),
        ([flag, "a", "b", "--seed", "1"], f"{now} a b"),
        (["--size", "full", f"{flag}=a"], f"{now} a"),
    ):
        assert call(*typed) == (2, "", f"{told}\n")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_found_before_computing(call, tmp_path):
    (tmp_path / "file").touch()
    start = time.perf_counter()
    code, _, err = call("--only", "T6", out=tmp_path / "file" / "out")  # T6 takes a minute
    assert code == 2
    assert "cannot write results to" in err
    assert time.perf_counter() - start < 5


def test_a_page_that_cannot_be_written_is_bad_usage(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["docs", str(tmp_path / "file" / "page.md")]) == 2
    message = "page.md: File exists; name another file"
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_bad_usage(call):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    code, _, err = call("--only", "T1", "--device", "cuda")
    assert code == 2
    assert "needs a GPU" in err


def test_the_list_shows_id_area_status_and_statement(call):
    code, out, _ = call("list")
    assert code == 0
    assert len(out.splitlines()) == len(fake_ledger.CLAIMS)
    assert out.splitlines()[0].split(None, 3)[:3] == ["T1", "smoothness", "derived"]
    assert "x^2 <= x" in out
    _, out, _ = call("list", "T3", "T1")
    assert [line.split()[0] for line in out.splitlines()] == ["T1", "T3"]


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_not_an_error():
    command = [sys.executable, "-m", "verification", "list"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as run:
        run.stdout.close()
        assert (run.stderr.read(), run.wait(60)) == (b"", 0)


def test_an_explanation_has_text_deciding_rows_and_how_to_run_it_again(call):
    code, out, _ = call("explain", "T1")
    assert code == 0
    assert "Assumptions: none." in out
    assert "no deciding rows" in out
    call("--only", "T1")
    _, out, _ = call("explain", "T1")
    assert "rows: 2, in " in out
    assert "deciding row largest: 0." in out
    assert "tightest row" not in out
    assert "[n=3]" in out
    assert out.endswith("run again: python -m verification --only T1\n")


def test_a_folder_of_results_that_is_a_file_is_bad_usage(call, tmp_path):
    (tmp_path / "file").touch()
    code, out, err = call("explain", "T1", out=tmp_path / "file")
    assert (code, out) == (2, "")
    assert "--out must be a folder of results" in err


def test_an_explanation_shows_the_counterexample(call):
    call("counterexamples")
    call("--only", "T2-square")
    _, out, _ = call("explain", "T2-square")
    assert out.count("square: 4 <= 2") == 1  # the deciding row is the tightest, too
    assert "measured 4, bound 2, ratio 2: violated" in out
    assert re.search(
        r"^again: python -m verification replay \S+T2-square\.json$", out, re.MULTILINE
    )


RECORD = {
    "claim": "T1",
    "outcome": "holds",
    "expected": "holds",
    "tightness": 0.99999,
    "rows": 3,
    "seconds": 0.25,
}


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_the_table_fits_its_columns_and_marks_what_differs(columns):
    verdicts = [RECORD, {**RECORD, "claim": "T2", "outcome": "violated", "tightness": 1e-5}]
    statements = {"T1": "words " * 30, "T2": "short"}
    lines = table.table(verdicts, statements, columns).splitlines()
    assert max(map(len, lines)) <= columns
    assert "..." in lines[1]
    assert lines[2].endswith(table.MARK)
    assert "1.0000" in lines[1]
    assert "1.0e-05" in lines[2]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0.0000"), (0.99999, "1.0000"), (9.9e-4, "9.9e-04"), (1048577, "1.0e+06")],
)
def test_tightness_has_four_digits_or_is_written_in_powers_of_ten(value, text):
    assert table.ratio(value) == text


def test_a_summary_counts_every_kind_of_outcome():
    kinds = ["holds", "violated", "inconclusive", "not_applicable"]
    verdicts = [{**RECORD, "outcome": kind, "expected": kind} for kind in kinds]
    odd = {**RECORD, "outcome": "violated"}
    assert table.summary([*verdicts, odd]) == (
        "5 claims: 1 hold, 1 violated as expected, 1 inconclusive as expected, "
        "1 not applicable as expected, 1 unexpected"
    )


@pytest.mark.slow
def test_equal_inputs_give_equal_bytes_in_one_process_or_two(tmp_path):
    cheap = [claim.id for claim in LEDGER.claims if claim.area == "interference"][:3]
    folders = tmp_path / "one", tmp_path / "two"
    for folder, jobs in zip(folders, "12", strict=True):
        command = [sys.executable, "-m", "verification", "--only", *cheap, "--jobs", jobs]
        run = subprocess.run(
            [*command, "--out", folder], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert json.loads((folder / "run.json").read_text())["threads"] == 1
    for claim in cheap:
        one, two = (folder / "rows" / f"{claim}.jsonl" for folder in folders)
        assert one.read_bytes() == two.read_bytes()


INTERRUPTED = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start us with it ignored
from pathlib import Path
from verification.cli import main
from tests.fake_ledger import ledger_in

ledger = ledger_in(Path("ledger"))
sys.exit(main(["--only", "T1", "T6", "--out", "out", "--jobs", sys.argv[1]], ledger=ledger))
"""


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_cleanly_and_keeps_what_is_finished(tmp_path, jobs, number):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, jobs],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "out/verdicts.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(number)
    _, err = run.communicate(timeout=20)
    assert run.returncode == 128 + number
    assert "Traceback" not in err
    assert "interrupted; finished claims are kept" in err
    assert [v["claim"] for v in stored(tmp_path, "verdicts.json")] == ["T1"]


@pytest.mark.slow
def test_adapters_are_reported_and_their_rows_join_the_run(call, tmp_path):
    folders = [str(ROOT / agent) for agent in AGENTS]
    call("--only", "T1", "--size", "full")
    code, out, err = call("adapters", *folders, "--topology", "ring")
    assert (code, err) == (0, "")
    assert "4 agents, ring graph" in out
    assert re.search(r"^\d+ rows -> .*rows/adapters.jsonl$", out, re.MULTILINE)
    rows = store.read_rows(tmp_path / "out", "adapters")
    assert {row["claim"] for row in rows} == set(EVIDENCE)
    assert store.read_rows(tmp_path / "out", "T1")  # a run of another size is left as it is


@pytest.mark.parametrize("entry", ["code", "python"])
def test_a_report_on_adapters_removes_no_evidence_of_another_configuration(
    call, tmp_path, monkeypatch, entry
):
    call("--only", "T1", "T2-square")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json*")}
    whole = provenance.configuration
    monkeypatch.setattr(provenance, "configuration", lambda **x: {**whole(**x), entry: "other"})
    code, out, err = call("adapters", *(str(ROOT / agent) for agent in AGENTS))
    assert (code, out) == (2, "")
    assert f"holds results of another configuration ({entry}: " in err
    assert "choose another folder with --out" in err
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json*")} == before


def test_one_flipped_bit_of_a_verdict_is_met_and_the_claims_are_judged_again(
    call, tmp_path, monkeypatch
):
    monkeypatch.setattr(fake_ledger, "CLAIMS", [fake_ledger.TRUE, fake_ledger.FALSE])
    call("run")
    path = tmp_path / "out" / "verdicts.json"
    whole = stored(tmp_path, "verdicts.json")[0]["outcome"]
    path.write_bytes(path.read_bytes().replace(b'"holds"', b'"iolds"', 1))
    code, _, err = call("--resume")
    assert code == 0
    assert re.search(
        r"earlier results are replaced: .*verdicts\.json is damaged \(its checksum", err
    )
    assert stored(tmp_path, "verdicts.json")[0]["outcome"] == whole


AGENTS = [f"tests/adapters/agent{i}" for i in range(4)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none: no such folder"),
        (["tests"], "tests: not an adapter folder"),
        (
            [*AGENTS, "--topology", "rign"],
            f"one of {', '.join(TOPOLOGIES)}, got 'rign'; the nearest name is ring",
        ),
        ([*AGENTS, "--rank", "0"], "rank"),
        ([*AGENTS, "--rank", "1000"], "rank"),
    ],
)
def test_adapters_that_cannot_be_reported_are_bad_usage(call, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    code, out, err = call("adapters", *arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.slow
def test_an_attack_stores_its_best_instance_where_replay_finds_it(tmp_path, capsys):
    pytest.importorskip("torch")
    arguments = ["attack", "T17", "--minutes", "0.01", "--out", str(tmp_path)]
    main(arguments)  # so little time need not suffice to break the weakened bound
    stored_at = re.search(r"-> (\S+)", capsys.readouterr().out)[1]
    assert main(["replay", stored_at]) == 0
    assert "holds; equals the stored" in capsys.readouterr().out
