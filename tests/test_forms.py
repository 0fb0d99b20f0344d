"""The experiment on forms: its rows, its store, its page."""

from functools import partial

import numpy as np
import pytest

from paper_checks import cli
from paper_checks.forms import command, gates, page

SMALL = {"seeds": (0, 1), "tuning": (1000,), "lambdas": (None, 0.0, 60.0), "steps": 2}


@pytest.fixture(scope="module")
def rows():
    return {name: gates.path(name, **SMALL) for name in ("dlora", "decaf", gates.REOPENED)}


def test_a_threshold_above_all_gradients_closes_every_gate_and_none_leaves_all_open(rows):
    for name in ("dlora", "decaf"):
        open_gates = {row["lam"]: row.get("open") for row in rows[name] if row["seed"] == 0}
        assert open_gates == {None: None, 0.0: gates.RANK, 60.0: 0}
        (closed,) = (r for r in rows[name] if r["lam"] == 60.0 and r["seed"] == 0)
        # all of W is gone: the excess is that of W0 = 0
        draws = gates.draw("isotropic", [0])
        assert closed["rank"] == 0
        assert closed["excess"] == pytest.approx((draws.minimizer**2).sum() / 2, abs=1e-6)


def test_gates_that_a_mix_reopens_are_counted_before_it(rows):
    # 10 steps of lr 60 close a gate of one, in each round anew
    assert {row["open"] for row in rows[gates.REOPENED] if row["lam"] == 60.0} == {0}


def test_the_tables_show_means_and_intervals_of_what_is_stored(rows):
    own = rows["dlora"]
    values = [row["excess"] for row in own if row["lam"] == 0.0]
    assert f"{np.mean(values):.3f} ± " in gates.table(own)
    assert gates.monotone(own).splitlines()[-1].startswith("| dlora  | 2 of 2")


def test_what_grows_with_lambda_is_not_monotone():
    path = [{"seed": 0, "lam": lam, "open": x} for lam, x in ((0.1, 3), (0.0, 4), (0.3, 3))]
    assert gates.falls(path, 0, "open")
    assert not gates.falls([*path, {"seed": 0, "lam": 1.0, "open": 4}], 0, "open")


def test_a_trial_that_is_stored_is_not_taken_again(tmp_path, monkeypatch, capsys):
    taken = []

    def small(name):
        taken.append(name)
        return gates.path(name, **SMALL)

    trials = {f"gates {name}": partial(small, name) for name in ("local", "dlora")}
    monkeypatch.setattr(command, "TRIALS", trials)
    out = ["forms", "--out", str(tmp_path / "rows")]
    assert cli.main([*out, "--only", "gates dlora"]) == 0
    assert cli.main(out) == 0
    assert taken == ["dlora", "local"]
    found = command.STUDY.read(tmp_path / "rows.jsonl")
    assert found[0]["trials"] == 2
    assert {row["method"] for row in found[1:]} == {"local", "dlora"}
    assert cli.main([*out, "--only", "gate"]) != 0
    assert "unknown trial: 'gate'; near: gates local" in capsys.readouterr().err


def test_the_page_shows_what_is_stored():
    text = page.PAGE.read_text()
    found = command.STUDY.read()
    assert page.filled(text, found) == text, "python -m paper_checks forms --page"
    assert {block[1] for block in page.BLOCK.finditer(text)} >= page.PARTS.keys()
    assert {row["method"] for row in found[1:] if row["what"] == "gates"} == {*gates.NAMES}
    assert {row["seed"] for row in found[1:] if row["what"] == "gates"} == {*gates.SEEDS}


def test_the_page_is_written_where_it_is_kept(monkeypatch):
    written = {}
    monkeypatch.setattr(page, "write_atomically", written.__setitem__)
    assert cli.main(["forms", "--page"]) == 0
    assert list(written) == [page.PAGE]
