"""Decentralized SGD with rows that sum to one against the rate for the plain mean, NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

H, b, P = (np.array(instance[name]) for name in ("H", "b", "Pi"))
lr, steps, N = instance["lr"], instance["steps"], len(P)
x = np.tile(np.array(instance["x0"]), (N, 1))
gradient = Xi = 0.0
for _ in range(steps):
    mean = x.mean(axis=0)
    slopes = np.einsum("iab,b->ia", H, mean) - b
    gradient += (slopes.mean(axis=0) ** 2).sum() / steps
    Xi += ((x - mean) ** 2).sum() / N / steps
    x = P @ (x - lr * (np.einsum("iab,ib->ia", H, x) - b))
L, Hbar, bbar = np.abs(np.linalg.eigvalsh(H)).max(), H.mean(axis=0), b.mean(axis=0)
apart = np.array(instance["x0"]) - np.linalg.solve(Hbar, bbar)
print("measured =", gradient)
print("bound =", apart @ Hbar @ apart / (lr * steps) + L**2 * Xi)
