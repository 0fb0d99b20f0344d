"""Packages that only some parts need: what is installed for them, and the line that says so."""

from __future__ import annotations

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
    "distributed": "cluster",
}


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


def unmet(error: ModuleNotFoundError) -> str:
    """Return that line for an import that failed; raises it again if no extra installs it."""
    name = (error.name or "").partition(".")[0]
    line = missing(name) if name in EXTRAS else ""
    if not line:
        raise error
    return line
