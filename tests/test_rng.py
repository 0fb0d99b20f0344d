"""Named random streams: repeatable, independent of each other and of the order of asking."""

import hashlib
from itertools import combinations

import numpy as np
import pytest

from decaf_theory.rng import generator

NAMES = [(), ("noise",), ("noise", 1), ("noise", "1"), (1, "noise"), ("noi", "se"), ("targets",)]


def draw(seed, *name):
    return generator(seed, *name).standard_normal(64)


def test_a_stream_repeats_whatever_was_drawn_before():
    first = draw(3, "noise")
    generator(3, "targets").standard_normal(10)
    assert np.array_equal(draw(3, "noise"), first)


@pytest.mark.parametrize(("one", "other"), list(combinations(NAMES, 2)))
def test_streams_of_different_names_differ(one, other):
    assert not np.intersect1d(draw(0, *one), draw(0, *other)).size


def test_streams_of_different_seeds_differ():
    assert not np.intersect1d(draw(0, "noise"), draw(1, "noise")).size
    # the seed is no part of the name: seed 1 of stream 2 is not seed 2 of stream 1
    assert not np.intersect1d(draw(1, 2), draw(2, 1)).size


def test_streams_are_uncorrelated():
    draws = np.array([draw(0, "agent", i) for i in range(40)])
    correlations = np.corrcoef(draws)[np.triu_indices(40, k=1)]
    # 780 correlations of standard deviation 1/8: none beyond five of them
    assert np.abs(correlations).max() < 5 / 8
    assert abs(correlations.mean()) < 5 / 8 / np.sqrt(780)


def test_the_seed_is_the_whole_hash_of_the_name():
    # stored rows depend on the very bytes that are hashed: they must not change unnoticed
    digest = hashlib.sha256(b"7\x1fstr:noise\x1fint:3").digest()
    expected = np.random.default_rng(np.frombuffer(digest, dtype=np.uint32)).standard_normal(64)
    assert np.array_equal(draw(7, "noise", 3), expected)


@pytest.mark.parametrize("seed", [-1, 0.5, True])
def test_a_seed_that_is_no_natural_number_is_refused(seed):
    with pytest.raises(ValueError, match=rf"^seed must be an integer >= 0, got {seed}$"):
        generator(seed, "noise")
    draw(0, "noise")
