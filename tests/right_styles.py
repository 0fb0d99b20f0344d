"""Right aggregation functions in the styles that people write them in."""

from __future__ import annotations

import functools

import numpy as np
import torch


def numpy_decaf(B, A, weights):
    """DeCAF in NumPy and float64, whatever came in."""
    M = np.einsum("n,ndr,nrk->dk", weights, B, A)
    U, S, Vt = np.linalg.svd(M, full_matrices=False)
    root = np.sqrt(S[: B.shape[-1]])
    return U[:, : len(root)] * root, root[:, None] * Vt[: len(root)]


def streaming(Bs, As, weights):
    """FedAvg as a running mean."""
    mean_B = mean_A = seen = 0
    for w, b, a in zip(weights, Bs, As, strict=True):
        seen = seen + w
        if w > 0:
            mean_B = mean_B + (w / seen) * (b - mean_B)
            mean_A = mean_A + (w / seen) * (a - mean_A)
    return [mean_B, mean_A]


def randomized(B, A, weights):
    """DeCAF by a randomized SVD that is exact: as many test vectors as the rank of the sum."""
    M = sum(float(w) * (b.double() @ a.double()) for w, b, a in zip(weights, B, A, strict=True))
    r = B.shape[-1]
    width = min(len(B) * r + 5, *M.shape)
    test = torch.randn(M.shape[1], width, dtype=M.dtype, generator=torch.Generator().manual_seed(3))
    Q = torch.linalg.qr(M @ test)[0]
    U, S, Vh = torch.linalg.svd(Q.T @ M, full_matrices=False)
    root = S[:r].sqrt()
    return (Q @ U[:, :r]) * root, root[:, None] * Vh[:r]


def cat(adapters, weights, scales):
    """The exact sum as peft's `cat` forms it: weight times scale in A, B as it is."""
    A = torch.cat(
        [a * w * s for w, s, (_, a) in zip(weights, scales, adapters, strict=True)], dim=0
    )
    return torch.cat([b for b, _ in adapters], dim=1), A


class Server:
    """An aggregator with settings."""

    def __init__(self, dtype=torch.float64):
        self.dtype = dtype

    def aggregate(self, states, weights, **ignored):
        """FedAvg in the server's dtype."""
        parts = torch.as_tensor([float(w) for w in weights], dtype=self.dtype)
        return {
            key: torch.tensordot(parts, torch.stack([s[key].to(self.dtype) for s in states]), 1)
            for key in states[0]
        }

    def __call__(self, Bs, As, weights):
        """FedAvg of lists."""
        return [sum(w * X for w, X in zip(weights, Xs, strict=True)) for Xs in (Bs, As)]


def logged(function):
    """Return the function with its calls counted."""
    calls = []

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        calls.append(len(args))
        return function(*args, **kwargs)

    return wrapped


@logged
def decorated(pairs, weights):
    """The exact mean of the products."""
    return sum(w * (b @ a) for w, (b, a) in zip(weights, pairs, strict=True))


def with_keywords(clients, **kwargs):
    """FedAvg of clients, the weights among the keywords where they are given."""
    weights = kwargs.get("weights") or [1 / len(clients)] * len(clients)
    by_name = weights if isinstance(weights, dict) else dict(zip(clients, weights, strict=True))
    first = next(iter(clients.values()))
    return {key: sum(by_name[name] * clients[name][key] for name in clients) for key in first}


def scalar_weights(Bs, As, weights):
    """FedAvg with weights of no dimension."""
    ws = [torch.as_tensor(float(w)) for w in weights]
    return torch.stack([w * b for w, b in zip(ws, Bs, strict=True)]).sum(0), torch.stack(
        [w * a for w, a in zip(ws, As, strict=True)]
    ).sum(0)


def closure(dtype):
    """Return a mean of factors that accumulates in a dtype."""

    def mean(B, A, weights):
        w = torch.as_tensor(np.asarray(weights), dtype=dtype)
        return [torch.einsum("n,nij->ij", w, X.to(dtype)).to(X.dtype) for X in (B, A)]

    return mean


def numpy_results(results):
    """FedAvg of (arrays, examples) by np.average."""
    counts = [n for _, n in results]
    return [
        np.average(np.stack(column), axis=0, weights=counts)
        for column in zip(*(arrays for arrays, _ in results), strict=True)
    ]


def decaf_results(results):
    """DeCAF of (arrays, examples): A and B of two sites, and a head."""
    total = sum(n for _, n in results)
    out = []
    for i in (0, 2):
        r = max(len(arrays[i]) for arrays, _ in results)
        M = sum(n / total * (arrays[i + 1] @ arrays[i]) for arrays, n in results)
        U, S, Vt = np.linalg.svd(M, full_matrices=False)
        root = np.sqrt(S[:r])
        out += [root[:, None] * Vt[:r], U[:, :r] * root]
    return [*out, sum(n / total * arrays[4] for arrays, n in results)]


def decaf_states(states, weights):
    """DeCAF of state dicts, site by site; the head is averaged."""
    out = {}
    for key in states[0]:
        if "lora_A" in key:
            other = key.replace("lora_A", "lora_B")
            r = max(len(s[key]) for s in states)
            M = sum(
                float(w) * (s[other].double() @ s[key].double())
                for w, s in zip(weights, states, strict=True)
            )
            U, S, Vh = torch.linalg.svd(M, full_matrices=False)
            root = S[:r].sqrt()
            out[other] = (U[:, :r] * root).to(states[0][key].dtype)
            out[key] = (root[:, None] * Vh[:r]).to(states[0][key].dtype)
        elif "lora_B" not in key:
            out[key] = sum(w * s[key] for w, s in zip(weights, states, strict=True))
    return out


def numpy_ring(B, A, Pi):
    """DLoRA in NumPy: Pi flattened onto the factors."""
    P = np.asarray(Pi)
    return tuple((P @ np.asarray(X).reshape(len(P), -1)).reshape(X.shape) for X in (B, A))


def two_edges(Bs, As):
    """DLoRA on a ring, where the one neighbour of two agents counts twice."""
    N = len(Bs)
    out = []
    for i in range(N):
        met = [i, (i - 1) % N, (i + 1) % N]
        out.append(tuple(sum(Xs[j] / 3 for j in met) for Xs in (Bs, As)))
    return out


def by_row(pairs, Pi):
    """DLoRA agent by agent, neighbours with weight alone."""
    out = []
    for row in Pi:
        met = [(float(p), pair) for p, pair in zip(row, pairs, strict=True) if float(p)]
        out.append([sum(p * pair[part] for p, pair in met) for part in (0, 1)])
    return out


def sorted_by_number(clients):
    """DLoRA on a ring of clients, sorted by their number."""
    names = sorted(clients, key=lambda c: int("".join(x for x in str(c) if x.isdigit())))
    N = len(names)
    out = {}
    for i, name in enumerate(names):
        near = sorted({(i - 1) % N, (i + 1) % N} - {i})
        p = 1 / 3 if N > 2 else 1 / 2
        parts = [(p, names[j]) for j in near] + [(1 - p * len(near), name)]
        out[name] = {k: sum(w * clients[c][k] for w, c in parts) for k in clients[name]}
    return out


STYLES = {
    "numpy_decaf": (numpy_decaf, "decaf", {}),
    "streaming": (streaming, "fedavg", {}),
    "randomized": (randomized, "decaf", {}),
    "cat": (cat, "exact", {}),
    "Server.aggregate": (Server().aggregate, "fedavg", {}),
    "Server": (Server(), "fedavg", {}),
    "decorated": (decorated, "exact", {}),
    "with_keywords": (with_keywords, "fedavg", {}),
    "scalar_weights": (scalar_weights, "fedavg", {}),
    "closure": (closure(torch.float64), "fedavg", {}),
    "partial": (functools.partial(closure(torch.float32)), "fedavg", {}),
    "numpy_results": (numpy_results, "fedavg", {}),
    "decaf_states": (decaf_states, "decaf", {}),
    "decaf_results": (decaf_results, "decaf", {}),
    "numpy_ring": (numpy_ring, "dlora", {"topology": "ring"}),
    "two_edges": (two_edges, "dlora", {"topology": "ring", "shape": "lists"}),
    "by_row": (by_row, "dlora", {"topology": "star"}),
    "sorted_by_number": (sorted_by_number, "dlora", {"topology": "ring", "shape": "clients"}),
}
