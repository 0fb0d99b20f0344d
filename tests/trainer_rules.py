"""The rules of all methods that train adapters, in NumPy: one site, B [N, d, r] and A [N, r, k]."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from decaf_theory.rng import generator


@dataclass
class Rule:
    """What a method does: who averages (weights, None for nobody), what trains, steps and mixes."""

    weights: Any
    mix: Any = None
    trains: Any = lambda now, h: "BA"
    step: Any = lambda site, g, now, h, K: g
    start: Any = lambda site: None
    pools: bool = False


def mean(w, X):
    """Return sum_j w_ij X_j."""
    return np.einsum("ij,jab->iab", w, X)


def means(parts):
    def mix(site, w, now, K):
        for part in parts(now) if callable(parts) else parts:
            site[part] = mean(w, site[part])

    return mix


def zeros(*names):
    def start(site):
        for name in names:
            site[name] = {p: 0 * site[p] for p in "BA"}

    return start


def balanced(M, r):
    """Return the best factors of rank r of matrices M, U S^1/2 and S^1/2 V', and what they drop."""
    U, S, Vh = np.linalg.svd(M, full_matrices=False)
    root = np.sqrt(S[..., :r])
    B, A = U[..., :r] * root[..., None, :], root[..., :, None] * Vh[..., :r, :]
    return B, A, (U[..., r : 2 * r] * S[..., None, r : 2 * r]) @ Vh[..., r : 2 * r, :]


def truncate(site, w, now, K):
    site["B"], site["A"], _ = balanced(mean(w, site["B"] @ site["A"]), site["A"].shape[-2])


def truncate_and_keep(site, w, now, K):
    M = mean(w, site["B"] @ site["A"]) + site.get("rest", 0)
    site["B"], site["A"], site["rest"] = balanced(M, site["A"].shape[-2])


# ---------------------------------------------------------------- memories


def track(site, g, now, h, K):
    for p in "BA":
        site["y"][p] = site["y"][p] + g[p] - site["last"][p]
    site["last"] = g
    return site["y"]


def mix_tracked(site, w, now, K):
    means("BA")(site, w, now, K)
    site["y"] = {p: mean(w, site["y"][p]) for p in "BA"}


def push(site, g, now, h, K):
    site["m"] = {p: 0.9 * site["m"][p] + g[p] for p in "BA"}
    return site["m"]


def choco(site, w, now, K):
    for p in "BA":
        known, q = site["known"][p], np.zeros_like(site[p])
        for i, gap in enumerate(site[p] - known):
            kept = np.argsort(-np.abs(gap), axis=None, kind="stable")
            kept = kept[: math.ceil(0.25 * gap.size)]
            q[i].flat[kept] = gap.flat[kept]
        known = site["known"][p] = known + q
        site[p] = site[p] + 0.5 * (mean(w, known) - known)


# ---------------------------------------------------------------- of a server


def by_norms(site, w, now, K):
    h = np.linalg.norm(site["B"] @ site["A"], axis=(1, 2))
    means("BA")(site, np.tile(h / h.sum(), (len(h), 1)), now, K)


def rotate(site, w, now, K):
    """Turn each gauge to what the agent held after its last mix, by the nearest rotation."""
    B, A, ref = site["B"], site["A"], site["ref"]
    for i in range(len(B)):
        U, _, Vh = np.linalg.svd(B[i].T @ ref["B"][i] if now % 2 else A[i] @ ref["A"][i].T)
        U[:, -1] *= np.sign(np.linalg.det(U @ Vh))
        B[i], A[i] = B[i] @ U @ Vh, (U @ Vh).T @ A[i]
    means("BA")(site, w, now, K)
    remember(site)


def remember(site):
    site["ref"] = {p: site[p].copy() for p in "BA"}


def fresh_A(site, now):
    r, k = site["A"].shape[1:]
    drawn = generator(0, "A after a merge", now).standard_normal((r, k)) / math.sqrt(k)
    site["A"] = np.tile(drawn, (len(site["A"]), 1, 1))
    site["B"] = 0 * site["B"]


def flora(site, w, now, K):
    site["base"] = site.get("base", 0) + (site["B"] @ site["A"]).mean(0)
    fresh_A(site, now)


def fedex(site, w, now, K):
    exact = (site["B"] @ site["A"]).mean(0)
    means("BA")(site, w, now, K)
    site["base"] = site.get("base", 0) + exact - site["B"][0] @ site["A"][0]


def rac(site, w, now, K):
    site["base"] = site.get("base", 0) + site["B"].mean(0) @ site["A"][0]
    fresh_A(site, now)


def fedhl(site, w, now, K):
    """Add the clients' moves to the server's W; of equal ranks all have one weight."""
    W, begun = site.get("server", 0), site.get("begun", 0)
    site["server"] = W + (site["B"] @ site["A"]).mean(0) - begun
    site["B"], site["A"], _ = balanced(
        np.tile(site["server"], (len(site["B"]), 1, 1)), site["A"].shape[-2]
    )
    site["begun"] = site["B"][0] @ site["A"][0]


def frame(site):
    d, r = site["B"].shape[1:]
    site["Q"], _ = np.linalg.qr(generator(0, "frame").standard_normal((d, r)))


def in_frame(site, g, now, h, K):
    return {"B": site["Q"] @ (site["Q"].T @ g["B"]), "A": g["A"]}


def normal(site, part, agent, *stream):
    d, k = site["B"].shape[1], site["A"].shape[2]
    return generator(0, *stream, d, k, part, agent).standard_normal(site[part].shape[1:])


def over_the_air(site, w, now, K):
    for p in "BA":
        sent = site[p] - site["anchor"][p]
        loudest = np.sqrt((sent**2).mean((1, 2))).max()
        noise = 0.01 * loudest * normal(site, p, 0, "channel", now)
        site[p] = site["anchor"][p] = site["anchor"][p] + mean(w, sent) + noise


def with_stragglers(site, w, now, K):
    N, d, k = len(site["B"]), site["B"].shape[1], site["A"].shape[2]
    came = generator(0, "stragglers", now, d, k).random((1, N, 1, 1)).ravel() < 0.9
    lost = 0.1**N
    for p in "BA":
        if came.any():
            site[p] = (site[p][came].mean(0) - lost * site["ref"][p]) / (1 - lost)
        else:
            site[p] = site["ref"][p]
    remember(site)


def noised(site, g, now, h, K):
    """Clip to norm 1, add noise of 1/32, smooth by 1 - Lap, and double B."""
    p = "B" if h % 2 else "A"
    for i, X in enumerate(g[p]):
        X = X / max(1.0, np.linalg.norm(X))
        X = X + normal(site, p, i, "privacy", now, h) / 32
        g[p][i] = (2 if p == "B" else 1) * np.linalg.solve(smoother(X.shape), X.ravel()).reshape(
            X.shape
        )
    return g


def smoother(shape):
    """Return 1 - Lap of the periodic five-point Laplacian, as a matrix on the flat entries."""
    size = math.prod(shape)
    places, matrix = np.arange(size).reshape(shape), 5 * np.eye(size)
    for axis in (0, 1):
        for by in (1, -1):
            np.add.at(matrix, (places.ravel(), np.roll(places, by, axis).ravel()), -1.0)
    return matrix


def along_the_flow(site, g, now, h, K):
    """Return the shortest tangent of B'B = AA' that is nearest to G, by least squares.

    H Z + Z H = B'G_B is solved as a linear system in the entries of Z.
    """
    out = {"B": np.empty_like(g["B"]), "A": np.empty_like(g["A"])}
    for i, (B, A) in enumerate(zip(site["B"], site["A"], strict=True)):
        H, one = (B.T @ B + A @ A.T) / 2, np.eye(len(A))
        both = np.kron(H, one) + np.kron(one, H.T)
        Z = np.linalg.solve(both, (B.T @ g["B"][i]).ravel()).reshape(H.shape)
        out["B"][i] = np.linalg.solve(H.T, (g["B"][i] - B @ Z).T).T
        out["A"][i] = np.linalg.solve(H, g["A"][i] - Z @ A)
    return out


def in_the_field(site, g, now, h, K):
    if now == 0:
        a = g
    else:
        a = {p: 0.5 * site["field"][p] + 0.5 * g[p] for p in "BA"}
        for i in range(len(g["B"])):
            ahead = {p: (h + 1) * site["field"][p][i] - site["moved"][p][i] for p in "BA"}
            inner = sum((a[p][i] * ahead[p]).sum() for p in "BA")
            size = max(0.0, (1 + inner / sum((a[p][i] ** 2).sum() for p in "BA")) / 2)
            for p in "BA":
                a[p][i] *= size
    site["moved"] = {p: site["moved"][p] + a[p] for p in "BA"}
    return a


def average_field(site, w, now, K):
    means("BA")(site, w, now, K)
    site["field"] = {p: mean(w, site["moved"][p]) / K for p in "BA"}
    zeros("moved")(site)


# ---------------------------------------------------------------- the table


def turns(period):
    return lambda now, h=0: "A" if now // period % 2 else "B"


def interval(Pi):
    """Return 1/sqrt(1 - rho) rounds, rho the square of the second largest |eigenvalue| of Pi."""
    lam = np.sort(np.abs(np.linalg.eigvalsh(Pi)))[-2]
    return max(1, round(1 / math.sqrt(1 - lam**2)))


def only_B(now, h):
    return "B"


def rule(method, Pi):
    """Return the rule of a method on the graph Pi, or with a server in its place."""
    server = np.full(Pi.shape, 1 / len(Pi))
    both = means("BA")
    return {
        "local": Rule(None),
        "centralized": Rule(None, pools=True),
        "fedavg": Rule(server, both),
        "dlora": Rule(Pi, both),
        "dlora_fa": Rule(Pi, means("B"), only_B),
        "decaf": Rule(Pi, truncate),
        "ffa_lora": Rule(server, means("B"), only_B),
        "fedsa_lora": Rule(server, means("A")),
        "flexlora": Rule(server, truncate),
        "rolora": Rule(server, means(turns(1)), turns(1)),
        "adf_lora": Rule(Pi, both, turns(5)),
        "tad_lora": Rule(Pi, both, turns(interval(Pi))),
        "gradient_tracking": Rule(Pi, mix_tracked, step=track, start=zeros("y", "last")),
        "heavy_ball": Rule(Pi, both, step=push, start=zeros("m")),
        "choco": Rule(Pi, choco, start=zeros("known")),
        "fedrot": Rule(server, rotate, start=remember),
        "hetlora": Rule(server, by_norms),
        "raflora": Rule(server, both),  # of equal ranks every direction has every client
        "decaf_ef": Rule(Pi, truncate_and_keep),
        "flora": Rule(server, flora),
        "fedex_lora": Rule(server, fedex),
        "rac_lora": Rule(server, rac, only_B),
        "fedhl": Rule(server, fedhl),
        "fed_sb": Rule(server, means("B"), only_B, in_frame, frame),
        "air_fedavg": Rule(server, over_the_air, start=zeros("anchor")),
        "salf": Rule(server, with_stragglers, start=remember),
        "la_lora": Rule(server, both, lambda now, h: "B" if h % 2 else "A", noised),
        "odelora": Rule(Pi, truncate, step=along_the_flow),
        "fedagg": Rule(server, average_field, step=in_the_field, start=zeros("field", "moved")),
    }[method]
