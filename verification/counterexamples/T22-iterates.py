"""Repeated mixing of DeCAF and of DLoRA, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

B, A, Pi = (np.array(instance[name]) for name in ("B", "A", "Pi"))
N, r = len(Pi), B.shape[-1]
mean = np.mean(B @ A, axis=0)
P, b, a = B @ A, B, A
for _ in range(instance["rounds"]):
    U, S, Vh = np.linalg.svd(np.einsum("ij,jdk->idk", Pi, P))
    P = (U[..., :r] * S[:, None, :r]) @ Vh[:, :r]
    b, a = np.einsum("ij,jdr->idr", Pi, b), np.einsum("ij,jrk->irk", Pi, a)
print("measured =", max(np.linalg.norm(X - mean) for X in P))
print("bound =", max(np.linalg.norm(X - mean) for X in b @ a))
