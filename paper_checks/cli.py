"""The command line of the full-scale harness: `python -m paper_checks --help`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from decaf_theory import extras
from decaf_theory.files import UnwritableError, place
from decaf_theory.formats import size
from decaf_theory.interrupts import in_one_line, interruptions
from decaf_theory.terminal import prepare, printable
from paper_checks import baseline, sweep, table
from paper_checks import config as configs
from paper_checks.config import ADAPTER_METHODS, PARTITIONS, SWEPT, Config
from paper_checks.record import Stored, read
from paper_checks.rules import near, require_known
from paper_checks.tournament import command as tournament
from verification import store

OK, FAILED, USAGE = 0, 1, 2
OUT = Path("results/paper")
EFFECTS = Path("results/effects.json")


class UsageError(Exception):
    """A request that cannot be carried out; exit code 2."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(prog="python -m paper_checks", description=DESCRIPTION)
    commands = p.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the experiments, and where their settings come from")
    run = commands.add_parser("run", help="train one cell; resumes from its last checkpoint")
    many = commands.add_parser("sweep", help="train methods x graphs x partitions x seeds")
    for command in (run, many):
        command.add_argument("config", help="an experiment by name, or a .toml file")
        command.add_argument("--out", type=place, default=OUT, metavar="DIR", help=f"default {OUT}")
        command.add_argument("--data-dir", metavar="DIR", help="folder of the data sets' folders")
        command.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override a setting, e.g. train.lr=1e-3; may be repeated",
        )
        command.add_argument(
            "--restart",
            action="store_true",
            help="train anew where the stored run is of other settings, code or data",
        )
    run.add_argument("--method", help=f"of {', '.join(ADAPTER_METHODS)}")
    run.add_argument("--graph", help="ring, complete, bipartite, ...")
    run.add_argument("--partition", help=f"of {', '.join(PARTITIONS)}")
    run.add_argument("--seed", type=int, help="of data order, partition, start and dropout")
    run.add_argument("--dry-run", action="store_true", help="sizes, memory and hours; no weights")
    run.add_argument("--gpu", metavar="NAME", help="with --dry-run: estimate hours on this GPU")
    run.add_argument("--adapters", nargs="+", default=[], metavar="DIR", help="start from these")
    run.add_argument("--export", type=place, metavar="DIR", help="write agents' adapters for peft")
    many.add_argument(
        "--methods", nargs="+", default=list(SWEPT), metavar="M", help=f"default: {' '.join(SWEPT)}"
    )
    many.add_argument("--graphs", nargs="+", metavar="G", help="default: the config's")
    many.add_argument("--partitions", nargs="+", metavar="P", help="default: the config's")
    many.add_argument("--seeds", type=seeds, default=[0], metavar="S", help="e.g. 0-4 or 0,2,5")
    many.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    tournament.add_to(commands)
    effects = commands.add_parser("effects", help="reported effects, tried at small scale")
    effects.add_argument("--only", nargs="+", metavar="E", help="of these effects alone")
    effects.add_argument("--quick", action="store_true", help="1 core-minute instead of 10")
    effects.add_argument(
        "--out", type=place, default=EFFECTS, metavar="FILE", help="default %(default)s"
    )
    effects.add_argument("--page", action="store_true", help="run nothing, write docs/effects.md")
    show = commands.add_parser("table", help="the paper's table of stored runs")
    show.add_argument("out", nargs="*", type=place, default=[OUT], help=f"folders (default {OUT})")
    show.add_argument("--against", default="dlora", help="method to compare the others with")
    show.add_argument("--level", type=float, default=0.95, help="of the intervals (default 0.95)")
    for command in (run, many, show):
        command.add_argument(
            "--accept-code",
            action="store_true",
            help="take stored runs of other code or libraries, which is refused otherwise",
        )
    return p


DESCRIPTION = """Fine-tune real models with decentralized LoRA. Exit code 0: done; 1: a run failed,
or a bound did not hold on it; 2: bad usage; 130 or 143: interrupted after a step, resumable."""


def seeds(text: str) -> list[int]:
    """Return the seeds of "0-4", "0,2,5" or a mixture."""
    try:
        found: list[int] = []
        for part in text.split(","):
            first, dash, last = part.partition("-")
            found += range(int(first), int(last if dash else first) + 1)
    except ValueError:
        found = []
    if not found:
        raise argparse.ArgumentTypeError(f"must be seeds, such as 0-4 or 0,2,5; got {text!r}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; return the exit code."""
    prepare()
    args = parser().parse_args(argv)
    line = "interrupted; the last checkpoint is kept"
    return in_one_line(lambda: without_traceback(args), line)


def without_traceback(args: argparse.Namespace) -> int:
    """Run a command; return the exit code. What the user can mend is said in one line."""
    try:
        return COMMANDS[args.command](args)
    except (UsageError, configs.ConfigError, store.StoreError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
    except ModuleNotFoundError as error:
        print(f"error: {extras.unmet(error)}", file=sys.stderr)
    except UnwritableError as error:
        place = "choose another place with --out (or --export)"
        print(f"error: {printable(error)}; {place}", file=sys.stderr)
    except OSError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
    return USAGE


def list_configs(args: argparse.Namespace) -> int:
    """Print one line per experiment."""
    for name in configs.names():
        config = configs.read(name)
        origins = [config.origin_of(setting) for setting in config.settings()]
        counts = ", ".join(f"{origins.count(o)} {o}" for o in configs.ORIGINS if o in origins)
        model = f"{config.task['name']} with {config.model['from']}"
        print(f"{name:<18}{model:<52}settings: {counts}")
    return OK


def cell_of(args: argparse.Namespace) -> sweep.Cell:
    """Return the settings of a command line's runs."""
    overrides: dict[str, Any] = {}
    for text in args.set:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set needs KEY=VALUE, such as train.lr=1e-3; got {text!r}")
        overrides[key] = configs.value_of(value)
    require_device(args.device)
    where = (args.out, args.data_dir, args.device)
    return sweep.Cell(args.config, overrides, *where, args.restart, args.accept_code)


def require_device(device: str) -> None:
    """Raise UsageError if torch has no such device."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {device!r} cannot be used ({reason}); try cpu") from None


def run_one(args: argparse.Namespace) -> int:
    """Train one cell with a progress line, and say what came out."""
    from paper_checks import finetune

    cell = cell_of(args)
    flags = {"mix.method": args.method, "mix.graph": args.graph}
    flags |= {"data.partition": args.partition, "train.seed": args.seed}
    overrides = cell.overrides | {name: x for name, x in flags.items() if x is not None}
    config = cell._replace(overrides=overrides).read()
    if args.dry_run:
        return dry_run(config, args.gpu)
    if args.export and not config.mix.rule.form.factored:
        raise UsageError(
            f"--export writes adapters, and {config.mix.method} merges into W0, which no adapter "
            f"holds; run it without --export"
        )
    folder = sweep.folder_of(args.out, config)
    done = sweep.finished(folder, cell, config, args.adapters)
    if done is not None and not args.export:
        print(
            f"{config.name} {config.cell} is finished: {sweep.summary(done)} -> {printable(folder)}"
        )
        return OK
    try:
        with progress(config) as show:
            run = finetune.finetune(
                config,
                folder,
                device=args.device,
                adapters=args.adapters,
                show=show,
                restart=args.restart,
                accept_code=args.accept_code,
            )
    except finetune.TrainingError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return FAILED
    except ValueError as error:  # of the data, the model, the adapters: each names its argument
        raise UsageError(str(error)) from error
    if run.step < config.train.steps:
        print(
            f"stopped after step {run.step} of {config.train.steps}; the same command resumes "
            f"from {folder / 'checkpoint'}",
            file=sys.stderr,
        )
        return 128 + run.stopped_by
    if args.export:
        from paper_checks.stacked import export

        for agent in range(run.stacked.agents):
            export(
                run.stacked,
                agent,
                args.export / f"agent{agent}",
                base=run.task.base,
                overwrite=True,
            )
    stored = read(folder)
    print(f"{config.name} {config.cell}: {sweep.summary(stored)} -> {printable(folder)}")
    return FAILED if violated(stored) else OK


def violated(stored: Stored) -> bool:
    """Whether a bound did not hold on the run."""
    fine = ("holds", "not_applicable")
    return any(v["outcome"] not in fine for v in stored.run["verdicts"].values())


def dry_run(config: Config, gpu: str | None) -> int:
    """Print the resources that the run would need."""
    from paper_checks import dryrun

    try:
        found = dryrun.dry_run(config) if gpu is None else dryrun.dry_run(config, gpu=gpu)
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(found.text())
    return OK


@contextmanager
def progress(config: Config) -> Iterator[Callable[[int, dict[str, Any] | None], None]]:
    """Show a bar on a terminal, otherwise a line per evaluation, on stderr."""
    total, tty = config.train.steps, sys.stderr.isatty()
    with tqdm(total=total, unit="step", disable=not tty) as bar:

        def show(step: int, record: dict[str, Any] | None) -> None:
            bar.update(step - bar.n)
            if record is not None and tty:
                bar.set_postfix_str(line_of(record))
            elif record is not None and "score" in record:
                print(f"step {step}/{total}: {line_of(record)}", file=sys.stderr, flush=True)

        yield show


def line_of(record: dict[str, Any]) -> str:
    """Return the numbers of one round for the progress line."""
    shown = {
        "loss": "loss {:.4f}",
        "score": "score {:.4f}",
        "consensus_products": "consensus {:.2e}",
        "relative_interference": "interference {:.2e}",
        "relative_truncation": "truncation {:.2e}",
        "numerical_rank": "rank {}",
    }
    words = [text.format(record[name]) for name, text in shown.items() if name in record]
    return ", ".join([*words, f"{size(record['comm_bytes'])} sent"])


def run_sweep(args: argparse.Namespace) -> int:
    """Train all cells; print a line for each."""
    if args.jobs < 1:
        raise UsageError(f"--jobs must be >= 1, got {args.jobs}")
    base = cell_of(args)
    config = base.read()
    graphs = args.graphs or [config.mix.graph]
    partitions = args.partitions or [config.data.partition]
    wanted = sweep.cells(base, args.methods, graphs, partitions, args.seeds)
    store.require_writable(args.out)
    try:
        baseline.keep(config, args.out / config.name)
    except ValueError as error:  # missing data or model: reported once, before any process starts
        raise UsageError(str(error)) from error
    statuses = []
    with interruptions() as signals:
        for outcome in sweep.run_all(wanted, args.jobs, signals):
            statuses.append(outcome.status)
            count = f"[{len(statuses)}/{len(wanted)}]"
            print(f"{count} {outcome.cell}: {outcome.status}; {outcome.line}", flush=True)
    if signals:
        print("stopped; the same command resumes from here", file=sys.stderr)
        return 128 + signals[0]
    print(f"table: python -m paper_checks table {args.out}")
    return FAILED if "failed" in statuses else OK


def show_table(args: argparse.Namespace) -> int:
    """Print the tables of the runs in some folders."""
    if not 0 < args.level < 1:
        raise UsageError(f"--level must lie in (0, 1), got {args.level}")
    if args.against not in ADAPTER_METHODS:
        hint = near(args.against, ADAPTER_METHODS)
        raise UsageError(f"--against must be a method, got {args.against!r}; {hint}")
    given = {"against": args.against, "level": args.level, "accept_code": args.accept_code}
    with store.fitting(", ".join(map(str, args.out)), "train the runs again"):
        text = table.text(args.out, **given)
    print(printable(text))
    return OK


def run_tournament(args: argparse.Namespace) -> int:
    """Play all methods against each other and print the page."""
    if args.jobs < 1:
        raise UsageError(f"--jobs must be >= 1, got {args.jobs}")
    return tournament.main(args)


def run_effects(args: argparse.Namespace) -> int:
    """Compare methods on the problems of some effects; print what each comparison says."""
    from paper_checks import effects
    from paper_checks.effects import engine, page

    if args.page:
        page.write()
        return OK
    names = args.only or list(effects.EFFECTS)
    size = "quick" if args.quick else "full"
    require_known("effect", names, effects.EFFECTS)
    store.require_writable(args.out.parent)
    try:
        effects.require_packages(names, effects.SIZES[size])
    except ValueError as error:
        raise UsageError(f"{error}, or add --quick, which needs none of them") from error
    start = time.monotonic()

    def show(name: str, one: engine.Comparison) -> None:
        about = f"{name}: {one.problem}, {one.where}, {one.what}"
        print(f"{about} ({time.monotonic() - start:.0f} s)", file=sys.stderr, flush=True)

    results = effects.run(names, size, args.out, show)
    for name, effect in results["effects"].items():
        print(f"{name}, {effect['core_seconds']:.0f} s\n\n{page.table(effect['findings'])}\n")
    print(f"-> {args.out}")
    return OK


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": list_configs,
    "run": run_one,
    "sweep": run_sweep,
    "effects": run_effects,
    "table": show_table,
    "tournament": run_tournament,
}
