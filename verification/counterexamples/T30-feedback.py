"""DeCAF with error feedback on two agents that hold one product after each mix, NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

c, p, T = np.array(instance["c"]), instance["start"], instance["steps"]
N = len(c)
lr = np.sqrt(N / T)
mean = np.diag([1.0, 0.0])
targets = mean + c[:, None, None] * np.array([[0.0, 1.0], [1.0, 0.0]])
B = np.array([[np.sqrt(p)], [0.0]])
A, E = B.T, np.zeros((2, 2))
total, largest = 0.0, 0.0
for _ in range(T):
    slope = B @ A - mean
    total += np.sum((slope @ A.T) ** 2) + np.sum((B.T @ slope) ** 2)
    largest = max(largest, *(np.linalg.norm(X, 2) for X in (B, A)))
    G = B @ A - targets
    M = np.mean((B - lr * G @ A.T) @ (A - lr * B.T @ G), axis=0) + E
    U, S, Vh = np.linalg.svd(M)
    B, A = U[:, :1] * np.sqrt(S[:1]), np.sqrt(S[:1])[:, None] * Vh[:1]
    E = M - B @ A

# decentralized SGD without noise and disagreement, at the best smoothness on Omega_c
top = largest**2 + max(np.linalg.norm(X, 2) for X in targets)
L = 2 * largest**2 + top
gap = (1 - p) ** 2 / 2
print("measured =", total / T)
print("bound =", 2 * gap / (lr * T) / (2 - lr * L))
