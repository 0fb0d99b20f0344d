"""The output shown in the README is that of a run, and a run is the same twice."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from verification.claims import CLAIMS
from verification.table import summary

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
ENTRY = re.compile(
    r"^(?P<claim>[TPWR]\d\S*)\s+(?P<statement>.*\S)\s+(?P<outcome>holds|violated)\s+"
    r"(?P<expected>holds|violated)\s+(?P<tightness>\S+)\s+(?P<rows>\d+)\s+(?P<seconds>[\d.]+)$"
)


def entries(text: str) -> dict[str, dict[str, str]]:
    """Return the lines of a table of verdicts, by claim."""
    found = (ENTRY.match(line) for line in text.splitlines())
    return {match["claim"]: match.groupdict() for match in found if match}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[tuple[str, Path]]:
    """Two quick runs of all claims: what they print, and where their rows are."""
    done = []
    for jobs in ("1", "2"):
        out = tmp_path_factory.mktemp("run") / "results"
        command = [sys.executable, "-m", "verification", "--out", str(out), "--jobs", jobs]
        run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        done.append((run.stdout, out))
    return done


@pytest.mark.slow
def test_the_readme_shows_what_a_run_prints(runs):
    shown = re.search(r"verification output: begin -->\n```text\n(.*?)```", README, re.S)[1]
    printed = runs[0][0]
    old, new = entries(shown), entries(printed)
    assert len(old) >= 24
    for claim in old:  # one that is new may wait for the next time the run is shown
        line = new[claim]
        for column in ("statement", "outcome", "expected", "rows"):
            assert old[claim][column] == line[column], claim
        if line["tightness"] != "-":
            # shown with four digits; another BLAS may round an ascent's path another way
            assert abs(float(old[claim]["tightness"]) - float(line["tightness"])) <= 0.05
    assert summary(list(old.values())) in shown


@pytest.mark.night
def test_the_readme_shows_every_claim():
    assert list(entries(README)) == [claim.id for claim in CLAIMS], "show a run of all claims"


@pytest.mark.slow
def test_two_runs_store_equal_rows_byte_by_byte(runs):
    first, second = ({p.name: p.read_bytes() for p in (out / "rows").iterdir()} for _, out in runs)
    assert first.keys() == {f"{claim}.jsonl" for claim in entries(runs[0][0])}
    assert first == second


@pytest.mark.slow
def test_false_readings_come_out_violated_and_every_outcome_is_expected(runs):
    verdicts = json.loads((runs[0][1] / "verdicts.json").read_text())
    assert all(verdict["outcome"] == verdict["expected"] for verdict in verdicts)
    assert sum(verdict["outcome"] == "violated" for verdict in verdicts) >= 8


def test_the_readme_has_exactly_the_two_commands():
    commands = re.findall(r"^pip install -c constraints.txt .*$", README, re.M)
    assert commands == [
        "pip install -c constraints.txt -e . && python -m verification",
        "pip install -c constraints.txt -e '.[test]' && python -m pytest",
    ]


def test_the_readme_names_no_host_but_pytorch_s_index_and_the_paper():
    hosts = set(re.findall(r"https?://([^/\s)]+)", README))
    assert hosts <= {"download.pytorch.org"}
