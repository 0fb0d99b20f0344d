"""Memory that a loop takes and frees in every step, kept by the process in between.

glibc returns freed memory above a threshold to the system, and the next step pays for it again, a
page fault for every 4 KiB. The threshold follows the largest block that was freed before: so it
depends on what happened to be loaded, unless a block is freed on purpose.
"""

from __future__ import annotations

import numpy as np

LARGEST = 2**25 - 2**16  # bytes: glibc's threshold follows blocks below 32 MiB only


def keep_freed(size: int) -> None:
    """Let the process keep blocks of up to `size` bytes that it frees, and twice as much in all.

    Elsewhere than on glibc nothing happens: the block is never written, so it costs no memory.
    """
    np.empty(min(size, LARGEST), dtype=np.uint8)
