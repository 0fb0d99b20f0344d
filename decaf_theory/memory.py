"""Memory that the same work takes and frees again and again, kept by the process in between.

glibc returns freed memory above a threshold to the system, and the next call pays for it again, a
page fault for every 4 KiB. The threshold follows the largest block that was freed before: so it
depends on what happened to run before, unless a block is freed on purpose.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache

import numpy as np

LARGEST = 2**25 - 2**16  # bytes: glibc's threshold follows blocks below 32 MiB only


@cache
def keep_freed() -> None:
    """Let the process keep blocks of up to 32 MiB that it frees, of 64 MiB in all.

    Elsewhere than on glibc nothing happens: the block is never written, so it costs no memory.
    """
    with suppress(MemoryError):
        np.empty(LARGEST, dtype=np.uint8)
