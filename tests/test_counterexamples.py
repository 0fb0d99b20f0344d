"""The stored counterexamples: every reading that is false, replayed and run as a program."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from tests import fake_ledger
from tests.fake_ledger import FALSE as SQUARE
from tests.fake_ledger import ledger_in
from verification import replay
from verification.claim import Outcome
from verification.cli import main
from verification.run import LEDGER

CLAIMS = {claim.id: claim for claim in LEDGER.claims}
FALSE = [name for name, outcome in LEDGER.expected.items() if outcome == "violated"]


def kept(name):
    return replay.load(LEDGER.counterexample(name))


def test_every_false_reading_has_its_counterexample_and_no_other_file_lies_there():
    files = {path.name for path in LEDGER.counterexample("any").parent.iterdir() if path.is_file()}
    programs = {CLAIMS[name].script for name in FALSE}
    assert files == {f"{name}.json" for name in FALSE} | {f"{name}.py" for name in programs}


@pytest.mark.parametrize("name", FALSE)
def test_a_stored_counterexample_violates_again_with_the_same_numbers(name):
    found, claim = kept(name), CLAIMS[name]
    row = replay.recompute(claim, found)
    assert found.claim == name
    assert row.outcome is Outcome.VIOLATED
    assert replay.equal(row, found)


@pytest.mark.parametrize("name", FALSE)
def test_a_stored_counterexample_is_what_its_claim_builds(name):
    assert kept(name).instance == json.loads(json.dumps(CLAIMS[name].instance()))


@pytest.mark.slow
@pytest.mark.parametrize("name", FALSE)
def test_a_program_that_knows_numpy_alone_finds_the_same_numbers(name, tmp_path):
    found, claim = kept(name), CLAIMS[name]
    program = LEDGER.program(claim.script)
    for ours in ("decaf_theory", "verification", "paper_checks"):
        assert ours not in program.read_text()
    command = [sys.executable, "-I", program, LEDGER.counterexample(name)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    numbers = dict(re.findall(r"^(measured|bound) = (\S+)$", run.stdout, re.MULTILINE))
    row = replay.recompute(claim, found)
    for name, stored in (("measured", found.measured), ("bound", found.bound)):
        # two computations of one number, each within the row's rounding, or a few last places
        slip = max(2 * row.rounding, 8 * sys.float_info.epsilon * abs(stored))
        assert abs(float(numbers[name]) - stored) <= slip


def test_a_claim_given_for_a_file_stands_for_its_counterexample(capsys):
    by_file = main(["replay", str(LEDGER.counterexample(FALSE[0]))]), capsys.readouterr()
    assert (main(["replay", FALSE[0].lower()]), capsys.readouterr()) == by_file
    assert by_file[0] == 0
    assert main(["replay", "T17"]) == 2
    assert "claim T17 has no counterexample" in capsys.readouterr().err


def test_several_claims_are_replayed_one_after_the_other(capsys):
    names = [name for name in FALSE if name.startswith("T4")]  # T4-mixed holds and has none
    assert len(names) > 1
    one_by_one = []
    for name in names:
        assert main(["replay", name]) == 0
        one_by_one.append(capsys.readouterr().out)
    for words in ("t4*", ",".join(names)):
        assert main(["replay", words]) == 0
        assert capsys.readouterr().out == "".join(one_by_one)
    assert main(["replay", "T4*", "--script"]) == 2
    assert f"prints one program, and T4* fits {len(names)}" in capsys.readouterr().err
    assert main(["replay", "T99"]) == 2
    assert "unknown claim 'T99'; did you mean T9" in capsys.readouterr().err


@pytest.fixture
def call(tmp_path, capsys):
    """Replay a file with the ledger of fakes: exit code, stdout, stderr."""

    def run(path, *more):
        code = main(["replay", str(path), *more], ledger=ledger_in(tmp_path))
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def square(tmp_path, capsys):
    """The file of the fakes' counterexample, written by the documented command."""
    ledger = ledger_in(tmp_path)
    assert main(["counterexamples"], ledger=ledger) == 0
    assert "T2-square.json: square: 4 <= 2" in capsys.readouterr().out
    return ledger.counterexample(SQUARE.id)


def test_replay_prints_one_line_of_numbers(call, square):
    assert call(square) == (
        0,
        "T2-square: claimed measured <= bound; measured 4, bound 2, ratio 2: violated; "
        "equals the stored 4 and 2\n",
        "",
    )


def test_replay_with_script_prints_a_program(call, square):
    code, out, _ = call(square, "--script")
    assert code == 0
    assert out.startswith("# T2-square: Squares are")
    assert "\ninstance = {'x': [1, 2]}\n" in out


def test_a_printed_program_runs_alone(call, square, tmp_path):
    _, text, _ = call(square, "--script")
    command = [sys.executable, "-I", "-c", text]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("measured = 4\nbound = 2\n", "")


def test_a_program_that_reads_its_instance_otherwise_is_bad_usage(call, square, monkeypatch):
    monkeypatch.setattr(fake_ledger, "PROGRAM", "import numpy as np\n")
    code, out, err = call(square, "--script")
    assert (code, out) == (2, "")
    assert f"square.py must begin with a docstring and these lines:\n{replay.READING}" in err


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"measured": 4.001}, "DIFFERS FROM"),
        ({"bound": 2.001}, "DIFFERS FROM"),
        ({"measured": "nan"}, "DIFFERS FROM"),
        ({"relation": ">="}, "DIFFERS FROM"),
        ({"instance": {"x": [1]}, "measured": 1, "bound": 1}, "holds; equals"),
    ],
)
def test_a_replay_that_no_longer_shows_what_was_stored_ends_with_one(call, square, fields, word):
    change(square, **fields)
    code, out, _ = call(square)
    assert code == 1
    assert word in out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"claim": "T2-squares"}, "unknown claim 'T2-squares'; did you mean T2-square"),
        ({"claim": "T1"}, "claim T1 has no replay"),
        ({"relation": "<"}, "relation must be one of"),
        ({"measured": True}, "measured and bound must be numbers: expected a number, got True"),
        ({"bound": None}, "must be numbers"),
        ({"instance": [1, 2]}, "instance must be an object"),
        ({"instance": {"y": 1}}, "the instance does not fit claim T2-square: KeyError: 'x'"),
        ({"instance": {"x": ["a"]}}, "does not fit claim T2-square: TypeError"),
        ({"instance": {"x": [1e200]}}, "does not fit claim T2-square: OverflowError"),
        ({"bound": 10**400}, "must be numbers: expected a number, got an integer beyond float64"),
        ({"instance": {"x": 10**9}}, "asks claim T2-square for too much: x is beyond 256 in size"),
    ],
)
def test_a_malformed_instance_is_bad_usage(call, square, fields, message):
    change(square, **fields)
    code, out, err = call(square)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("\xff", "is not JSON"),
        ("[" * 100_000, "is not JSON: brackets are nested too deeply"),
        ('{"claim": "\x00"}', "is not JSON: Invalid control character at: line 1"),
        ("[]", "must be an object with claim, relation, measured, bound, instance"),
        ('{"claim": "T1"}', "missing: ['relation', 'measured', 'bound', 'instance']"),
    ],
)
def test_a_file_that_is_no_instance_is_bad_usage(call, tmp_path, text, message):
    path = tmp_path / "file.json"
    path.write_bytes(text.encode("latin-1"))
    code, _, err = call(path)
    assert code == 2
    assert message in err


@pytest.mark.parametrize("error", [MemoryError, RecursionError, ZeroDivisionError, AssertionError])
def test_whatever_an_instance_makes_of_the_code_of_a_claim_is_bad_usage(error):
    def replayed(instance):
        raise error

    claim = replace(SQUARE, replay=replayed)
    with pytest.raises(replay.ReplayError, match=f"does not fit claim T2-square: {error.__name__}"):
        replay.recompute(claim, replay.Stored(claim.id, "<=", 1.0, 1.0, {"x": 1.0}))


def test_a_file_larger_than_any_instance_is_not_read(call, tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "LARGEST_FILE", 100)
    path = tmp_path / "file.json"
    path.write_bytes(b" " * 101)
    code, _, err = call(path)
    assert code == 2
    assert "must be at most 100 bytes: no instance is larger" in err


def test_a_file_that_is_not_there_is_bad_usage(call, tmp_path):
    code, _, err = call(tmp_path / "none.json")
    assert code == 2
    assert "cannot read" in err


def test_a_claim_that_violates_nothing_is_not_stored(tmp_path):
    claim = next(c for c in CLAIMS.values() if c.instance and c.id not in FALSE)
    with pytest.raises(replay.ReplayError, match="violates nothing"):
        replay.store(claim, tmp_path / "file.json")
    assert not list(tmp_path.iterdir())


def test_a_stored_file_comes_back_as_it_went(tmp_path):
    found = replay.Stored("T1", "<=", math.inf, 0.1, {"x": [[0.1, 1], [2, 1e-300]], "n": 3})
    path = tmp_path / "file.json"
    path.write_text(replay.dump(found))
    assert replay.load(path) == found
