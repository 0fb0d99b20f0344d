"""The page of findings says what the claims, their rows and their counterexamples say."""

import json
import re
from pathlib import Path

import pytest

from decaf_theory import bounds
from figures import cli as drawing
from tests.claim_rows import CLAIMS, rows_of
from tests.test_readme import entries
from verification import options
from verification.run import LEDGER

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGE = (DOCS / "findings.md").read_text()
LEDGER_SHOWN = entries((ROOT / "README.md").read_text())
SECTIONS = re.split(r"^## (?=\d)", PAGE, flags=re.M)[1:]
LINE = re.compile(
    r"^\| \[(?P<claim>\S+)\]\(claims\.md#(?P<anchor>\S+)\) \| (?P<status>\w+) \| (?P<outcome>\w+) "
    r"\| (?P<number>[^|]+) \| `(?P<command>[^`|]+)` \|$",
    re.M,
)
LINES = {match["claim"]: match.groupdict() for match in LINE.finditer(PAGE)}
COMMANDS = sorted(set(re.findall(r"`(python -m [^`]+)`", PAGE)))

each = pytest.mark.parametrize("name", LINES)


def test_there_are_ten_findings_and_each_names_its_claims_and_is_in_the_contents():
    assert [section.split(".")[0] for section in SECTIONS] == [str(i) for i in range(1, 11)]
    for number, section in enumerate(SECTIONS, 1):
        assert LINE.search(section), number
        title = section.split("\n")[0]
        anchor = re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        assert f"| [{number}](#{anchor}) |" in PAGE
    assert len(LINES) == len(re.findall(r"^\| \[.*claims\.md#", PAGE, re.M)), "a broken line"


def test_every_claim_that_is_named_exists():
    text = re.sub(r"\$`[^`]*`\$|\]\([^)]*\)", "", PAGE)
    named = set(re.findall(r"\b[TPRW]\d+[a-z]?(?:-[a-z]+(?:-[a-z]+)*)?\b", text))
    assert named >= set(LINES)
    assert named <= set(CLAIMS)


@each
def test_a_line_says_of_its_claim_what_the_record_says(name):
    line = LINES[name]
    assert line["anchor"] == name.lower()
    assert line["status"] == CLAIMS[name].status
    assert line["outcome"] == CLAIMS[name].expected


@each
def test_a_line_shows_the_number_of_the_rows_or_of_the_counterexample(name):
    claim = CLAIMS[name]
    if claim.expected == "violated":
        kept = json.loads(LEDGER.counterexample(name).read_text())
        assert LINES[name]["number"] == f"{kept['measured']:.4g} against {kept['bound']:.4g}"
    elif claim.chosen_bound:
        assert LINES[name]["number"] == "-"
    elif name in LEDGER_SHOWN:  # one that is new may wait for the next time a run is shown there
        assert LINES[name]["number"] == LEDGER_SHOWN[name]["tightness"]


@each
def test_a_line_gives_a_command_that_shows_its_claim(name):
    command = LINES[name]["command"]
    if command.startswith("python -m figures"):
        only = drawing.parser().parse_args(command.split()[3:]).only
        assert any(name in drawing.FIGURES[figure].NEEDS for figure in only)
        return
    args = options.parse(command.split()[3:])
    if CLAIMS[name].expected == "violated":
        assert args.command == "replay"
        assert ROOT / args.file == LEDGER.counterexample(name)
    else:
        assert args.command == "explain"
        assert args.id == name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_that_the_programs_understand(command):
    program, *words = command.split()[2:]
    if program == "figures":
        assert set(drawing.parser().parse_args(words).only) <= set(drawing.FIGURES)
    else:
        assert program == "verification"
        assert options.parse(words).command


def test_every_link_leads_somewhere_and_every_formula_of_the_library_exists():
    for target in re.findall(r"\]\(([^)#]*)", PAGE):
        assert (DOCS / target).exists(), target
    for anchor in re.findall(r"\]\(claims\.md#([^)]+)\)", PAGE):
        assert anchor in {name.lower() for name in CLAIMS}, anchor
    found = re.findall(r"`bounds\.(\w+)`", PAGE)
    assert found
    assert all(hasattr(bounds, name) for name in found)


def test_every_formula_of_the_findings_is_closed_and_no_cell_is_broken():
    text, displayed = re.subn(r"```math\n[^`]*\n```", "", PAGE)
    assert displayed > 0
    assert "```" not in text
    for line in text.splitlines():
        assert "$" not in re.sub(r"\$`[^`]*`\$", "", line), line
        if line.startswith("| ["):
            cells = 3 if re.match(r"\| \[\d", line) else 5
            assert len(re.findall(r"(?<!\\)\|", line)) == cells + 1, line


@pytest.mark.slow
def test_the_numbers_in_the_text_are_those_of_the_rows():
    networks = [row.tightness for row in rows_of("T14") if row.params["topology"] != "two scalars"]
    least, most = min(networks), max(networks)
    assert f"reach between {least:.3f} and {most:.2f} of it" in " ".join(PAGE.split())
