"""The page of claims is that of the claims, and the README says what a run says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from verification import cli
from verification.claim import Claim
from verification.claims import CLAIMS
from verification.cli import main
from verification.ledger import page

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "claims.md").read_text()


def listed() -> list[Claim]:
    """The claims on the page: one that is new may wait for the next time it is written."""
    return [claim for claim in CLAIMS if f"\n### {claim.id}\n" in PAGE]


def test_the_page_of_claims_is_current_in_all_that_it_says():
    assert page(listed()) == PAGE, "python -m verification docs"


@pytest.mark.night
def test_the_page_of_claims_has_them_all():
    assert listed() == CLAIMS, "python -m verification docs"


def test_docs_writes_the_page_where_it_is_kept(monkeypatch):
    written = {}
    monkeypatch.setattr(cli, "write_atomically", written.__setitem__)
    assert main(["docs"]) == 0
    assert written == {ROOT / "docs" / "claims.md": page(CLAIMS).encode()}


def test_every_formula_of_the_page_is_closed_and_no_cell_is_broken():
    text = page(CLAIMS)
    for line in text.splitlines():
        assert line.count("$`") == line.count("`$"), line
        assert "$" not in re.sub(r"\$`[^`]*`\$", "", line), line
        if line.startswith("| ["):
            assert len(re.findall(r"(?<!\\)\|", line)) == 5, line


@pytest.mark.parametrize(
    ("name", "least"),
    [
        *(("kernel", 1), ("scaling", 0), ("forms", 1), ("adapters", 0), ("diagnose", 0)),
        ("merging", 0),
    ],
)
def test_every_formula_of_a_page_is_closed(name, least):
    text = (ROOT / "docs" / f"{name}.md").read_text()
    text = re.sub(r"```(sh|python|text)\n[^`]*\n```", "", text)
    text, displayed = re.subn(r"```math\n[^`]*\n```", "", text)
    assert displayed >= least
    assert "```" not in text
    for line in text.splitlines():
        assert "$" not in re.sub(r"\$`[^`]*`\$", "", line), line


@pytest.mark.parametrize("room", "decaf_theory verification figures paper_checks tests".split())
def test_no_source_holds_a_control_character(room):
    # a formula in a docstring that is not raw turns \b and \v into these
    for path in (ROOT / room).rglob("*.py"):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", path.read_text()), path


def test_the_ten_lines_of_the_readme_run():
    code = re.search(
        r"ten lines: begin -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code[1]], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    labels = [line[:18].strip() for line in done.stdout.splitlines() if line[:1].isalpha()]
    assert labels == [
        "spectral gap",
        "interference",
        "truncation error",
        "its bound",
        "a safe step size",
    ]
