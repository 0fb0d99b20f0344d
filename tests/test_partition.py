"""Shards: disjoint, reproducible, in the shares asked for, and clear about what cannot be."""

from re import escape

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from paper_checks.partition import KINDS, SKEW_3_3_4, partition, proportions_table, unheld

SETTINGS = {name: {} for name in ("iid", "balanced", "exclusive", "skew", "dirichlet")}
SETTINGS |= {"shots": {"shots": 5}}
LABELS = np.arange(360) % 6


@st.composite
def problems(draw):
    """The kind first, then labels that it can deal."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    classes = draw(st.integers(2, 5))
    agents = draw(st.integers(1, classes if kind == "exclusive" else 10))
    sizes = [draw(st.integers(12, 40)) for _ in range(classes)]
    labels = np.repeat(np.arange(classes), sizes)
    settings = {
        "iid": {"equal": draw(st.booleans())},
        "balanced": {"equal": draw(st.booleans())},
        "exclusive": {},
        "skew": {"proportions": draw(st.sampled_from([0.0, 0.3, 0.8]))},
        "dirichlet": {"alpha": draw(st.sampled_from([0.05, 0.5, 50.0]))},
        "shots": {
            "shots": draw(st.integers(8, 12)),
            "split": draw(st.sampled_from(["iid", "dirichlet"])),
        },
    }[kind]
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(labels))
    return labels[order], agents, kind, settings, draw(st.integers(0, 99))


def test_every_kind_has_settings_in_this_file():
    assert set(SETTINGS) == set(KINDS)


@given(problems())
def test_shards_are_disjoint_equal_and_a_function_of_their_arguments(problem):
    labels, agents, kind, settings, seed = problem
    assume(kind != "skew" or agents > 1 or settings["proportions"] == 0.3)  # else a class is left
    shards = partition(labels, agents, kind=kind, seed=seed, **settings)
    assert len(shards) == agents
    everything = np.concatenate(shards)
    assert len(np.unique(everything)) == len(everything)
    assert everything.min() >= 0
    assert everything.max() < len(labels)
    sizes = {len(shard) for shard in shards}
    assert min(sizes) > 0
    equal = settings.get("equal", kind != "exclusive")
    if kind != "exclusive":
        assert max(sizes) - min(sizes) <= (0 if equal else 1)
    if not equal:
        assert len(everything) == len(labels)
    again = partition(labels.copy(), agents, kind=kind, seed=seed, **settings)
    assert all(np.array_equal(a, b) for a, b in zip(shards, again, strict=True))
    assert all((np.diff(shard) > 0).all() for shard in shards)


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_deals_otherwise(kind):
    one, other = (partition(LABELS, 4, kind=kind, seed=s, **SETTINGS[kind]) for s in (0, 1))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_one_agent_holds_all_that_is_dealt(kind):
    even = {"proportions": [[1 / 6] * 6]} if kind == "skew" else {}
    (shard,) = partition(LABELS, 1, kind=kind, seed=0, **SETTINGS[kind], **even)
    assert len(shard) == (30 if kind == "shots" else 360)


@pytest.mark.parametrize("kind", ["iid", "balanced", "skew", "dirichlet"])
def test_samples_is_the_size_of_every_shard(kind):
    assert [len(x) for x in partition(LABELS, 4, kind=kind, seed=0, samples=20)] == [20] * 4


@given(st.integers(1, 60), st.integers(0, 20))
def test_label_skew_gives_its_shares_to_within_one_example(samples, seed):
    labels = np.arange(2000) % 2
    shards = partition(labels, 10, kind="skew", seed=seed, proportions="3-3-4", samples=samples)
    for shard, shares in zip(shards, SKEW_3_3_4, strict=True):
        counts = np.bincount(labels[shard], minlength=2)
        assert counts.sum() == samples
        assert (np.abs(counts - samples * np.array(shares)) < 1).all()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("skew", {"proportions": 0.8, "samples": 10}),  # .8 and four times .05: two halves each
        ("balanced", {"samples": 9}),  # 90 of 400: 18 each, dealt to ten agents
        ("balanced", {"samples": 1}),
        ("shots", {"shots": 5}),  # 25 over ten agents: five are left over
    ],
)
def test_what_rounding_leaves_over_falls_on_every_class_alike(kind, settings):
    labels, seeds = np.arange(400) % 5, 40
    counts = np.zeros((seeds, 10, 5))
    for seed in range(seeds):
        shards = partition(labels, 10, kind=kind, seed=seed, **settings)
        counts[seed] = [np.bincount(labels[shard], minlength=5) for shard in shards]
    totals = counts.sum(axis=1)
    exact = counts.sum() / seeds / 5
    # a class's total is a sum of at most 10 roundings up or down: sd <= sqrt(10) / 2 a seed; five
    # of these sd over the root of the seeds, times ten numbers below: a chance of 6e-6
    slip = 5 * np.sqrt(10) / 2 / np.sqrt(seeds)
    assert np.abs(totals.mean(axis=0) - exact).max() <= slip
    if kind != "skew":  # agents are alike, too
        assert np.abs(counts.mean(axis=0) - exact / 10).max() <= 5 / 2 / np.sqrt(seeds)


def test_ties_of_remainders_go_another_way_with_another_seed():
    labels = np.arange(400) % 5
    totals = {
        tuple(np.bincount(labels[np.concatenate(partition(labels, 10, seed=seed, **skewed))]))
        for seed in range(5)
        for skewed in [{"kind": "skew", "proportions": 0.8, "samples": 10}]
    }
    assert len(totals) > 1


def test_remainders_that_differ_in_their_last_digits_only_are_a_tie():
    assert 0.29 * 50 % 1 < 0.71 * 50 % 1 == 0.5
    labels, shares = np.arange(400) % 2, [[0.29, 0.71]] * 2
    found = set()
    for seed in range(20):
        one, _ = partition(labels, 2, kind="skew", seed=seed, proportions=shares, samples=50)
        found.add(int((labels[one] == 0).sum()))
    assert found == {14, 15}  # one of them 20 times: a chance of 2e-6


@given(st.integers(1, 5), st.integers(1, 8), st.integers(0, 99), st.booleans())
def test_balanced_shards_differ_by_one_at_most_in_any_class(classes, agents, seed, equal):
    sizes = np.random.default_rng(seed).integers(8, 30, size=classes)
    labels = np.repeat(np.arange(classes), sizes)
    shards = partition(labels, agents, kind="balanced", seed=seed, equal=equal)
    counts = np.array([np.bincount(labels[shard], minlength=classes) for shard in shards])
    assert (np.ptp(counts, axis=0) <= 1).all()
    left = sizes - counts.sum(axis=0)
    assert left.sum() == (len(labels) % agents if equal else 0)
    # what is dealt is of every class in proportion: it leaves its share over, to within one
    assert (np.abs(left - sizes * left.sum() / len(labels)) < 1).all()


@given(st.integers(1, 9), st.integers(0, 99))
def test_exclusive_shards_share_no_class_and_leave_nothing_over(agents, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(9), np.arange(1, 10)))
    shards = partition(labels, agents, kind="exclusive", seed=seed)
    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(len(labels)))
    held = [set(labels[shard].tolist()) for shard in shards]
    assert sum(map(len, held)) == len(set().union(*held)) == 9
    assert max(map(len, held)) - min(map(len, held)) <= 1  # of classes, not of examples


def test_shots_may_be_dealt_exclusively():
    labels = np.arange(400) % 8
    shards = partition(labels, 4, kind="shots", seed=1, shots=40, split="exclusive")
    counts = np.array([np.bincount(labels[shard], minlength=8) for shard in shards])
    assert sorted(counts.ravel()) == [0] * 24 + [40] * 8
    assert counts.sum(axis=1).tolist() == [80] * 4


UNHELD = [
    ("skew", {"proportions": 1.0}, 4),  # main classes 0..3, nothing of 4 and 5
    ("skew", {"proportions": [[0.5, 0.5, 0, 0, 0, 0]] * 2, "samples": 10}, 2),
    ("balanced", {"samples": 1}, 2),
    ("shots", {"shots": 1, "split": "skew", "proportions": 0.0, "samples": 1}, 2),
]


@pytest.mark.parametrize(("kind", "settings", "agents"), UNHELD)
def test_a_class_that_the_settings_leave_to_nobody_is_refused(kind, settings, agents):
    with pytest.raises(ValueError, match=r"leaves class \d without a holder: .*; raise samples or"):
        partition(LABELS, agents, kind=kind, seed=0, **settings)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("iid", {"samples": 1}),
        ("dirichlet", {"samples": 1}),
        ("shots", {"shots": 2, "split": "dirichlet", "samples": 1}),
    ],
)
def test_a_class_that_a_draw_leaves_to_nobody_is_dealt_all_the_same(kind, settings):
    shards = partition(LABELS, 2, kind=kind, seed=0, **settings)
    assert len(unheld(LABELS, shards)) >= 4  # two examples, six classes


def test_the_table_3_3_4_is_what_it_says():
    counts = [
        np.bincount(np.arange(4000)[shard] % 2).tolist()
        for shard in partition(np.arange(4000) % 2, 10, kind="skew", seed=3, proportions="3-3-4")
    ]
    m = sum(counts[0])
    assert counts[:3] == [[0.9 * m, 0.1 * m]] * 3
    assert counts[3:6] == [[0.1 * m, 0.9 * m]] * 3
    assert counts[6:] == [[0.5 * m, 0.5 * m]] * 4
    assert m == 400  # the shares of either class sum to 5, and 5 * 400 = 2000


def test_label_skew_without_samples_takes_as_much_as_the_scarce_class_allows():
    labels = np.repeat([0, 1], [100, 1000])
    shards = partition(labels, 2, kind="skew", seed=0, proportions=[0.5, 0.5])
    assert [len(shard) for shard in shards] == [100, 100]  # 50 of class 0 each
    assert (np.bincount(labels[np.concatenate(shards)]) == [100, 100]).all()


def test_one_number_an_agent_is_the_share_of_class_one():
    table = proportions_table([0.9, 0.7, 0.3, 0.1], 4, 2)
    assert np.array_equal(table[:, 1], [0.9, 0.7, 0.3, 0.1])


def test_one_number_is_the_share_of_the_main_class_in_turn():
    table = proportions_table(0.8, 4, 3)
    assert np.array_equal(table.argmax(axis=1), [0, 1, 2, 0])
    assert np.array_equal(table.max(axis=1), [0.8] * 4)
    assert (np.sort(table)[:, :2] == (1 - 0.8) / 2).all()


def test_small_alpha_concentrates_and_large_alpha_levels():
    labels = np.arange(2000) % 5

    def largest(alpha):
        shards = partition(labels, 10, kind="dirichlet", seed=0, alpha=alpha, samples=100)
        return np.mean([np.bincount(labels[shard], minlength=5).max() / 100 for shard in shards])

    # E of the largest share: near 1 for alpha -> 0, 1/5 + O(1/sqrt(100)) for alpha -> oo
    assert largest(0.05) > 0.75
    assert largest(1e4) < 0.2 + 3 * np.sqrt(0.2 * 0.8 / 100)


def test_unequal_dirichlet_leaves_no_example_over():
    shards = partition(LABELS, 4, kind="dirichlet", seed=1, alpha=1.0, equal=False)
    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(len(LABELS)))
    assert len({len(shard) for shard in shards}) > 1


@given(st.integers(1, 40), st.integers(1, 10), st.integers(0, 9))
def test_shots_are_of_all_agents_together_and_dealt_evenly(shots, agents, seed):
    labels = np.arange(200) % 5
    assume(shots * 5 >= agents)
    shards = partition(labels, agents, kind="shots", seed=seed, shots=shots)
    counts = np.array([np.bincount(labels[shard], minlength=5) for shard in shards])
    over = 5 * shots % agents
    assert counts.sum() == 5 * shots - over
    assert (counts.sum(axis=0) <= shots).all()
    assert counts.max() - counts.min() <= 1 + (over > 0)


def test_forty_shots_a_class_over_ten_agents_are_four_each():
    labels = np.arange(1000) % 8
    for shard in partition(labels, 10, kind="shots", seed=0, shots=40):
        assert np.bincount(labels[shard]).tolist() == [4] * 8


def test_shots_may_be_split_by_skew():
    labels = np.arange(500) % 2
    settings = {"shots": 40, "split": "skew", "proportions": [0.9, 0.1], "samples": 20}
    shards = partition(labels, 2, kind="shots", seed=0, **settings)
    assert [int(labels[shard].sum()) for shard in shards] == [18, 2]


BAD = [
    (dict(kind="sorted"), "kind must be one of iid, balanced, exclusive, skew, dirichlet, shots;"),
    (dict(kind="iid", alpha=1.0), "unexpected keyword argument 'alpha'; its settings: samples"),
    (dict(kind="iid", agents=0), "agents must lie in 1..360"),
    (dict(kind="iid", agents=361), "agents must lie in 1..360"),
    (dict(kind="iid", samples=91), "samples must lie in 1..90"),
    (dict(kind="iid", labels=np.zeros((3, 2), dtype=int)), "labels must be class numbers"),
    (dict(kind="iid", labels=np.array([0.5, 1.0])), "labels must be class numbers"),
    (dict(kind="iid", labels=np.array([0, -1, 1])), "labels must be class numbers"),
    (dict(kind="skew", proportions="5-5"), 'only "3-3-4" is known'),
    (dict(kind="skew", proportions=[0.5] * 4), "share for each of 6 classes, got shape (4,)"),
    (dict(kind="skew", proportions=1.5), "must lie in [0, 1]"),
    (
        dict(kind="skew", proportions=[[0.5, 0.5, 0.5, 0, 0, 0]] * 4),
        "agent 0 must be >= 0 and sum to 1",
    ),
    (
        dict(kind="skew", proportions=[[1.0, 0, 0, 0, 0, 0]] * 4, samples=50),
        "needs 200 examples of class 0",
    ),
    (dict(kind="dirichlet", alpha=0.0), "alpha must be > 0"),
    (dict(kind="shots", shots=61), "shots must lie in 1..60, class 0's size; got 61"),
    (
        dict(kind="shots", split="skew", alpha=1.0),
        "partition 'skew': got an unexpected keyword argument 'alpha'; "
        "its settings: proportions, samples",
    ),
    (dict(kind="shots", split="odd"), "split must be skew, dirichlet, exclusive, iid; got 'odd'"),
    (dict(kind="exclusive", agents=7), "so agents must be <= 6, the classes; got 7"),
    (dict(kind="exclusive", samples=3), "argument 'samples'; its settings: none"),
    (dict(kind="skew", proportions=["a", "b"]), "proportions must be a number, a list of numbers"),
    (dict(kind="skew", proportions=[[0.5, 0.5], [1]]), "proportions must be a number, a list of"),
    (dict(kind="iid", seed=-1), "seed must be an integer >= 0, got -1"),
]


def test_an_error_inside_a_partition_is_not_taken_for_a_bad_setting(monkeypatch):
    def broken(labels, agents, seed, samples=None):
        raise TypeError("this argument is not the caller's fault")

    monkeypatch.setitem(KINDS, "iid", broken)
    with pytest.raises(TypeError, match="not the caller's fault"):
        partition(LABELS, 4, kind="iid", seed=0, samples=3)


@pytest.mark.parametrize(("changed", "said"), BAD)
def test_what_cannot_be_dealt_is_refused_with_rule_and_value(changed, said):
    arguments = {"labels": LABELS, "agents": 4, "seed": 0} | changed
    with pytest.raises(ValueError, match=escape(said)):
        partition(arguments.pop("labels"), arguments.pop("agents"), **arguments)
