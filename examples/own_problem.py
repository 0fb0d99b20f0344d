"""A study of your own: least squares of eight agents on a ring, against every bound that applies.

A notebook as a script: `# %%` begins a cell, `# %% [markdown]` one of words.
"""

# %%
import numpy as np

from decaf_theory import TOPOLOGIES, Config, check_problem, quadratic
from decaf_theory.compare import compare

# %% [markdown]
# ## The graph and the losses
# Each agent has 40 inputs of 5 numbers, and wants outputs of 6 by a matrix near one of rank 2.
# `quadratic` knows every constant of such losses; `radius` says where heterogeneity is bounded.

# %%
ring = TOPOLOGIES["ring"](8)
rng = np.random.default_rng(0)
inputs = rng.standard_normal((8, 40, 5))
mean = rng.standard_normal((6, 2)) @ rng.standard_normal((2, 5)) / 2
targets = mean + 0.1 * rng.standard_normal((8, 6, 5))
problem = quadratic(inputs.mT @ inputs / 40, targets, radius=10.0)

# %% [markdown]
# ## Are the constants true?
# Each as it is declared, and the worst that a search found. A constant that some point breaks is
# an error that names the point.

# %%
print(check_problem(problem))

# %% [markdown]
# ## Each method against every bound
# One line for each bound: measured, bound and their ratio, or which assumption failed. The picture
# has the same as curves over time and as bars.

# %%
for method, lr in {"dsgd": 0.05, "decaf": 0.003, "dlora": 0.003}.items():
    found = compare(Config(problem=problem, Pi=ring, method=method, rank=2, lr=lr, steps=50))
    print(f"\n{method}\n{found}")
    found.draw(f"own_problem_{method}.svg")
