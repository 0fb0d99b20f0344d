"""A study of your own: least squares with curvatures of their own, on a graph, against the theory.

A notebook as a script: `# %%` begins a cell.
"""

# %%
import numpy as np

from decaf_theory import TOPOLOGIES, Config
from decaf_theory.compare import compare
from decaf_theory.problems import check_problem, quadratic

# %% Eight agents: agent i has inputs of covariance S_i and wants W_i* near a matrix of rank 2.
rng = np.random.default_rng(0)
N, d, k = 8, 6, 5
X = rng.standard_normal((N, 40, k))
mean = rng.standard_normal((d, 2)) @ rng.standard_normal((2, k)) / 2
targets = mean + 0.1 * rng.standard_normal((N, d, k))
problem = quadratic(X.mT @ X / 40, targets, radius=10.0)

# %% Are the constants true? An error would name the point that breaks one.
print(check_problem(problem))

# %% Each method against every bound that applies to it: numbers, then a picture.
run = {"problem": problem, "Pi": TOPOLOGIES["ring"](N), "rank": 2, "steps": 50}
for method, lr in (("dsgd", 0.05), ("decaf", 0.003), ("dlora", 0.003)):
    found = compare(Config(method=method, lr=lr, **run))
    print(f"\n{method}\n{found}")
found.draw("own_problem.svg")
