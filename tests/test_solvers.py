"""Compiled kernels are used where they were asked for, by a variable of the environment."""

import builtins
import re
import sys

import numpy as np
import pytest

from decaf_theory import TOPOLOGIES, Factors
from decaf_theory.faults import line_of
from decaf_theory.tsvd import tsvd_of_mix
from decaf_theory.tsvd.solvers import compiled_kernels
from verification.provenance import library_versions


@pytest.fixture
def without_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in ("compiled", "lanes", "products", "simd"):
        monkeypatch.delitem(sys.modules, f"decaf_theory.tsvd.{name}", raising=False)
    monkeypatch.delattr("decaf_theory.tsvd.compiled", raising=False)


def mixed():
    rng = np.random.default_rng(0)
    B, A = (rng.normal(size=(5, *shape)).astype(np.float32) for shape in ((20, 2), (2, 20)))
    return tsvd_of_mix(Factors(B, A), TOPOLOGIES["ring"](5), 2)


@pytest.mark.parametrize("value", ["", "0"])
def test_nobody_who_does_not_ask_gets_them(value, without_numba, monkeypatch):
    monkeypatch.setenv("DECAF_COMPILED", value)
    assert compiled_kernels(np.ones(1), 1) is None
    assert mixed().info.path == "panel"
    assert "numba" not in library_versions()


def test_to_ask_without_numba_says_what_to_install(without_numba, monkeypatch):
    monkeypatch.setenv("DECAF_COMPILED", "1")
    line = r"DECAF_COMPILED=1, but numba not installed: pip install -e '\.\[fast\]'"
    with pytest.raises(ModuleNotFoundError, match=line) as raised:
        mixed()
    assert re.fullmatch(line, line_of(raised.value))


def test_a_numba_that_does_not_suit_is_one_line(without_numba, monkeypatch):
    def refuse(name, *rest):
        if name == "numba":
            raise ImportError("Numba needs NumPy 2.4 or less")
        return original(name, *rest)

    original = builtins.__import__
    monkeypatch.setenv("DECAF_COMPILED", "1")
    monkeypatch.setattr(builtins, "__import__", refuse)
    line = "DECAF_COMPILED=1, but Numba needs NumPy 2.4 or less; set it to 0, or change versions"
    with pytest.raises(ValueError, match=line) as raised:
        mixed()
    assert line_of(raised.value) == line


def test_any_other_word_is_refused(monkeypatch):
    monkeypatch.setenv("DECAF_COMPILED", "yes")
    line = "DECAF_COMPILED must be 1, or 0 or empty, got 'yes'; 1 asks for compiled kernels"
    for call in (mixed, library_versions):
        with pytest.raises(ValueError, match=line) as raised:
            call()
        assert line_of(raised.value) == line


def test_numbers_of_compiled_kernels_are_stamped_with_the_version_of_numba(monkeypatch):
    version = pytest.importorskip("numba", reason="numba is not installed").__version__
    monkeypatch.setenv("DECAF_COMPILED", "1")
    assert library_versions()["numba"] == version
