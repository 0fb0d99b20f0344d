"""The output shown in the README is that of a run, and a run is the same twice."""

import json
import re
from pathlib import Path

import pytest

import paper_checks.cli
from decaf_theory.methods import METHODS
from paper_checks import config
from tests.conftest import run_quickly
from tests.test_commands import split
from verification.claims import CLAIMS
from verification.table import summary

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
ENTRY = re.compile(
    r"^(?P<claim>[TPWR]\d\S*)\s+(?P<statement>.*\S)\s+(?P<outcome>holds|violated)\s+"
    r"(?P<expected>holds|violated)\s+(?P<tightness>\S+)\s+(?P<rows>\d+)\s+(?P<seconds>[\d.]+)$"
)

SYSTEM = re.compile(r"^\| (?P<name>[\w-]+) \| (?P<here>[^|]+) \| `(?P<command>[^`]+)` \|$", re.M)
SYSTEMS = {match["name"]: match.groupdict() for match in SYSTEM.finditer(README)}


def entries(text: str) -> dict[str, dict[str, str]]:
    """Return the lines of a table of verdicts, by claim."""
    found = (ENTRY.match(line) for line in text.splitlines())
    return {match["claim"]: match.groupdict() for match in found if match}


@pytest.mark.slow
def test_the_readme_shows_what_a_run_prints(quick_run):
    shown = re.search(r"verification output: begin -->\n```text\n(.*?)```", README, re.S)[1]
    printed, _ = quick_run
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
def test_a_run_stores_rows_of_every_claim_it_prints(quick_run):
    printed, out = quick_run
    assert stored(out).keys() == {f"{claim}.jsonl" for claim in entries(printed)}


@pytest.mark.night
def test_a_second_run_with_one_process_stores_equal_rows_byte_by_byte(quick_run, tmp_path):
    assert stored(run_quickly(tmp_path, "--jobs", "1")[1]) == stored(quick_run[1])


def stored(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "rows").iterdir()}


@pytest.mark.slow
def test_false_readings_come_out_violated_and_every_outcome_is_expected(quick_run):
    verdicts = json.loads((quick_run[1] / "verdicts.json").read_text())
    assert all(verdict["outcome"] == verdict["expected"] for verdict in verdicts)
    assert sum(verdict["outcome"] == "violated" for verdict in verdicts) >= 8


def test_the_readme_has_exactly_the_two_commands():
    commands = re.findall(r"^pip install -c constraints.txt .*$", README, re.M)
    assert commands == [
        "pip install -c constraints.txt -e . && python -m verification",
        "pip install -c constraints.txt -e '.[test]' && python -m pytest -n auto --dist loadfile",
    ]


def test_the_readme_names_no_host_but_pytorch_s_index_and_the_paper():
    hosts = set(re.findall(r"https?://([^/\s)]+)", README))
    assert hosts <= {"download.pytorch.org"}


def test_every_system_names_a_training_that_is_possible_and_how_sure_its_rule_is():
    assert {"DeCAF", "Dec-LoRA", "ASDA"} <= set(SYSTEMS)
    for name, line in SYSTEMS.items():
        _, words = split(line["command"])
        args = paper_checks.cli.parser().parse_args(words)
        if args.command not in ("run", "sweep"):
            continue
        methods = args.methods if args.command == "sweep" else [args.method]
        unsure = any(METHODS[method].origin.confidence in "K?" for method in methods)
        assert ("reading, not confirmed" in line["here"]) is unsure, name
        for method in methods:
            given = dict(text.split("=") for text in args.set) | {"mix.method": method}
            given |= {"mix.graph": args.graph} if args.command == "run" and args.graph else {}
            chosen = {name: config.value_of(str(value)) for name, value in given.items()}
            config.read(args.config, chosen)
