"""Decentralized LoRA fine-tuning of a real model, top to bottom.

N agents share one frozen model and each hold a shard of the data. At every step each agent takes
the gradient of its own mean loss on its own batch and moves its own adapter and head; every K steps
the agents mix. All agents go through the model in one stacked batch, and the loss of a step is the
sum of their losses, so that each agent's gradient is its own. AdamW and SGD act elementwise: one
optimizer over tensors [agent, ...] is N optimizers.

Data order, dropout masks and initial factors are streams named by seed, agent and step but not by
method, so that all methods see the same ones, and a resumed run needs nothing but its step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from decaf_theory.interrupts import interruptions
from decaf_theory.methods import State
from decaf_theory.rng import generator
from paper_checks import (
    beginning,
    checkpoint,
    devices,
    follow,
    mixing,
    observe,
    record,
    scaling,
    stamp,
)
from paper_checks.batches import Batches
from paper_checks.closing import close_round, last_mixed, worth_observing
from paper_checks.config import Config
from paper_checks.cost import recompute
from paper_checks.failures import TrainingError as TrainingError
from paper_checks.failures import finite, require_finite
from paper_checks.optimizer import optimizer_of, step_size
from paper_checks.ranks import join, meeting, observed, place, post, require_served
from paper_checks.record import clock
from paper_checks.rounds import rounds_of
from paper_checks.run import Run
from paper_checks.stacked import fresh, load_into, stack
from paper_checks.tasks import Data, Task, load_task
from paper_checks.turns import of_classes, turns_of
from verification import store

Show = Callable[[int, dict[str, Any] | None], None]
Began = Callable[[Run], None]


def finetune(
    config: Config,
    folder: Path,
    *,
    device: str = "cpu",
    adapters: Sequence[str | Path] = (),
    show: Show = lambda step, record: None,
    began: Began = lambda run: None,
    stop: Callable[[], bool] = lambda: False,
    restart: bool = False,
    accept_code: bool = False,
    ranks: float | None = None,
) -> Run:
    """Train, or resume from a checkpoint in `folder`; leave rows.jsonl and run.json there.

    rounds.jsonl grows while it trains (see `follow`). A stored run of fewer steps is extended.
    adapters: peft folders to start from, one per agent, instead of B = 0. After SIGINT or SIGTERM,
    or when stop() is true, the step is finished, a checkpoint is written, and the run returned has
    run.finished false. What is stored there with another stamp is dropped if `restart`; if
    `accept_code`, a difference in code and libraries alone is passed over. began(run): called once,
    before the first step. ranks: for how many seconds this process, one of several that torchrun
    started, waits for the others; None: it is alone, with all agents.
    TrainingError: a loss or gradient that is not finite. OtherStampError: another stamp.
    """
    if ranks is not None:
        require_served(config)
    own = folder if ranks is None else place(folder, config.mix.agents, ranks)
    store.require_writable(own)
    with store.locked(own):
        run = prepare(config, device=device, adapters=adapters)
        if ranks is not None:
            join(run, ranks)
        try:
            record.require_same(run, folder, accept_code=accept_code)
            found = checkpoint.resume(run, own, accept_code=accept_code)
            if found.get("steps", config.train.steps) < config.train.steps:
                lengthen(run)
        except stamp.OtherStampError:
            if not restart:
                raise
            record.remove(own)
        if run.first:
            follow.begin(folder, run.records)
            began(run)
        with interruptions() as signals:
            while not run.finished and not signals and not stop():
                try:
                    advance(run)
                except TrainingError as error:
                    raise TrainingError(f"{error}; {kept(run, own)}") from None
                ended = run.records[-1] if not run.losses else None
                if run.first:
                    if ended is not None:
                        follow.append(folder, ended)
                    show(run.step, ended)
                if run.best.get("step") == run.step:
                    checkpoint.save(run, own, best=True)
                if run.step % config.observe.checkpoint_every == 0:
                    checkpoint.save(run, own)
            run.stopped_by = signals[0] if signals else 0
        checkpoint.save(run, own, apart=not run.finished)
        if run.first:
            record.write(run, folder)
    return run


def prepare(config: Config, *, device: str, adapters: Sequence[str | Path] = ()) -> Run:
    """Load the task and stamp the run; see `assembled`."""
    device = devices.require(device)
    devices.require_dtype(device, str(config.model.get("dtype")))
    devices.autocast(device, config.train.autocast)  # before anything is loaded
    task = load_task(config)
    stamped = stamp.of(config, adapters, device) | stamp.of_loaded(task)
    return assembled(config, task, stamped, device=device, adapters=adapters)


def assembled(
    config: Config,
    task: Task,
    stamped: dict[str, Any],
    *,
    device: str,
    adapters: Sequence[str | Path] = (),
) -> Run:
    """Partition the data of a loaded task, and stack the agents at their common start."""
    lora, data, mix, rule = config.lora, config.data, config.mix, config.mix.rule
    half = config.train.autocast
    task.model.to(device)
    task = task._replace(
        scores=devices.on_device(task.scores, device, half),
        common=devices.half_precise(task.common, device, half),
        losses=None if task.losses is None else devices.on_device(task.losses, device, half),
    )
    require_validation(config, task)
    turns = turns_of(config, task)
    shards = turns.held()
    stacked = stack(
        task.model,
        targets=(lora.targets or task.targets) if lora.train_adapters else (),
        agents=mix.agents,
        rank=lora.rank,
        scale=lora.scale,
        dropout=lora.dropout,
        heads=task.heads,
        seed=config.train.seed,
        equal_start=lora.equal_start,
        train_heads=lora.train_heads,
    )
    if adapters:
        load_into(stacked, adapters)
    beginning.check_start(stacked, rule, config.train.order, mix.zero_directions)
    if config.train.gradient_checkpointing:
        recompute(task.model, True)
    rounds = rounds_of(config, shards)
    samples = [len(shard) for shard in shards] if mix.weights == "samples" else None
    Pi = mixing.graph_of(rule, mix.graph, mix.agents, samples)
    memory = beginning.begin(stacked, rule)
    optimizer = optimizer_of(config.train, stacked, mix.gate_speed)
    seed, apart = config.train.seed, config.train.sequential
    batches = Batches(task.train, turns.shards_at, seed, data.batch, apart)
    scaler = scaling.scaler_of(config.train, device)
    return Run(
        config,
        task,
        shards,
        batches,
        stacked,
        optimizer,
        Pi,
        rounds,
        turns,
        device,
        memory,
        stamped,
        scaler,
    )


def require_validation(config: Config, task: Task) -> None:
    """Raise ValueError if a run is to end by a score for which there are no examples."""
    if config.observe.patience is not None and task.validation is None:
        raise ValueError(
            f"observe.patience = {config.observe.patience} waits for a better score on validation "
            f"examples, and task {task.name} has none; give data.validation, or leave it out"
        )


def advance(run: Run) -> None:
    """Take one step, and at the end of a round measure, mix and evaluate.

    step_first: step, then mix. mix_first: the round begins with the mix, so that its first gradient
    is at the mixed point and the state recorded is the one before the next mix. combine: the
    gradient at the unmixed point moves the mixed one (weight decay acts on the mixed one, too).
    """
    train, t, rule = run.config.train, run.step, run.config.mix.rule
    now = run.rounds.clock(t)
    round_, last, closes = now.round + 1, t + 1 == train.steps, now.step + 1 == now.steps
    if run.turns.begins(t):
        begin_task(run, run.turns.at(t))
    if now.step == 0 and train.order == "mix_first":
        mix(run, now.round)
    if closes and train.order == "combine":
        post(run, run.rounds.before(round_))
    with clock(run, "training"):
        run.losses.append(gradients(run, t).tolist())
    if closes and train.order == "combine":
        mix(run, round_)
    descend(run)
    if closes and train.order == "step_first":
        mix(run, round_)
    if run.turns.ends(run.step):
        mixing.turn(run.stacked, run.memory, lambda state, _: rule.form.ends(state))
    if closes or last:
        close_round(run, round_, closes, last)


def begin_task(run: Run, task: int) -> None:
    """Begin a task after others: the optimizer anew, and what the form begins with.

    With fresh pairs, if it wants them, of streams by site and task.
    """
    train, equal = run.config.train, run.config.lora.equal_start
    seed = int(generator(train.seed, "pairs of task", task).integers(2**32))
    form = run.config.mix.rule.form

    def change(state: State, names: Sequence[str]) -> State:
        pairs = (fresh(run.stacked.sites[name], name, seed, equal) for name in names)
        return form.begins(state, task, mixing.together(pairs), None)

    mixing.turn(run.stacked, run.memory, change)
    run.optimizer.state.clear()


def gradients(run: Run, t: int) -> Tensor:
    """Compute every agent's gradient in place and return the losses [N] of their batches.

    run.overflowed says whether they are of no use, as the scaled loss overflowed.
    """
    train, N = run.config.train, run.stacked.agents
    batches = run.batches.at(t)
    rule, now = run.config.mix.rule, run.rounds.clock(t)
    run.optimizer.zero_grad()
    mixing.let_train(run.stacked, rule, now)
    training_mode(run, True)
    torch.manual_seed(int(generator(train.seed, "dropout", t).integers(2**63)))
    if train.sequential:
        losses = []
        for agent, own in enumerate(batches):
            with run.stacked.only(agent):
                losses.append(agents_losses(run, own, 1))
                scaling.backward(losses[-1].sum(), run.scaler)
        loss = torch.cat([x.detach() for x in losses])
    else:
        (together,) = batches
        loss = agents_losses(run, together, N)
        scaling.backward(loss.sum(), run.scaler)
        loss = loss.detach()
    training_mode(run, False)
    run.overflowed = scaling.overflowed(run.scaler, run.optimizer)
    require_finite(run, loss, t)
    if not run.overflowed:
        run.sent += mixing.direct(run.stacked, rule, run.Pi, run.memory, now)
    return loss


def descend(run: Run) -> None:
    """Move all agents along the gradients that they hold, one step of the schedule."""
    train, t = run.config.train, run.step
    size = step_size(train, t, run.rounds.clock(t))
    with clock(run, "training"):
        for group in run.optimizer.param_groups:
            group["lr"] = group["speed"] * size
        if run.overflowed:
            run.skipped += 1
        else:
            run.optimizer.step()
            mixing.settle(run.stacked, run.config.mix.rule, size)
    if not finite(run):
        raise TrainingError(f"step {t} of size {size:g} overflowed; lower train.lr")
    run.step = t + 1


def agents_losses(run: Run, batch: Data, agents: int) -> Tensor:
    """Return the loss of each agent's part of an agent-major batch, [agents].

    It is the task's own, or the mean cross-entropy.
    """
    inputs, labels = batch
    if run.task.losses is not None:
        return run.task.losses(run.stacked.model, {**inputs, "labels": labels}, agents)
    scores = run.task.scores(run.stacked.model, inputs, agents)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    scores, labels = of_classes(scores, labels, run.turns.classes[run.turns.at(run.step)])
    losses = functional.cross_entropy(scores, labels.to(scores.device), reduction="none")
    return losses.reshape(agents, -1).mean(1)


def mix(run: Run, round_: int) -> None:
    """Measure the factors just before the mix, then mix them.

    Methods that do not mix are measured as if all agents were to be averaged.
    """
    choice, rule, N = run.config.mix, run.config.mix.rule, run.config.mix.agents
    now = run.rounds.before(round_)
    planned = worth_observing(run, round_)
    if run.stacked.sites and (planned or round_ == last_mixed(run)):
        before = {"row": len(run.rows), "record": len(run.records)}
        with clock(run, "observing"):
            names = {"graph": choice.graph, "samples": "server"}
            graph = names.get(choice.weighing, "complete")
            rows = np.full((N, N), 1 / N) if run.Pi is None else np.broadcast_to(run.Pi, (N, N))
            run.seen, found = observed(
                run,
                lambda: observe.theory(run.stacked, rows, graph, round=round_, step=run.step),
            )
            run.rows += [{"claim": c, **row.as_json()} for c in found for row in found[c]]
        run.unplanned = {} if planned else {**before, "names": [*run.seen]}
    with clock(run, "mixing"):
        run.sent += mixing.mix(
            run.stacked,
            rule,
            run.Pi,
            run.memory,
            now,
            moments=choice.moments,
            optimizer=run.optimizer,
            meet=meeting(run, now),
        )


def lengthen(run: Run) -> None:
    """Turn the state of a run at its last step, or before, into that of a longer run."""
    if run.ranks is not None:
        raise ValueError(
            f"train.steps must be those of the stored run with --distributed, got "
            f"{run.config.train.steps}; train a longer one anew in another folder (--out)"
        )
    longer, extra = run.longer, run.unplanned
    run.longer, run.unplanned = {}, {}
    if longer:
        run.records.pop()
        run.records += [longer["record"]] if "record" in longer else []
        run.losses, run.seen = longer.get("losses", []), longer.get("seen", {})
    if extra:
        del run.rows[extra["row"] :]
        # of a round that has no record yet the numbers are in `seen`
        of = [*run.records, run.seen][extra["record"]]
        for name in extra["names"]:
            del of[name]


def kept(run: Run, folder: Path) -> str:
    """Save the state of a failed run if it is finite, and say where the last such state is."""
    if run.step and finite(run):
        return f"the last finite state is {checkpoint.save(run, folder, apart=True)}"
    return f"earlier states, if any, are in {folder / 'checkpoint'}"


def training_mode(run: Run, on: bool) -> None:
    """Turn the adapters' dropout on or off; the base's own dropout stays off."""
    for module in run.stacked.model.modules():
        if getattr(module, "gradient_checkpointing", False):
            # the flag only, not .train(): it recomputes in training mode only, its parts would drop
            module.training = on
    for site in run.stacked.sites.values():
        site.train(on)
