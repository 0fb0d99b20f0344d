"""Every breakage of the mutation table is caught; of 200 drawn ones, 97 %.

By night; `pytest -m mutants` asks some of them, others whenever the table changes.
"""

import hashlib
import os
import random
from pathlib import Path

import pytest

from decaf_theory.extras import installed
from tests.mutants import TESTS, asked_for, changes
from tests.mutation import ROOT, Change, caught, drawn, exit_codes

PACKAGES = (
    *(f"decaf_theory/{name}" for name in "bounds measure.py moments methods simulate tsvd".split()),
    "verification/instances",
)
# the kernels of Triton and Numba run only where these are, and compile anew for each breakage;
# allowances of a check have room
COMPILED = ("jacobi_triton.py", "compiled.py", "lanes.py", "products.py", "simd.py")
NOT_DRAWN = (*COMPILED, "checking.py", "gaps.py", "promises.py")
DRAWN_FROM = [
    str(path.relative_to(ROOT))
    for name in PACKAGES
    for path in sorted([ROOT / name, *(ROOT / name).rglob("*")])
    if path.suffix == ".py" and path.name not in NOT_DRAWN
]
DRAWN = 200
SAMPLE, SECONDS = 60, 90  # so many breakages, and in which time they begin
KERNEL = "decaf_theory/tsvd"
ASKED = sorted({test for tests in TESTS.values() for test in tests})
EXPLAINED = {(change.path, change.source) for change in changes("explained.txt")}


def survivors(jobs, folder: Path) -> list[Change]:
    codes = exit_codes([(change, asked_for(change.path)) for change in jobs], folder)
    return [change for change, code in zip(jobs, codes, strict=True) if not caught(code)]


def unexplained(found: list[Change]) -> list[str]:
    return [change.label for change in found if (change.path, change.source) not in EXPLAINED]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Breakages and pytest's exit codes; the first one is none.

    They depend on the table: another one draws others, and the same one the same again.
    """
    name = hashlib.sha256((ROOT / "tests" / "mutants.txt").read_bytes()).hexdigest()[:12]
    table = changes()
    random.Random(name).shuffle(table)
    if not installed("transformers"):  # the harness trains its models
        table = [change for change in table if not change.path.startswith("paper_checks/")]
    jobs = table[:SAMPLE]
    asked = [(None, asked_for("decaf_theory/sums.py"))]
    asked += [(change, asked_for(change.path)) for change in jobs]
    codes = exit_codes(asked, tmp_path_factory.mktemp("sample"), SECONDS)
    print(f"table {name}: {len(codes) - 1} breakages")
    return [(change, code) for (change, _), code in zip(asked, codes, strict=False)]


def test_the_table_reaches_every_file_of_the_kernel():
    table = changes()
    assert len(table) >= 140
    assert {path for path in DRAWN_FROM if path.startswith(KERNEL)} <= {c.path for c in table}


@pytest.mark.mutants
def test_without_a_breakage_the_asked_tests_pass(sample):
    assert sample[0] == (None, 0)


@pytest.mark.night
def test_without_a_breakage_all_asked_tests_pass(tmp_path):
    codes = exit_codes([(None, [test]) for test in ASKED], tmp_path)
    assert dict(zip(ASKED, codes, strict=True)) == dict.fromkeys(ASKED, 0)


@pytest.mark.mutants
def test_a_sample_of_the_table_is_caught(sample):
    assert sample[1:]
    assert [change.label for change, code in sample[1:] if not caught(code)] == []


@pytest.mark.night
def test_every_breakage_of_the_table_is_caught(tmp_path):
    assert survivors(changes(), tmp_path) == []


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
