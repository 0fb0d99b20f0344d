"""What every numeric function shares: integers, arrays on the host."""

import numpy as np
import pytest
import torch

from decaf_theory.arrays import host, integer, namespace, require_real, require_weights


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


def test_kinds_of_arrays_that_mean_something_else_are_refused_by_name():
    masked = np.ma.masked_array(np.eye(3), mask=False)
    with pytest.raises(ValueError, match=r"must be plain, got numpy\.ma\.\w*MaskedArray; fill"):
        namespace(masked)
    with pytest.raises(ValueError, match=r"Pi must be plain, got numpy\.ma\.\w*MaskedArray"):
        require_weights(masked)


@pytest.mark.skipif(np.finfo(np.longdouble).bits <= 64, reason="longdouble is float64 here")
def test_numbers_wider_than_lapacks_are_refused():
    with pytest.raises(ValueError, match="of at most 64 bits, got dtype float128"):
        require_real("M", np.eye(2, dtype=np.longdouble))


def test_bfloat16_reaches_numpy_as_float32():
    found = host(torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [1.5, -2.0])
