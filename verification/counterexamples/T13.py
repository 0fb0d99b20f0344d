"""The sign pair of T13's readings at two ranks, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

eta, c, d, k = (instance[name] for name in ("eta", "c", "d", "k"))
order = {"nuc": "nuc", "fro": "fro", "op": 2}[instance["norm"]]


def quantity(r):
    """Return |DeCAF - DLoRA| of the sign pair of rank r, relative to the mix if so asked."""
    s = {"eta/r": eta / r, "eta/sqrt(r)": eta / np.sqrt(r), "constant": eta}[instance["scaling"]]
    B, A = c * np.eye(d, r), c * np.eye(r, k)
    agents = [(B, A), (-B, -A)]
    M = sum(B_j @ A_j for B_j, A_j in agents) / 2
    U, S, Vt = np.linalg.svd(M)
    decaf = (U[:, :r] * S[:r]) @ Vt[:r]
    dlora = (sum(B_j for B_j, _ in agents) / 2) @ (sum(A_j for _, A_j in agents) / 2)
    size = s * np.linalg.norm(decaf - dlora, order)
    return size / (s * np.linalg.norm(M, order)) if instance["relative"] else size


print("measured =", quantity(instance["many"]))
print("bound =", quantity(instance["few"]) / 2)
