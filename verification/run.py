"""Evaluate claims, here or in several processes: claim -> rows, verdict, seconds."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import signal
import time
import traceback
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from decaf_theory.bounds import StepSizeWarning
from verification.claim import Claim, Context, Outcome, Row, collect
from verification.judge import Verdict, judge

ATTEMPTS = 2  # how often a claim is tried if its process is killed
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ledger:
    """Where claims are listed (a module with the list CLAIMS) and counterexamples are kept."""

    module: str
    folder: Path

    @property
    def claims(self) -> list[Claim]:
        """The claims, in reading order."""
        claims: list[Claim] = importlib.import_module(self.module).CLAIMS
        return claims

    @property
    def expected(self) -> dict[str, str]:
        """The expected outcome of each claim."""
        return {claim.id: claim.expected for claim in self.claims}

    def counterexample(self, claim: str) -> Path:
        """Return where the counterexample of a claim is kept."""
        return self.folder / "counterexamples" / f"{claim}.json"

    def program(self, script: str) -> Path:
        """Return where the NumPy program of that name is kept."""
        return self.folder / "counterexamples" / f"{script}.py"


LEDGER = Ledger("verification.claims", Path(__file__).parent)


@dataclass(frozen=True)
class Settings:
    """The settings of a run that every claim gets."""

    size: str = "quick"
    seed: int = 0
    device: str = "cpu"

    def context(self, claim: str) -> Context:
        """Return the context of a claim."""
        return Context(claim, self.size, self.seed, self.device)


@dataclass(frozen=True)
class Evidence:
    """The rows of a claim and their verdict; `error` holds the traceback of one that raised."""

    verdict: Verdict
    rows: tuple[Row, ...] = ()
    error: str | None = None


def failed(claim: Claim, error: str, seconds: float = 0.0) -> Evidence:
    """Return the evidence of a claim that could not be evaluated."""
    return Evidence(
        Verdict(claim.id, claim.status, Outcome.ERROR, None, None, 0, seconds), error=error
    )


def evaluate(claim: Claim, settings: Settings) -> Evidence:
    """Return the evidence of a claim; an exception becomes the outcome `error`."""
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            # of a bound beyond its range: its row does not hold, or does not apply
            warnings.simplefilter("ignore", StepSizeWarning)
            rows = tuple(collect(claim, settings.context(claim.id)))
    except Exception:
        return failed(claim, traceback.format_exc(), time.perf_counter() - start)
    return Evidence(judge(claim, rows, time.perf_counter() - start), rows)


def evaluate_all(
    claims: Sequence[Claim], settings: Settings, *, jobs: int = 1, ledger: Ledger = LEDGER
) -> Iterator[Evidence]:
    """Yield the evidence of each claim as it comes: in order, or from `jobs` processes."""
    if jobs == 1 or len(claims) < 2:
        return (evaluate(claim, settings) for claim in claims)
    return _in_processes(claims, settings, min(jobs, len(claims)), ledger)


def _serve(pipe: Connection, settings: Settings, ledger: Ledger) -> None:
    """Answer claim ids with evidence until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    by_id = {claim.id: claim for claim in ledger.claims}
    with suppress(EOFError, BrokenPipeError):
        while True:
            pipe.send(evaluate(by_id[pipe.recv()], settings))


def _in_processes(
    claims: Sequence[Claim], settings: Settings, jobs: int, ledger: Ledger
) -> Iterator[Evidence]:
    """Yield evidence from `jobs` processes; a claim whose process is killed is tried again."""
    # spawn: a fork would copy the locks of BLAS and torch threads in whatever state they are
    spawn = multiprocessing.get_context("spawn")
    queue = deque((claim, 1) for claim in claims)
    processes: dict[Connection, Any] = {}
    busy: dict[Connection, tuple[Claim, int]] = {}

    def launch() -> Connection:
        ours, theirs = spawn.Pipe()
        processes[ours] = spawn.Process(target=_serve, args=(theirs, settings, ledger), daemon=True)
        processes[ours].start()
        theirs.close()  # so that the death of the process ends our pipe
        return ours

    try:
        while queue or busy:
            while queue and len(busy) < jobs:
                claim, attempt = queue.popleft()
                pipe = next((idle for idle in processes if idle not in busy), None) or launch()
                busy[pipe] = claim, attempt
                with suppress(OSError):  # a process that died while idle: seen below
                    pipe.send(claim.id)
            ready = wait(list(busy))
            for pipe in [pipe for pipe in busy if pipe in ready]:
                claim, attempt = busy.pop(pipe)
                try:
                    evidence = pipe.recv()
                except (EOFError, OSError):
                    processes[pipe].join()
                    died = f"its process ended with exit code {processes.pop(pipe).exitcode}"
                    if attempt < ATTEMPTS:
                        LOG.warning("claim %s: %s; trying once more", claim.id, died)
                        queue.appendleft((claim, attempt + 1))
                        continue
                    evidence = failed(claim, f"{died}, {attempt} times")
                yield evidence
    finally:
        for process in processes.values():
            process.terminate()
