"""The protocol of a sweep: a choice on validation, one contrast named first, both endpoints."""

import re

import numpy as np
import pytest

from decaf_theory.stats import detectable_difference, paired_interval, paired_p
from paper_checks import config as configs
from paper_checks import kept, protocol, selection, table
from paper_checks.choosing import at_an_end, best
from paper_checks.protocol import Contrast, Plan
from paper_checks.rules import ConfigError
from tests.test_paper_table import DIFFERENCE, cells, stored
from verification.store import StoreError

GRID = {"train.lr": [0.01, 0.02, 0.04]}
PLAN = Plan(("dlora", "decaf"), ("ring",), ("iid",), (0, 1), GRID)
PRIMARY = Contrast("decaf", "dlora", "ring", "iid")


def test_the_best_of_a_grid_is_the_first_of_equals_and_an_end_is_of_numbers():
    assert best({0.1: 1.0, 0.2: 3.0, 0.4: 3.0}) == 0.2
    assert best({0.1: 1.0, 0.2: 3.0, 0.4: 1.0}, lower=True) == 0.1
    assert best({}) is None
    assert [at_an_end(x, (2, 1, 4)) for x in (1, 2, 4)] == [True, False, True]
    assert not at_an_end("adamw", ("adamw", "sgd"))
    assert not at_an_end(1, (1,))


# ---------------------------------------------------------------- chosen on validation


def swept(out, scores, plan=PLAN):
    """Write runs of a grid: scores[method, lr] is a list of (test, validation) by seed."""
    protocol.keep(out / "net", plan, None, 0)
    for (method, lr), pairs in scores.items():
        for seed, (test, validation) in enumerate(pairs):
            stored(
                out,
                [0.1, test],
                method=method,
                seed=seed,
                validation=[0.1, validation],
                point=f"train.lr={lr}",
                train__lr=lr,
                data__validation=20,
            )


SCORES = {
    ("dlora", 0.01): [(0.9, 0.5), (0.9, 0.5)],
    ("dlora", 0.02): [(0.6, 0.7), (0.62, 0.7)],
    ("dlora", 0.04): [(0.8, 0.6), (0.8, 0.6)],
    ("decaf", 0.01): [(0.7, 0.5), (0.7, 0.5)],
    ("decaf", 0.02): [(0.9, 0.6), (0.9, 0.6)],
    ("decaf", 0.04): [(0.64, 0.7), (0.68, 0.9)],
}


def test_every_method_has_the_value_of_its_best_validation_score_whatever_the_test_says(tmp_path):
    swept(tmp_path, SCORES)
    text = table.text([tmp_path])
    assert cells(text, "Chosen on validation", "dlora") == ["0.02"]
    assert cells(text, "Chosen on validation", "decaf") == ["0.04*"]
    assert cells(text, "Last round", "dlora")[0].startswith("61.0 ± ")
    assert cells(text, "Last round", "decaf")[0].startswith("66.0 ± ")
    assert "train.lr in 0.01, 0.02, 0.04" in text
    assert "Unequal" not in text
    # 66 - 61 with seeds 64 - 60 and 68 - 62
    assert cells(text, DIFFERENCE, "decaf")[0].startswith("+5.0 [")
    (found,), _ = kept.experiments([tmp_path])
    kept.save(found, tmp_path / "file")
    assert table.text([tmp_path / "file"]) == text


def test_a_value_that_lacks_a_seed_is_not_chosen_and_unequal_budgets_are_said(tmp_path):
    swept(tmp_path, SCORES | {("dlora", 0.02): SCORES["dlora", 0.02][:1]})
    text = table.text([tmp_path])
    assert cells(text, "Chosen on validation", "dlora") == ["0.04*"]
    assert "Unequal budgets: 6 runs, but dlora iid ring 5 runs." in text


def test_runs_without_validation_have_no_choice(tmp_path):
    protocol.keep(tmp_path / "net", PLAN, None, 0)
    stored(tmp_path, [0.5], point="train.lr=0.01", train__lr=0.01)
    with pytest.raises(StoreError, match="has no validation scores"):
        table.text([tmp_path])


def test_runs_of_a_grid_may_differ_in_what_is_swept_alone(tmp_path):
    swept(tmp_path, SCORES)
    more = {"data__validation": 20, "train__lr": 0.01, "train__momentum": 0.5}
    stored(tmp_path, [0.5], validation=[0.5], seed=7, point="train.lr=0.01", **more)
    with pytest.raises(StoreError, match=r"differ in train\.momentum"):
        table.text([tmp_path])


def test_the_best_round_is_chosen_on_validation_where_there_is_some(tmp_path):
    stored(tmp_path, [0.5, 0.9, 0.6], validation=[0.8, 0.1, 0.2])
    text = table.text([tmp_path])
    assert cells(text, "Best round (chosen on validation)", "decaf") == ["50.0 (1 seed)"]
    assert cells(text, "Last round", "decaf") == ["60.0 (1 seed)"]


def test_two_swept_settings_are_chosen_together(tmp_path):
    plan = PLAN._replace(grid={"train.lr": [0.1, 0.2], "lora.rank": [1, 2]})
    means = {(0.1, 1): 0.3, (0.1, 2): 0.9, (0.2, 1): 0.4, (0.2, 2): 0.5}
    protocol.keep(tmp_path / "net", plan, None, 0)
    for (lr, rank), score in means.items():
        more = {"train__lr": lr, "lora__rank": rank, "data__validation": 20}
        point = protocol.point_name({"train.lr": lr, "lora.rank": rank})
        assert point == f"train.lr={lr},lora.rank={rank}"
        stored(tmp_path, [score], validation=[score], point=point, **more)
    text = table.text([tmp_path])
    assert cells(text, "Chosen on validation", "decaf") == ["0.1*, 2*"]
    assert cells(text, "Last round", "decaf") == ["90.0 (1 seed)"]


def test_a_point_is_a_plain_folder_name():
    assert protocol.point_name({"lora.scaling": "eta/r", "a": 1}) == "lora.scaling=eta_r,a=1"
    assert protocol.point_name({}) == ""


# ---------------------------------------------------------------- the primary contrast


def test_a_contrast_is_read_from_words():
    for text in ("decaf - dlora on ring, iid", " decaf-dlora  on ring,iid "):
        assert protocol.contrast_of(text) == PRIMARY
    assert str(PRIMARY) == "decaf - dlora on ring, iid"
    control = "decaf - heads_only_dlora on ring, skew"
    assert protocol.contrast_of(control).second == "heads_only_dlora"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("decaf", "protocol.primary must be as 'decaf - dlora on ring, skew'"),
        ("decaf - dolra on ring, iid", "unknown method in protocol.primary: 'dolra'; near: dlora"),
        ("decaf - dlora on rnig, iid", "unknown graph in protocol.primary: 'rnig'; near: ring"),
        ("decaf - dlora on ring, idd", "unknown partition in protocol.primary: 'idd'; near: iid"),
        ("decaf - decaf on ring, iid", "must compare two methods"),
    ],
)
def test_a_contrast_that_means_nothing_is_refused_with_its_config(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        configs.read("tiny-bert", {"protocol.primary": text})


@pytest.mark.parametrize(
    ("contrast", "message"),
    [
        (PRIMARY._replace(first="local"), "needs local in --methods, got dlora decaf"),
        (PRIMARY._replace(graph="complete"), "needs complete in --graphs, got ring"),
        (PRIMARY._replace(partition="skew"), "needs skew in --partitions, got iid"),
    ],
)
def test_a_contrast_must_be_of_what_is_trained(tmp_path, contrast, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        protocol.keep(tmp_path, PLAN, contrast, 0)
    assert protocol.stored(tmp_path) is None


def test_a_primary_contrast_changes_no_run():
    plain, named = (
        configs.read("tiny-bert", chosen)
        for chosen in ({}, {"protocol.primary": "decaf - dlora on ring, iid"})
    )
    assert named.protocol.primary is not None
    assert plain.settings() == named.settings()


def study(out, seeds, gain=0.05):
    """DLoRA and DeCAF at some seeds, and local."""
    draw = np.random.default_rng(0)
    found = []
    for seed in range(seeds):
        base = 0.7 + draw.normal(0, 0.05)
        pair = base + gain + draw.normal(0, 0.02), base
        for method, score in zip(("decaf", "dlora"), pair, strict=True):
            stored(out, [score], method=method, seed=seed)
        stored(out, [0.5 + draw.normal(0, 0.02)], method="local", seed=seed)
        found.append([100 * x for x in pair])
    return zip(*found, strict=True)


NAMED = PLAN._replace(rows=("dlora", "decaf", "local"), grid={})


@pytest.mark.parametrize("seeds", [4, 10])
def test_the_primary_contrast_is_tested_for_itself(tmp_path, seeds):
    protocol.keep(tmp_path / "net", NAMED, PRIMARY, 0)
    own, other = study(tmp_path, seeds)
    text = table.text([tmp_path])
    assert "### Primary contrast: decaf - dlora on ring, iid\n\nNamed before any result." in text
    mean, low, high = paired_interval(own, other)
    p = paired_p(own, other)
    assert 0.001 < p < 0.05 or seeds == 10
    shown = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}] points at 95%, p "
    assert shown + (f"{p:.2g}" if p >= 0.001 else "< 0.001") in text
    spread = float(np.std(np.subtract(own, other), ddof=1))
    assert f"A difference of {detectable_difference(spread, seeds):.1f} would have been" in text
    assert ("4 seeds, fewer than 10" in text) == (seeds == 4)
    assert "decaf is better" in text
    assert "corrected for all 1 differences" in text  # local's alone
    assert "| decaf" not in text.split(f"### {DIFFERENCE}\n")[1].split("###")[0]


def test_a_contrast_named_late_or_changed_is_said(tmp_path):
    folder = tmp_path / "net"
    protocol.keep(folder, NAMED, PRIMARY, 0)
    protocol.keep(folder, NAMED, PRIMARY, 3)  # the same once more changes nothing
    study(tmp_path, 3)
    assert "Named before any result.\n" in table.text([tmp_path])
    protocol.keep(folder, NAMED, PRIMARY._replace(first="local"), 9)
    text = table.text([tmp_path])
    assert "Primary contrast: local - dlora on ring, iid" in text
    said = "Named when 9 runs had finished. It was decaf - dlora on ring, iid before"
    assert said in text


def test_a_later_sweep_to_the_same_folder_extends_the_plan_and_may_not_vary_another_setting(
    tmp_path,
):
    protocol.keep(tmp_path, PLAN, None, 0)
    wider = PLAN._replace(rows=("local", "decaf"), seeds=(1, 2), grid={"train.lr": [0.04, 0.08]})
    plan = protocol.keep(tmp_path, wider, None, 4)
    assert plan == protocol.stored(tmp_path)
    assert plan.rows == ("dlora", "decaf", "local")
    assert plan.seeds == (0, 1, 2)
    assert plan.grid == {"train.lr": [0.01, 0.02, 0.04, 0.08]}
    with pytest.raises(StoreError, match=r"over train\.lr, and this one is over no setting"):
        protocol.keep(tmp_path, PLAN._replace(grid={}), None, 0)
    (tmp_path / "sweep.json").write_bytes(b"{}")
    with pytest.raises(StoreError, match="remove it and sweep again"):
        protocol.stored(tmp_path)


# ---------------------------------------------------------------- both endpoints, floors


def test_both_endpoints_have_a_table_and_differences_in_one_family(tmp_path):
    draw = np.random.default_rng(1)
    found = []
    for seed in range(4):
        for method, gain in (("dlora", 0.0), ("decaf", 0.1)):
            own, updates, factors = np.add([0.5, 0.6 + gain, 0.4], draw.normal(0, 0.01, 3))
            final = {"averaged_score": updates}
            if method == "dlora":
                final["averaged_factors_score"] = factors
            stored(tmp_path, [own], method=method, seed=seed, final=final)
            found.append((updates, factors))
    text = table.text([tmp_path])
    (decaf, _), (dlora, factors) = (100 * np.mean(found[i::2], axis=0) for i in (1, 0))
    for row, mean in (("decaf", decaf), ("dlora", dlora), ("dlora, averaged factors", factors)):
        shown = cells(text, "Averaged model, last round", row)[0]
        assert shown.startswith(f"{mean:.1f} ± ")
    assert "corrected for all 2 differences" in text
    other = "Difference from dlora, averaged model, last round"
    assert "better" in cells(text, other, "decaf")[0]


def test_f1_stands_next_to_its_floors_and_to_accuracy(tmp_path):
    floors = {
        "majority": {"f1": 0.0, "accuracy": 0.6},
        "always_yes": {"f1": 0.5714, "accuracy": 0.4},
    }
    about = {"metric": "f1", "floors": floors}
    stored(tmp_path, [0.5], final={"accuracy": 0.55}, about=about)
    text = table.text([tmp_path])
    for title, values in (
        ("Last round", ("0.0", "57.1")),
        ("Accuracy, last round", ("60.0", "40.0")),
    ):
        assert cells(text, title, "majority") == [values[0]]
        assert cells(text, title, "always_yes") == [values[1]]
    assert cells(text, "Accuracy, last round", "decaf") == ["55.0 (1 seed)"]


def test_a_selection_knows_how_often_every_point_was_tried(tmp_path):
    swept(tmp_path, SCORES)
    runs, _ = kept.collect([tmp_path])
    found = selection.select(runs, PLAN)
    assert found.chosen[("decaf", "iid", "ring")] == (0.04,)
    assert found.tried[("decaf", "iid", "ring")] == {(0.01,): 2, (0.02,): 2, (0.04,): 2}
    assert len(found.runs) == 4
