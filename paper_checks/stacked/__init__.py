"""All agents' adapters in one model: one forward pass over the shared frozen weights.

stacked = stack(model, targets=["q_proj", "v_proj"], agents=10, rank=4, scale=2.0)
scores = stacked.model(**batch)         # agent-major batches, [N b, ...]
loss = sum of the agents' mean losses   # a sum, so that each agent's gradient is its own
export(stacked, 0, "run/agent0", base="meta-llama/Llama-2-7b-hf")
"""

from paper_checks.stacked.layers import Layer, StackedHead, StackedLinear
from paper_checks.stacked.peft_format import export, load_into
from paper_checks.stacked.stacking import Stacked, fresh, stack

__all__ = [
    "Layer",
    "Stacked",
    "StackedHead",
    "StackedLinear",
    "export",
    "fresh",
    "load_into",
    "stack",
]
