"""Wrong neighbours, rings and mixing matrices: one result per agent."""

from __future__ import annotations

import torch

from tests.faulty.table import fault, fresh
from tests.right_aggregators import cut


def mixed(Pi, Bs, As):
    """Return [(sum pi_ij B_j, sum pi_ij A_j)]."""
    rows = [[float(p) for p in row] for row in Pi]
    sums = [[sum(p * X for p, X in zip(row, Xs, strict=True)) for row in rows] for Xs in (Bs, As)]
    return list(zip(*sums, strict=True))


def weights_of(N, neighbours):
    """Return a matrix of thirds: an agent and its neighbours, as often as they are named."""
    Pi = [[0.0] * N for _ in range(N)]
    for i in range(N):
        for j in [i, *neighbours(i, N)]:
            Pi[i][j] += 1 / 3
    return Pi


@fault("dlora", "sum to", topology="ring", shape="lists")
def ring_of_thirds_for_two(Bs, As):
    Pi = weights_of(len(Bs), lambda i, N: {(i - 1) % N, (i + 1) % N} - {i})
    return mixed(Pi, Bs, As)


@fault("dlora", "neighbo|another|order|graph", topology="ring", shape="lists")
def neighbours_off_by_one(Bs, As):
    return mixed(weights_of(len(Bs), lambda i, N: [(i + 1) % N, (i + 2) % N]), Bs, As)


@fault("dlora", "neighbo|graph|wrap|agent", topology="ring", shape="lists")
def line_called_a_ring(Bs, As):
    N = len(Bs)
    Pi = [[0.0] * N for _ in range(N)]
    for i in range(N):
        for j in {max(i - 1, 0), min(i + 1, N - 1)} - {i}:
            Pi[i][j] = 1 / 3 if N > 2 else 1 / 2
        Pi[i][i] = 1 - sum(Pi[i])
    return mixed(Pi, Bs, As)


@fault("dlora", "all agents|complete|neighbo|graph", topology="ring", shape="lists")
def everybody_on_a_ring(Bs, As):
    return mixed([[1 / len(Bs)] * len(Bs) for _ in Bs], Bs, As)


@fault("dlora", "itself|own|self|neighbo", topology="ring", shape="lists")
def without_itself(Bs, As):
    N = len(Bs)
    Pi = [[0.0] * N for _ in range(N)]
    for i in range(N):
        near = sorted({(i - 1) % N, (i + 1) % N} - {i}) or [i]
        for j in near:
            Pi[i][j] = 1 / len(near)
    return mixed(Pi, Bs, As)


@fault("dlora", "string|order|sorted", topology="ring", shape="clients")
def agents_sorted_as_strings(clients):
    names = sorted(clients, key=str)
    N = len(names)
    out = {}
    for i, name in enumerate(names):
        near = sorted({(i - 1) % N, (i + 1) % N} - {i})
        p = 1 / 3 if N > 2 else 1 / 2
        parts = [(p, names[j]) for j in near] + [(1 - p * len(near), name)]
        out[name] = {k: sum(w * clients[c][k] for w, c in parts) for k in clients[name]}
    return out


@fault("fedavg", "string|order|sorted|weights", shape="clients")
def weights_in_another_order_than_the_names(clients, weights):
    w = list(weights.values()) if isinstance(weights, dict) else list(weights)
    names = sorted(clients, key=str)
    return {
        k: sum(x * clients[c][k] for x, c in zip(w, names, strict=True)) for k in clients[names[0]]
    }


@fault("dlora", "order|another agent|permut|neighbo", topology="ring")
def results_in_reversed_order(B, A, Pi):
    return torch.einsum("ij,jdr->idr", Pi, B).flip(0), torch.einsum("ij,jrk->irk", Pi, A).flip(0)


@fault("dlora", "transpos", topology="star")
def pi_transposed(B, A, Pi):
    return torch.einsum("ji,jdr->idr", Pi, B), torch.einsum("ji,jrk->irk", Pi, A)


@fault("dlora", "twice", topology="ring")
def mixes_twice(B, A, Pi):
    return torch.einsum("ij,jdr->idr", Pi @ Pi, B), torch.einsum("ij,jrk->irk", Pi @ Pi, A)


@fault("dlora", "not mixed|own|unchanged", topology="ring")
def never_mixes(B, A, Pi):
    return B.clone(), A.clone()


@fault("dlora", "A", topology="ring")
def a_is_not_mixed(B, A, Pi):
    return torch.einsum("ij,jdr->idr", Pi, B), A.clone()


@fault("dlora", "already|in place|order|mixed|neighbo", topology="ring", shape="lists")
def mixes_what_is_already_mixed(Bs, As):
    Bs, As = list(Bs), list(As)
    N = len(Bs)
    for i in range(N):
        near = sorted({(i - 1) % N, (i + 1) % N} - {i})
        p = 1 / 3 if N > 2 else 1 / 2
        own = 1 - p * len(near)
        Bs[i] = own * Bs[i] + sum(p * Bs[j] for j in near)
        As[i] = own * As[i] + sum(p * As[j] for j in near)
    return list(zip(Bs, As, strict=True))


@fault("decaf", "in B alone: .* own", topology="ring")
def own_b_with_the_neighbours_a(pairs, Pi):
    out = []
    for row, (own, _) in zip(Pi, pairs, strict=True):
        r = own.shape[1]
        M = 0
        for p, (_, a) in zip(row, pairs, strict=True):
            n = min(r, a.shape[0])
            M = M + float(p) * (own[:, :n].float() @ a[:n].float())
        out.append(cut(M, r))
    return out


@fault("decaf", "rank", topology="ring")
def cut_to_the_neighbours_rank(pairs, Pi):
    out = []
    for row in Pi:
        M = sum(float(p) * (b.float() @ a.float()) for p, (b, a) in zip(row, pairs, strict=True))
        met = [b.shape[1] for p, (b, _) in zip(row, pairs, strict=True) if float(p) > 0]
        out.append(cut(M, min(met)))
    return out


@fault("decaf", "transpos", topology="ring")
def transposed_for_every_agent(B, A, Pi):
    out = []
    for row in Pi:
        M = sum(float(p) * (b.float() @ a.float()) for p, b, a in zip(row, B, A, strict=True))
        out.append(cut(M.T, B.shape[-1]))
    return out


@fault("decaf", "balanced", topology="star")
def unbalanced_for_every_agent(B, A, Pi):
    out = []
    for row in Pi:
        M = sum(float(p) * (b.float() @ a.float()) for p, b, a in zip(row, B, A, strict=True))
        U, S, Vh = torch.linalg.svd(M, full_matrices=False)
        out.append((U[:, : B.shape[-1]], S[: B.shape[-1], None] * Vh[: B.shape[-1]]))
    return out


@fresh("dlora", "earlier|previous|stale|memory|before", topology="ring")
def stale_neighbours():
    last = {}

    def mix(B, A, Pi):
        heard = last.get("B"), last.get("A")
        last.update(B=B.clone(), A=A.clone())
        out = []
        for new, old, letters in zip((B, A), heard, ("dr", "rk"), strict=True):
            past = old if old is not None and old.shape == new.shape else new
            own = torch.diag(torch.diagonal(Pi))
            rule = f"ij,j{letters}->i{letters}"
            past = past.to(new.dtype)
            out.append(torch.einsum(rule, own, new) + torch.einsum(rule, Pi - own, past))
        return tuple(out)

    return mix


@fault("dlora", "head", topology="ring", shape="states")
def heads_stay_with_their_agents(states, Pi):
    out = []
    for row, own in zip(Pi, states, strict=True):
        out.append(
            {
                k: sum(p.to(X.dtype) * s[k] for p, s in zip(row, states, strict=True))
                if "lora_" in k
                else X
                for k, X in own.items()
            }
        )
    return out
