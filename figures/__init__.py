"""The figures: `python -m figures`, drawn from stored rows only.

A new one is a file here and a line in `FIGURES` of `figures.table`. The file has

    NEEDS     the claims, or the other sources of `figures.rows`, whose rows it draws
    CAPTION   what is shown, for which data, how many runs, what the band is; {names} are filled by
    facts     (optional) rows -> the numbers that the caption names
    draw      rows, path -> the files written
"""

import os

# figures are files: Matplotlib refuses to load with the backend of a notebook that is not installed
os.environ["MPLBACKEND"] = "Agg"
