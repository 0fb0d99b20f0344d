"""The Triton kernel, without a GPU: run by Triton's interpreter, and compiled ahead of time.

Both happen in processes of their own, as Triton chooses at import whether it interprets.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from decaf_theory import extras
from decaf_theory.bench.lapack import THRESHOLD, cases, matrix
from decaf_theory.tsvd.jacobi import svd
from tests.test_jacobi import DTYPES, hard, ratios

ROOT = Path(__file__).resolve().parent.parent
MATRICES = [case for case in cases() if 0 not in case]
needs_triton, needs_interpreter = (
    pytest.mark.skipif(bool(reason), reason=reason)
    for reason in (extras.missing("triton"), extras.no_interpreter())
)


def in_process(*arguments, **environment):
    """Run Python with warnings as errors; return what it printed, and fail if it complained."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def interpreted(call):
    """Return the result of a function of this module, called where Triton interprets."""
    code = f"import json; from tests import test_jacobi_triton as t; print(json.dumps(t.{call}))"
    return json.loads(in_process("-c", code, TRITON_INTERPRET="1"))


def solve(A):
    """Return U, S, Vh of the kernel as NumPy arrays."""
    from decaf_theory.tsvd.jacobi_triton import svd as kernel

    return [x.numpy() for x in kernel(torch.from_numpy(A))]


def lapack_ratios(numbers, names):
    """Return the largest ratio of LAPACK test matrices, each in its dtype."""
    found = []
    for number, name in zip(numbers, names, strict=True):
        A = matrix(*MATRICES[number], np.dtype(name))
        found.append(float(np.max(ratios(A, *solve(A)))))
    return found


def hard_ratios(n):
    """Return the largest ratio of every hard n x n matrix, [dtype][matrix], solved as batches."""
    stacks = [hard(np.random.default_rng(n), n, dtype) for dtype in DTYPES]
    return [
        [float(np.max(ratios(*one))) for one in zip(stack, *solve(stack), strict=True)]
        for stack in stacks
    ]


def differences_to_the_array_version():
    """Return the largest differences of U, S and Vh, where all singular values are far apart."""
    rng, found = np.random.default_rng(0), []
    for shape in [(1, 1), (2, 3), (5, 4), (8, 8), (9, 17)]:
        A = rng.standard_normal((2, 1, *shape))
        found.append([float(np.max(np.abs(x - y))) for x, y in zip(solve(A), svd(A), strict=True)])
    return found


def messages():
    """Return the error messages of the wrapper, in a fixed order."""
    from decaf_theory.tsvd import jacobi_triton

    found = []
    jacobi_triton.SWEEPS = 2
    random = np.random.default_rng(0).standard_normal((2, 6, 6))
    random[0] = np.eye(6)
    bad = np.ones((3, 2, 2))
    bad[1, 0, 0] = np.nan
    for A in (random, bad, np.ones((2, 65)), np.full((1, 2, 2), 1e308)):
        try:
            jacobi_triton.svd(torch.from_numpy(A))
        except ValueError as error:
            found.append(str(error))
    try:
        jacobi_triton.svd(random)
    except ValueError as error:
        found.append(str(error))
    return found


@needs_interpreter
@pytest.mark.slow
def test_twenty_of_lapacks_matrices_pass_in_the_interpreter():
    numbers = [i * len(MATRICES) // 20 for i in range(20)]
    names = ["float64", "float32"] * 10
    found = interpreted(f"lapack_ratios({numbers}, {names})")
    assert len(found) == 20
    assert max(found) < THRESHOLD


@needs_interpreter
@pytest.mark.night
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_all_of_lapacks_matrices_pass_in_the_interpreter(dtype):
    found = interpreted(f"lapack_ratios(range({len(MATRICES)}), {[dtype] * len(MATRICES)})")
    assert len(found) == 221
    assert max(found) < THRESHOLD


@needs_interpreter
@pytest.mark.parametrize(
    "n",
    [pytest.param(3, marks=pytest.mark.slow)]
    + [pytest.param(n, marks=pytest.mark.night) for n in (1, 2, 8, 33)],
)
def test_hard_matrices_pass_in_the_interpreter(n):
    found = np.array(interpreted(f"hard_ratios({n})"))
    assert found.shape == (2, 16)
    assert np.max(found) < THRESHOLD


@needs_interpreter
@pytest.mark.slow
def test_it_does_what_the_array_version_does():
    """The same rotations in the same order: equal vectors, signs included."""
    found = np.array(interpreted("differences_to_the_array_version()"))
    assert found.shape == (5, 3)
    assert np.max(found) < 1e-12


@needs_interpreter
@pytest.mark.slow
def test_its_messages_are_those_of_the_array_version():
    sweeps, finite, side, overflow, backend = interpreted("messages()")
    assert "batch index (1,) did not converge" in sweeps
    assert finite == "A is not finite at batch index (1,)"
    assert side == "A must have sides <= 64, got shape (2, 65)"
    assert "batch index (0,) overflows" in overflow
    assert backend.startswith("A must be a torch tensor on CUDA, got ndarray on cpu;")


@needs_triton
@pytest.mark.night
def test_it_compiles_for_all_targets_without_a_warning(tmp_path):
    text = in_process(
        *("-m", "decaf_theory.tsvd.jacobi_triton"),
        TRITON_CACHE_DIR=str(tmp_path),
        TRITON_DUMP_PTXAS_LOG="1",
    )
    assert "warning" not in text.lower()
    assert text.count("ptxas info    : Compiling entry function") == 24
    table = re.findall(
        r"^sm_(80|90|100) +(float\d\d) +(\d+) +(\d+) +(\d+) +(\d+)$", text, re.MULTILINE
    )
    assert len(table) == len(set(table)) == 24
    for _, dtype, side, registers, spilled, shared in table:
        warps = {"8": 1, "16": 4, "32": 4, "64": 8}[side]
        assert 32 * warps * int(registers) <= 65536  # of a multiprocessor: it can be launched
        assert int(spilled) <= 32  # bytes a thread; 32 in one case of 24, by triton 3.7
        assert int(shared) <= int(side) ** 2 * np.dtype(dtype).itemsize


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 90])
def test_the_largest_size_fits_into_registers(target):
    code = (
        "from decaf_theory.tsvd.jacobi_triton import resources; "
        f"print(*resources({target}, 'float64', 64))"
    )
    registers, spilled = (int(x) for x in in_process("-c", code).split()[3:5])
    assert 128 < registers <= 255
    assert spilled == 0


@needs_triton
@pytest.mark.slow
def test_it_compiles_alike_whatever_the_default_for_fused_multiply_adds():
    """Of the same kernel, with them and without, registers or spills differ."""
    code = (
        "from decaf_theory.tsvd.jacobi_triton import resources; print(resources(90, 'float64', 32))"
    )
    off, on = (in_process("-c", code, TRITON_DEFAULT_FP_FUSION=x) for x in "01")
    assert off == on


@needs_triton
def test_the_smallest_size_compiles_for_every_target():
    code = (
        "from decaf_theory.tsvd.jacobi_triton import TARGETS, resources; "
        "print(*(resources(target, 'float32', 8).target for target in TARGETS))"
    )
    assert in_process("-c", code).split() == ["80", "90", "100"]


def test_where_triton_is_missing_the_message_says_what_to_do():
    code = "import sys; sys.modules['triton'] = None; import decaf_theory.tsvd.jacobi_triton"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode != 0
    assert "needs triton >= 3.6 (Linux): pip install 'decaf-theory[gpu]'" in done.stderr
