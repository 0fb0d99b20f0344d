"""Sequences of tasks: closed forms in rational numbers, and the numbers of a table of scores."""

from fractions import Fraction as Q

import numpy as np
import pytest

from decaf_theory import continual
from decaf_theory.lowrank import Factors, product
from decaf_theory.problems import planted_sequence, sequence
from decaf_theory.simulate import Config, simulate

EPS = np.finfo(np.float64).eps
# after task t in row t: what comes later is not read
TABLE = [[Q(9, 10), Q(0), Q(0)], [Q(19, 20), Q(4, 5), Q(0)], [Q(1, 2), Q(17, 20), Q(7, 10)]]
SCORES = np.array(TABLE, dtype=float)


def test_the_numbers_of_a_table_are_those_of_their_definitions_in_rational_numbers():
    falls = [max(TABLE[0][0], TABLE[1][0]) - TABLE[2][0], TABLE[1][1] - TABLE[2][1]]
    moves = [TABLE[2][0] - TABLE[0][0], TABLE[2][1] - TABLE[1][1]]
    for found, exact in (
        (continual.average(SCORES), sum(TABLE[2]) / 3),
        (continual.forgetting(SCORES), sum(falls) / 2),
        (continual.backward_transfer(SCORES), sum(moves) / 2),
        (continual.forgetting(-SCORES, lower=True), sum(falls) / 2),
    ):
        # at most four roundings of numbers below one
        assert abs(found - float(exact)) <= 4 * EPS
    assert falls[0] != -moves[0]  # so that best and first are told apart
    assert falls[1] < 0  # and the last is none of those before it


def test_what_comes_before_a_task_is_learned_is_not_read():
    later = np.triu_indices(3, 1)
    other = SCORES.copy()
    other[later] = np.nan
    for of in (continual.average, continual.forgetting, continual.backward_transfer):
        assert of(other) == of(SCORES)
        np.testing.assert_array_equal(of(np.stack([SCORES, SCORES])), [of(SCORES)] * 2)


@pytest.mark.parametrize("of", [continual.forgetting, continual.backward_transfer])
def test_one_task_has_nothing_to_forget(of):
    assert continual.average([[0.25]]) == 0.25
    with pytest.raises(ValueError, match=r"scores must be \[..., T, T\] with T >= 2, got shape"):
        of([[0.25]])
    with pytest.raises(ValueError, match=r"got shape \(2, 3\)"):
        of(np.zeros((2, 3)))


# ---------------------------------------------------------------- closed forms

# one row, three columns: task 1 sees columns 1 and 2, task 2 columns 2 and 3
A = [Q(3), Q(4), Q(12)]
TARGETS = [[[Q(2), Q(9), Q(5)], [Q(4), Q(1), Q(5)]], [[Q(7), Q(1), Q(-2)], [Q(1), Q(3), Q(6)]]]
INPUTS = [[Q(1), Q(1, 4), Q(0)], [Q(0), Q(1), Q(1, 4)]]
S = Q(1, 2)


def numbers(rows):
    return np.array(rows, dtype=float)


def exact_means():
    return [[(x + y) / 2 for x, y in zip(*pair, strict=True)] for pair in TARGETS]


def exact_losses(W):
    return [
        sum(h * (w - x) ** 2 for h, w, x in zip(row, W, mean, strict=True)) / 2
        for row, mean in zip(INPUTS, exact_means(), strict=True)
    ]


def exact_frozen_path():
    """W after each task: B minimizes a quadratic in one number."""
    B, path = Q(0), []
    for row, mean in zip(INPUTS, exact_means(), strict=True):
        slope = sum(h * a * (x - S * B * a) for h, a, x in zip(row, A, mean, strict=True))
        B += slope / (S * sum(h * a * a for h, a in zip(row, A, strict=True)))
        path.append([S * B * a for a in A])
    return path


def worked():
    return sequence(numbers(TARGETS)[:, :, None, :], numbers(INPUTS))


def close(found, exact, size):
    """Whether numbers agree to the roundings of a few sums of terms of this size."""
    return np.all(np.abs(found - numbers(exact)) <= 32 * EPS * size)


def test_a_frozen_A_ends_where_rational_numbers_say_and_forgets_as_much():
    tasks, exact = worked(), exact_frozen_path()
    path = tasks.frozen_path(numbers([A]), s=float(S))
    largest = max(abs(w) for W in exact for w in W)
    assert close(path[:, 0], exact, float(largest))
    table = [exact_losses(W) for W in exact]
    assert close(tasks.losses(path), table, float(max(map(max, table))))
    forgotten = table[1][0] - table[0][0]
    assert forgotten > 0
    assert close(continual.forgetting(tasks.losses(path), lower=True), forgotten, float(forgotten))


def test_a_simulation_with_a_frozen_A_ends_there_in_one_step():
    # the loss is a quadratic of one number: this step size is that of its minimum
    tasks, s, row = worked(), float(S), numbers(A)
    path = tasks.frozen_path(row[None], s=s)
    start = Factors(np.zeros((2, 1, 1)), np.tile(row, (2, 1, 1)))
    shared = {"method": "dlora_fa", "Pi": np.full((2, 2), 0.5), "s": s, "steps": 1}
    for task, h, end in zip(tasks.tasks, tasks.inputs, path, strict=True):
        lr = 1 / float(s**2 * np.sum(h * row**2))
        trace = simulate(Config(problem=task, start=start, lr=lr, **shared))
        start = trace.final.map(lambda X: X[0])
        W = s * product(start)[0]
        assert np.all(np.abs(W - end) <= 32 * EPS * np.abs(path).max())


def test_what_fits_every_task_of_all_inputs_forgets_the_distance_of_the_targets():
    tasks = planted_sequence(T=3, N=2, d=4, k=3, rank=1, overlap=1.0, kappa=0.3, seed=1)
    path = tasks.full_path()
    np.testing.assert_array_equal(path, tasks.means)
    apart = np.sum((tasks.means[:, None] - tasks.means) ** 2, axis=(-2, -1)) / 2
    np.testing.assert_array_equal(tasks.losses(path), apart)


@pytest.mark.parametrize("method", ["dlora", "decaf"])
def test_plain_lora_that_fits_each_task_forgets_as_the_closed_form_says(method):
    tasks = planted_sequence(T=2, N=2, d=4, k=3, rank=1, overlap=1.0, seed=1)
    start, shared = None, {"Pi": np.full((2, 2), 0.5), "lr": 0.4, "steps": 150, "rank": 2}
    shared |= {"record_every": 150, "record": ("loss",)}
    for t, task in enumerate(tasks.tasks):
        trace = simulate(Config(problem=task, method=method, start=start, **shared))
        start = trace.final.map(lambda X: X[0])
        W = product(start).mean(axis=0)
        losses = tasks.losses(W)
        # |W - Wbar_j| is off by |W - Wbar_t| at most, which is (2 F_t)^(1/2)
        missed = np.sqrt(2 * losses[t])
        assert missed < 1e-3  # of a target of size one: the task is learned
        distance = np.sqrt(2 * tasks.losses(tasks.means[t]))
        assert np.all(np.abs(np.sqrt(2 * losses) - distance) <= missed + 8 * EPS)


def test_inputs_of_its_own_for_each_task_leave_nothing_to_forget_for_all_of_W():
    tasks = planted_sequence(T=3, d=4, k=6, overlap=0.0, seed=2)
    table = tasks.losses(tasks.full_path())
    assert np.all(np.tril(table) == 0)
    assert np.all(table[np.triu_indices(3, 1)] > 0)
    assert continual.forgetting(table, lower=True) == 0
    # but a frozen A of rank 1 has no room for it
    A_row = np.ones((1, 6))
    assert continual.forgetting(tasks.losses(tasks.frozen_path(A_row)), lower=True) > 0


def test_tasks_keep_the_constants_that_they_name():
    tasks = planted_sequence(T=2, N=3, d=3, k=4, overlap=0.5, kappa=0.7, seed=3)
    W = np.random.default_rng(0).standard_normal((5, 1, 3, 4))
    for task in tasks.tasks:
        g = np.broadcast_to(task.grad(W), (5, 3, 3, 4))
        spread = np.sum((g - g.mean(axis=1, keepdims=True)) ** 2, axis=(-2, -1)).mean(axis=-1)
        # sums of 36 numbers below 100
        np.testing.assert_allclose(spread, task.constants.kappa**2, rtol=0, atol=36 * 100 * EPS)
        mean = task.loss(W).mean(axis=-1) - task.constants.F_star
        t = tasks.tasks.index(task)
        np.testing.assert_allclose(mean, tasks.losses(W[:, 0])[:, t], rtol=0, atol=36 * 100 * EPS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"T": 9}, r"T must be <= k = 8, so that each task has a column, got 9"),
        ({"overlap": 1.5}, r"overlap must be in \[0, 1\], got 1.5"),
        ({"shared": -0.5}, r"shared must be in \[0, 1\], got -0.5"),
        ({"T": 0}, r"T must be an integer >= 1, got 0"),
    ],
)
def test_bad_numbers_of_a_planted_sequence_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        planted_sequence(**change)


@pytest.mark.parametrize(
    ("targets", "inputs", "message"),
    [
        (np.zeros((2, 3, 4)), np.ones((2, 4)), r"targets must be finite \[T, N, d, k\]"),
        (np.full((1, 1, 1, 1), np.nan), np.ones((1, 1)), r"targets must be finite"),
        (np.zeros((2, 1, 3, 4)), np.ones((2, 3)), r"inputs must be finite \[2, 4\]"),
        (np.zeros((2, 1, 3, 4)), -np.ones((2, 4)), r"inputs must be finite \[2, 4\], >= 0"),
        (np.zeros((1, 1, 3, 4)), np.zeros((1, 4)), r"not all zero in any task"),
    ],
)
def test_bad_arrays_of_a_sequence_are_refused(targets, inputs, message):
    with pytest.raises(ValueError, match=message):
        sequence(targets, inputs)
