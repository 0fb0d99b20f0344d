"""Every breakage of the mutation table is caught; of 200 drawn ones, 97 %."""

import os
from pathlib import Path

import pytest

from tests.mutants import TESTS, asked_for, changes
from tests.mutation import ROOT, Change, caught, drawn, exit_codes

PACKAGES = (
    *(f"decaf_theory/{name}" for name in "bounds measure.py moments methods simulate tsvd".split()),
    "verification/instances",
)
DRAWN_FROM = [
    str(path.relative_to(ROOT))
    for name in PACKAGES
    for path in sorted([ROOT / name, *(ROOT / name).rglob("*")])
    # the Triton kernel runs only where triton is installed
    if path.suffix == ".py" and path.name != "jacobi_triton.py"
]
DRAWN = 200
KERNEL = "decaf_theory/tsvd"
ASKED = sorted({test for tests in TESTS.values() for test in tests})
EVERY = changes()[::20]
EXPLAINED = {(change.path, change.source) for change in changes("explained.txt")}


def survivors(jobs, folder: Path) -> list[Change]:
    codes = exit_codes([(change, asked_for(change.path)) for change in jobs], folder)
    return [change for change, code in zip(jobs, codes, strict=True) if not caught(code)]


def of_harness(change: Change) -> bool:
    return change.path.startswith("paper_checks/")


def unexplained(found: list[Change]) -> list[str]:
    return [change.label for change in found if (change.path, change.source) not in EXPLAINED]


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(["tests/test_lowrank.py"], id="of one file"),
        pytest.param(ASKED, id="of all", marks=pytest.mark.night),
    ],
)
def test_without_a_breakage_the_asked_tests_pass(asked, tmp_path):
    codes = exit_codes([(None, [test]) for test in asked], tmp_path)
    assert dict(zip(asked, codes, strict=True)) == dict.fromkeys(asked, 0)


def test_the_table_reaches_every_file_of_the_kernel():
    table = changes()
    assert len(table) >= 140
    assert {path for path in DRAWN_FROM if path.startswith(KERNEL)} <= {c.path for c in table}


@pytest.mark.slow
def test_every_twentieth_breakage_of_the_table_is_caught(tmp_path):
    assert survivors([change for change in EVERY if not of_harness(change)], tmp_path) == []


@pytest.mark.slow
def test_every_twentieth_breakage_of_the_harness_is_caught(tmp_path):
    pytest.importorskip("transformers", reason="the harness trains models of transformers")
    assert survivors([change for change in EVERY if of_harness(change)], tmp_path) == []


@pytest.mark.night
def test_every_breakage_of_the_table_is_caught(tmp_path):
    assert survivors(changes(), tmp_path) == []


@pytest.mark.slow
def test_a_sample_of_drawn_breakages_is_caught(tmp_path):
    found = unexplained(survivors(drawn(DRAWN_FROM, DRAWN, seed=0)[:10], tmp_path))
    assert len(found) <= 1, found  # any new line of code changes the draw


@pytest.mark.night
def test_drawn_breakages_are_caught_to_97_percent(tmp_path):
    seed = int(os.environ.get("MUTATION_SEED", "0"))
    found = unexplained(survivors(drawn(DRAWN_FROM, DRAWN, seed=seed), tmp_path))
    print("\n".join(["survivors:", *found]))
    assert len(found) <= 0.03 * DRAWN


@pytest.mark.night
def test_what_is_explained_does_survive(tmp_path):
    explained = changes("explained.txt")
    assert survivors(explained, tmp_path) == explained
