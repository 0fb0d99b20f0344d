"""The folder that a merge is written to: it appears whole or not at all, and replaces no other."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from decaf_theory.adapters.namings import NAMINGS
from decaf_theory.adapters.reading import CONFIG
from decaf_theory.files import UnwritableError, place, remove_torn, temporary, torn

FILES = (CONFIG, *(naming.weights for naming in NAMINGS))
ASIDE = "-old"  # ends the name of a folder that is being replaced


@contextmanager
def fresh(out: str | Path, *, overwrite: bool = False, names: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a new folder that becomes `out` at the end; of a link, the folder it points to.

    Nothing of it stays behind on failure, and what killed processes left of it is removed. names:
    of the adapters in `out`, where it holds several. ValueError, OSError: what `check_target`
    raises.
    """
    folder = Path(os.path.realpath(place(out)))
    recover(folder)
    check_target(folder, overwrite=overwrite, names=names)
    made = [path for path in folder.parents if not path.exists()]
    new = folder.with_name(f"{temporary(folder)}{uuid4().hex}")
    try:
        new.mkdir(parents=True)
        yield new
        _replace(new, folder)
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        for path in made:  # inmost first
            with suppress(OSError):
                path.rmdir()
        if isinstance(error, OSError):
            raise unwritable(folder, error) from error
        raise


def recover(folder: Path) -> None:
    """Undo what a process that was killed while it replaced a folder left behind."""
    for left in torn(folder):
        if left.name.endswith(ASIDE) and not folder.exists():
            left.rename(folder)
    remove_torn(folder)


def check_target(folder: str | Path, *, overwrite: bool = False, names: Sequence[str] = ()) -> None:
    """Raise ValueError or OSError if `fresh` could not or must not write to this folder.

    Only what a merge writes is ever replaced: the files of an adapter, or adapters of these
    names. The current folder is not, since whoever is in it would be left in none.
    """
    folder = place(folder)
    if folder.is_dir():
        if Path.cwd().is_relative_to(folder.resolve()):
            raise ValueError(
                f"{folder}: is the current folder or one above it, and would be replaced as a "
                f"whole; name a folder in it"
            )
        foreign = sorted(path.name for path in folder.iterdir() if not _is_ours(path, names))
        if foreign:
            raise ValueError(f"{folder}: holds {foreign[0]!r}, which is not part of an adapter")
        if any(folder.iterdir()) and not overwrite:
            raise ValueError(f"{folder}: exists already; overwrite it (--force) or name another")
    elif folder.exists():
        raise ValueError(f"{folder}: is a file; name a folder")
    above = next(path for path in folder.absolute().parents if path.exists())
    try:  # and not os.access, which root passes everywhere
        Path(tempfile.mkdtemp(dir=above)).rmdir()
    except OSError as error:
        raise unwritable(folder, error) from error


def spare(inputs: Iterable[str], folder: Path) -> None:
    """Raise ValueError if an adapter that is mixed is in the folder that would be replaced."""
    for name in inputs:
        if place(name).resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"{folder}: holds {name}, which is to be mixed and would be lost; name another "
                f"folder (--out)"
            )


def _is_ours(path: Path, names: Sequence[str]) -> bool:
    """Return whether a merge writes such a path: plain files and folders, no links."""
    if path.is_symlink():
        return False
    if names:
        inside = path.name in names and path.is_dir()
        return inside and all(_is_ours(below, ()) for below in path.iterdir())
    return path.name in FILES and path.is_file()


def unwritable(folder: Path, error: OSError) -> OSError:
    """Return an error of the same kind that says in words why a target cannot be written."""
    reason = error.strerror or str(error)
    kind = OSError if isinstance(error, UnwritableError) else type(error)
    return kind(f"{folder}: cannot be written: {reason}; name another folder (--out)")


def _replace(new: Path, folder: Path) -> None:
    """Move `new` to `folder`; what was there is put aside first and removed last."""
    if not folder.exists():
        new.rename(folder)
        return
    aside = new.with_name(f"{new.name}{ASIDE}")
    folder.rename(aside)
    try:
        new.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside)
