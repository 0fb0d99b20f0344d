"""The command line of the main job: `python -m verification --help`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path

from decaf_theory.faults import OK, without_traceback
from decaf_theory.files import require_place, write_atomically
from decaf_theory.interrupts import exit_code, in_one_line
from decaf_theory.terminal import folded, prepare, printable, wrapped
from verification import options, provenance, reaches, replay, store, table, texts
from verification.claim import Claim, Outcome
from verification.cluster import ClusterError
from verification.judge import judge, regimes_of
from verification.ledger import page
from verification.options import MAIN, UsageError
from verification.run import LEDGER, Evidence, Ledger, Settings, evaluate_all

DIFFERS = 1
LEFT = {  # of what an interrupted command keeps
    "run": "; finished claims are kept, and --resume goes on after them",
    "attack": "; what was found is kept",
    "counterexamples": "; those that were printed are stored",
}


def main(argv: Sequence[str] | None = None, *, ledger: Ledger = LEDGER) -> int:
    """Run one command line; return the exit code."""
    prepare()
    known = (UsageError, replay.ReplayError, store.StoreError, ClusterError)

    def run() -> int:
        args = options.parse(argv)
        work = partial(ACTIONS[args.command], args, ledger)
        return in_one_line(
            lambda: without_traceback(work, known=known),
            f"interrupted{LEFT.get(args.command, '')}",
        )

    return without_traceback(run, known=known)


def chosen(args: argparse.Namespace, claims: Sequence[Claim]) -> list[Claim]:
    """Return the requested claims, in reading order. ReplayError: an unknown id."""
    wanted = replay.picked(claims, args.ids) if args.ids else claims
    return [claim for claim in claims if claim in wanted]


def progress(
    found: Iterator[Evidence], total: int, expected: Mapping[str, str]
) -> Iterator[Evidence]:
    """Pass evidence through, showing a bar on a terminal, otherwise a line per claim, on stderr."""
    if not sys.stderr.isatty():
        for evidence in found:
            verdict = evidence.verdict
            said = table.outcome_words(verdict.outcome.value, expected.get(verdict.claim))
            print(f"{verdict.claim}: {said}, {verdict.seconds:.2f} s", file=sys.stderr)
            yield evidence
        return
    from tqdm import tqdm

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
        "regimes": [asdict(regime) for regime in verdict.regimes],
    }
    run.put(verdict.claim, (row.as_json() for row in evidence.rows), record)


def recalled(run: store.Run, claims: Sequence[Claim]) -> list[Evidence]:
    """Return the evidence on some claims that a run of the same configuration has stored."""
    found = []
    for claim in claims:
        if claim.id in run.files and claim.id in run.verdicts:
            rows = tuple(store.read_evidence(run.out, claim.id))
            found.append(Evidence(judge(claim, rows, run.verdicts[claim.id]["seconds"]), rows))
    return found


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
            provenance.configuration(**asdict(settings)),
            [claim.id for claim in claims],
            partial=bool(args.ids),
        )
        report_dropped(reasons)
        texts.write(args.out, ledger, settings)
        with store.fitting(args.out / store.VERDICTS, "run again without --resume"):
            kept = recalled(run, wanted) if args.resume else []
        done = {evidence.verdict.claim for evidence in kept}
        spent = sum(evidence.verdict.seconds for evidence in kept)
        left = [claim for claim in wanted if claim.id not in done]
        if kept:
            print(f"{len(kept)} of {len(wanted)} claims are kept from before", file=sys.stderr)
        start = time.perf_counter()
        found = evaluate_all(left, settings, jobs=args.jobs, ledger=ledger)
        for evidence in chain(kept, progress(found, len(left), expected)):
            run.seconds = spent + time.perf_counter() - start
            keep(run, evidence, expected)
            if not table.as_expected(run.verdicts[evidence.verdict.claim]):
                surprises.append(evidence)
    verdicts = [run.verdicts[claim.id] for claim in wanted]
    print(table.table(verdicts, {c.id: c.statement for c in claims}, table.width()))
    for evidence in surprises:
        why = evidence.error or table.why(evidence.verdict, evidence.rows)
        print(f"\n{evidence.verdict.claim}: {why}")
    where = f"({run.seconds:.1f} s, {args.size}, seed {args.seed}) -> {printable(args.out)}"
    print("\n" + wrapped(f"{table.summary(verdicts)} {where}"))
    return DIFFERS if surprises else OK


def list_claims(args: argparse.Namespace, ledger: Ledger) -> int:
    """Print id, area, status, what its regimes reach and statement of every claim."""
    print(table.listing(chosen(args, ledger.claims)))
    return OK


def explain(args: argparse.Namespace, ledger: Ledger) -> int:
    """Print a claim's text, the stored rows that decided it, its regimes, its counterexample."""
    (claim, *others) = replay.picked(ledger.claims, [args.id])
    if others:
        those = ", ".join(each.id for each in (claim, *others))
        raise UsageError(f"explain: shows one claim, and {args.id!r} fits {those}")
    if args.out.exists() and not args.out.is_dir():
        raise UsageError(f"--out must be a folder of results, got the file {args.out}")
    print(f"{claim.id} ({claim.area}, {claim.status}; expected: {claim.expected})\n")
    print(f"{table.explanation(claim, table.width())}\n")
    try:
        rows = store.read_evidence(args.out, claim.id)
        print(f"rows: {len(rows)}, in {printable(store.rows_path(args.out, claim.id))}")
        texts_of_rows = (table.deciding(rows), table.regimes(regimes_of(claim, rows)))
        print(printable("\n".join(filter(None, texts_of_rows))))
    except store.StoreError as error:
        print(wrapped(f"no deciding rows: {printable(error)}"))
    kept = ledger.counterexample(claim.id)
    if kept.exists():
        found = replay.load(kept)
        line = replay.line(claim, replay.recompute(claim, found), found)
        print(f"\ncounterexample\n{wrapped(line)}")
        print(f"again: {MAIN} replay {shown(kept)}")
    print(f"\nrun again: {MAIN} --only {claim.id}")
    return OK


def shown(path: Path) -> Path:
    """Return a path, relative to the working folder if it is inside it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def replay_files(args: argparse.Namespace, ledger: Ledger) -> int:
    """Print a line of numbers for each stored instance: does it still give the same?"""
    files = instances_of(args.file, ledger)
    if args.script and len(files) > 1:
        raise UsageError(f"replay --script: prints one program, and {args.file} fits {len(files)}")
    same = [replayed(file, ledger, script=args.script) for file in files]
    return OK if all(same) else DIFFERS


def replayed(file: Path, ledger: Ledger, *, script: bool) -> bool:
    """Print the line or the program of an instance; return whether it gives what is stored."""
    found = replay.load(file)
    claim = replay.find(ledger.claims, found.claim)
    if script:
        print(replay.program(claim, found, ledger), end="")
        return True
    row = replay.recompute(claim, found)
    print(wrapped(replay.line(claim, row, found)))
    return replay.equal(row, found) and row.outcome == claim.expected


def instances_of(file: Path, ledger: Ledger) -> list[Path]:
    """Return the file that is named, or the counterexamples of the claims that are."""
    if file.exists():
        return [file]
    try:
        claims = replay.picked(ledger.claims, [str(file)])
    except replay.ReplayError as error:
        if file.suffix or len(file.parts) > 1:  # loading it says that there is no such file
            return [file]
        raise UsageError(str(error)) from None
    kept = [path for claim in claims if (path := ledger.counterexample(claim.id)).exists()]
    if not kept:
        name = claims[0].id
        raise UsageError(f"claim {name} has no counterexample; {MAIN} explain {name} shows it")
    return kept


def store_counterexamples(args: argparse.Namespace, ledger: Ledger) -> int:
    """Write the counterexample of every claim that is expected to be violated."""
    for claim in chosen(args, ledger.claims):
        if claim.expected == Outcome.VIOLATED:
            path = ledger.counterexample(claim.id)
            row = replay.store(claim, path)
            print(wrapped(f"{shown(path)}: {table.row_line(row)}"))
    return OK


def print_reaches(args: argparse.Namespace, ledger: Ledger) -> int:
    """Print `reaches` of the claims asked for, or of those that lack the value of a regime."""
    for claim in chosen(args, ledger.claims):
        if args.ids or reaches.missing(claim, claim.rows(Settings().context(claim.id))):
            print(f"{claim.id}\n{reaches.entry(reaches.found(claim))}", flush=True)
    return OK


def attack_claims(args: argparse.Namespace, ledger: Ledger) -> int:
    """Attack bounds in each of their variants; keep the strongest instances for `replay`."""
    from verification import attack  # torch and hypothesis: only on request

    claims, failed = attack.chosen(args.ids, ledger), False
    folder = args.out / "attacks"
    store.require_writable(folder)
    with store.locked(folder):
        found = attack.campaign(claims, seconds=60 * args.minutes, seed=args.seed, folder=folder)
        print(folded(attack.HEADER, attack.BOUND, attack.WHOLE))
        for attempt, kept in attack.progress(found, claims):
            failed |= attempt.failed or kept.violated
            print(folded(attempt.line(), attack.BOUND, attack.WHOLE), flush=True)
            if kept.line:
                print(wrapped(f"  {printable(kept.line)}"), flush=True)
    print(f"table -> {printable(folder / attack.TABLE)}")
    return DIFFERS if failed else OK


def report_adapters(args: argparse.Namespace, ledger: Ledger) -> int:
    """Print the report on trained adapters and store its rows with those of the claims."""
    from verification import adapter_report  # reads safetensors: only on request

    store.require_writable(args.out)
    # the rows depend on no seed and no size: they join any stored run of this code
    settings = asdict(Settings()) | store.settings_of(args.out)
    with store.locked(args.out):
        run, reasons = store.open_run(
            args.out,
            provenance.configuration(**settings),
            [claim.id for claim in ledger.claims],
            partial=True,
        )
        report_dropped(reasons)
        try:
            report = adapter_report.report(args.folders, args.topology, args.rank)
        except ValueError as error:
            raise UsageError(str(error)) from error
        print(report.text())
        rows = [
            {"claim": claim, **row.as_json()} for claim, rows in report.rows.items() for row in rows
        ]
        run.put("adapters", rows)
    print(f"\n{len(rows)} rows -> {printable(store.rows_path(args.out, 'adapters'))}")
    return OK if report.as_expected else DIFFERS


def do_everything(args: argparse.Namespace, ledger: Ledger) -> int:
    """Verify, bench, draw and report, skipping what is already done."""
    from verification import everything  # runs the other programs: only on request

    plan = everything.stages(
        args.out, size=args.size, seed=args.seed, device=args.device, jobs=args.jobs
    )
    try:
        ends = everything.run_all(plan, args.out, lambda text: print(wrapped(text), flush=True))
    except KeyboardInterrupt as stop:
        print("interrupted; the same command resumes from here", file=sys.stderr)
        return exit_code(stop)
    if any(end.ran for end in ends.values()):  # their output is printed between the lines
        print("\n" + "\n".join(wrapped(f"{name:<6}  {end.words}", 8) for name, end in ends.items()))
    print(f"-> {printable(args.out / 'report.html')}")
    return everything.exit_code(plan, ends)


def report_dropped(reasons: Sequence[str]) -> None:
    """Say why earlier results are not used."""
    for reason in reasons:
        print(f"earlier results are replaced: {reason}", file=sys.stderr)


def write_docs(args: argparse.Namespace, ledger: Ledger) -> int:
    """Write the page of all claims."""
    file = args.file or ledger.folder.parent / "docs" / "claims.md"
    try:
        require_place(file)
        write_atomically(file, page(ledger.claims).encode())
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}; name another file") from error
    print(f"{len(ledger.claims)} claims -> {shown(file)}")
    return OK


Action = Callable[[argparse.Namespace, Ledger], int]
ACTIONS: dict[str, Action] = {
    "run": judge_all,
    "list": list_claims,
    "explain": explain,
    "replay": replay_files,
    "attack": attack_claims,
    "adapters": report_adapters,
    "all": do_everything,
    "docs": write_docs,
    "counterexamples": store_counterexamples,
    "reaches": print_reaches,
}
