"""Tasks learned one after the other, and how much of each is known after each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.arrays import Host, host
from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS, Form, Method, State, with_form
from decaf_theory.methods.form import LORA
from decaf_theory.problems import TaskSequence
from decaf_theory.rng import generator
from decaf_theory.simulate.config import Config
from decaf_theory.simulate.rounds import simulate


class Learned(NamedTuple):
    """Tables of losses, [runs, T, T], and the agents' state after the last task.

    losses[run, t, j]: the mean over agents of the excess F_j(W_i) - min F_j of task j after task t.
    """

    losses: Host
    final: State


def learn(
    sequence: TaskSequence,
    *,
    rank: int,
    steps: int,
    method: str | Method = "dlora",
    form: Form = LORA,
    s: float = 1.0,
    runs: int = 1,
    seed: int = 0,
    **settings: Any,
) -> Learned:
    """Return what agents know who learn the tasks in turn, `steps` rounds each, by simulation.

    form: what it keeps from task to task is that of its `ends` and `begins`; LORA goes on with the
    same B and A. What a method itself keeps starts anew. settings: others of `Config`, those of
    every task. The start of a pair is LoRA's, B = 0 and A Gaussian of variance 1/k, equal at all
    agents, of a stream by run and task. ValueError: as `Config` has it, a run that diverged.
    """
    named = METHODS[method] if isinstance(method, str) else method
    rule = with_form(named, form)
    shape = runs, *sequence.targets.shape[1:]
    state = rule.begin(_fresh(shape, rank, seed, 0))
    rows = []
    for t, task in enumerate(sequence.tasks):
        fresh = _fresh(shape, rank, seed, t)
        state = form.begins(state, t, fresh, sequence.inputs[t])
        config = Config(
            problem=task,
            method=named,
            form=None if form == LORA else _holding(form, state),
            start=state.factors,
            s=s,
            runs=runs,
            seed=int(generator(seed, "noise of task", t).integers(2**32)),
            steps=steps,
            record=("loss",),
            record_every=max(steps, 1),
            **settings,
        )
        trace = simulate(config).require_finished()
        state = form.ends(State(trace.final, trace.memory))
        W = host(form.update(state, s))
        rows.append(sequence.losses(W).mean(axis=1))
    return Learned(np.stack(rows, axis=1), state)


def _holding(form: Form, state: State) -> Form:
    """Return the form whose memory starts as that of a state."""
    return replace(form, start=lambda factors: state.memory)


def _fresh(shape: Sequence[int], rank: int, seed: int, t: int) -> Factors:
    """Return a pair of LoRA's start for [runs, N, d, k], equal at all agents."""
    runs, N, d, k = shape
    draws = [generator(seed, "start", run, t).standard_normal((rank, k)) for run in range(runs)]
    A = np.broadcast_to((np.stack(draws) / math.sqrt(k))[:, None], (runs, N, rank, k))
    return Factors(np.zeros((runs, N, d, rank)), A)
