"""What a merge has computed, site by site, on disk: no more than one site is in memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from tqdm import tqdm

from decaf_theory.adapters.rounding import TYPES, in_bytes
from decaf_theory.adapters.stored import ALPHA, Tensor, stored
from decaf_theory.adapters.streams import itemsize, write_tensors
from decaf_theory.arrays import Array
from decaf_theory.files import from_json, opened_atomically, to_json, write_atomically
from decaf_theory.sums import SUM, sealed, sum_of, sum_of_arrays, unsealed

NUMBERS = "numbers"
PLAN = "plan.json"
LATE = 3.0  # seconds without a word; then progress is shown


class Piece(NamedTuple):
    """A site of each of n merges: its tensors, rounded, by their names in a file, and numbers."""

    tensors: Mapping[str, Array]
    numbers: Mapping[str, Any]


class Part(NamedTuple):
    """A piece that is stored."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


# returns the pieces of one site, one per merge
Job: TypeAlias = Callable[[], Sequence[Piece]]


def computed(work: Path, jobs: Sequence[Job], n: int, dtype: str) -> list[list[Part]]:
    """Run the jobs that have no parts in the folder `work` yet; return all parts, merge by merge.

    A part whose checksum is wrong is computed again.
    """
    for merge in range(n):
        (work / str(merge)).mkdir(exist_ok=True)
    merges: list[list[Part]] = [[] for _ in range(n)]
    for at, job in enumerate(tqdm(jobs, "merging", delay=LATE, mininterval=1, leave=False)):
        paths = [work / str(merge) / f"{at}.safetensors" for merge in range(n)]
        found = [read_part(path) for path in paths]
        if None in found:
            for path, piece in zip(paths, job(), strict=True):
                _write_part(path, piece, dtype)
            found = [read_part(path) for path in paths]
        for parts, part in zip(merges, found, strict=True):
            assert part is not None  # it was written just now
            parts.append(part)
    return merges


def _write_part(path: Path, piece: Piece, dtype: str) -> None:
    # a small number such as alpha may be none of a half type
    kinds = {n: "float32" if n.endswith(ALPHA) else dtype for n in piece.tensors}
    table = {name: (TYPES[kinds[name]], X.shape) for name, X in piece.tensors.items()}
    numbers = (in_bytes(X, kinds[name]) for name, X in piece.tensors.items())
    both = sum_of([sum_of_arrays(piece.tensors), piece.numbers])
    metadata = {NUMBERS: json.dumps(piece.numbers), SUM: both}
    with opened_atomically(path) as file:
        write_tensors(file, table, numbers, metadata)


def read_part(path: Path) -> Part | None:
    """Return a part that is stored whole, else None."""
    if not path.is_file():
        return None
    try:
        tensors, metadata = stored(path)
        numbers = json.loads(metadata[NUMBERS])
        arrays = {name: tensor.numbers() for name, tensor in tensors.items()}
    except (ValueError, KeyError):
        return None
    whole = metadata.get(SUM) == sum_of([sum_of_arrays(arrays), numbers])
    return Part(tensors, numbers) if whole else None


@contextmanager
def workplace(folder: Path, plan: Callable[[], Any] | None) -> Iterator[Path]:
    """Yield a folder for parts, which is removed; of a plan, it is kept and taken up again.

    plan(): what the parts follow from. ValueError: the folder holds parts of another plan.
    """
    folder.mkdir(parents=True, exist_ok=plan is not None)
    try:
        if plan is not None:
            _require_plan(folder, plan())
        yield folder
    finally:
        if plan is None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made, for one process; nobody does where there are no file locks.

    ValueError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process has just ended, and taken it along
            continue
        try:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"{folder}: another merge with --resume is at work on it; wait for its end, or "
                    f"choose another target (--out)"
                ) from None
            if folder.exists() and os.path.samestat(os.fstat(held), folder.stat()):
                yield
                return
        finally:
            os.close(held)


def _require_plan(folder: Path, plan: Any) -> None:
    path = folder / PLAN
    wanted = sealed({"plan": plan})
    if not path.exists():  # so that nothing in it is known to follow from the plan
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        write_atomically(path, to_json(wanted))
        return
    try:
        found = from_json(path.read_bytes())
        unsealed(found)
        same = found[SUM] == wanted[SUM]
    except ValueError:
        same = False
    if not same:
        raise ValueError(
            f"{folder}: holds parts of another merge, of other inputs or options; remove it, or "
            f"leave out --resume"
        )


def in_order(parts: Iterable[Part]) -> dict[str, Tensor]:
    """Return the tensors of all parts, those of the widest type first, so that all are aligned."""
    tensors = [(name, X) for part in parts for name, X in part.tensors.items()]
    return dict(sorted(tensors, key=lambda pair: (-itemsize(pair[1].dtype), pair[0])))
