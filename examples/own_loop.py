"""Your own training loop, decentralized by one line: torchrun --nproc-per-node 4 own_loop.py

Each rank has data of its own and trains a LoRA adapter of one layer; `mix` is all that they share.
"""

import torch
import torch.distributed as dist

from decaf_theory import METHODS, TOPOLOGIES, Factors
from decaf_theory.distributed import Neighbourhood, enter

rank, ranks = enter(timeout=60.0)
torch.manual_seed(0)  # the same layer and the same start at all ranks
layer, wanted = torch.nn.Linear(16, 8), torch.randn(8, 16)
factors = Factors(torch.zeros(1, 8, 4), torch.randn(1, 4, 16) / 4)  # of one agent at this rank

torch.manual_seed(1 + rank)  # data of its own
inputs = torch.randn(64, 16) * torch.rand(16)
outputs = (layer(inputs) + inputs @ wanted.T).detach()

neighbourhood = Neighbourhood(METHODS["decaf"], TOPOLOGIES["ring"](ranks), factors)
for round in range(20):
    for _ in range(5):
        B, A = (X.detach().requires_grad_() for X in factors)
        loss = (layer(inputs) + inputs @ (B @ A)[0].T - outputs).square().mean()
        loss.backward()
        factors = Factors(B - 0.2 * B.grad, A - 0.2 * A.grad)
    factors = neighbourhood.mix(factors, round)  # the line
print(f"rank {rank}: loss {loss.item():.3f}, {neighbourhood.sent_bytes} bytes sent")
dist.destroy_process_group()
