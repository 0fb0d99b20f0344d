"""The experiment on tasks in turn: its rows, its store, its page."""

from functools import partial

import numpy as np
import pytest

from decaf_theory import continual
from decaf_theory.methods import METHODS, keeping_directions
from decaf_theory.problems import planted_sequence
from decaf_theory.simulate import in_turn, learn
from decaf_theory.topology import TOPOLOGIES
from paper_checks import cli
from paper_checks.sequences import command, page, pictures, quadratics

EPS = np.finfo(np.float64).eps
SMALL = {"seeds": (0, 1), "steps": 3, "rank": 4, "N": 3, "d": 5, "k": 4}


def test_several_sequences_at_once_are_each_of_them_alone():
    seeds = SMALL["seeds"]
    together = quadratics.several(0.5, seeds, N=3, d=5, k=4)
    method, form = keeping_directions(METHODS["dlora"]), quadratics.FORMS["sd_lora"]
    run = {"rank": 4, "steps": 3, "lr": 0.4, "method": method, "form": form}
    Pi = TOPOLOGIES["ring"](3)
    found = learn(together, runs=2, Pi=Pi, **run).losses
    for at in (0, 1):
        one = together.of_run[at]
        # in two runs, too, as the streams of starts are named by run
        alone = learn(one, runs=2, Pi=Pi, **run).losses[at]
        np.testing.assert_allclose(found[at], alone, rtol=0, atol=1000 * EPS * alone.max())


def test_rows_are_in_units_of_the_loss_at_the_start():
    rows = quadratics.rows(1.0, "lora", **{**SMALL, "steps": 0})
    assert {row["way"] for row in rows} == {*quadratics.WAYS}
    for row in rows:
        assert row["average"] == pytest.approx(1, abs=16 * EPS)
        assert (row["forgetting"], row["seed"] in SMALL["seeds"]) == (0, True)


def test_a_table_compares_with_plain_lora_seed_by_seed():
    rows = [
        {"way": "dlora", "form": form, "seed": seed, "forgetting": x + seed}
        for form, x in (("lora", 1.0), ("sd_lora", 0.5))
        for seed in (1, 0)
    ]
    lines = page.table(rows, ("lora", "sd_lora"), ("forgetting",)).splitlines()
    assert [cell.strip() for cell in lines[-1].split("|")][1:-1] == [
        *("dlora", "sd_lora", "1.000 ± 6.353", "-0.500 ± 0.000", "2")
    ]
    assert "| - " in lines[-2]


def test_a_trial_that_is_stored_is_not_taken_again(tmp_path, monkeypatch, capsys):
    taken = []

    def small(form):
        taken.append(form)
        return quadratics.rows(0.0, form, **SMALL)

    trials = {f"quadratics 0 {form}": partial(small, form) for form in ("lora", "rank1_pool")}
    monkeypatch.setattr(command, "TRIALS", trials)
    out = ["sequences", "--out", str(tmp_path / "rows")]
    assert cli.main([*out, "--only", "quadratics 0 rank1_pool"]) == 0
    assert cli.main(out) == 0
    assert taken == ["rank1_pool", "lora"]
    found = command.STUDY.read(tmp_path / "rows.jsonl")
    assert found[0]["trials"] == 2
    assert {row["form"] for row in found[1:]} == {"lora", "rank1_pool"}
    assert cli.main([*out, "--only", "quadratics"]) != 0
    assert "unknown trial: 'quadratics'; near: quadratics 0 lora" in capsys.readouterr().err


def test_the_page_shows_what_is_stored():
    text, found = page.PAGE.read_text(), command.STUDY.read()
    assert page.filled(text, found) == text, "python -m paper_checks sequences --page"
    for what, module in (("quadratics", quadratics), ("pictures", pictures)):
        own = [row for row in found[1:] if row["what"] == what]
        assert {row["form"] for row in own} == {*module.FORMS}
        assert {row["way"] for row in own} == {*module.WAYS}
        assert {row["seed"] for row in own} == {*module.SEEDS}


def test_the_page_is_written_where_it_is_kept(monkeypatch):
    written = {}
    monkeypatch.setattr(page, "write_atomically", written.__setitem__)
    assert cli.main(["sequences", "--page"]) == 0
    assert list(written) == [page.PAGE]


def test_forgetting_of_rows_is_the_standard_one():
    (row, *_) = quadratics.rows(1.0, "lora", **{**SMALL, "seeds": (0,)})
    tasks = quadratics.several(1.0, (0,), N=3, d=5, k=4)
    run = {
        "rank": 4,
        "steps": 3,
        "lr": quadratics.LR,
        "method": keeping_directions(METHODS["local"]),
    }
    table = learn(tasks, Pi=TOPOLOGIES["ring"](3), **run).losses[0]
    unit = tasks.of_run[0].losses(np.zeros((5, 4))).mean()
    assert row["forgetting"] == float(continual.forgetting(table / unit, lower=True))


def test_noise_is_drawn_apart_for_every_task_and_seed(monkeypatch):
    seeds = []
    as_it_is = in_turn.simulate
    monkeypatch.setattr(
        in_turn, "simulate", lambda config: (seeds.append(config.seed), as_it_is(config))[1]
    )
    tasks = planted_sequence(T=3, N=2, d=3, k=3, tau=0.1)
    for seed in range(3):
        learn(tasks, rank=1, steps=1, lr=0.1, Pi=TOPOLOGIES["ring"](2), seed=seed)
    assert len({*seeds}) == 9
