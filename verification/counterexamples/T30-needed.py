"""DeCAF on two agents that hold one product after each mix, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

c, eta, T = np.array(instance["c"]), instance["eta"], instance["steps"]
N = len(c)
lr = np.sqrt(N / T)
mean = np.diag([1.0, -eta])
targets = mean + c[:, None, None] * np.array([[0.0, 1.0], [1.0, 0.0]])
B = A = np.diag([1.0, np.sqrt(instance["start"])])
total, largest = 0.0, 0.0
for _ in range(T):
    slope = B @ A - mean
    total += np.sum((slope @ A.T) ** 2) + np.sum((B.T @ slope) ** 2)
    largest = max(largest, *(np.linalg.norm(X, 2) for X in (B, A)))
    G = B @ A - targets
    P = np.mean((B - lr * G @ A.T) @ (A - lr * B.T @ G), axis=0)
    U, S, Vh = np.linalg.svd(P)
    B, A = U * np.sqrt(S), np.sqrt(S)[:, None] * Vh

# decentralized SGD without noise and disagreement, at the best smoothness on Omega_c
top = largest**2 + max(np.linalg.norm(X, 2) for X in targets)
L = 2 * largest**2 + top
gap = (instance["start"] + eta) ** 2 / 2
print("measured =", total / T)
print("bound =", 2 * gap / (lr * T) / (2 - lr * L))
