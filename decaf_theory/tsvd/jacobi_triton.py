"""The solver of `jacobi` as one Triton kernel: one program per matrix, rotations in registers.

from decaf_theory.tsvd.jacobi_triton import svd
U, S, Vh = svd(A)               # as jacobi.svd, torch tensors [..., p, q] on CUDA, p, q <= 64

The rounds, rotations, tolerance and range are those of `jacobi`, and so are checks and messages;
only the order of summation differs. Needs Triton 3.6 or later, which CUDA builds of torch bring
along; without them it is an extra: pip install "decaf-theory[gpu]".

Its speed is not known: it was run in Triton's interpreter, which shows that the results are right,
and compiled for sm_80, sm_90 and sm_100, which shows the registers it takes, but not timed on a
GPU.

python -m decaf_theory.tsvd.jacobi_triton prints a table of registers and spills, without a GPU.
"""
# mypy: disable-error-code="import-not-found,import-untyped,unused-ignore"
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device, is_torch_array

from decaf_theory.arrays import Array, eps, namespace, transpose
from decaf_theory.tsvd.jacobi import (
    SWEEPS,
    check_finite,
    check_range,
    check_settled,
    finish,
    prepare,
    shortest,
)

try:
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
except ImportError as error:
    raise ImportError(
        "the Jacobi kernel needs triton >= 3.6 (Linux): pip install 'decaf-theory[gpu]'; "
        "decaf_theory.tsvd.jacobi.svd gives the same without it"
    ) from error

SIDES = (8, 16, 32, 64)  # what it is compiled for; smaller matrices are padded with zeros
TARGETS = (80, 90, 100)
OPTIONS = ("num_warps", "enable_fp_fusion")  # of the compiler, not of the kernel


def svd(A: Array) -> tuple[Array, Array, Array]:
    """Return U [..., p, m], S [..., m] decreasing and Vh [..., m, q] of torch tensors on CUDA.

    As `jacobi.svd`, errors included; p, q <= 64.
    """
    if not (is_torch_array(A) and (A.is_cuda or triton.knobs.runtime.interpret)):
        raise ValueError(
            f"A must be a torch tensor on CUDA, got {type(A).__name__} on {device(A)}; "
            f"decaf_theory.tsvd.jacobi.svd takes any array"
        )
    if max(A.shape[-2:], default=0) > SIDES[-1]:
        raise ValueError(f"A must have sides <= {SIDES[-1]}, got shape {tuple(A.shape)}")
    xp = namespace(A)
    tall, exponent = prepare(A)
    *batch, p, q = (int(side) for side in tall.shape)
    rows = xp.reshape(transpose(tall), (-1, q, p)).contiguous()
    many = rows.shape[0]
    Ut, S, Vh = xp.empty_like(rows), rows.new_empty(many, q), rows.new_empty(many, q, q)
    settled = xp.empty(many, dtype=xp.bool, device=rows.device)
    if many:
        _solve[(many,)](rows, Ut, S, Vh, settled, p, q, **constants(p, q, rows))
    settled = xp.reshape(settled, tuple(batch))
    U, S, Vh = (xp.reshape(x, (*batch, *x.shape[1:])) for x in (transpose(Ut), S, Vh))
    found = finish(A, U, S, Vh, exponent)
    # one look for all checks: each makes the CPU wait
    if not bool(xp.all(settled) & xp.all(xp.isfinite(S)) & xp.all(xp.isfinite(found[1]))):
        check_finite(A)
        check_settled(settled)
        check_range(found[1])
    return found


def constants(p: int, q: int, x: Array) -> dict[str, Any]:
    """Return what the kernel is compiled for: padded sides, and the dtype of x."""
    P, Q = (next(side for side in SIDES if side >= n) for n in (p, q))
    return {
        **{"P": P, "Q": Q, "EPS": eps(x), "SHORT": shortest(x) ** 2, "SWEEPS": SWEEPS},
        "num_warps": {8: 1, 16: 4, 32: 4, 64: 8}[P],  # few registers spill, see the table
        "enable_fp_fusion": True,  # said, as Triton's own default changes at 3.10
    }


@triton.jit(do_not_specialize=["p", "q"])
def _solve(
    A,
    U,
    S,
    V,
    settled,
    p,
    q,
    P: tl.constexpr,
    Q: tl.constexpr,
    EPS: tl.constexpr,
    SHORT: tl.constexpr,
    SWEEPS: tl.constexpr,
):
    """Write U' [q, p], S [q] and V' [q, q] of A, given by its columns as rows [q, p]."""
    matrix = tl.program_id(0).to(tl.int64)
    row, x, y = tl.arange(0, Q), tl.arange(0, P), tl.arange(0, Q)
    place = row[:, None] * p + x[None, :]
    inside = (row[:, None] < q) & (x[None, :] < p)
    X = tl.load(A + matrix * q * p + place, mask=inside, other=0.0)
    Z = (row[:, None] == y[None, :]).to(X.dtype)
    allowed = (4.0 + _root(p.to(X.dtype))) * EPS  # a cosine
    n = q - 1 + q % 2
    square = tl.sum(X * X, axis=1)
    sweep, moving = 0, 1
    while (moving > 0) & (sweep < SWEEPS):
        moving = 0
        for t in range(0, n):
            partner = _partner(row, t, n, q)
            X, Z, square, moved = _round(X, Z, row, partner, allowed, P, Q, SHORT)
            moving = tl.maximum(moving, moved)
        sweep += 1
    length = tl.where(square < SHORT, 0.0, _root(square))
    X = _unit_rows(X, length, row, x, p, q)
    tl.store(U + matrix * q * p + place, X, mask=inside)
    tl.store(S + matrix * q + row, length, mask=row < q)
    inside = (row[:, None] < q) & (y[None, :] < q)
    tl.store(V + matrix * q * q + row[:, None] * q + y[None, :], Z, mask=inside)
    tl.store(settled + matrix, moving == 0)


@triton.jit
def _partner(row, t, n, q):
    """Return the partner of each row in round t; itself when it sits out."""
    partner = (t + n - row) % n
    alone = tl.where(q > n, n, row)  # an even number: the last row is there
    partner = tl.where(partner == row, alone, partner)
    partner = tl.where(row == n, (t * ((n + 1) // 2)) % n, partner)  # half of t modulo n
    return tl.where(row < q, partner, row)


@triton.jit
def _round(
    X,
    Z,
    row,
    partner,
    allowed,
    P: tl.constexpr,
    Q: tl.constexpr,
    SHORT: tl.constexpr,
):
    """Rotate rows of X, and of Z with them; also return the squares before, and if any moved."""
    first = row < partner
    other = tl.gather(X, tl.broadcast_to(partner[:, None], (Q, P)), 0)
    alpha = tl.sum(X * X, axis=1)
    beta = tl.gather(alpha, partner, 0)
    gamma = tl.sum(X * other, axis=1)
    gamma = tl.where(first, gamma, tl.gather(gamma, partner, 0))  # one number for both
    delta = tl.where(first, alpha - beta, beta - alpha)
    length = _root(alpha)
    bent = tl.abs(gamma) > allowed * (length * tl.gather(length, partner, 0))
    turned = bent & (tl.minimum(alpha, beta) >= SHORT) & (row != partner)
    changed = delta < 0
    # half the angle of (x, y) is that of (x + |(x, y)|, y)
    y = tl.where(turned, 2 * tl.abs(gamma), 0.0)
    x = tl.where(turned, tl.abs(delta), 1.0)
    one = tl.full((Q,), 1.0, X.dtype)
    scale = _ratio(one, tl.maximum(x, y))
    x, y = x * scale, y * scale
    x += _root(x * x + y * y)
    scale = _ratio(one, _root(x * x + y * y))
    x, y = x * scale, y * scale
    cosine, sine = tl.where(changed, y, x), tl.where(changed, x, y)
    sine = tl.where((gamma > 0) == first, sine, -sine)
    X = cosine[:, None] * X + sine[:, None] * other
    other = tl.gather(Z, tl.broadcast_to(partner[:, None], (Q, Q)), 0)
    Z = cosine[:, None] * Z + sine[:, None] * other
    return X, Z, alpha, tl.max((turned | changed).to(tl.int32), axis=0)


@triton.jit
def _unit_rows(X, length, row, x, p, q):
    """Return orthonormal rows: those of X over their lengths, new ones where these are zero."""
    null = (length == 0) & (row < q)
    X = tl.where(length[:, None] == 0, 0.0, _ratio(X, tl.where(length == 0, 1.0, length)[:, None]))
    for j in range(q - tl.sum(null.to(tl.int32), axis=0), q):
        room = tl.where(x < p, 1 - tl.sum(X * X, axis=0), -1.0)
        new = (x == tl.argmax(room, axis=0)).to(X.dtype)
        for _ in range(2):
            new -= tl.sum(tl.sum(X * new[None, :], axis=1)[:, None] * X, axis=0)
        new = _ratio(new, _root(tl.sum(new * new, axis=0)))
        X = tl.where((row == j)[:, None], new[None, :], X)
    return X


@triton.jit
def _root(x):
    """Return the square root, correctly rounded (`sqrt` is only in float64)."""
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def _ratio(x, y):
    """Return x / y, correctly rounded (`/` is only in float64)."""
    if x.dtype == tl.float64:
        return x / y
    else:
        return tl.div_rn(x, y)


class Resources(NamedTuple):
    """What the compiled kernel takes on one architecture."""

    target: int  # 80 for sm_80
    dtype: str
    side: int
    registers: int  # of 32 bits, a thread
    spilled: int  # bytes a thread in the stack frame and local memory
    shared: int  # bytes a matrix


def resources(target: int, dtype: str, side: int) -> Resources:
    """Compile the kernel for side x side matrices, without a GPU, and read what it takes."""
    fixed: dict[str, Any] = constants(side, side, np.empty(0, dtype))
    options = {name: fixed.pop(name) for name in OPTIONS}
    pointer = {"float64": "*fp64", "float32": "*fp32"}[dtype]
    signature = dict.fromkeys("AUSV", pointer) | {"settled": "*i1", "p": "i32", "q": "i32"}
    source = ASTSource(_solve, signature | dict.fromkeys(fixed, "constexpr"), fixed)
    built = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(built.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        text = subprocess.run(
            [tool, "-res-usage", binary], check=True, capture_output=True, text=True
        ).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return Resources(
        *(target, dtype, side, found["REG"], found["STACK"] + found["LOCAL"]),
        shared=built.metadata.shared,
    )


def main() -> None:
    """Print what the kernel takes for every target, dtype and size."""
    print("target  dtype    side  registers  spilled bytes  shared bytes")
    for target in TARGETS:
        for dtype in ("float64", "float32"):
            for side in SIDES:
                taken = resources(target, dtype, side)
                numbers = f"{taken.registers:9}  {taken.spilled:13}  {taken.shared:12}"
                print(f"sm_{target}   {dtype}  {side:4}  {numbers}")


if __name__ == "__main__":
    main()
