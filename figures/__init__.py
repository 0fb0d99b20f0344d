"""The figures: `python -m figures`, drawn from stored rows only."""
