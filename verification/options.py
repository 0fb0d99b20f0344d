"""The options of `python -m verification`: what each request reads, and what it must not be given.

An option that a request does not read is an error, never silently ignored.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

# request -> the options that it reads; "" is the main job, without a request
READS = {
    "": ("only", "size", "seed", "device", "jobs", "resume", "out"),
    "list": ("only",),
    "explain": ("out",),
    "replay": ("script",),
    "store_counterexamples": ("only",),
    "write_docs": (),
    "attack": ("minutes", "seed", "out"),
    "adapters": ("topology", "rank", "out"),
    "all": ("size", "seed", "device", "jobs", "out"),
}
UNSET = object()


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
    p.add_argument(
        "--resume", action="store_true", help="keep the finished claims of an interrupted run"
    )
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
    p.add_argument(
        "--all", action="store_true", help="verify, bench, draw and report; goes on where it was"
    )
    p.add_argument("--topology", default="complete", help="with --adapters: who mixes with whom")
    p.add_argument("--rank", type=int, help="with --adapters: rank of the mix (default: theirs)")
    return p


DESCRIPTION = """Give every claim of the theory a verdict. Exit code 0: every outcome is the
expected one; 1: some outcome differs; 2: bad usage."""


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, str]:
    """Return the options, defaults filled in, and the request, a key of `READS`.

    UsageError: options that do not go together, and what argparse does not see.
    """
    p = parser()
    defaults = vars(p.parse_args([]))
    # argparse leaves what is set already, so that an option given its default is seen, too
    args = p.parse_args(argv, argparse.Namespace(**dict.fromkeys(defaults, UNSET)))
    given = [name for name, value in vars(args).items() if value is not UNSET]
    request = _request(given)
    for name in defaults.keys() - set(given):
        setattr(args, name, defaults[name])
    check(args)
    return args, request


def _request(given: Sequence[str]) -> str:
    """Return the request among the options given. UsageError: two, or one of another request."""
    asked = [name for name in given if name in READS]
    if len(asked) > 1:
        first, second = map(flag, asked[:2])
        raise UsageError(f"{first} and {second} are two requests; give one of them at a time")
    request = asked[0] if asked else ""
    for name in given:
        if name == request or name in READS[request]:
            continue
        owners = " or ".join(flag(owner) for owner in READS if owner and name in READS[owner])
        if not request:
            raise UsageError(f"{flag(name)} needs {owners}; give it, or leave {flag(name)} out")
        raise UsageError(f"{flag(request)} does not read {flag(name)}; leave one of them out")
    return request


def flag(name: str) -> str:
    """Return an option as it is typed."""
    return "--" + name.replace("_", "-")


def check(args: argparse.Namespace) -> None:
    """Raise UsageError for what argparse does not see."""
    if args.jobs < 1:
        raise UsageError(f"--jobs must be >= 1, got {args.jobs}")
    if args.seed < 0:
        raise UsageError(f"--seed must be >= 0, got {args.seed}")
    if not args.minutes > 0:
        raise UsageError(f"--minutes must be > 0, got {args.minutes}")
    if (args.attack or args.device != "cpu") and importlib.util.find_spec("torch") is None:
        raise UsageError(
            "--attack, --device torch and --device cuda need torch; it is not installed"
        )
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("--device cuda needs a GPU, and torch sees none")
