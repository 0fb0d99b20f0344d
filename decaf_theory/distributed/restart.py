"""Where ranks go on after one of them ended: at the last round of which all hold a checkpoint.

A checkpoint of a rank is a file with the checksum of what follows, then NumPy's .npz of the state
of its agents and of JSON about it. It is written whole or not at all. Older ones stay until all
ranks have written: at least one is held by all at any time.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.arrays import Host, convert, host
from decaf_theory.distributed.collective import of_everyone
from decaf_theory.distributed.joining import Record
from decaf_theory.distributed.wire import RankError
from decaf_theory.files import write_atomically
from decaf_theory.lowrank import Factors
from decaf_theory.methods import State
from decaf_theory.sums import seal_bytes, unseal_bytes

KEPT = 2
ABOUT = "about"  # the name of the JSON among the arrays, all others of which hold a "|"


class Held(NamedTuple):
    """What a checkpoint holds: rounds done, the state of a rank's agents, the bytes it has sent."""

    round: int
    state: State
    sent_bytes: int


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one rank in a folder, which ranks may share.

    record: what must be the same for a checkpoint to be used, by name.
    """

    folder: Path
    rank: int
    record: Record

    def save(self, held: Held) -> None:
        """Write a checkpoint; when all ranks have, remove older ones. RankError: one has not."""
        about = {"record": self.record, "sent_bytes": held.sent_bytes}
        data = io.BytesIO()
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        arrays: dict[str, Any] = {ABOUT: text, **arrays_of(held.state)}
        np.savez(data, **arrays)
        write_atomically(self._path(held.round), seal_bytes(data.getvalue()))
        of_everyone(None, f"at the checkpoint of round {held.round}")
        for old in self._paths()[KEPT:]:
            old.unlink()

    def resume(self, start: State) -> Held:
        """Return what this rank holds of the last round that all hold; `start` where none does.

        RankError: there is none that all hold, or it is of another configuration.
        """
        found = {path: arrays for path in self._paths() if (arrays := _read(path)) is not None}
        last = last_common([_round(path) for path in found], self.rank)
        if last < 0:
            return Held(0, start, 0)
        arrays = found[self._path(last)]
        about = json.loads(arrays[ABOUT].tobytes())
        for name in sorted({*self.record, *about["record"]}):
            old, new = about["record"].get(name), self.record.get(name)
            if old != new:
                raise RankError(
                    f"rank {self.rank}: its checkpoint of round {last} is of {name} {old}, and now "
                    f"it is {new}; remove those of all ranks, or name another folder"
                )
        return Held(last, state_of(arrays, start), about["sent_bytes"])

    def _path(self, t: int) -> Path:
        return self.folder / f"rank-{self.rank}-round-{t:09d}.ckpt"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"rank-{self.rank}-round-*.ckpt"), reverse=True)


def last_common(held: Sequence[int], rank: int, what: str = "round") -> int:
    """Return the last of those that all ranks hold, given this rank's; -1 where nobody has any.

    RankError: some ranks have some, and there is none that all hold; who lacks it is named.
    """
    every = [set(found) for found in of_everyone(list(held), "as checkpoints were compared")]
    common = set.intersection(*every)
    if common or not any(every):
        return max(common, default=-1)
    # the one that most ranks hold, of those the last
    wanted = max(set.union(*every), key=lambda t: (sum(t in own for own in every), t))
    lack = [str(other) for other, own in enumerate(every) if wanted not in own]
    ranks = f"rank {lack[0]} holds" if len(lack) == 1 else f"ranks {', '.join(lack)} hold"
    raise RankError(
        f"rank {rank}: {ranks} no checkpoint of {what} {wanted}, which others have, and no {what} "
        f"is held by all; bring it back, or remove those of all ranks to start anew"
    )


def arrays_of(state: State) -> dict[str, Host]:
    """Return the arrays of a state by name."""
    kept = {"factors": state.factors, **state.memory}
    return {
        f"{name}|{part}": host(X)
        for name, value in kept.items()
        for part, X in (value._asdict() if isinstance(value, Factors) else {"": value}).items()
    }


def state_of(arrays: Mapping[str, Host], like: State) -> State:
    """Return the state that `arrays_of` took apart, of the kind of arrays of `like`."""

    def pair(name: str, old: Factors) -> Factors:
        return Factors(*(convert(arrays[f"{name}|{p}"], X) for p, X in old._asdict().items()))

    memory = {
        name: pair(name, old) if isinstance(old, Factors) else convert(arrays[f"{name}|"], old)
        for name, old in like.memory.items()
    }
    return State(pair("factors", like.factors), memory)


def _read(path: Path) -> dict[str, Host] | None:
    """Return the arrays of a checkpoint, None of one that is damaged."""
    with suppress(ValueError), np.load(io.BytesIO(unseal_bytes(path.read_bytes()))) as arrays:
        return dict(arrays)
    return None


def _round(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
