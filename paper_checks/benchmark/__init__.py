"""A benchmark of adapters: frozen heads, one factor at a time, effects predicted before the runs.

cells     what is compared, around one primary cell; the primary contrast, named beforehand
predict   what theory says of each cell from the start of the factors alone
controls  DeCAF's product in LoRA's own gauge, and DLoRA re-balanced after each mix
play      one training, and what is measured on it
once      one local training, mixed by every method that trains like it
command   python -m paper_checks benchmark: every training is stored as it ends
judge     contrasts paired by seed, with intervals that hold together
page      docs/benchmark.md, made of the stored rows
"""
