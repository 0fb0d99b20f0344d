"""claims.json: what the report page says of the claims, in order and whole."""

import json
import re
import subprocess
import sys

import pytest

from tests import fake_ledger
from verification import store, texts
from verification.ledger import NOTATION
from verification.run import LEDGER, Settings


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    out = tmp_path_factory.mktemp("texts")
    texts.write(out, LEDGER, Settings())
    return store.read_json(out / texts.FILE)


def test_every_claim_is_there_in_reading_order_with_all_of_its_words(kept):
    assert [entry["claim"] for entry in kept["claims"]] == [claim.id for claim in LEDGER.claims]
    for entry, claim in zip(kept["claims"], LEDGER.claims, strict=True):
        told = [entry["statement"]]
        told += [f"{name}: {text}" if name else text for name, text in entry["sections"]]
        assert " ".join(" ".join(told).split()) == " ".join(claim.text.split())
        names = [name.split(" (")[0] for name, _ in entry["sections"] if name]
        assert names == ["Assumptions", "Proof", "Extremal", "Counterexample", "Source"]


def test_every_false_reading_has_its_counterexample_as_a_program_that_refutes_it(kept):
    false = [entry for entry in kept["claims"] if entry["expected"] == "violated"]
    assert len(false) >= 20
    for entry in kept["claims"]:
        found = entry["counterexample"]
        assert (found is not None) == (entry in false)
        if found:
            assert found["replay"].endswith(f" replay {found['file']}")
            assert (LEDGER.folder.parent / found["file"]).is_file()
            compile(found["program"], found["file"], "exec")


@pytest.mark.slow
def test_the_program_of_a_counterexample_prints_the_numbers_beside_it(kept):
    found = next(e for e in kept["claims"] if e["claim"] == "T18-op")["counterexample"]
    done = subprocess.run(
        [sys.executable, "-c", found["program"]], capture_output=True, text=True, check=True
    )
    numbers = [float(line.split(" = ")[1]) for line in done.stdout.splitlines()]
    assert numbers == pytest.approx([found["measured"], found["bound"]], rel=1e-12)


def test_the_notation_is_a_list_without_its_bullets(kept):
    assert len(kept["notation"]) == NOTATION.count("\n- ")
    assert " ".join(kept["notation"]).split() == re.sub("^- ", "", NOTATION, flags=re.M).split()


@pytest.mark.parametrize(
    ("settings", "typed"),
    [
        (Settings(), ""),
        (Settings("full", 3), " --size full --seed 3"),
        (Settings(device="torch"), " --device torch"),
    ],
)
def test_the_command_repeats_what_is_not_the_default(tmp_path, settings, typed):
    ledger = fake_ledger.ledger_in(tmp_path)
    entry = texts.entry(fake_ledger.TRUE, ledger, settings)
    assert entry["command"] == f"python -m verification --only T1{typed}"
    assert json.loads(json.dumps(entry)) == entry


def test_equal_ledgers_give_equal_bytes(tmp_path):
    files = []
    for name in ("first", "second"):
        texts.write(tmp_path / name, LEDGER, Settings())
        files.append((tmp_path / name / texts.FILE).read_bytes())
    assert files[0] == files[1]
