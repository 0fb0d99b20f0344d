"""Repeated mixing of truncated products with error feedback, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

B, A, Pi = (np.array(instance[name]) for name in ("B", "A", "Pi"))
P, r = B @ A, B.shape[-1]
mean, E = P.mean(axis=0), np.zeros_like(P)
for _ in range(instance["rounds"]):
    M = np.einsum("ij,jdk->idk", Pi, P) + E
    U, S, Vh = np.linalg.svd(M)
    P = (U[..., :r] * S[:, None, :r]) @ Vh[:, :r]
    E = M - P
print("measured =", max(np.linalg.norm(X - mean) for X in P))
print("bound =", np.linalg.norm(B.mean(axis=0) @ A.mean(axis=0) - mean))
