"""Stored JSON of another shape, with a right checksum, is met at its reader and named."""

import copy
import hashlib
import json

import pytest

from decaf_theory.files import require_kinds, to_json
from decaf_theory.sums import sealed
from tests.figure_rows import write_run
from verification import cli, harness, store
from verification.evidence import at_most

OTHERS = (None, True, -1.5, 10**400, "x", [], [1, 2], {}, {"a": 1})
VERDICT = {
    **{"claim": "T1", "outcome": "holds", "expected": "holds", "rows": 1, "seconds": 0.1},
    **{"tightness": 1.0, "slack": None, "regimes": []},
}


@pytest.fixture
def run(tmp_path):
    """A folder with one run of the claims and one of the harness."""
    stored, _ = store.open_run(tmp_path, {"size": "quick", "seed": 0}, ["T1"])
    stored.put("T1", [at_most("case", 0.5, 1.0, rounding=1e-15, r=4).as_json()], dict(VERDICT))
    write_run(tmp_path / "run", "decaf", 0)
    return tmp_path


def changed(record):
    """Yield the record with each of its entries of another kind."""
    for name in record:
        yield from ({**record, name: other} for other in OTHERS)


def met(read, *files):
    """Return how often a reader refused what it met, always by the name of a file."""
    try:
        read()
    except store.StoreError as error:
        return any(str(file) in str(error) for file in files)
    return 0


def test_runs_of_the_harness_are_read_in_their_shape_only(run):
    folder = run / "run"
    about = store.read_run(folder)
    assert harness.read(folder).finished
    refused = 0
    for part in (about, about["settings"], about["seconds"], about["verdicts"]["T17"]):
        for other in changed(part):
            whole = copy.deepcopy(about)
            for place in (whole, whole["settings"], whole["seconds"], whole["verdicts"]["T17"]):
                if place == part:
                    place.clear()
                    place.update(other)
            (folder / store.RUN).write_bytes(to_json(sealed(whole)))
            refused += met(lambda: used(harness.read(folder)), folder)
    assert refused > 100


def used(stored):
    """Look at all that the table and the sweep look at."""
    assert isinstance(stored.finished, bool)
    assert stored.settings["name"].islower()
    assert f"{sum(stored.run['seconds'].values()):.1f} {stored.run['mixing_share']:.1%}"
    assert all(verdict["outcome"].islower() for verdict in stored.run["verdicts"].values())


@pytest.mark.parametrize(
    "line", [b"[]\n", b"1\n", b'{"claim": "training", "score": "x"}\n', b"{\n"]
)
def test_lines_of_a_run_are_read_in_their_shape_only(run, line):
    folder = run / "run"
    about = store.read_run(folder)
    (folder / store.ROWS).write_bytes(line)
    about["files"][store.ROWS] = hashlib.sha256(line).hexdigest()
    (folder / store.RUN).write_bytes(to_json(sealed(about)))
    with pytest.raises(store.StoreError, match=r"run is damaged \(.*; run it again"):
        harness.read(folder)


def test_verdicts_are_read_in_their_shape_only(run):
    assert store.read_verdicts(run) == [VERDICT]
    records = list(changed(VERDICT))
    refused = 0
    for record in records:
        (run / store.VERDICTS).write_text(json.dumps([sealed(record)]))
        refused += met(lambda: store.read_verdicts(run), run / store.VERDICTS)
    assert refused > len(records) / 2


def test_rows_of_another_shape_are_named_and_explained_without(run, capsys):
    about, (row,) = store.read_run(run), store.read_rows(run, "T1")
    refused = 0
    for other in changed(row):
        data = json.dumps(other).encode()
        store.rows_path(run, "T1").write_bytes(data)
        about["files"]["T1"] = hashlib.sha256(data).hexdigest()
        (run / store.RUN).write_bytes(to_json(sealed(about)))
        refused += met(lambda: store.read_evidence(run, "T1"), store.rows_path(run, "T1"))
    assert refused > 20
    assert cli.main(["explain", "T1", "--out", str(run)]) == 0
    assert "no deciding rows: " in capsys.readouterr().out


def test_what_a_reader_cannot_use_is_named(run):
    with (
        pytest.raises(store.StoreError, match=r"^rows: not as .* \(KeyError: 'site'\); make them"),
        store.fitting("rows", "make them again"),
    ):
        _ = {}["site"]
    with pytest.raises(ValueError, match="n must be int or null, got 'True'"):
        require_kinds({"n": True}, {"n": (int, type(None))})
