"""Truncations of two near matrices, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]


def truncated(M):
    """Return the truncated SVD of M."""
    U, S, Vh = np.linalg.svd(M)
    r = instance["rank"]
    return U[:, :r] * S[:r] @ Vh[:r]


M, N = np.array(instance["M"]), np.array(instance["N"])
print("measured =", np.linalg.norm(truncated(M) - truncated(N)))
print("bound =", np.linalg.norm(M - N))
