"""Follow a run, and hold what it did against the bounds."""

from __future__ import annotations

import pathlib
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host
from decaf_theory.compare import covered
from decaf_theory.compare.drawn import drawing_anew, joined
from decaf_theory.compare.lines import OPEN, VIOLATED, Line, expected, judged
from decaf_theory.compare.mixes import Mixes
from decaf_theory.compare.network import dense, network_of, sums_off
from decaf_theory.compare.path import EPS, Path, Recorder, averages, mean_state, momentum_of
from decaf_theory.compare.rates import APART, GRADIENT, SPREAD, Run, rate_lines, spread_line
from decaf_theory.files import place, require_place, write_atomically
from decaf_theory.pictures import format_of, rendered
from decaf_theory.simulate import Config, Trace, Visit, simulate, start_factors
from decaf_theory.simulate.visit import mean_of_agents, points

WIDTH = 28  # of the words for what is measured


class ViolatedWarning(UserWarning):
    """A run exceeds a bound whose assumptions hold: constants or gradients are wrong, or we are."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """A run against the bounds: one line for each, the c that it reached, and its trace.

    run: the run as the rates see it, None where none applies. c: the largest sigma_1 of any factor,
    also of those about to be mixed; None of the full matrix.
    """

    lines: tuple[Line, ...]
    c: float | None
    trace: Trace
    run: Run | None

    @property
    def violated(self) -> tuple[Line, ...]:
        """The lines whose measured value is above the bound."""
        return tuple(line for line in self.lines if line.verdict == VIOLATED)

    def __getitem__(self, claim: str) -> Line:
        """Return the first line of a claim; KeyError: none."""
        for line in self.lines:
            if line.claim == claim:
                return line
        known = dict.fromkeys(line.claim for line in self.lines)
        raise KeyError(f"claim must be one of {', '.join(known)}, got {claim!r}")

    def __str__(self) -> str:
        """Return the table, what is violated first."""
        first = max(17, *(len(line.claim) + 2 for line in self.lines))
        head = (
            f"{'claim':{first}}{'what':{WIDTH}}{'measured':>10}{'bound':>10}{'ratio':>7}  verdict"
        )
        shouts = [
            f"!!! VIOLATED: {line.claim}, {line.what}: {line.measured:.6g} > {line.bound:.6g} !!!"
            for line in self.violated
        ]
        notes = [] if self.c is None else [f"c = {self.c:.4g}: the run stays in Omega_c"]
        if any(line.verdict == OPEN for line in self.lines):
            notes.append(f"{OPEN}: the interval over the runs does not decide; take more runs")
        return "\n".join([*shouts, head, *(_row(line, first) for line in self.lines), *notes])

    def draw(self, file: str | pathlib.Path) -> None:
        """Draw curves and bars to a file, .svg, .png or .pdf; ValueError: another.

        Folders on its path are made, and a file of that name is replaced. UnwritableError, before
        anything is drawn: the file cannot be written there.
        """
        from decaf_theory.compare.drawing import picture

        form, path = format_of(file), place(file)
        require_place(path)
        write_atomically(path, rendered(lambda: picture(self), form))


def _row(line: Line, first: int) -> str:
    start = f"{line.claim:{first}}{line.what:{WIDTH}}"
    if line.bound is None or line.measured is None:
        return f"{start}{'-':>10}{'-':>10}{'-':>7}  {line.why}"
    ratio = "-" if line.ratio is None else f"{line.ratio:{'.3f' if line.ratio >= 5e-4 else '.0e'}}"
    return f"{start}{line.measured:>10.3g}{line.bound:>10.3g}{ratio:>7}  {line.verdict}"


class _Watch:
    """What is looked at in every visit of a run."""

    def __init__(self) -> None:
        self.recorder, self.mixes = Recorder(), Mixes()
        self.size = 0.0  # the largest |W| at which mean gradients are taken
        self.at_mean: list[np.ndarray] = []  # F there, [runs]
        self.off = 0.0  # of the sums of weights, in eps

    def __call__(self, visit: Visit) -> bool:
        config = visit.config
        mean = mean_state(visit)
        W = points(config, mean)
        losses = config.problem.loss(W)
        self.at_mean.append(host(mean_of_agents(losses, config.shares, -1)))
        if visit.step < config.steps:
            self.size = max(self.size, float(np.sqrt(np.sum(host(W) ** 2, axis=(-2, -1))).max()))
        if visit.mix.weights is not None:
            weights = dense(visit.mix.weights)
            self.off = max(self.off, sums_off(weights, config.shares))
        self.recorder(visit)
        if config.named.form.low_rank:
            self.mixes(visit)
        return False


def compare(config: Config) -> Comparison:
    """Return a run against every bound that applies: T25, T28-T30, T34-T38; T10-T18 of its mixes.

    The simulation is run once, the products of DeCAF in the frame of T30; local steps one by one.
    Where matrices are drawn at random, each run is run once more with draws of its own: bounds on
    Xi are then of the mean over draws (T37-random), all else is of the draws that the run had.
    ViolatedWarning where a measured value is above a bound whose assumptions hold. ValueError: as
    `simulate`; a run without steps or that diverged; weights whose sums are one in float32 only.
    """
    if not isinstance(config, Config):
        got = type(config).__name__
        raise ValueError(f"config must be a Config, got {got}; Config(problem=..., Pi=...) is one")
    if config.steps < 1:
        raise ValueError(f"steps must be >= 1 to compare with bounds, got {config.steps}")
    covered.require_exact(config)
    why = covered.against(config)
    found = _of_mixes(config, why) if why else _of_run(config)
    for line in found.violated:
        text = f"{line.claim}: {line.what} is {line.measured:.6g}, its bound {line.bound:.6g}"
        hint = "are gradient and constants right? (problems.check_problem)"
        warnings.warn(f"{text}, and its assumptions hold; {hint}", ViolatedWarning, stacklevel=2)
    return found


def _of_mixes(config: Config, why: str) -> Comparison:
    """Run a method that no rate covers; its mixes are looked at where W - W0 is s B A."""
    mixes = Mixes()

    def watch(visit: Visit) -> bool:
        if config.named.form.label == "lora":
            mixes(visit)
        return False

    trace = simulate(config, watch=watch).require_finished()
    claim = "T37-reversible" if config.target is not None else "T25"
    claim = "T36" if momentum_of(config.rule) else claim
    lines = (Line(claim, GRADIENT, why=why), Line(claim, SPREAD, why=why), *mixes.lines())
    return Comparison(lines, mixes.c or None, trace, None)


def _of_run(config: Config) -> Comparison:
    """Run a method that the rates cover, and look at every step."""
    problem = config.problem
    watch = _Watch()
    trace = simulate(covered.followed(config), watch=watch).require_finished()
    path, net = watch.recorder.path, network_of(config)
    drawn = None if net.why or net.claim != "T37-random" else _drawn_anew(config, watch)
    kind = covered.kind_of(config)
    low_rank = config.named.form.low_rank
    c = max(float(x.c.max()) for x in (path, drawn or path)) if low_rank else None
    loss = float(watch.at_mean[0].mean())
    letters = covered.letters_of(config, kind, c or 0.0, watch.size, loss)
    F_star = problem.constants.F_star
    start = start_factors(config)
    run = Run(
        path=path,
        letters=letters,
        net=net,
        lr=float(np.max(config.step_sizes(0))),
        N=problem.N if config.shares is None else 1,
        order="CB" if config.order == "combine" else "MS",
        exact=averages(config.rule),
        noisy=config.noise is not False and not (config.noise is True and problem.noise is None),
        equal=all(bool(np.all(host(X) == host(X)[:, :1])) for X in start),
        terms=problem.N + problem.d + problem.k + start.rank + watch.off,
        last_gap=None if F_star is None else watch.at_mean[-1] - F_star,
        beta=momentum_of(config.rule) or 0.0,
        drawn=drawn,
    )
    lines = [*rate_lines(run), spread_line(run), *watch.mixes.lines()]
    if kind == "B, A" and run.exact:
        lines.append(_along_the_path(config, run, watch.mixes, c or 0.0))
    return Comparison(tuple(lines), max(c, watch.mixes.c) if c else None, trace, run)


def _drawn_anew(config: Config, watch: _Watch) -> Path:
    """Return the path of runs that draw their own matrices; the watch learns how far they went."""
    paths = []
    for own in drawing_anew(config):
        seen = _Watch()
        simulate(own, watch=seen).require_finished()
        watch.size, watch.off = max(watch.size, seen.size), max(watch.off, seen.off)
        paths.append(seen.recorder.path)
    return joined(paths)


def _along_the_path(config: Config, run: Run, mixes: Mixes, c: float) -> Line:
    """Return T14's line: what mixing costs on DLoRA's path, on the Omega_c of all its factors."""
    what, problem = "mean s |I|_*", config.problem
    known, largest = problem.constants, max(c, mixes.c)
    net = network_of(config)
    why = net.why or run.letters.lacking("L", "sigma", "kappa")
    if not why and (run.order != "MS" or net.claim != "T25"):
        why = f"graph: q and S of T25 in order MS are needed, these are of {net.claim} {run.order}"
    if not why and not run.equal:
        why = APART
    if why or known.L is None or known.G is None:
        return Line("T14", what, why=why)
    s = config.s
    S = bounds.network_S(eigenvalues=net.eigenvalues, order="CB")
    q = bounds.network_q(lam=net.lam, order="CB")
    L_hat = bounds.smoothness_sharp(L=known.L, c=largest, G=known.G(s, largest), s=s)
    letters: dict[str, Any] = {"lr": run.lr, "s": s, "c": largest, "N": run.N, "L_hat": L_hat}
    letters |= {"sigma_W": (known.sigma or 0.0) if run.noisy else 0.0, "kappa_W": known.kappa}
    nuclear = s * np.array(mixes.nuclear)
    worst = int(np.argmax(nuclear.mean(axis=1)))
    return judged(
        "T14",
        what,
        expected(nuclear[worst], run.noisy, among=len(nuclear)),
        lambda k: bounds.interference_trajectory(q=q, S=S, **letters),
        10 * run.terms * run.N * EPS * s * largest**2,
    )
