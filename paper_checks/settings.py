"""The tables of a run's settings, one dataclass each; `config` reads and checks them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from decaf_theory.methods import (
    FORMS,
    METHODS,
    Form,
    Method,
    keeping_directions,
    rank1_pool,
    sd_lora,
    sora,
    with_form,
)
from decaf_theory.topology import TOPOLOGIES


@dataclass(frozen=True, kw_only=True)
class Lora:
    """The adapters: W = W0 + scale B A at every nn.Linear whose name ends with a target.

    eta (or alpha, the same number under peft's name) and scaling give the scale: eta / r, or
    eta / sqrt(r) with "rslora". No targets: the task's own. equal_start: all agents draw one A.
    train_heads: new heads are trained and mixed too; else they stay at their common random start.
    train_adapters: without, there are none, and only the heads are trained and mixed: a control.
    """

    rank: int
    eta: float | None = None
    alpha: float | None = None
    scaling: str = "eta/r"
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    equal_start: bool = True
    train_heads: bool = True
    train_adapters: bool = True

    @property
    def scale(self) -> float:
        """The factor of B A in W - W0."""
        eta = self.eta if self.eta is not None else self.alpha
        assert eta is not None  # checked on entry
        return eta / (math.sqrt(self.rank) if self.scaling == "rslora" else self.rank)


@dataclass(frozen=True, kw_only=True)
class Data:
    """The examples and how they are dealt to the agents.

    partition: its kind; partitions: the settings of each kind that needs some, by kind, so that a
    sweep over kinds finds them. shots: training examples per class, of all agents together.
    validation: how many examples are kept to choose settings and rounds by, below 1 a share of the
    training examples: drawn from the data set's own validation set where its labels are known, else
    taken out of the training examples before shots and train_samples are. None: none.
    validation_shots: of images, at most that many of every class among them.
    augment: of images, "resized_crop_flip" trains on random crops, mirrored at random.
    eval_batch: examples of one agent in one forward pass of an evaluation (default: batch).
    split_file: of images, a JSON file that says which are for training and which for the test;
    split_images: where its paths start. Both are relative to the data set's folder in --data-dir.
    """

    batch: int
    partition: str = "iid"
    partitions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shots: int | None = None
    validation: float | None = None
    validation_shots: int | None = None
    train_samples: int | None = None
    test_samples: int | None = None
    max_length: int | None = None
    eval_batch: int | None = None
    split_file: str | None = None
    split_images: str = "."
    augment: str | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the chosen kind of partition."""
        return self.partitions.get(self.partition, {})


@dataclass(frozen=True, kw_only=True)
class Train:
    """The local steps. betas belong to AdamW, momentum to SGD.

    schedule: the step size is constant, or falls from lr to lr_min as half a cosine over the
    `period`: the whole "run", or each "round" anew. sequential: one agent's batch at a time, for
    small memory. gradient_checkpointing: activations are recomputed, for smaller memory still.
    autocast: products with the base's weights are computed in "bfloat16" or "float16", adapters and
    heads stay in float32; with "float16" the loss is scaled (see `scaling`).
    """

    steps: int
    lr: float
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.999)
    momentum: float = 0.0
    schedule: str = "constant"
    lr_min: float = 0.0
    period: str = "run"
    order: str = "step_first"
    seed: int = 0
    sequential: bool = False
    gradient_checkpointing: bool = False
    autocast: str | None = None


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Who mixes what, and when: every `every` steps, or `every_epochs` passes over a shard.

    after: the steps before the first mix, in which agents train apart; by default as many as
    between the others (see `rounds`).
    graph, zero_directions: of methods that have none and do not truncate without effect, so that a
    sweep can give one value to all its methods.
    weights: a server weighs agents alike ("equal"), or by the examples they hold ("samples").
    form: what W - W0 is, besides lora's scale B A, see `decaf_theory.methods.FORMS`. Of "sora", lam
    is the threshold of gates, and gate_speed their step size in units of train.lr. "sd_lora" and
    "rank1_pool" are for task.sequence: magnitude and carried of the first, and of the second active
    (pairs of each input), merged (pairs after a task), overlap (the factor of its penalty) and
    router_seed.
    """

    agents: int
    method: str = "decaf"
    form: str = "lora"
    lam: float = 1e-3
    gate_speed: float = 1.0
    magnitude: float = 0.8
    carried: bool = False
    active: int = 8
    merged: int = 4
    overlap: float = 0.1
    router_seed: int = 0
    graph: str = "ring"
    every: int | None = None
    every_epochs: int | None = None
    after: int | None = None
    zero_directions: str = "keep"
    moments: str = "reset"
    weights: str = "equal"

    @property
    def rule(self) -> Method:
        """The method, on its graph, in its form and with the setting `zero_directions`."""
        method = METHODS[self.method]
        if method.tuned is not None:
            method = method.on(TOPOLOGIES[self.graph](self.agents))
        form, keeps = self.chosen_form, self.zero_directions == "keep"
        if keeps and form.products is not None:  # B and A are mixed as without the form
            return with_form(keeping_directions(method), form)
        method = with_form(method, form) if self.form != "lora" else method
        return keeping_directions(method) if keeps else method

    @property
    def chosen_form(self) -> Form:
        """What W - W0 is."""
        made: dict[str, Callable[[], Form]] = {
            "sora": lambda: sora(self.lam, self.gate_speed),
            "sd_lora": lambda: sd_lora(magnitude=self.magnitude, carried=self.carried),
            "rank1_pool": lambda: rank1_pool(
                active=self.active, merged=self.merged, overlap=self.overlap, seed=self.router_seed
            ),
        }
        return made[self.form]() if self.form in made else FORMS[self.form]

    @property
    def weighing(self) -> str:
        """What weighs agents where they meet: the "graph", `weights` at a server, or "none"."""
        met = {self.rule.meets, self.rule.pools}
        return "graph" if "graph" in met else self.weights if "server" in met else "none"


@dataclass(frozen=True, kw_only=True)
class Observe:
    """What is measured when, in rounds, and when a checkpoint is written, in steps.

    every: of mixes, and eval_every: of scores on the test set; those of the last round always are.
    share: of those mixes, only as many are measured as keep the time of measuring at most this
    share of the time of training, and the first and the last. Training is the same bit for bit, but
    which mixes are measured depends on the clock. None: all.
    patience: after so many scores on the validation set without a better one the run ends; its
    last mix, which nobody knew to be it, is then observed only as `every` has it.
    """

    every: int = 1
    share: float | None = None
    eval_every: int = 1
    patience: int | None = None
    checkpoint_every: int = 50


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is decided before any result is seen; it changes no run.

    primary: the one contrast that a sweep is about, such as "decaf - dlora on ring, skew".
    """

    primary: str | None = None
