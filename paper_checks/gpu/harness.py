"""Steps of the harness with random weights of LLaMA-2-7B: their speed, and their memory.

Everything but the weights and the texts is that of `paper_checks run llama2-7b-wic`: stacked
adapters, AdamW, recomputed activations, a mix of all sites on the ring after every fifth step. The
peak of memory is compared with what the dry run predicts from shapes alone.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch

from decaf_theory.bench.rows import Row, skipped, verdict
from decaf_theory.plan.models import LLAMA2_7B, Tower
from paper_checks import config, devices, dryrun, finetune
from paper_checks.architectures import META, Architecture, Sizes, answer_scores, llama
from paper_checks.config import Config
from paper_checks.failures import finite
from paper_checks.run import Run
from paper_checks.tasks import Data, Task, causal
from paper_checks.tasks.models import drawn

GOAL = "steps"
STEPS, EVERY = 10, 5
TARGETS = ("q_proj", "v_proj")
NEVER = 10**6  # rounds


class Size(NamedTuple):
    """A model, and what an agent's step takes."""

    name: str
    tower: Tower
    heads: int
    words: int
    batch: int
    length: int
    dtype: str = "bfloat16"

    def model(self, device: torch.device) -> torch.nn.Module:
        """Return the model with random weights in float32."""
        return llama(self.tower, heads=self.heads, words=self.words, device=device)


LLAMA = Size("LLaMA-2-7B", LLAMA2_7B, 32, 32000, 16, 64)
SMALL = Size("tiny LLaMA", Tower(2, 16, 24, 16), 4, 64, 2, 8)


def measured(device: str, size: Size) -> Iterator[Row]:
    """Yield the rows of both paces."""
    for sequential in (False, True):
        yield from pace(device, size, settings(size, sequential))
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def settings(size: Size, sequential: bool) -> Config:
    """Return the paper's configuration, cut to steps and mixes alone."""
    return config.read(
        "llama2-7b-wic",
        {
            "model.dtype": size.dtype,
            "data.batch": size.batch,
            "data.max_length": size.length,
            "train.sequential": sequential,
            "train.gradient_checkpointing": True,
            "mix.every": EVERY,
            "observe.every": NEVER,
            "observe.eval_every": NEVER,
        },
    )


def pace(device: str, size: Size, chosen: Config) -> Iterator[Row]:
    """Yield tokens per second, milliseconds of a step and a mix, and the peak over the prediction.

    The first step, which compiles and allocates, is not counted.
    """
    N, apart = chosen.mix.agents, chosen.train.sequential
    way = "one agent at a time" if apart else f"{N} agents at once"
    label = f"{size.name} {size.dtype}, {way}"
    wanted = predicted(size, chosen)
    run = begun(device, size, chosen)
    finetune.advance(run)
    training, mixing = [], []
    for _ in range(STEPS):
        before = dict(run.seconds)
        finetune.advance(run)
        taken = {name: run.seconds[name] - before.get(name, 0.0) for name in run.seconds}
        training.append(taken["training"])
        mixing += [taken["mixing"]] if taken.get("mixing") else []
    tokens = N * size.batch * size.length
    yield verdict(GOAL, label, "tokens / s", [tokens / t for t in training])
    yield verdict(GOAL, label, "step, ms", [1e3 * t for t in training])
    yield verdict(GOAL, label, "mix of all sites, ms", [1e3 * t for t in mixing])
    yield verdict(GOAL, label, "loss is finite", [float(finite(run))], ">=", 1.0, 0)
    yield verdict(GOAL, label, "predicted, GB", [wanted / 1e9])
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
        yield verdict(GOAL, label, "peak / predicted", [peak / wanted])
    else:
        yield skipped(GOAL, label, "peak / predicted", "torch counts memory on CUDA only")


def predicted(size: Size, chosen: Config) -> int:
    """Return the bytes that the dry run counts for a step, on the meta device."""
    build: Callable[[], torch.nn.Module] = partial(size.model, META)
    shape = Architecture(0, size.tower.layers, TARGETS, "prompt", build, answer_scores)
    stacked = dryrun.build(chosen, shape, size.dtype)
    sizes = Sizes(chosen.mix.agents, size.batch, size.length, 2)
    if not chosen.train.sequential:
        return dryrun.step_needs(stacked, chosen, shape, sizes)[0].total
    with stacked.only(0):
        return dryrun.step_needs(stacked, chosen, shape, sizes._replace(agents=1))[0].total


def begun(device: str, size: Size, chosen: Config) -> Run:
    """Return a run before its first step, and count the peak of memory from here on."""
    model = drawn(partial(size.model, torch.device(device)), size.dtype)
    run = finetune.assembled(chosen, task_of(model, size, chosen), {}, device=device)
    devices.synchronize(device)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return run


def task_of(model: Any, size: Size, chosen: Config) -> Task:
    """Return random texts of full length, two batches for every agent, with random answers."""
    draw, n = torch.Generator().manual_seed(0), 2 * chosen.mix.agents * size.batch
    ids = torch.randint(size.words, (n, size.length), generator=draw)
    last = torch.full((n,), size.length - 1)
    data = Data({"input_ids": ids, "last": last}, torch.randint(2, (n,), generator=draw))
    answers = torch.tensor([0, 1])
    return Task(
        *("wic", model, "random", TARGETS, (), 2, "accuracy", data, data),
        scores=lambda model, inputs, agents: causal.answer_scores(model, inputs, answers),
    )
