"""The figures: `python -m figures`, drawn from stored rows only.

A new one is a file here, with the claims that it needs, a caption and `draw(rows, path)`, and a
line in `FIGURES`.
"""

from figures import difference

FIGURES = {"difference": difference}
