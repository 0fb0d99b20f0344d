"""A method of your own: neighbours average their factors, and every fifth round their products.

A notebook as a script: `# %%` begins a cell, `# %% [markdown]` one of words.
"""

# %%
from dataclasses import replace

from decaf_theory import METHODS, TOPOLOGIES, Config, check_method
from decaf_theory.compare import compare
from decaf_theory.problems import PROBLEMS
from decaf_theory.simulate import simulate

# %% [markdown]
# ## The method
# Copy one and replace the functions in which yours differs.

# %%
dlora, decaf = METHODS["dlora"], METHODS["decaf"]


def receive(own, sent, weights, clock):
    """Average factors; after four such rounds, truncate the mean of the products."""
    method = decaf if clock.round % 5 == 4 else dlora
    return method.receive(own, sent, weights, clock)


alternating = replace(dlora, name="alternating", receive=receive, keeps=())

# %% [markdown]
# ## Is it what it says?
# What every method promises, and the means that this one says it `keeps`: none, as the fifth round
# loses those of B and A, and the others that of the products. A promise that is broken is an error
# that says by how much, and in which round.

# %%
print(check_method(alternating))

# %% [markdown]
# ## Against the bounds
# Its mix is not the mean of what trains: what it does beyond that is an error of mixing (T29).

# %%
problem = PROBLEMS["P3"](N=8, d=6, k=5, tau=0.05)
graph = {"Pi": TOPOLOGIES["ring"](8), "rank": 2}
for method in (dlora, alternating, decaf):
    config = Config(problem=problem, method=method, lr=0.02, steps=30, runs=8, **graph)
    found = compare(config)
    print(f"\n{method.name}: loss {found.trace.loss[:, -1].mean():.4f}\n{found}")

# %% [markdown]
# ## How far apart the agents end
# DeCAF's: in frames of their own, turned onto one, and as products.

# %%
trace = simulate(config)
for name in ("consensus_factors", "consensus_aligned", "consensus_products"):
    print(f"{name:20}{getattr(trace, name)[:, -1].mean():.2e}")
found.draw("own_method.svg")
