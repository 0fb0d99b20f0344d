"""Evaluate claims, here or in several processes: claim -> rows, verdict, seconds."""

from __future__ import annotations

import importlib
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from decaf_theory.bounds import StepSizeWarning
from decaf_theory.faults import no_memory
from verification.claim import Claim, Context, Outcome, Row, collect
from verification.judge import Verdict, judge
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
    claims: Sequence[Claim], settings: Settings, *, jobs: int = 1, ledger: Ledger = LEDGER
) -> Iterator[Evidence]:
    """Yield the evidence of each claim as it comes: in order, or from `jobs` processes."""
    if jobs == 1 or len(claims) < 2:
        return (evaluate(claim, settings) for claim in claims)
    by_id = {claim.id: claim for claim in claims}
    return in_processes(
        partial(_evaluate_id, settings=settings, ledger=ledger),
        list(by_id),
        jobs=jobs,
        name=lambda claim: f"claim {claim}",
        failed=lambda claim, died: failed(by_id[claim], died),
    )


def _evaluate_id(claim: str, settings: Settings, ledger: Ledger) -> Evidence:
    return evaluate(next(found for found in ledger.claims if found.id == claim), settings)
