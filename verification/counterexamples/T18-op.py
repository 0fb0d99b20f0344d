"""|P - Q| against the golden ratio times |M - Q|, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

B, A, pi = (np.array(instance[name]) for name in ("B", "A", "weights"))
order = {"fro": "fro", "op": 2, "nuc": "nuc"}[instance["norm"]]
M = np.einsum("j,jdr,jrk->dk", pi, B, A)
Q = np.tensordot(pi, B, 1) @ np.tensordot(pi, A, 1)
U, S, Vh = np.linalg.svd(M)
r = B.shape[-1]
P = U[:, :r] * S[:r] @ Vh[:r]
print("measured =", np.linalg.norm(P - Q, order))
print("bound =", (1 + 5**0.5) / 2 * np.linalg.norm(M - Q, order))
