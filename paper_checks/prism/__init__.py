"""PRISM's split of a corpus by the concentration of gradients: `paper_checks prism`.

PRISM (arXiv 2601.07224) sends samples whose gradient is concentrated on few projection matrices to
reinforcement, the others to supervised learning. Here: does the split find kinds that were planted,
and what does it say on sentences? The statistics are in `decaf_theory.concentration`.

planted    an exact problem with samples of two kinds, and what each split recovers
gradients  per-sample gradient norms of a model's projection matrices, in one batched pass
sentences  those of MiniLM on SST-2, under several heads
judge      quantiles, rank correlations and splits that agree, with intervals
command    python -m paper_checks prism: every part is stored as it ends
page       docs/prism.md, made of the stored rows
"""
