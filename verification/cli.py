"""The command line of the main job: `python -m verification --help`."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from verification import replay, store, table
from verification.claim import Claim, Outcome, Row
from verification.ledger import page
from verification.run import LEDGER, Evidence, Ledger, Settings, evaluate_all

OK, DIFFERS, USAGE, INTERRUPTED = 0, 1, 2, 130


class UsageError(Exception):
    """A request that cannot be served; exit code 2."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(prog="python -m verification", description=DESCRIPTION)
    p.add_argument("--only", nargs="+", metavar="ID", help="these claims alone")
    p.add_argument("--size", choices=("quick", "full"), default="quick", help="how many instances")
    p.add_argument("--seed", type=int, default=0, help="of every random stream (default 0)")
    p.add_argument(
        "--device",
        choices=("cpu", "torch", "cuda"),
        default="cpu",
        help="NumPy on the CPU (default), torch on the CPU, torch on a GPU",
    )
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    p.add_argument("--out", type=Path, default=Path("results"), help="folder of the results")
    p.add_argument("--list", action="store_true", help="list the claims")
    p.add_argument("--explain", metavar="ID", help="a claim's text, deciding rows, counterexample")
    p.add_argument("--replay", type=Path, metavar="FILE", help="recompute a stored instance")
    p.add_argument("--script", action="store_true", help="with --replay: print a NumPy program")
    p.add_argument(
        "--store-counterexamples",
        action="store_true",
        help="write verification/counterexamples/ID.json for every claim expected violated",
    )
    p.add_argument(
        "--attack",
        nargs="+",
        metavar="ID",
        help="search for counterexamples of true bounds; or all",
    )
    p.add_argument(
        "--minutes", type=float, default=1.0, metavar="M", help="with --attack: time for each claim"
    )
    p.add_argument("--write-docs", type=Path, metavar="FILE", help="write all claims as Markdown")
    p.add_argument(
        "--adapters", nargs="+", metavar="DIR", help="report on LoRA adapters, one folder an agent"
    )
    p.add_argument("--topology", default="complete", help="with --adapters: who mixes with whom")
    p.add_argument("--rank", type=int, help="with --adapters: rank of the mix (default: theirs)")
    return p


DESCRIPTION = """Give every claim of the theory a verdict. Exit code 0: every outcome is the
expected one; 1: some outcome differs; 2: bad usage."""


def main(argv: Sequence[str] | None = None, *, ledger: Ledger = LEDGER) -> int:
    """Serve one command line; return the exit code."""
    args = parser().parse_args(argv)
    try:
        check(args)
        action = next(a for wanted, a in ACTIONS if wanted(args))
        return action(args, ledger)
    except (UsageError, replay.ReplayError, store.StoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("interrupted; finished claims are kept", file=sys.stderr)
        return INTERRUPTED


def check(args: argparse.Namespace) -> None:
    """Raise UsageError for what argparse does not see."""
    if args.jobs < 1:
        raise UsageError(f"--jobs must be >= 1, got {args.jobs}")
    if args.seed < 0:
        raise UsageError(f"--seed must be >= 0, got {args.seed}")
    if not args.minutes > 0:
        raise UsageError(f"--minutes must be > 0, got {args.minutes}")
    if args.script and not args.replay:
        raise UsageError("--script needs --replay FILE")
    if (args.attack or args.device != "cpu") and importlib.util.find_spec("torch") is None:
        raise UsageError(
            "--attack, --device torch and --device cuda need torch; it is not installed"
        )
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("--device cuda needs a GPU, and torch sees none")


def chosen(args: argparse.Namespace, claims: Sequence[Claim]) -> list[Claim]:
    """Return the claims asked for, in reading order. UsageError: an unknown id."""
    ids = [claim.id for claim in claims]
    for name in args.only or ():
        if name not in ids:
            raise UsageError(replay.nearest(name, ids))
    return [claim for claim in claims if not args.only or claim.id in args.only]


def progress(found: Iterator[Evidence], total: int) -> Iterator[Evidence]:
    """Pass evidence through, showing a bar on a terminal and else a line a claim, on stderr."""
    if not sys.stderr.isatty():
        for evidence in found:
            verdict = evidence.verdict
            print(
                f"{verdict.claim}: {verdict.outcome.value}, {verdict.seconds:.2f} s",
                file=sys.stderr,
            )
            yield evidence
        return
    with tqdm(found, total=total, unit="claim", leave=False) as bar:
        for evidence in bar:
            bar.set_postfix_str(evidence.verdict.claim)
            yield evidence


def keep(run: store.Run, evidence: Evidence, expected: dict[str, str]) -> None:
    """Store the evidence of a claim."""
    verdict = evidence.verdict
    record = {
        "claim": verdict.claim,
        "status": verdict.status,
        "outcome": verdict.outcome.value,
        "expected": expected.get(verdict.claim),
        "tightness": verdict.tightness,
        "slack": verdict.slack,
        "rows": verdict.rows,
        "seconds": round(verdict.seconds, 3),
    }
    run.put(verdict.claim, (row.as_json() for row in evidence.rows), record)


def judge_all(args: argparse.Namespace, ledger: Ledger) -> int:
    """Evaluate, store and print; the main job."""
    claims, expected = ledger.claims, ledger.expected
    wanted = chosen(args, claims)
    settings = Settings(args.size, args.seed, args.device)
    store.require_writable(args.out)
    surprises = []
    with store.locked(args.out):
        run, reasons = store.open_run(
            args.out,
            store.configuration(**asdict(settings)),
            [claim.id for claim in claims],
            partial=bool(args.only),
        )
        report_dropped(reasons)
        start = time.perf_counter()
        found = evaluate_all(wanted, settings, jobs=args.jobs, ledger=ledger)
        for evidence in progress(found, len(wanted)):
            run.seconds = time.perf_counter() - start
            keep(run, evidence, expected)
            if not table.as_expected(run.verdicts[evidence.verdict.claim]):
                surprises.append(evidence)
    verdicts = [run.verdicts[claim.id] for claim in wanted]
    print(table.table(verdicts, {c.id: c.statement for c in claims}, table.width()))
    for evidence in surprises:
        print(f"\n{evidence.verdict.claim}: {evidence.error or table.deciding(evidence.rows)}")
    where = f"({run.seconds:.1f} s, {args.size}, seed {args.seed}) -> {args.out}"
    print(f"\n{table.summary(verdicts)} {where}")
    return DIFFERS if surprises else OK


def list_claims(args: argparse.Namespace, ledger: Ledger) -> int:
    """Print id, area, status and statement of every claim."""
    print(table.listing(chosen(args, ledger.claims)))
    return OK


def explain(args: argparse.Namespace, ledger: Ledger) -> int:
    """Print a claim's text, the stored rows that decided it, and its counterexample."""
    claim = replay.find(ledger.claims, args.explain)
    expected = ledger.expected.get(claim.id, "unknown")
    print(f"{claim.id} ({claim.area}, {claim.status}; expected: {expected})\n")
    print(f"{table.explanation(claim, table.width())}\n")
    try:
        rows = [Row.from_json(record) for record in store.read_rows(args.out, claim.id)]
        print(f"rows: {len(rows)}, in {store.rows_path(args.out, claim.id)}")
        print(table.deciding(rows))
    except store.StoreError as error:
        print(f"no deciding rows: {error}")
    kept = ledger.counterexample(claim.id)
    if kept.exists():
        found = replay.load(kept)
        print(f"\ncounterexample\n{replay.line(claim, replay.recompute(claim, found), found)}")
        print(f"again: python -m verification --replay {shown(kept)}")
    print(f"\nrun again: python -m verification --only {claim.id}")
    return OK


def shown(path: Path) -> Path:
    """Return a path relative to the working folder where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def replay_file(args: argparse.Namespace, ledger: Ledger) -> int:
    """Print one line of numbers: does a stored instance still give what it gave?"""
    found = replay.load(args.replay)
    claim = replay.find(ledger.claims, found.claim)
    if args.script:
        print(replay.program(claim, found), end="")
        return OK
    row = replay.recompute(claim, found)
    print(replay.line(claim, row, found))
    same = replay.equal(row, found) and row.outcome == ledger.expected.get(claim.id)
    return OK if same else DIFFERS


def store_counterexamples(args: argparse.Namespace, ledger: Ledger) -> int:
    """Write the counterexample of every claim that is expected to be violated."""
    expected = ledger.expected
    for claim in chosen(args, ledger.claims):
        if expected.get(claim.id) == Outcome.VIOLATED:
            path = ledger.counterexample(claim.id)
            row = replay.store(claim, path)
            print(f"{shown(path)}: {table.row_line(row)}")
    return OK


def attack_claims(args: argparse.Namespace, ledger: Ledger) -> int:
    """Attack bounds in each of their variants; store the best instances for --replay."""
    from verification import attack  # torch and hypothesis: only where asked for

    claims, failed = attack.chosen(args.attack, ledger), False
    folder = args.out / "attacks"
    store.require_writable(folder)
    print(attack.HEADER)
    found = attack.campaign(claims, seconds=60 * args.minutes, seed=args.seed, folder=folder)
    for attempt, path in attack.progress(found, claims):
        failed |= attempt.failed
        print(attempt.line() if path is None else f"{attempt.line()}\n  -> {path}", flush=True)
    print(f"table -> {folder / attack.TABLE}")
    return DIFFERS if failed else OK


def report_adapters(args: argparse.Namespace, ledger: Ledger) -> int:
    """Print the report on trained adapters and store its rows beside those of the claims."""
    from verification import adapter_report  # reads safetensors: only where asked for

    store.require_writable(args.out)
    try:
        report = adapter_report.report(args.adapters, args.topology, args.rank)
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(report.text())
    # the rows depend on no seed and no size: they join whatever run of this code lies there
    settings = asdict(Settings()) | store.settings_of(args.out)
    rows = [
        {"claim": claim, **row.as_json()} for claim, rows in report.rows.items() for row in rows
    ]
    with store.locked(args.out):
        run, reasons = store.open_run(
            args.out, store.configuration(**settings), [claim.id for claim in ledger.claims]
        )
        report_dropped(reasons)
        run.put("adapters", rows)
    print(f"\n{len(rows)} rows -> {store.rows_path(args.out, 'adapters')}")
    return OK if report.as_expected else DIFFERS


def report_dropped(reasons: Sequence[str]) -> None:
    """Say why earlier results are not used."""
    for reason in reasons:
        print(f"earlier results are replaced: {reason}", file=sys.stderr)


def write_docs(args: argparse.Namespace, ledger: Ledger) -> int:
    """Write the page of all claims."""
    store.write_atomically(args.write_docs, page(ledger.claims, ledger.expected).encode())
    print(f"{len(ledger.claims)} claims -> {args.write_docs}")
    return OK


Action = Callable[[argparse.Namespace, Ledger], int]
ACTIONS: list[tuple[Callable[[argparse.Namespace], Any], Action]] = [
    (lambda args: args.list, list_claims),
    (lambda args: args.explain, explain),
    (lambda args: args.replay, replay_file),
    (lambda args: args.store_counterexamples, store_counterexamples),
    (lambda args: args.write_docs, write_docs),
    (lambda args: args.attack, attack_claims),
    (lambda args: args.adapters, report_adapters),
    (lambda args: True, judge_all),
]
