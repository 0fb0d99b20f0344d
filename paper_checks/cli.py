"""The command line of the full-scale harness: `python -m paper_checks --help`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decaf_theory.faults import OK, USAGE, without_traceback
from decaf_theory.files import place
from decaf_theory.formats import size
from decaf_theory.interrupts import in_one_line
from decaf_theory.methods.form import MERGED
from decaf_theory.terminal import add_version, fitting, prepare, printable, wrapped
from paper_checks import config as configs
from paper_checks import dealt, devices, kept, sweep, sweeping, table
from paper_checks.asda import command as asda
from paper_checks.benchmark import command as benchmark
from paper_checks.config import ADAPTER_METHODS, PARTITIONS, Config
from paper_checks.effects import command as effects
from paper_checks.ensemble import command as ensemble
from paper_checks.forms import command as forms
from paper_checks.merging import command as merging
from paper_checks.prism import command as prism
from paper_checks.record import Stored, read
from paper_checks.rules import HEADS_ONLY, IN_TURN, near
from paper_checks.sequences import command as sequences
from paper_checks.tournament import command as tournament
from verification import store
from verification.cluster import ClusterError

if TYPE_CHECKING:  # torch: most commands need none
    from paper_checks.run import Run

FAILED = 1
OUT = Path("results/paper")
WAIT = 1800.0  # seconds that ranks wait for each other, as while rank 0 scores all agents


class UsageError(Exception):
    """A request that cannot be carried out; exit code 2."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(prog="python -m paper_checks", description=DESCRIPTION)
    add_version(p)
    commands = p.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the experiments, and where their settings come from")
    run = commands.add_parser("run", help="train one cell; resumes from its last checkpoint")
    many = commands.add_parser("sweep", help="train methods x graphs x partitions x seeds")
    for command in (run, many):
        command.add_argument("config", help="an experiment by name, or a .toml file")
        command.add_argument("--out", type=place, default=OUT, metavar="DIR", help=f"default {OUT}")
        command.add_argument("--data-dir", metavar="DIR", help="folder of the data sets' folders")
        command.add_argument(
            "--device", default="cpu", help="cpu (default), cuda, cuda:1, mps, xpu"
        )
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override a setting, e.g. train.lr=1e-3; may be repeated; sweep: 1e-3,2e-3,...",
        )
        command.add_argument(
            "--restart",
            action="store_true",
            help="train anew where the stored run is of other settings, code or data",
        )
    run.add_argument("--method", help=f"of {', '.join(ADAPTER_METHODS)}")
    run.add_argument("--graph", help="ring, complete, bipartite, ...")
    run.add_argument("--partition", help=f"of {', '.join(PARTITIONS)}")
    run.add_argument("--steps", type=int, help="train.steps; more than a stored run's extend it")
    run.add_argument("--seed", type=int, help="of data order, partition, start and dropout")
    run.add_argument("--dry-run", action="store_true", help="sizes, memory and hours; no weights")
    run.add_argument("--gpu", metavar="NAME", help="with --dry-run: estimate hours on this GPU")
    run.add_argument("--adapters", nargs="+", default=[], metavar="DIR", help="start from these")
    run.add_argument("--export", type=place, metavar="DIR", help="write agents' adapters for peft")
    run.add_argument("--best", action="store_true", help="with --export: of the best round")
    run.add_argument(
        "--distributed", action="store_true", help="as one of the ranks that torchrun started"
    )
    run.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help=f"with --distributed: seconds to wait for other ranks (default {WAIT:g})",
    )
    sweeping.add_options(many)
    tournament.add_to(commands)
    benchmark.add_to(commands)
    asda.add_to(commands)
    effects.add_to(commands)
    forms.add_to(commands)
    ensemble.add_to(commands)
    merging.add_to(commands)
    prism.add_to(commands)
    sequences.add_to(commands)
    show = commands.add_parser("table", help="the paper's table of stored runs")
    show.add_argument(
        "out", nargs="*", type=place, default=[OUT], help=f"folders or kept files (default {OUT})"
    )
    show.add_argument(
        "--keep", type=place, metavar="FILE", help="write what the table of one experiment shows"
    )
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
or a bound did not hold on it; 2: bad usage, or too little memory; 3: a defect; 130 or 143:
interrupted after a step, resumable."""


FINISHED = "; what had finished is kept, and the same command resumes from there"
CHECKPOINT = "; the last checkpoint is kept, and the same command resumes from it"
LEFT = {  # of what an interrupted command keeps; of those that are not here: FINISHED
    **{"list": "", "table": "", "effects": "; finished effects are kept"},
    **{"run": CHECKPOINT, "sweep": CHECKPOINT},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; return the exit code."""
    prepare()
    words = sys.argv[1:] if argv is None else argv
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        hint = near(words[0], COMMANDS)
        print(f"error: unknown command {printable(repr(words[0]))}; {hint}", file=sys.stderr)
        return USAGE
    args = parser().parse_args(words)
    return in_one_line(lambda: ended(args), f"interrupted{LEFT.get(args.command, FINISHED)}")


def ended(args: argparse.Namespace) -> int:
    """Run a command; return the exit code. What the user can mend is said in one line."""
    return without_traceback(
        lambda: COMMANDS[args.command](args),
        known=(UsageError, configs.ConfigError, store.StoreError, ClusterError),
        elsewhere="--out (or --export)",
    )


def list_configs(args: argparse.Namespace) -> int:
    """Print one line per experiment."""
    width = max(map(len, configs.names())) + 2
    for name in configs.names():
        config = configs.read(name)
        origins = [config.origin_of(setting) for setting in config.settings()]
        counts = ", ".join(f"{origins.count(o)} {o}" for o in configs.ORIGINS if o in origins)
        model = f"{config.task['name']} with {config.model['from']}"
        print(fitting(f"{name:<{width}}{model:<52}settings: {counts}"))
    return OK


def cell_of(args: argparse.Namespace) -> sweep.Cell:
    """Return the settings of a command line's runs."""
    overrides: dict[str, Any] = {}
    for text in args.set:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set needs KEY=VALUE, such as train.lr=1e-3; got {text!r}")
        values = sweeping.values_of(value)
        if len(values) == 1:
            overrides[key] = values[0]
        elif args.command != "sweep":
            raise UsageError(f"--set {key} has {len(values)} values; `sweep` tries several")
    where = (args.out, args.data_dir, require_device(args.device))
    return sweep.Cell(args.config, overrides, *where, args.restart, args.accept_code)


def require_device(device: str) -> str:
    """Return a device by its one name; UsageError: unknown, or torch has none here."""
    try:
        return devices.require(device)
    except devices.DeviceError as error:
        raise UsageError(str(error)) from None


def run_one(args: argparse.Namespace) -> int:
    """Train one cell with a progress line, and say what came out."""
    from paper_checks import finetune

    require_used(args)
    cell = cell_of(args)
    flags = {"mix.method": args.method, "mix.graph": args.graph}
    flags |= {"data.partition": args.partition, "train.seed": args.seed}
    flags |= {"train.steps": args.steps}
    overrides = cell.overrides | {name: x for name, x in flags.items() if x is not None}
    config = cell._replace(overrides=overrides).read()
    if args.dry_run:
        return dry_run(config, args.gpu)
    if args.export and not config.lora.train_adapters:
        raise UsageError("--export writes adapters, and lora.train_adapters = false trains none")
    if args.export and config.mix.form in IN_TURN:
        raise UsageError(
            f"--export writes adapters, and none holds what {config.mix.form} keeps of earlier "
            f"tasks; run it without --export"
        )
    if args.export and config.mix.rule.form == MERGED:
        raise UsageError(
            f"--export writes adapters, and {config.mix.method} merges into W0, which no adapter "
            f"holds; run it without --export"
        )
    if args.export:
        store.require_writable(args.export)
    folder = sweep.folder_of(args.out, config)
    done = sweep.finished(folder, cell, config, args.adapters)
    if done is not None and not args.export:
        ended = f"{config.name} {config.cell} is finished: {sweep.summary(done)}"
        print(wrapped(f"{ended} -> {printable(folder)}"))
        return OK
    if args.distributed:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings would join our line

    def began(run: Run) -> None:
        dealt.show(run)
        dealt.draw(run, folder)

    try:
        with progress(config) as show:
            run = finetune.finetune(
                config,
                folder,
                device=cell.device,
                adapters=args.adapters,
                show=show,
                began=began,
                restart=args.restart,
                accept_code=args.accept_code,
                ranks=(args.timeout or WAIT) if args.distributed else None,
            )
    except finetune.TrainingError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return FAILED
    except ValueError as error:  # of the data, the model, the adapters: each names its argument
        raise UsageError(str(error)) from error
    if not run.finished:
        print(
            f"stopped after step {run.step} of {config.train.steps}; the same command resumes "
            f"from {folder / 'checkpoint'}",
            file=sys.stderr,
        )
        return 128 + run.stopped_by
    if args.export:
        from paper_checks import checkpoint
        from paper_checks.stacked import export

        if args.best and not checkpoint.resume(run, folder, best=True):
            raise UsageError(
                "--best needs a round that is best on validation examples; give data.validation"
            )
        for agent in range(run.stacked.agents):
            export(
                run.stacked,
                agent,
                args.export / f"agent{agent}",
                base=run.task.base,
                overwrite=True,
            )
    if not run.first:
        return OK
    stored = read(folder)
    line = f"{config.name} {config.cell}: {sweep.summary(stored)} -> {printable(folder)}"
    print(wrapped(line))
    return FAILED if violated(stored) else OK


def require_used(args: argparse.Namespace) -> None:
    """Raise UsageError at an option that the command would ignore."""
    if args.gpu is not None and not args.dry_run:
        raise UsageError("--gpu is for estimates: add --dry-run, or choose a GPU with --device")
    if args.best and not args.export:
        raise UsageError("--best says which adapters to write: add --export DIR")
    if args.timeout is not None and not args.distributed:
        raise UsageError("--timeout is for ranks: add --distributed, and start by torchrun")
    if args.timeout is not None and not args.timeout > 0:
        raise UsageError(f"--timeout must be > 0 seconds, got {args.timeout:g}")
    if args.distributed and args.export:
        raise UsageError(
            "--export writes all agents, of which a rank has some: run it in one process"
        )
    for option, given in (("--adapters", args.adapters), ("--export", args.export)):
        if args.dry_run and given:
            raise UsageError(f"{option} has no effect with --dry-run, which reads no weights")


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
    from tqdm import tqdm

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
    return sweeping.main(args, cell_of(args), sweeping.grid_of(args.set))


def show_table(args: argparse.Namespace) -> int:
    """Print the tables of the runs in some folders."""
    if not 0 < args.level < 1:
        raise UsageError(f"--level must lie in (0, 1), got {args.level}")
    if args.against.removeprefix(HEADS_ONLY) not in ADAPTER_METHODS:
        hint = near(args.against, ADAPTER_METHODS)
        raise UsageError(f"--against must be a method, got {args.against!r}; {hint}")
    if args.keep is not None:
        keep(args)
    given = {"against": args.against, "level": args.level, "accept_code": args.accept_code}
    with store.fitting(", ".join(map(str, args.out)), "train the runs again"):
        text = table.text(args.out, **given)
    print(printable(text))
    return OK


def keep(args: argparse.Namespace) -> None:
    """Write the runs of one experiment to a small file, of which `table` makes the same tables."""
    found, _ = kept.experiments(args.out)
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise UsageError(
            f"--keep takes one experiment, got {names}; give the folder of one of them"
        )
    kept.save(found[0], args.keep, accept_code=args.accept_code)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": list_configs,
    "asda": asda.main,
    "run": run_one,
    "sweep": run_sweep,
    "benchmark": benchmark.main,
    "effects": effects.main,
    "forms": forms.main,
    "ensemble": ensemble.main,
    "merging": merging.main,
    "prism": prism.main,
    "sequences": sequences.main,
    "table": show_table,
    "tournament": tournament.main,
}
