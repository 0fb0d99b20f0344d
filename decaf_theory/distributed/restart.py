"""Where ranks go on after one of them ended: at the last round of which all hold a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from decaf_theory.distributed.collective import of_everyone
from decaf_theory.distributed.wire import RankError


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
    lack = [other for other, own in enumerate(every) if wanted not in own]
    ranks = f"rank {lack[0]} holds" if len(lack) == 1 else f"ranks {lack} hold"
    raise RankError(
        f"rank {rank}: {ranks} no checkpoint of {what} {wanted}, which others have, and no {what} "
        f"is held by all; bring it back, or remove those of all ranks to start anew"
    )
