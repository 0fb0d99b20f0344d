"""Packages that only some parts need: what is installed for them, and the line that says so."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.util import find_spec

# package -> the extra of this project that installs it
EXTRAS = {
    "torch": "torch",
    "transformers": "finetune",
    "peft": "finetune",
    "sklearn": "finetune",
    "gguf": "finetune",
    "PIL": "finetune",
    "datasets": "hub",
    "huggingface_hub": "hub",
    "hypothesis": "test",
    "triton": "gpu",
    "numba": "fast",
    "distributed": "cluster",
}
COMPILED = "DECAF_COMPILED"  # of the environment, so that processes that are started have it, too


class VariableError(ValueError):
    """A variable of the environment asks for what is not to be had."""


def compiled_asked() -> bool:
    """Whether compiled kernels were asked for, by DECAF_COMPILED=1.

    VariableError: it is neither 1 nor 0 nor empty.
    """
    asked = os.environ.get(COMPILED, "")
    if asked not in ("", "0", "1"):
        raise VariableError(
            f"{COMPILED} must be 1, or 0 or empty, got {asked!r}; 1 asks for compiled kernels"
        )
    return asked == "1"


def missing(*packages: str) -> str:
    """Return the line that says how to install those that are not there; empty if all are."""
    lacking = [name for name in packages if not installed(name)]
    extras = ",".join(dict.fromkeys(EXTRAS[name] for name in lacking))
    return f"{', '.join(lacking)} not installed: pip install -e '.[{extras}]'" if lacking else ""


def installed(name: str) -> bool:
    """Whether a package can be imported, as far as its finders say; some raise where it cannot."""
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # blocked by a finder, or by None in sys.modules
        return False


def no_interpreter() -> str:
    """Return the line that says why Triton's interpreter cannot run a kernel; empty if it can.

    On a GPU kernels are compiled: there triton 3.6 serves. Source: triton-lang/triton issue 9171.
    """
    from importlib.metadata import PackageNotFoundError, version  # slow to load

    if line := missing("triton"):
        return line
    with suppress(PackageNotFoundError):  # builds of torch by night bring triton by other names
        found = version("triton")
        if tuple(int(number) for number in found.split(".")[:2]) < (3, 7):
            return (
                f"triton {found} interprets a loop by int() of an array, which numpy warns of and "
                f"refuses from 2.4 on (here {version('numpy')}); triton >= 3.7 does not"
            )
    return ""


def unmet(error: ModuleNotFoundError) -> str:
    """Return that line, or what says it and more, for an import that failed.

    Raises it again if no extra installs it.
    """
    name = (error.name or "").partition(".")[0]
    line = missing(name) if name in EXTRAS else ""
    if not line:
        raise error
    return str(error) if line in str(error) else line
