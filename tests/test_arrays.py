"""What every numeric function shares: integers, arrays on the host."""

import numpy as np
import pytest
import torch

from decaf_theory.arrays import host, integer


@pytest.mark.parametrize("value", [3, np.int32(3), np.array(3)])
def test_integers_of_any_kind_are_integers(value):
    number = integer("rank", value, 3)
    assert number == 3
    assert type(number) is int


@pytest.mark.parametrize("value", [True, False, np.True_, 1.0, "1", None, np.array([1])])
def test_flags_fractions_and_texts_are_no_integers(value):
    with pytest.raises(ValueError, match=r"^rank must be an integer, got "):
        integer("rank", value)


def test_the_error_says_what_was_wanted_at_least():
    with pytest.raises(ValueError, match=r"^rank must be an integer >= 1, got 0$"):
        integer("rank", 0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_a_tensor_comes_to_the_host_in_its_own_dtype(dtype):
    x = torch.ones(2, dtype=dtype)
    assert isinstance(host(x), np.ndarray)
    assert host(x).dtype == x.numpy().dtype
    assert np.array_equal(host(torch.ones(2, requires_grad=True)), [1.0, 1.0])
