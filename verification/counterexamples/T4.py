"""The change of the factor gradient against readings of Lemma 1, with NumPy alone."""

import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]

B, A, B_end, A_end, g, h = (np.array(instance[x]) for x in ("B", "A", "B_end", "A_end", "g", "h"))
s, L, G = instance["s"], instance["L"], instance["G"]
C, c, r = instance["lemma_C"], instance["lemma_c"], A.shape[0]


def size(blocks, norm):
    """Return the norm of a pair of blocks."""
    norms = [np.linalg.norm(block) for block in blocks]
    return sum(norms) if norm == "sum" else np.hypot(*norms)


change = [s * (g @ A.T - h @ A_end.T), s * (B.T @ g - B_end.T @ h)]
step = [B - B_end, A - A_end]
print("measured =", size(change, instance["norm"]))
print("bound =", s * (2 * L * C * np.sqrt(r) * c + G) * size(step, instance["displacement"]))
