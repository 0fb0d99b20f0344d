"""Averaging in function space against averaging in weight space: `paper_checks ensemble`.

LoRA-Ensemble (arXiv 2405.14438): each agent is a member with its own head, A normal and B = 0; the
prediction is the mean of the members' softmaxes. To have it an agent needs all adapters, once,
where DLoRA and DeCAF send theirs to their neighbours every round.

cells     what is trained, by which bytes, and the step sizes that are tried
play      one training, scored at all its endpoints
judge     step sizes chosen, and differences from the ensemble, paired by seed
command   python -m paper_checks ensemble: every training is stored as it ends
page      docs/ensemble.md, made of the stored rows
"""
