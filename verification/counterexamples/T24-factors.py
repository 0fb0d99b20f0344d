"""The norm of the mean factor before and after DeCAF's mix, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

B, A, pi = (np.array(instance[name]) for name in ("B", "A", "weights"))
r = B.shape[-1]
U, S, Vh = np.linalg.svd(np.einsum("j,jdr,jrk->dk", pi, B, A))
after = U[:, :r] * np.sqrt(S[:r])  # the same at all agents
print("measured =", abs(np.linalg.norm(after) - np.linalg.norm(np.mean(B, axis=0))))
print("bound =", 0.0)
