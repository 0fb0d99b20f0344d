"""The factors U S and V' of a mix, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

B, A, weights = (np.array(instance[name]) for name in ("B", "A", "weights"))
M = sum(w * B_j @ A_j for w, B_j, A_j in zip(weights, B, A, strict=True))
U, S, Vt = np.linalg.svd(M)
r = A.shape[1]
print("measured =", max(np.linalg.norm(U[:, :r] * S[:r], 2), np.linalg.norm(Vt[:r], 2)))
print("bound =", instance["c"])
