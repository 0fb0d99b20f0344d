"""The methods in use today for one round of mixing, written as a careful user would write them.

Neighbours, weights and buffers are prepared outside the timed part; the kernel finds its own
inside. Every function returns a callable, which works on all agents and layers unless it says
otherwise. A peer that is not installed raises ModuleNotFoundError when it is requested.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np

from decaf_theory.arrays import Array, convert, namespace, transpose
from decaf_theory.bench.cases import Inputs
from decaf_theory.lowrank import Factors
from decaf_theory.tsvd import tsvd_of_mix


def kernel(inputs: Inputs) -> Callable[[], Factors]:
    """Return the kernel as it is used."""
    return lambda: tsvd_of_mix(*inputs).factors


def batched_qr(inputs: Inputs) -> Callable[[], Factors]:
    """Return the QR loop for all agents and layers at once, in three calls of LAPACK's routines.

    Rows with fewer neighbours than the longest are filled up with agents of weight zero.
    """
    xp, (B, A), r = namespace(inputs.factors.B), inputs.factors, inputs.rank
    m = int(np.count_nonzero(inputs.Pi, axis=1).max())
    near = np.argsort(inputs.Pi == 0, axis=1, kind="stable")[:, :m]
    weights = np.take_along_axis(inputs.Pi, near, 1)
    w = convert(np.repeat(weights, inputs.factors.rank, axis=1), B)[:, None, :]
    index = xp.asarray(near.ravel(), device=B.device)

    def stacks(X: Array) -> Array:
        own = xp.reshape(xp.take(X, index, axis=1), (len(X), *near.shape, *X.shape[2:]))
        return xp.reshape(own, (len(X), len(near), -1, X.shape[-1]))

    def run() -> Factors:
        Q, R = xp.linalg.qr(transpose(stacks(transpose(B))))
        P, T = xp.linalg.qr(transpose(stacks(A)))
        U, S, Vh = xp.linalg.svd((R * w) @ transpose(T), full_matrices=False)
        root = xp.sqrt(S[..., :r])
        left, right = U[..., :r] * root[..., None, :], root[..., None] * Vh[..., :r, :]
        return Factors(Q @ left, right @ transpose(P))

    return run


def qr_loop(inputs: Inputs) -> Callable[[], list[Factors]]:
    """Return a loop over layers and agents: thin QR of the neighbours' factors, SVD of the core."""
    xp, (B, A), r = namespace(inputs.factors.B), inputs.factors, inputs.rank
    L, rows, rank_in = B.shape[0], range(len(inputs.Pi)), inputs.factors.rank
    near = [[int(j) for j in inputs.neighbours(i)] for i in rows]
    weights = [convert(np.repeat(inputs.Pi[i, near[i]], rank_in), B) for i in rows]

    def one(layer: int, i: int) -> Factors:
        Q, R = xp.linalg.qr(xp.concat([B[layer, j] for j in near[i]], axis=-1))
        P, T = xp.linalg.qr(xp.concat([transpose(A[layer, j]) for j in near[i]], axis=-1))
        U, S, Vh = xp.linalg.svd((R * weights[i]) @ transpose(T), full_matrices=False)
        root = xp.sqrt(S[:r])
        return Factors(Q @ (U[:, :r] * root), (root[:, None] * Vh[:r]) @ transpose(P))

    return lambda: [one(layer, i) for layer in range(L) for i in rows]


def core_space(inputs: Inputs) -> Callable[[], list[Factors]]:
    """Return core space merging (arXiv 2509.17786) for the first row of Pi, cut to the rank.

    Reference bases of all B and all A by an SVD of each stack, the cores U' B_j A_j V, their mean.
    In the type of the data; the authors' code takes float64 and forms the mean's d x k product.
    """
    xp, (B, A), r = namespace(inputs.factors.B), inputs.factors, inputs.rank
    near = [int(j) for j in inputs.neighbours(0)]

    def one(layer: int) -> Factors:
        U = xp.linalg.svd(xp.concat([B[layer, j] for j in near], axis=-1), full_matrices=False)[0]
        V = xp.linalg.svd(xp.concat([A[layer, j] for j in near], axis=-2), full_matrices=False)[2]
        cores = (
            float(inputs.Pi[0, j]) * ((transpose(U) @ B[layer, j]) @ (A[layer, j] @ transpose(V)))
            for j in near
        )
        P, S, Q = xp.linalg.svd(sum(cores), full_matrices=False)
        return Factors(U @ (P[:, :r] * S[:r]), Q[:r] @ V)

    return lambda: [one(layer) for layer in range(B.shape[0])]


def concatenated(inputs: Inputs, i: int) -> tuple[Array, Array]:
    """Return B [d, m r], weights inside, and A [m r, k] of one agent's neighbours, first layer."""
    xp, (B, A) = namespace(inputs.factors.B), inputs.factors
    near = inputs.neighbours(i)
    return (
        xp.concat([float(inputs.Pi[i, j]) * B[0, int(j)] for j in near], axis=-1),
        xp.concat([A[0, int(j)] for j in near], axis=-2),
    )


def dense(inputs: Inputs) -> Callable[[], Array]:
    """Return the SVD of the formed mix, of one agent of one layer."""
    xp = namespace(inputs.factors.B)
    B, A = concatenated(inputs, 0)
    return lambda: xp.linalg.svd(B @ A, full_matrices=False)


def dense_batched(inputs: Inputs) -> Callable[[], Array]:
    """Return the SVD of the formed mixes of all agents and layers at once."""
    xp, (B, A) = namespace(inputs.factors.B), inputs.factors
    Pi, N = convert(inputs.Pi, B), int(B.shape[1])

    def run() -> Array:
        P = B @ A
        M = Pi @ xp.reshape(P, (len(P), N, -1))
        return xp.linalg.svd(xp.reshape(M, P.shape), full_matrices=False)

    return run


def dense_aggregation(inputs: Inputs) -> Callable[[], Factors]:
    """Return what FlexLoRA's server does for one agent: sum dense products, SVD, cut."""
    xp, (B, A), r = namespace(inputs.factors.B), inputs.factors, inputs.rank
    near = [int(j) for j in inputs.neighbours(0)]

    def run() -> Factors:
        M = sum(float(inputs.Pi[0, j]) * (B[0, j] @ A[0, j]) for j in near)
        U, S, Vh = xp.linalg.svd(M, full_matrices=False)
        return Factors(U[:, :r] * S[:r], Vh[:r])

    return run


def svds(inputs: Inputs, solver: str) -> Callable[[], list[Any]]:
    """Return scipy's Krylov solver on the unformed mix of every agent, first layer."""
    from scipy.sparse import linalg

    L: Any = linalg
    mixes = [concatenated(inputs, i) for i in range(len(inputs.Pi))]
    operators = [
        L.LinearOperator(
            (B.shape[0], A.shape[1]),
            matvec=lambda x, B=B, A=A: B @ (A @ x),
            rmatvec=lambda y, B=B, A=A: A.T @ (B.T @ y),
            dtype=B.dtype,
        )
        for B, A in mixes
    ]
    d, k = operators[0].shape
    start = np.random.default_rng(0).standard_normal(d if solver == "propack" else min(d, k))
    v0 = start.astype(operators[0].dtype)
    return lambda: [L.svds(M, k=inputs.rank, solver=solver, v0=v0) for M in operators]


def svd_lowrank(inputs: Inputs) -> Callable[[], Factors]:
    """Return torch's randomized SVD of the formed mix of one agent, cut from six more columns."""
    import torch

    B, A = concatenated(inputs, 0)
    r = inputs.rank

    def run() -> Factors:
        U, S, V = torch.svd_lowrank(B @ A, q=r + 6)
        return Factors(U[:, :r] * S[:r], V[:, :r].T)

    return run


def randomized_svd(inputs: Inputs) -> Callable[[], Factors]:
    """Return scikit-learn's randomized SVD of the formed mix of one agent, at its defaults."""
    extmath = importlib.import_module("sklearn.utils.extmath")
    B, A = concatenated(inputs, 0)

    def run() -> Factors:
        U, S, Vh = extmath.randomized_svd(B @ A, n_components=inputs.rank, random_state=0)
        return Factors(U * S, Vh)

    return run


def peft(inputs: Inputs, combination: str = "svd") -> Callable[[], Factors]:
    """Return peft's `add_weighted_adapter` for the first row of Pi: torch, one layer.

    combination: "svd", or "cat", which keeps the rank of all adapters together.
    """
    library = importlib.import_module("peft")
    import torch

    (B, A), near = inputs.factors, [int(j) for j in inputs.neighbours(0)]
    (d, k), r = inputs.factors.shape, inputs.rank
    network = torch.nn.ModuleDict({"layer": torch.nn.Linear(k, d, bias=False, device=B.device)})
    config = library.LoraConfig(r=r, lora_alpha=r, target_modules=["layer"])
    model = library.get_peft_model(network, config, adapter_name=f"agent{near[0]}")
    for j in near[1:]:
        model.add_adapter(f"agent{j}", config)
    site = model.base_model.model["layer"]
    for j in near:
        site.lora_B[f"agent{j}"].weight.data = B[0, j].clone()
        site.lora_A[f"agent{j}"].weight.data = A[0, j].clone()
    agents, weights = [f"agent{j}" for j in near], [float(inputs.Pi[0, j]) for j in near]
    names = (f"mix{number}" for number in count())  # peft does nothing if the name exists

    def run() -> Factors:
        name = next(names)
        model.add_weighted_adapter(
            *(agents, weights, name),
            combination_type=combination,
            svd_rank=r,
            svd_full_matrices=False,  # the default also forms directions that are then cut
        )
        return Factors(site.lora_B[name].weight.data, site.lora_A[name].weight.data)

    return run


# ---------------------------------------------------------------- what cannot be beaten


def floor(inputs: Inputs) -> Callable[[], None]:
    """Return only the GEMMs: Gram matrices of both stacks in float64, outputs in the data's type.

    The outputs are those of the distinct rows of Pi. The operands in float64 are prepared, one
    stack per side, as if they were in the cache after conversion.
    """
    xp, (B, A) = namespace(inputs.factors.B), inputs.factors
    L, N, _, r = B.shape
    stacks = [xp.reshape(X, (L, N * r, -1)) for X in (_contiguous(transpose(B)), A)]
    wide = [_contiguous(xp.astype(X[0], xp.float64)) for X in stacks]
    rows = len(np.unique(inputs.Pi, axis=0)) * inputs.rank
    C = convert(np.random.default_rng(0).standard_normal((rows, N * r)), B)
    out = [xp.empty((rows, X.shape[-1]), dtype=X.dtype, device=X.device) for X in stacks]

    def run() -> None:
        for layer in range(L):
            for X, X_wide, to in zip(stacks, wide, out, strict=True):
                xp.matmul(X_wide, X_wide.T)
                xp.matmul(C, X[layer], out=to)

    return run


def copy(inputs: Inputs) -> Callable[[], None]:
    """Return a copy of all factors: the bytes that a round must read and write."""
    xp, (B, A) = namespace(inputs.factors.B), inputs.factors
    to_B, to_A = xp.empty_like(B), xp.empty_like(A)

    def run() -> None:
        to_B[...] = B
        to_A[...] = A

    return run


def _contiguous(x: Array) -> Array:
    return x.contiguous() if hasattr(x, "contiguous") else np.ascontiguousarray(x)
