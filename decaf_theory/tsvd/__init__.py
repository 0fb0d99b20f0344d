"""The truncated SVD of a mix of products: the one kernel that theory and training share.

from decaf_theory.tsvd import tsvd_of_mix
truncated = tsvd_of_mix(factors, Pi, rank)      # one round of DeCAF mixing for all agents
truncated.factors                               # balanced B, A of TSVD_r(sum_j pi_ij B_j A_j)
truncated.tail                                  # the dropped singular values: the exact error
"""

from __future__ import annotations

from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np

from decaf_theory.arrays import Array, integer, namespace, require_real, working
from decaf_theory.lowrank import Factors, check_agents
from decaf_theory.memory import keep_freed
from decaf_theory.tsvd.conditions import REASONS
from decaf_theory.tsvd.dense import dense_rows
from decaf_theory.tsvd.full_precision import in_full_precision
from decaf_theory.tsvd.gradients import with_finite_gradients
from decaf_theory.tsvd.grouping import Group, joined, plan
from decaf_theory.tsvd.mixing import (
    TSVD,
    Info,
    carry_gradients,
    check_overflow,
    exponent_of,
    first_false,
    gather,
    given_back,
    nonfinite_agents,
    normalized,
    on_host,
    rescaled,
    scale_by,
    truncate,
)
from decaf_theory.tsvd.panel import panel_rows
from decaf_theory.tsvd.precision import Precision, attainable
from decaf_theory.tsvd.qr import qr_rows
from decaf_theory.tsvd.redo import redo

__all__ = ["TSVD", "Info", "tsvd", "tsvd_of_mix"]

PATHS = ("dense", "panel", "qr")
Host: TypeAlias = np.ndarray[Any, Any]


def tsvd(M: Array, rank: int) -> TSVD:
    """Return TSVD_r(M) as balanced factors, by a dense SVD: the oracle for the other paths.

    M [..., d, k] real floating point (half types are raised to float32 inside). Returns factors
    B = U_r S_r^(1/2) [..., d, r] and A = S_r^(1/2) V_r' [..., r, k], singular_values [..., r] and
    tail [..., min(d, k) - r]. |M - BA| is least among matrices of rank r in every unitarily
    invariant norm (Eckart-Young-Mirsky). ValueError: shape, rank, dtype, a non-finite entry.

    Examples:
        >>> import numpy as np
        >>> from decaf_theory.tsvd import tsvd
        >>> kept = tsvd(np.diag([4.0, 2.0, 1.0]), rank=1)
        >>> kept.singular_values.tolist(), kept.tail.tolist()
        ([4.0], [2.0, 1.0])
    """
    require_real("M", M)
    if M.ndim < 2 or 0 in M.shape:
        raise ValueError(
            f"M must be [..., d, k] with d, k >= 1, got shape {tuple(M.shape)}; "
            f"leave empty matrices out"
        )
    d, k = M.shape[-2:]
    rank = check_rank(rank, d, k)
    xp = namespace(M)
    finite = xp.all(xp.isfinite(M), axis=(-2, -1))
    if not bool(xp.all(finite)):
        raise ValueError(
            f"M must be finite, got nan or inf at batch index {first_false(finite)}; "
            f"leave it out, or mend what computed it"
        )
    wide = working(M)
    half = exponent_of(xp.sqrt(xp.max(xp.abs(wide), axis=(-2, -1))))  # of either factor
    U, S, Vh = xp.linalg.svd(scale_by(wide, -2 * half[..., None, None]), full_matrices=False)
    info = Info("dense", prod(M.shape[:-2]))
    truncated = rescaled(truncate(U, S, Vh, rank, min(d, k) - rank), half, M, info)
    check_overflow(truncated.singular_values, M)
    return truncated


@in_full_precision
def tsvd_of_mix(
    factors: Factors,
    Pi: Array,
    rank: int,
    *,
    method: Literal["auto", "dense", "qr", "panel"] = "auto",
    on_nonfinite: Literal["raise", "skip"] = "raise",
) -> TSVD:
    """Return TSVD_r(M_i), M_i = sum_j pi_ij B_j A_j, for every row i of Pi.

    factors: B [..., N, d, r_in], A [..., N, r_in, k]; fold a LoRA scale into B. Agents of unequal
    rank are zero-padded first (exact). Pi [n, N]: the rows wanted, dense or sparse (scipy, torch);
    they need not sum to one. Returns balanced factors B [..., n, d, r] and A [..., n, r, k],
    singular_values [..., n, r] and tail [..., n, w], w = max(min(m r_in, d, k) - r, 0), where m is
    the largest number of agents that a row weights: the same width on every path.

    method: "dense" forms M_i (best when m r_in is near min(d, k), as factoring then gains nothing),
    "qr" works on the factors (backward stable), "panel" on their Gram matrices, shared by all rows
    (fastest; elements that would lose more than 1e-13 sigma_1, 1e-6 for types narrower than
    float64, are redone by qr, see `core`); "auto" chooses by size and dtype, see `chosen_path`.
    on_nonfinite: where a row weights an agent with nan or inf, "raise" names batch index and agent;
    "skip" returns NaN for the row, lists it in info.skipped and computes all others as if the
    agent's factors were zero.
    Gradients: torch's go through "qr" and "dense"; results of "panel" carry none. They are not
    defined where singular values repeat, as with equal or zero-padded agents: a ValueError then.
    ValueError: shapes, dtype, rank, method, non-finite factors or weights, overflow of a product.

    Examples:
        >>> import numpy as np
        >>> from decaf_theory import TOPOLOGIES, Factors, tsvd_of_mix
        >>> rng = np.random.default_rng(0)
        >>> factors = Factors(rng.normal(size=(8, 24, 4)), rng.normal(size=(8, 4, 16)))
        >>> mixed = tsvd_of_mix(factors, TOPOLOGIES["ring"](8), rank=4)  # one round of DeCAF
        >>> mixed.factors.B.shape, mixed.factors.A.shape, mixed.tail.shape
        ((8, 24, 4), (8, 4, 16), (8, 8))
    """
    check_agents(factors)
    (d, k), r_in = factors.shape, factors.rank
    rank = check_rank(rank, d, k)
    if method not in ("auto", *PATHS):
        raise ValueError(f"method must be one of {('auto', *PATHS)}, got {method!r}")
    if on_nonfinite not in ("raise", "skip"):
        raise ValueError(f"on_nonfinite must be 'raise' or 'skip', got {on_nonfinite!r}")
    groups = plan(Pi, int(factors.B.shape[-3]), r_in)
    factors = with_finite_gradients(factors)
    keep_freed()  # what a round takes, the next one takes again
    if len(groups) == 1:
        return _together(factors, groups[0], rank, method, on_nonfinite)
    parts = [_together(factors, group, rank, method, on_nonfinite) for group in groups]
    longest = max(group.weights.shape[1] for group in groups)
    width = max(min(longest * r_in, d, k) - rank, 0)
    return joined(parts, [group.rows for group in groups], width)


def _together(factors: Factors, group: Group, rank: int, method: str, on_nonfinite: str) -> TSVD:
    """Return the truncation of rows whose stacks are equally long; the arguments are checked."""
    n, m = group.weights.shape
    stacked = m * factors.rank
    if method == "auto":
        method = chosen_path(stacked, factors)
    width = max(min(stacked, *factors.shape) - rank, 0)
    if method == "panel":
        truncated, bad, why = _by_panels(factors, group, rank, width, on_nonfinite)
    else:
        bad = _nonfinite(factors, group, on_nonfinite)
        panels = gather(_without(factors, bad), group.index)
        weights = group.different.weights
        unit, own, exponent = normalized(Factors(working(panels.B), working(panels.A)), weights)
        path = {"dense": dense_rows, "qr": qr_rows}[method]
        truncated = path(unit, own, rank, width)
        truncated = rescaled(truncated, exponent, factors.B, truncated.info)
        check_overflow(truncated.singular_values, factors.B)
        why = None  # nothing is redone
    if group.different is not group:
        truncated = _repeated(truncated, n)
    factors_found, kept, tail, _ = truncated
    batch = tuple(factors.B.shape[:-3])
    if bad is None and why is None:
        return TSVD(factors_found, kept, tail, Info(method, prod(batch) * n))
    lost = np.zeros((*batch, n), dtype=bool) if bad is None else _rows_that_use(bad, group)
    skipped = _places(lost)
    why = np.where(lost, 0, 0 if why is None else why)
    fell_back = tuple((REASONS[why[at]], at) for at in _places(why))
    info = Info(method, prod(batch) * n - len(skipped), skipped, fell_back)
    result = TSVD(factors_found, kept, tail, info)
    return _with_nan(result, lost) if skipped else result


def _places(mask: Host) -> tuple[tuple[int, ...], ...]:
    """Return where a mask [...] is not zero."""
    return tuple(tuple(int(i) for i in at) for at in np.argwhere(mask))


def chosen_path(stacked: int, factors: Factors) -> Literal["dense", "qr", "panel"]:
    """Return the path for mixes of `stacked` = m r_in rank directions.

    dense if factoring gains nothing: from 0.75 min(d, k) directions on in float64, from
    min(d, k) in narrower types; qr if the panels' Gram matrices cannot keep the promise
    (`precision.attainable`), or if torch has to carry gradients, which their in-place float64 sums
    lose; otherwise panel, which falls back to qr by itself.
    """
    precision, shape = Precision.of(working(factors.B)), factors.shape
    if stacked >= (0.75 if precision.double else 1.0) * min(shape):
        return "dense"
    if carry_gradients(factors):
        return "qr"
    return "panel" if attainable(stacked, max(shape), precision) else "qr"


def _by_panels(
    factors: Factors, group: Group, rank: int, width: int, on_nonfinite: str
) -> tuple[TSVD, Host | None, Host | None]:
    """Return the truncation by panels, the bad agents, and why elements were redone by qr.

    The last two are None where there are none.
    """
    batch, rows = factors.B.shape[:-3], group.different
    layers = on_host(factors)
    if len(batch) != 1:
        layers = layers.map(lambda X: X.reshape((-1, *X.shape[-3:])))
    truncated, why, unfit = panel_rows(layers, rows, rank, width)
    bad = _nonfinite(factors, group, on_nonfinite) if unfit else None
    if why is not None:
        if bad is not None:
            off = bad.reshape((-1, group.N))
            layers, why = _without(layers, off), np.where(_rows_that_use(off, rows), 0, why)
        redo(truncated, layers, rows.index, rows.weights, why != 0, rank)
        why = why.reshape((*batch, -1))

    (B, A), kept, tail, info = truncated
    found = B, A, kept, tail
    if len(batch) != 1:
        found = tuple(X.reshape((*batch, *X.shape[1:])) for X in found)
    check_overflow(found[2], factors.B)
    B, A, kept, tail = given_back(found, factors.B)
    return TSVD(Factors(B, A), kept, tail, info), bad, why


def _nonfinite(factors: Factors, group: Group, on_nonfinite: str) -> Host | None:
    """Return the mask [..., N] of agents with nan or inf; None: there are none.

    ValueError: some row weights such an agent, and that is not allowed.
    """
    bad = nonfinite_agents(factors)
    if on_nonfinite == "raise":
        weighted = np.broadcast_to(group.index, group.weights.shape)[group.weights != 0]
        used = np.isin(np.arange(bad.shape[-1]), weighted)
        if np.any(bad & used):
            raise ValueError(_name_agent(bad & used))
    return bad if bad.any() else None


def _repeated(truncated: TSVD, n: int) -> TSVD:
    """Return the truncation of one row as that of n equal rows."""
    xp = namespace(truncated.tail)
    return TSVD(
        Factors(*(xp.repeat(X, n, axis=-3) for X in truncated.factors)),
        xp.repeat(truncated.singular_values, n, axis=-2),
        xp.repeat(truncated.tail, n, axis=-2),
        truncated.info,
    )


def check_rank(rank: int, d: int, k: int) -> int:
    """Return rank as an int; ValueError unless it is an integer in 1 ... min(d, k)."""
    try:
        value = integer("rank", rank)
    except ValueError as error:
        raise ValueError(f"{error}; convert it with int()") from None
    if not 1 <= value <= min(d, k):
        raise ValueError(
            f"rank must be in 1 ... min(d, k) = {min(d, k)} for {d} x {k} matrices, got {value}; "
            f"{'take ' + str(min(d, k)) + ', which drops nothing' if value > 0 else 'take 1'}"
        )
    return value


def _name_agent(bad: Host) -> str:
    *batch, agent = (int(i) for i in np.argwhere(bad)[0])
    where = f" at batch index {tuple(batch)}" if batch else ""
    return (
        f"factors of agent {agent}{where} hold nan or inf; "
        f"on_nonfinite='skip' continues without the rows that use it"
    )


def _without(factors: Factors, bad: Host | None) -> Factors:
    """Return the factors with those of bad agents [..., N] set to zero."""
    if bad is None:
        return factors
    xp = namespace(factors.B)
    mask = xp.asarray(bad, device=factors.B.device)[..., None, None]
    return Factors(*(xp.where(mask, xp.zeros_like(X), X) for X in factors))


def _rows_that_use(bad: Host, group: Group) -> Host:
    """Return a mask [..., n] of the rows that put weight on a bad agent."""
    used: Host = np.any(bad[..., group.index] & (group.weights != 0), axis=-1)
    return used


def _with_nan(truncated: TSVD, lost: Host) -> TSVD:
    """Return the truncation with NaN in the lost rows [..., n]."""
    xp = namespace(truncated.tail)
    mask = xp.asarray(lost, device=truncated.tail.device)

    def blank(x: Array) -> Array:
        wide = xp.reshape(mask, (*mask.shape, *([1] * (x.ndim - mask.ndim))))
        return xp.where(wide, xp.full_like(x, xp.nan), x)

    return TSVD(
        Factors(*(blank(X) for X in truncated.factors)),
        blank(truncated.singular_values),
        blank(truncated.tail),
        truncated.info,
    )
