"""The figures: `python -m figures`, drawn from stored rows only.

A new one is a file here and a line in `FIGURES`. The file has

    NEEDS     the claims, or the other sources of `figures.rows`, whose rows it draws
    CAPTION   what is shown, for which data, how many runs, what the band is; {names} are filled by
    facts     (optional) rows -> the numbers that the caption names
    draw      rows, path -> the files written
"""

import os

# figures are files: Matplotlib refuses to load with the backend of a notebook that is not installed
os.environ["MPLBACKEND"] = "Agg"

from figures import (
    adapters,
    consensus,
    convergence,
    cost,
    difference,
    gauge_distance,
    gauges,
    kernel,
    laws,
    local_steps,
    partition,
    rate,
    rate_needs_rank,
    schematic,
    smoothness,
    start,
    tightness,
    tournament,
    training,
    truncation,
)

FIGURES = {
    "schematic": schematic,
    "truncation": truncation,
    "difference": difference,
    "convergence": convergence,
    "rate": rate,
    "consensus": consensus,
    "gauges": gauges,
    "start": start,
    "smoothness": smoothness,
    "laws": laws,
    "rate_needs_rank": rate_needs_rank,
    "tightness": tightness,
    "kernel": kernel,
    "cost": cost,
    "training": training,
    "partition": partition,
    "tournament": tournament,
    "gauge_distance": gauge_distance,
    "local_steps": local_steps,
    "adapters": adapters,
}
