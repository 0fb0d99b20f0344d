"""Evaluate claims, here or in several processes: claim -> rows, verdict, seconds."""

from __future__ import annotations

import importlib
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from decaf_theory.bounds import StepSizeWarning
from decaf_theory.faults import no_memory
from verification.claim import Claim, Context, Outcome, Row, collect
from verification.cluster import Cluster, on_cluster
from verification.judge import Verdict, judge
from verification.provenance import software
from verification.serving import Here, Job
from verification.workers import in_processes


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
    """Return the evidence of a claim; an exception becomes the outcome `error`.

    MemoryError: there is too little memory, which says nothing about the claim.
    """
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            # of a bound beyond its range: its row does not hold, or does not apply
            warnings.simplefilter("ignore", StepSizeWarning)
            rows = tuple(collect(claim, settings.context(claim.id)))
    except Exception as error:
        if no_memory(error):
            raise MemoryError(f"claim {claim.id}: {error}") from error
        return failed(claim, traceback.format_exc(), time.perf_counter() - start)
    return Evidence(judge(claim, rows, time.perf_counter() - start), rows)


def evaluate_all(
    claims: Sequence[Claim],
    settings: Settings,
    *,
    jobs: int | Cluster = 1,
    ledger: Ledger = LEDGER,
) -> Iterator[Evidence]:
    """Yield the evidence of each claim as it comes: in order, or from `jobs` processes.

    Or from the workers of a cluster; ClusterError: see `on_cluster`.
    """
    if jobs == 1 or (isinstance(jobs, int) and len(claims) < 2):
        return (evaluate(claim, settings) for claim in claims)
    by_id = {claim.id: claim for claim in claims}
    one = partial(_evaluate_id, settings=settings, ledger=ledger)

    def name(claim: str) -> str:
        return f"claim {claim}"

    def lost(claim: str, why: str) -> Evidence:
        return failed(by_id[claim], why)

    if isinstance(jobs, Cluster):
        job = Job(partial(_evaluate_here, one=one), partial(_stamp, settings=settings), _evaluated)
        return on_cluster(jobs, job, list(by_id), name=name, failed=lost)
    return in_processes(one, list(by_id), jobs=jobs, name=name, failed=lost)


def _evaluate_id(claim: str, settings: Settings, ledger: Ledger) -> Evidence:
    return evaluate(next(found for found in ledger.claims if found.id == claim), settings)


def _evaluate_here(claim: str, here: Here, one: Callable[[str], Evidence]) -> Evidence:
    return one(claim)


def _stamp(claim: str, settings: Settings) -> dict[str, Any]:
    return {"claim": claim, **asdict(settings), **software()}


def _evaluated(evidence: Evidence) -> bool:
    return evidence.error is None
