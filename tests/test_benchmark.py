"""The benchmark of adapters: predictions, contrasts, the page, without any training."""

import json

import numpy as np
import pytest

from decaf_theory import tsvd
from decaf_theory.lowrank import Factors
from decaf_theory.measure import interference_norm, mix_norm, truncation_error
from decaf_theory.stats import bonferroni, detectable_difference, mean_interval
from paper_checks.benchmark import cells, command, judge, page, predict
from paper_checks.benchmark.cells import Cell, Job, Suite
from paper_checks.benchmark.judge import Contrast, Place
from paper_checks.rules import ADAPTER_METHODS, ConfigError

EPS = float(np.finfo(np.float64).eps)
PLACE, OTHER = Place("digits", "primary"), Place("digits", "common")


# ---------------------------------------------------------------- predictions


def test_what_was_predicted_before_the_runs_is_still_predicted():
    assert command.STUDY.read(predict.STORED) == json.loads(json.dumps(predict.predictions()))


def drawn(m, seed, k=256, alike=False):
    """First steps B_i = G_i A_i' from independent A_i: m agents, G_i equal or independent."""
    draw = np.random.default_rng(seed)
    A = draw.uniform(-1, 1, (m, 4, k)) / k**0.5
    G = draw.standard_normal((1 if alike else m, 24, k))
    return Factors(G @ A.swapaxes(-1, -2), A)


def squared(m, seed, **how):
    factors, Pi = drawn(m, seed, **how), np.full((1, m), 1 / m)
    found = tsvd.tsvd_of_mix(factors, Pi, 4)
    mix = float(mix_norm(found)[0]) ** 2
    return [
        float(x[0]) ** 2 / mix for x in (interference_norm(factors, Pi), truncation_error(found))
    ]


@pytest.mark.parametrize("m", [2, 3, 10])
@pytest.mark.parametrize("alike", [False, True])
def test_interference_of_independent_starts_is_what_is_predicted(m, alike):
    start = predict.Start(m, 0.5, 1.0, 0.0, 4 / 256, 4, 10)
    low, high = (x**2 for x in predict.predict(start).interference)
    found = [squared(m, seed, alike=alike)[0] for seed in range(40)]
    # the mean of the draws, at four of its standard errors; the formula drops terms of 1/k
    slip = 4 * np.std(found, ddof=1) / len(found) ** 0.5 + 4 / 256
    assert low - slip <= np.mean(found) <= high + slip


@pytest.mark.parametrize(("m", "flat"), [(3, True), (10, True), (3, False), (10, False)])
def test_the_ends_of_the_predicted_truncation_are_attained(m, flat):
    """Orthogonal products, their energy even or in one direction."""
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))[0]
    A = Q[: 4 * m].reshape(m, 4, 64)
    B = np.linalg.qr(np.random.default_rng(1).standard_normal((64, 64)))[0][:, : 4 * m]
    B = B.reshape(64, m, 4).transpose(1, 0, 2) * ([1, 1, 1, 1] if flat else [1, 0, 0, 0])
    found = tsvd.tsvd_of_mix(Factors(B, A), np.full((1, m), 1 / m), 4)
    lost = float(truncation_error(found)[0] / mix_norm(found)[0])
    want = predict.predict(predict.Start(m, 0.5, 1.0, 0.0, 0.0, 4, 10)).truncation
    # a square root of what is lost: rounding of 1e-16 is 1e-8 where nothing is
    assert abs(lost - want[flat]) <= 64 * EPS**0.5


def test_one_common_start_has_no_interference_before_A_moves():
    start = predict.Start(3, 0.5, 0.0, 0.0, 0.1, 4, 10)
    one = predict.predict(start)
    assert (one.interference, one.truncation, one.sign) == ((0, 0), (0, 0), 0)
    moved = predict.predict(start._replace(moved=0.3))
    assert moved.interference == (0, pytest.approx(0.3 * (2 / 3) ** 0.5))


def test_a_sign_is_predicted_where_A_stays_apart_for_a_good_part_of_the_rounds():
    start = predict.Start(10, 0.0, 1.0, 0.5, 0.08, 4, 15)
    assert predict.share_apart(start) == 1 / 15  # the complete graph: the first mix
    assert predict.predict(start).sign == 0
    assert predict.predict(start._replace(rounds=1)).sign == 1
    assert predict.share_apart(start._replace(forget=np.exp(-0.5))) == pytest.approx(3 / 15)


def test_what_a_prediction_is_made_from_is_that_of_the_cell():
    start = predict.start_of("digits", cells.cell_of("digits", "K50"))
    assert (start.meet, start.rank, start.rounds, start.spread) == (3, 4, 3, 1.0)
    assert start.moved == pytest.approx(49 * 5e-3 * (3 * 48) ** 0.5)
    pairs = predict.start_of("digits", cells.cell_of("digits", "pairs"))
    assert (pairs.meet, pairs.forget) == (2, pytest.approx((1 - 5 / 9) ** 0.5))


def test_adapters_that_are_joined_are_predicted_as_one_mix_of_as_many_agents():
    start = predict.start_of("minilm", cells.cell_of("minilm", "rank16"), "4 members")
    assert (start.meet, start.rank, start.rounds, start.spread) == (4, 16, 1, 1.0)
    assert start.forget <= 4 * EPS  # sums of four quarters: all agree after it
    assert start.overlap == 16 / 384
    # rank m r: the best of rank r holds 1/m at least, so that this end cannot be passed
    assert predict.predict(start).truncation.high == (1 - 1 / 4) ** 0.5


# ---------------------------------------------------------------- cells


def test_every_cell_changes_one_thing_and_every_training_has_a_name_of_its_own():
    names = [job.name for job in cells.jobs()]
    assert len(names) == len(set(names))
    primary = cells.config_of(Job("digits", "primary", "decaf", 20)).settings()
    for cell in cells.DIGITS.cells:
        if "decaf" in cell.methods:
            other = cells.config_of(Job("digits", cell.name, "decaf", 20)).settings()
            changed = {name for name in primary if other[name] != primary[name]}
            assert len(changed) + (cell.graph == "random_matching" or 0 < cell.spread < 1) == (
                cell.name != "primary"
            ), changed
    assert primary["lora.train_heads"] is primary["lora.equal_start"] is False


def test_every_suite_has_one_primary_contrast():
    for suite in cells.SUITES:
        found = [one.place.primary for one in judge.contrasts(suite, predict.predictions())]
        assert found.count(True) == 1


def test_methods_of_one_common_start_have_one():
    for method, common in (("dlora_fa", True), ("centralized", True), ("fedavg", False)):
        config = cells.config_of(Job("digits", "all", method, 20))
        assert config.lora.equal_start is common


def test_every_method_plays_in_the_primary_cell_unless_its_settings_forbid_it():
    played = {job.method for job in cells.jobs(["digits"], ["primary", "all"])}
    for name in ADAPTER_METHODS:
        job = Job("digits", "all", name, 20)
        if name in played:
            cells.config_of(job)
        else:
            with pytest.raises(ConfigError, match=f"must be 'sgd' for {name}"):
                cells.config_of(job)


def test_seeds_that_count_are_fewer_where_asked_and_never_those_of_trials():
    assert {job.seed for job in cells.jobs(["digits"], ["primary"], 2)} == {20, 21}
    assert min(job.seed for job in cells.jobs()) >= 20


# ---------------------------------------------------------------- contrasts


def rows_of(place, first, second, graph=None):
    more = {} if graph is None else {"graph": graph}
    return [
        {"suite": place.suite, "cell": place.cell, "method": method, "seed": seed, "own": x}
        | {"mean": 2 * x, **more}
        for method, values in (("decaf", first), ("dlora", second))
        for seed, x in enumerate(values)
        if x is not None
    ]


def test_the_primary_contrast_stands_alone_and_the_others_together():
    first, second = [3.0, 5.0, 4.0, 6.0], [1.0, 2.0, 3.0, 2.0]
    rows = [row for place in (PLACE, OTHER) for row in rows_of(place, first, second)]
    once = Place("digits", "once", "ring")
    rows += rows_of(once, first, second, "ring")
    asked = [Contrast(place, "decaf", "dlora", place, 1) for place in (PLACE, OTHER, once)]
    asked.append(Contrast(Place("digits", "K50"), "decaf", "dlora", Place("digits", "K50"), 1))
    primary, other, last = judge.judged(rows, asked)  # one has not been run, but will be
    values = np.subtract(first, second)
    assert primary.own == mean_interval(values, judge.LEVEL)
    assert other.own == last.own == mean_interval(values, bonferroni(judge.LEVEL, 3))
    assert primary.mean == 2 * values.mean()
    assert primary.seeds == 4


def test_only_seeds_of_both_are_paired_and_a_single_one_says_nothing():
    rows = rows_of(PLACE, [3.0, None, 5.0, 9.0], [1.0, 7.0, 2.0])
    one = Contrast(PLACE, "decaf", "dlora", PLACE, 1)
    assert judge.differences(rows, one) == [2.0, 3.0]
    assert judge.judged(rows_of(PLACE, [3.0], [1.0]), [one]) == []


def test_effects_are_in_points_and_in_deviations_of_the_seeds():
    rows = rows_of(PLACE, [3.0, 5.0, 4.0, 6.0], [1.0, 2.0, 3.0, 2.0])
    table = page.effects(rows, predict.predictions(), "digits")
    least = detectable_difference(np.std([2, 3, 1, 4], ddof=1), 4, judge.LEVEL)
    found_ = [cell.strip() for cell in table.splitlines()[-1].split("|")]
    assert found_[4] == "+2.5"
    assert found_[6:8] == [f"{2.5 / np.std([2, 3, 1, 4], ddof=1):+.1f}", f"{least:.1f}"]


@pytest.mark.parametrize(
    ("values", "sign", "word"),
    [
        ([1.0, 1.1], 1, "as predicted"),
        ([-1.0, -1.1], 1, "opposite"),
        ([-1.0, 1.0], 1, "not seen"),
        ([1.0, 1.1], 0, "above zero"),
        ([-1.0, -1.1], 0, "below zero"),
        ([-1.0, 1.0], 0, "holds zero"),
    ],
)
def test_the_word_of_an_interval(values, sign, word):
    assert judge.word(mean_interval(values), sign) == word


def test_controls_are_compared_with_the_method_that_they_change():
    found = judge.contrasts("digits", predict.predictions())
    assert found[0] == Contrast(PLACE, "decaf", "dlora", PLACE, 1)
    place = Place("digits", "controls")
    assert Contrast(place, "dlora_rebalanced", "dlora", PLACE, 0) in found
    assert Contrast(place, "decaf_lora_gauge", "decaf", PLACE, 0) in found


def test_an_outcome_is_in_its_range_if_all_seeds_are():
    one = judge.Outcome(PLACE, "", "interference", [0.2, 0.4], (0.2, 0.3, 0.4), 3)
    assert one.inside
    assert not one._replace(measured=(0.19, 0.3, 0.4)).inside
    assert not one._replace(measured=(0.2, 0.3, 0.41)).inside


# ---------------------------------------------------------------- page and command


def test_the_page_shows_the_stored_rows():
    texts = [path.read_text(encoding="utf-8") for path in page.PAGES]
    for text in texts:
        found = page.filled(text, page.stored(), command.STUDY.read(predict.STORED))
        assert found == text, "python -m paper_checks benchmark --page"
    names = {block[1] for text in texts for block in page.BLOCK.finditer(text)}
    tables = ("run", "primary", "predictions")
    assert names >= {f"{name} {suite}" for suite in page.stored() for name in tables}
    assert names >= {"contrasts digits", "contrasts minilm", "methods digits", "once digits"}
    assert names >= {"effects digits", "join minilm"}


def test_the_stored_rows_are_those_of_named_trainings():
    known = {job.name for job in cells.jobs()}
    rows = [row for about, *rows in page.stored().values() for row in rows]
    for row in rows:
        place, seed = f"{row['suite']}-{row['cell']}", row["seed"]
        names = (row["method"], cells.ONCE, cells.JOIN)
        assert {f"{place}-{name}-{seed}" for name in names} & known


@pytest.fixture
def tiny(monkeypatch):
    """A suite of one cell, and trainings that take no time."""
    suite = Suite("vit-digits", cells.DIGITS.settings, (Cell("primary", "here", seeds=(20, 21)),))
    monkeypatch.setitem(cells.SUITES, "digits", suite)
    played = []

    def play_job(job, stop):
        played.append(job.name)
        rows = [{**job.row(), "own": 50.0 + job.seed, "mean": 60.0}]
        return command.sweep.Outcome(job.name, "finished", "", 0, rows, 1.0)

    monkeypatch.setattr(command, "play_job", play_job)
    return played


def run(out, *more):
    from paper_checks import cli

    return cli.main(["benchmark", "--out", str(out), *more])


def test_the_command_goes_on_where_it_stopped(tiny, tmp_path):
    out = tmp_path / "rows"
    assert run(out, "--seeds", "1") == 0
    assert tiny == ["digits-primary-dlora-20", "digits-primary-decaf-20"]
    assert run(out) == 0
    assert tiny[2:] == ["digits-primary-dlora-21", "digits-primary-decaf-21"]
    about, *rows = command.STUDY.read(out.with_suffix(".jsonl"))
    assert (about["trainings"], len(rows)) == (4, 4)
    assert run(out) == 0
    assert len(tiny) == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--suites", "digit"], "unknown suite: 'digit'; near: digits"),
        (["--cells", "primry"], "unknown cell: 'primry'; near: primary"),
        (["--seeds", "0"], "--seeds must be >= 1, got 0"),
        (["--jobs", "0"], "--jobs must be >= 1, got 0"),
    ],
)
def test_what_is_asked_wrongly_is_named(tiny, tmp_path, capsys, more, message):
    assert run(tmp_path / "rows", *more) == 2
    assert message in capsys.readouterr().err
    assert not tiny
