"""Who holds what, as it is shown when a run begins: a table, and a picture next to its rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from decaf_theory.terminal import columns
from paper_checks import record, shards

if TYPE_CHECKING:  # torch: most commands need none
    from paper_checks.run import Run

PICTURE = "partition.png"


def show(run: Run) -> None:
    """Print the table and what is unusual about it, on stderr."""
    from tqdm import tqdm

    found = record.partition_of(run)
    held = shards.table(found["counts"], columns(sys.stderr))
    lines = [held, *(f"note: {note}" for note in found["notes"])]
    tqdm.write("\n".join(lines), file=sys.stderr)  # not behind the bar of progress
    sys.stderr.flush()


def draw(run: Run, folder: Path) -> None:
    """Write the picture into the folder of the run."""
    from figures import partition  # Matplotlib: in the process that trains

    row = {**run.config.settings(), "counts": record.partition_of(run)["counts"]}
    partition.picture(row, folder / PICTURE)
