"""Probabilities of classes: those of an ensemble, and how far a model's may be trusted."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

BINS = 15


def mean_of_softmaxes(scores: Tensor) -> Tensor:
    """Return log (1/N) sum_i softmax(z_i), [n, C], of the members' class scores z [N, n, C].

    The prediction of LoRA-Ensemble (arXiv 2405.14438), in float64. One member is itself. Its
    negative logarithm at a label is at most the mean of the members' (Jensen).
    """
    each = scores.double().log_softmax(-1)
    return torch.logsumexp(each, dim=0) - math.log(len(scores))


def nll(log_p: Tensor, labels: Tensor) -> float:
    """Return the mean of -log p at the label, of log probabilities [n, C] and labels [n]."""
    return float(functional.nll_loss(log_p, labels))


def confidence(log_p: Tensor) -> float:
    """Return the mean of the largest probability, of log probabilities [n, C]."""
    return float(log_p.max(-1).values.exp().mean())


def ece(log_p: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Return the expected calibration error of log probabilities [n, C], in [0, 1].

        ECE = sum_b (n_b / n) |accuracy_b - confidence_b|

    Bin b of `bins` equally wide ones holds the examples whose largest probability is in
    ((b - 1)/bins, b/bins]; accuracy_b and confidence_b are the means there of hits and of that
    probability. So it is at least |accuracy - confidence| of all examples, which is that of one
    bin. Of few examples it is above 0 even where the probabilities are true. ValueError: bins < 1.
    """
    if bins < 1:
        raise ValueError(f"bins must be >= 1, got {bins}")
    most, found = log_p.double().max(-1)
    p = most.exp()
    gaps = p.new_zeros(bins)
    where = (p * bins).ceil().long().clamp(1, bins) - 1
    gaps.index_add_(0, where, (found == labels).double() - p)
    return float(gaps.abs().sum() / len(labels))


def summary(log_p: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy, nll, ece (of `BINS` bins) and confidence of log probabilities [n, C]."""
    return {
        "accuracy": float((log_p.argmax(-1) == labels).double().mean()),
        "nll": nll(log_p, labels),
        "ece": ece(log_p, labels),
        "confidence": confidence(log_p),
    }
