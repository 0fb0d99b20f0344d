"""Combine-then-step rounds against the bound of the other order, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

H, b, Pi = (np.array(instance[name]) for name in ("H", "b", "Pi"))
lr, x0, N = instance["lr"], np.array(instance["x0"]), len(Pi)
x, Xi, kappa = np.tile(x0, (N, 1)), [], []
for _ in range(instance["steps"]):
    mean = x.mean(axis=0)
    Xi.append(((x - mean) ** 2).sum() / N)
    slopes = np.einsum("iab,b->ia", H, mean) - b
    kappa.append((((slopes - slopes.mean(axis=0)) ** 2).sum() / N) ** 0.5)
    x = Pi @ x - lr * (np.einsum("iab,ib->ia", H, x) - b)  # the gradient at the unmixed point
lam = np.abs(np.linalg.eigvalsh(Pi - 1 / N)).max()
L, q = np.abs(np.linalg.eigvalsh(H)).max(), lam / (1 - lam)  # q of the other order
print("measured =", max(Xi))
print("bound =", (lr * max(kappa) * q / (1 - lr * L * q)) ** 2)
