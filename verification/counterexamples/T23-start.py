"""DeCAF from B = 0 where mixing cuts both factors, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

W_star, A = np.array(instance["target"]), np.array(instance["A"])
B, lr, r = np.zeros((W_star.shape[0], A.shape[0])), instance["lr"], A.shape[0]
for _ in range(instance["steps"] + 1):  # equal agents: mixing is the truncation of B A
    U, S, Vh = np.linalg.svd(B @ A, full_matrices=False)
    B, A = U[:, :r] * np.sqrt(S[:r]), np.sqrt(S[:r])[:, None] * Vh[:r]
    loss, g = np.sum((B @ A - W_star) ** 2) / 2, B @ A - W_star
    B, A = B - lr * g @ A.T, A - lr * B.T @ g
print("measured =", loss)
print("bound =", np.sum(W_star**2) / 4)
