"""Effects of how a server averages: FedRot-LoRA's alignment, and agents of unequal ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors
from decaf_theory.measure import interference_norm
from decaf_theory.methods import METHODS, Clock, Method, Mixed, State, fedrot
from decaf_theory.methods.state import Message
from decaf_theory.simulate import simulate
from paper_checks.effects.engine import Comparison, Effort, tuned
from paper_checks.effects.model import AGENTS, config_of, draw, excess

RANKS = tuple((1, 2, 4)[agent % 3] for agent in range(AGENTS))
LARGEST = RANKS.index(max(RANKS))  # holds the server's model after a mix


class Errors(NamedTuple):
    """The mean over rounds of |mean B A - mean B mean A|_F, of factors as held and as sent."""

    held: Array  # [seeds]
    sent: Array


def watched(method: Method, seen: list[tuple[Array, Array]]) -> Method:
    """Return the method, which notes at each mix what averaging its factors loses, [..., rows].

    Of the factors as they are held before the mix, and as they are sent.
    """

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        pairs = own.factors, Factors(sent["B"], sent["A"])
        seen.append((interference_norm(pairs[0], weights), interference_norm(pairs[1], weights)))
        return method.receive(own, sent, weights, clock)

    return replace(method, receive=receive)


# where: local steps and rounds, 400 gradient steps in all
ROUNDS: dict[str, dict[str, int]] = {
    "40 rounds of 10 steps": {"local_steps": 10, "steps": 40},
    "4 rounds of 100 steps": {"local_steps": 100, "steps": 4},
}


def errors(
    kind: str, method: Method, lr: float, seeds: Sequence[int], rounds: Mapping[str, int]
) -> Errors:
    """Return the errors of aggregation of a method's run. ValueError: it diverged."""
    seen: list[tuple[Array, Array]] = []
    config = config_of(draw(kind, seeds), watched(method, seen), None, lr, seeds, **rounds)
    simulate(config).require_finished()
    return Errors(*(np.stack(column).mean(axis=(0, -1)) for column in zip(*seen, strict=True)))


def server(
    kind: str, name: str, effort: Effort, agent: int | None = None, **others: Any
) -> tuple[Array, float]:
    """Return the excess at the tuned step size, the agents' mean or one's, and the step size."""

    def score(lr: float, some: Sequence[int]) -> Array:
        found = excess(kind, METHODS[name], None, lr, some, **others)
        return found.mean(axis=-1) if agent is None else found[:, agent]

    return tuned(score, effort.seeds, effort.tuning)


def alignment(effort: Effort) -> Iterator[Comparison]:
    """FedRot-LoRA against FedAvg: a smaller error of aggregation and a better model, as reported.

    The errors of all are those at one step size, FedAvg's; the models have their own.
    """
    for kind in effort.kinds:
        for where, rounds in ROUNDS.items():
            (plain, lr), (aligned, own) = (
                server(kind, name, effort, **rounds) for name in ("fedavg", "fedrot")
            )
            apart = errors(kind, METHODS["fedavg"], lr, effort.seeds, rounds)
            for what, method in (("all the way", fedrot()), ("half way", fedrot(0.5))):
                turned = errors(kind, method, lr, effort.seeds, rounds)
                for name, before in (("before", turned.held), ("of fedavg", apart.held)):
                    values = np.log(turned.sent / before).tolist()
                    label = f"error turned {what} / {name}"
                    yield Comparison(kind, where, label, values, -1, steps=(lr,))
            values = np.log(aligned / plain).tolist()
            yield Comparison(kind, where, "fedrot / fedavg", values, -1, steps=(own, lr))


def ranks(effort: Effort) -> Iterator[Comparison]:
    """The truncated mean product against zero-padded factor means: better, as reported.

    The server's model is compared. Nothing is reported of HetLoRA and raFLoRA against it.
    """
    for kind in effort.kinds:
        exact, lr = server(kind, "flexlora", effort, LARGEST, ranks=RANKS)
        for name, sign in (("fedavg", -1), ("hetlora", 0), ("raflora", 0)):
            padded, own = server(kind, name, effort, LARGEST, ranks=RANKS)
            values = np.log(exact / padded).tolist()
            what = f"flexlora / {name}"
            yield Comparison(kind, "ranks 1, 2, 4", what, values, sign, steps=(lr, own))
