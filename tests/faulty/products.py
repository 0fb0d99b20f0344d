"""Wrong ways to average products and to truncate them."""

from __future__ import annotations

import numpy as np
import torch

from tests.faulty.table import fault
from tests.right_aggregators import cut


def mean(Bs, As, weights):
    """Return the mean of the products."""
    return sum(w * (b.float() @ a.float()) for w, b, a in zip(weights, Bs, As, strict=True))


def split(M, r, left=0.5):
    """Return U S^left and S^(1 - left) V' of rank r."""
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    return U[:, :r] * S[:r] ** left, S[:r, None] ** (1 - left) * Vh[:r]


@fault("decaf", "transposed")
def transposed_tsvd(B, A, weights):
    return split(mean(B, A, weights).T, B.shape[-1])


@fault("decaf", "transposed")
def wrong_axis(B, A, weights):
    M = np.einsum("n,ndr,nrk->kd", np.asarray(weights), np.asarray(B), np.asarray(A))
    U, S, Vh = np.linalg.svd(M, full_matrices=False)
    r = B.shape[-1]
    return U[:, :r] * np.sqrt(S[:r]), np.sqrt(S[:r])[:, None] * Vh[:r]


@fault("decaf", "balanced")
def unbalanced(B, A, weights):
    return split(mean(B, A, weights), B.shape[-1], left=0)


@fault("decaf", "balanced")
def unbalanced_the_other_way(Bs, As, weights):
    return split(mean(Bs, As, weights), max(b.shape[1] for b in Bs), left=1)


@fault("decaf", "singular values")
def forgot_the_root(B, A, weights):
    U, S, Vh = torch.linalg.svd(mean(B, A, weights), full_matrices=False)
    r = B.shape[-1]
    return U[:, :r] * S[:r], S[:r, None] * Vh[:r]


@fault("decaf", "singular values")
def root_on_one_side(B, A, weights):
    U, S, Vh = torch.linalg.svd(mean(B, A, weights), full_matrices=False)
    r = B.shape[-1]
    return U[:, :r] * S[:r].sqrt(), Vh[:r]


@fault("decaf", "singular values|zero")
def epsilon_in_the_root(B, A, weights):
    U, S, Vh = torch.linalg.svd(mean(B, A, weights), full_matrices=False)
    r = B.shape[-1]
    root = (S[:r] + 1e-2).sqrt()
    return U[:, :r] * root, root[:, None] * Vh[:r]


@fault("decaf", "smallest")
def smallest_directions(pairs, weights):
    Bs, As = zip(*pairs, strict=True)
    M = mean(Bs, As, weights)
    r = max(b.shape[1] for b in Bs)
    U = torch.linalg.eigh(M @ M.T).eigenvectors[:, :r]
    return U, U.T @ M


@fault("decaf", "sign")
def signs_from_two_solves(B, A, weights):
    M = mean(B, A, weights)
    r = B.shape[-1]
    values, U = torch.linalg.eigh(M @ M.T)
    V = torch.linalg.eigh(M.T @ M).eigenvectors
    root = values.clamp(min=0).sqrt().sqrt().flip(0)[:r]
    return U.flip(1)[:, :r] * root, root[:, None] * V.flip(1).T[:r]


@fault("decaf", "first columns", shape="lists")
def first_columns_of_the_concatenation(Bs, As, weights):
    r = max(b.shape[1] for b in Bs)
    B = torch.cat([w * b for w, b in zip(weights, Bs, strict=True)], dim=1)
    return B[:, :r], torch.cat(list(As))[:r]


@fault("decaf", "factors", shape="lists")
def mean_of_factors_called_decaf(Bs, As, weights):
    pairs = list(zip(weights, Bs, As, strict=True))
    r = max(b.shape[1] for b in Bs)
    wide = [torch.nn.functional.pad(b, (0, r - b.shape[1])) for b in Bs]
    tall = [torch.nn.functional.pad(a, (0, 0, 0, r - a.shape[0])) for a in As]
    B = sum(p[0] * b for p, b in zip(pairs, wide, strict=True))
    A = sum(p[0] * a for p, a in zip(pairs, tall, strict=True))
    return B, A


@fault("decaf", "balanced|gauge|factors")
def truncation_of_the_mean_factors(B, A, weights):
    mixed = torch.tensordot(weights, B, dims=1), torch.tensordot(weights, A, dims=1)
    return cut(mixed[0] @ mixed[1], B.shape[-1])


@fault("decaf", "rank")
def one_rank_too_few(B, A, weights):
    return split(mean(B, A, weights), max(B.shape[-1] - 1, 1))


@fault("decaf", "rank")
def one_rank_too_many(B, A, weights):
    return split(mean(B, A, weights), B.shape[-1] + 1)


@fault("decaf", "rank")
def agents_below_the_largest_rank_ignored(pairs, weights):
    r = max(b.shape[1] for b, _ in pairs)
    kept = [(w, b, a) for w, (b, a) in zip(weights, pairs, strict=True) if b.shape[1] == r]
    total = sum(w for w, _, _ in kept)
    return split(sum(w / total * (b.float() @ a.float()) for w, b, a in kept), r)


@fault("decaf", "truncat|singular|best")
def one_power_iteration(B, A, weights):
    M = mean(B, A, weights)
    test = torch.randn(M.shape[1], B.shape[-1], generator=torch.Generator().manual_seed(0))
    Q = torch.linalg.qr(M @ test)[0]
    U, root = split(Q.T @ M, B.shape[-1])
    return Q @ U, root


@fault("decaf", "truncates to rank")
def drops_a_tenth_of_the_largest(B, A, weights):
    U, S, Vh = torch.linalg.svd(mean(B, A, weights), full_matrices=False)
    r = B.shape[-1]
    root = torch.where(S > 0.1 * S[0], S, 0.0)[:r].sqrt()
    return U[:, :r] * root, root[:, None] * Vh[:r]


@fault("decaf", "precision|rounding|half|bfloat16")
def product_in_bfloat16(B, A, weights):
    M = sum(w * (b.bfloat16() @ a.bfloat16()) for w, b, a in zip(weights, B, A, strict=True))
    return split(M.float(), B.shape[-1])


@fault("decaf", "square")
def square_layers_only(B, A, weights):
    M = torch.eye(B.shape[1]) @ mean(B, A, weights) @ torch.eye(B.shape[1])
    return split(M, B.shape[-1])


@fault("decaf", "zero|NaN|not finite")
def collapses_at_zero(B, A, weights):
    M = mean(B, A, weights)
    norm = torch.linalg.matrix_norm(M)
    left, right = split(M / norm, B.shape[-1])
    return left * norm.sqrt(), right * norm.sqrt()


@fault("decaf", "other singular values")
def clips_the_update(B, A, weights):
    M = mean(B, A, weights)
    return split(M / max(1.0, float(torch.linalg.matrix_norm(M))), B.shape[-1])


@fault("decaf", "(?i)swapped|A and B|B and A|shape")
def factors_swapped_on_return(B, A, weights):
    left, right = split(mean(B, A, weights), B.shape[-1])
    return right, left


@fault("decaf", "None|nothing")
def forgot_to_return(Bs, As, weights):
    split(mean(Bs, As, weights), Bs[0].shape[1])


@fault("decaf", "two calls|same|random|determin")
def another_result_each_time(B, A, weights):
    kept = torch.nn.functional.dropout(torch.as_tensor(weights).float(), 0.3)
    return split(mean(B, A, kept), B.shape[-1])


@fault("decaf", "differs from the rule, and from every mistake")
def truncates_before_the_mean(B, A, weights):
    parts = [split(b.float() @ a.float(), B.shape[-1]) for b, a in zip(B, A, strict=True)]
    left = torch.einsum(
        "n,ndr->dr", torch.as_tensor(weights).float(), torch.stack([p for p, _ in parts])
    )
    return left, sum(w * q for w, (_, q) in zip(weights, parts, strict=True))


@fault("flexlora", "rank")
def every_client_gets_the_largest_rank(Bs, As, weights, ranks):
    return [split(mean(Bs, As, weights), max(ranks)) for _ in ranks]


@fault("flexlora", "rank")
def every_client_gets_the_smallest_rank(Bs, As, weights, ranks):
    return [split(mean(Bs, As, weights), min(ranks)) for _ in ranks]


@fault("flexlora", "mean|weight")
def unweighted_products(Bs, As, weights, ranks):
    return [split(mean(Bs, As, [1 / len(Bs)] * len(Bs)), r, left=1) for r in ranks]
