"""Aggregation functions that are right, each written in another way than the library's."""

from __future__ import annotations

import numpy as np
import torch


def cut(M, r):
    """Return the balanced factors of the truncation of M, by LAPACK in float32 or wider."""
    wide = M.float() if M.dtype in (torch.float16, torch.bfloat16) else M
    U, S, Vh = torch.linalg.svd(wide, full_matrices=False)
    root = S[:r].sqrt()
    return (U[:, :r] * root).to(M.dtype), (root[:, None] * Vh[:r]).to(M.dtype)


def dense(B, A, weights):
    """DeCAF: the mean of the products, formed, and its SVD."""
    M = sum(w * (b.float() @ a.float()) for w, b, a in zip(weights, B, A, strict=True))
    return tuple(X.to(B.dtype) for X in cut(M, B.shape[-1]))


def core(Bs, As, weights):
    """DeCAF: QR of the stacked factors, SVD of the core, for unequal ranks, too."""
    r = max(b.shape[1] for b in Bs)
    left = torch.cat([w * b.float() for w, b in zip(weights, Bs, strict=True)], dim=1)
    right = torch.cat([a.float() for a in As], dim=0)
    Q, R = torch.linalg.qr(left)
    P, T = torch.linalg.qr(right.T)
    U, S, Vh = torch.linalg.svd(R @ T.T, full_matrices=False)
    root = S[:r].sqrt()
    return (Q @ U[:, :r] * root).to(Bs[0].dtype), (root[:, None] * Vh[:r] @ P.T).to(As[0].dtype)


def gram(pairs, w):
    """DeCAF: from the eigenvectors of the Gram matrix M M'."""
    M = sum(x * (b.double() @ a.double()) for x, (b, a) in zip(w, pairs, strict=True))
    values, U = torch.linalg.eigh(M @ M.T)
    r = max(b.shape[1] for b, _ in pairs)
    U = U[:, values.argsort(descending=True)][:, :r]
    Y = U.T @ M
    S = Y.norm(dim=1)
    root = S.sqrt()
    flat = torch.where(S > 0, root, torch.ones_like(root))
    return (U * root).to(pairs[0][0].dtype), (Y / flat[:, None]).to(pairs[0][0].dtype)


def on_ring(Bs, As):
    """DLoRA on a ring, each agent with its two neighbours, whose weights it makes itself."""
    N = len(Bs)
    Pi = np.zeros((N, N))
    for i in range(N):
        for j in {(i - 1) % N, (i + 1) % N} - {i}:
            Pi[i, j] = 1 / 3 if N > 2 else 1 / 2
        Pi[i, i] = 1 - Pi[i].sum()
    mix = [
        [sum(float(p) * X for p, X in zip(row, Xs, strict=True)) for row in Pi] for Xs in (Bs, As)
    ]
    return list(zip(*mix, strict=True))


def with_pi(B, A, Pi):
    """DLoRA for any Pi."""
    return torch.einsum("ij,jdr->idr", Pi, B), torch.einsum("ij,jrk->irk", Pi, A)


def decaf_with_pi(pairs, Pi):
    """DeCAF for any Pi, each agent with its own rank."""
    out = []
    for row, (own, _) in zip(Pi, pairs, strict=True):
        M = sum(p.float() * (b.float() @ a.float()) for p, (b, a) in zip(row, pairs, strict=True))
        out.append(tuple(X.to(own.dtype) for X in cut(M, own.shape[1])))
    return out


def states_mean(states, weights):
    """FedAvg of state dicts, a head with them."""
    return {
        key: torch.stack([w * s[key] for w, s in zip(weights, states, strict=True)]).sum(0)
        for key in states[0]
    }


def clients_mean(clients, num_samples):
    """FedAvg of clients by name, weighted by their samples."""
    total = sum(num_samples.values())
    names = list(clients)
    return {
        key: sum(num_samples[c] / total * clients[c][key] for c in names)
        for key in clients[names[0]]
    }


def flower(results):
    """FedAvg of (arrays, examples), NumPy."""
    total = sum(n for _, n in results)
    columns = zip(*(arrays for arrays, _ in results), strict=True)
    return [
        sum(X.astype(np.float64) * (n / total) for X, (_, n) in zip(column, results, strict=True))
        for column in columns
    ]


def fedex(states, weights):
    """FedEx-LoRA: the means, and a residual for W0."""
    averaged = states_mean(states, weights)
    residual = {}
    for key in [key for key in states[0] if "lora_A" in key]:
        twin = key.replace("lora_A", "lora_B")
        exact = sum(w * (s[twin] @ s[key]) for w, s in zip(weights, states, strict=True))
        site = key.split(".lora_A")[0].removeprefix("base_model.model.")
        residual[site] = exact - averaged[twin] @ averaged[key]
    return averaged, residual


def stacking(states, weights):
    """FLoRA: all pairs stacked, the weights in B; heads averaged."""
    out = {}
    for key in states[0]:
        if "lora_A" in key:
            out[key] = torch.cat([s[key] for s in states], dim=0)
        elif "lora_B" in key:
            out[key] = torch.cat([w * s[key] for w, s in zip(weights, states, strict=True)], dim=1)
        else:
            out[key] = sum(w * s[key] for w, s in zip(weights, states, strict=True))
    return out


def flexlora(Bs, As, weights, ranks):
    """FlexLoRA: U S and V' for each client's own rank."""
    M = sum(w * (b.float() @ a.float()) for w, b, a in zip(weights, Bs, As, strict=True))
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    return [((U[:, :r] * S[:r]).to(Bs[0].dtype), Vh[:r].to(Bs[0].dtype)) for r in ranks]


def scaled_mean(pairs, weights, configs):
    """The exact mean of adapters with settings of peft, as an update of W."""
    total = 0
    for w, (b, a), c in zip(weights, pairs, configs, strict=True):
        root = c["r"] ** 0.5 if c["use_rslora"] else c["r"]
        total = total + w * c["lora_alpha"] / root * (b @ a)
    return total


def only_b(B, A, weights):
    """FFA-LoRA: the mean of B, as A is one."""
    return torch.tensordot(weights, B, dims=1), A[0]


def only_a(states, weights):
    """FedSA-LoRA: the mean of A and of the head; B stays with each agent."""
    mean = states_mean(states, weights)
    return {key: X for key, X in mean.items() if "lora_B" not in key}


def raflora(pairs, weights):
    """raFLoRA: each direction is averaged over those that have it."""
    r = max(b.shape[1] for b, _ in pairs)
    B = torch.zeros(pairs[0][0].shape[0], r, dtype=pairs[0][0].dtype)
    A = torch.zeros(r, pairs[0][1].shape[1], dtype=B.dtype)
    for line in range(r):
        held = [
            (w, b[:, line], a[line])
            for w, (b, a) in zip(weights, pairs, strict=True)
            if b.shape[1] > line
        ]
        total = sum(w for w, _, _ in held)
        B[:, line] = sum(w * b for w, b, _ in held) / total
        A[line] = sum(w * a for w, _, a in held) / total
    return B, A


def rotated(Bs, As, weights, reference, round):
    """FedRot-LoRA: rotations onto the last factors, then the means."""
    last_B, last_A = reference
    turned = []
    for b, a in zip(Bs, As, strict=True):
        onto = b.float().T @ last_B.float() if round % 2 else a.float() @ last_A.float().T
        U, _, Vh = torch.linalg.svd(onto)
        flip = torch.ones(len(U))
        flip[-1] = torch.sign(torch.linalg.det(U @ Vh))
        R = (U * flip) @ Vh
        turned.append((b.float() @ R, R.T @ a.float()))
    B = sum(w * b for w, (b, _) in zip(weights, turned, strict=True))
    A = sum(w * a for w, (_, a) in zip(weights, turned, strict=True))
    return B.to(Bs[0].dtype), A.to(Bs[0].dtype)


RIGHT = {
    "dense": (dense, "decaf", {}),
    "core": (core, "decaf", {"shape": "lists"}),
    "gram": (gram, "decaf", {}),
    "on_ring": (on_ring, "dlora", {"topology": "ring", "shape": "lists"}),
    "with_pi": (with_pi, "dlora", {"topology": "ring"}),
    "with_pi, star": (with_pi, "dlora", {"topology": "star"}),
    "decaf_with_pi": (decaf_with_pi, "decaf", {"topology": "ring"}),
    "states_mean": (states_mean, "fedavg", {}),
    "clients_mean": (clients_mean, "fedavg", {}),
    "flower": (flower, "fedavg", {}),
    "fedex": (fedex, "fedex", {}),
    "fedex is exact": (fedex, "exact", {}),
    "stacking": (stacking, "flora", {}),
    "flexlora": (flexlora, "flexlora", {"shape": "lists"}),
    "scaled_mean": (scaled_mean, "exact", {}),
    "only_b": (only_b, "ffa", {}),
    "only_a": (only_a, "fedsa", {}),
    "raflora": (raflora, "raflora", {}),
    "rotated": (rotated, "fedrot", {"shape": "lists"}),
}
