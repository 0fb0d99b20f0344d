"""The ledger as a page: `python -m verification docs`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from verification.claim import Claim
from verification.options import MAIN

# a bracket may qualify a section: "Proof (leading order only):"
SECTION = r"((?:Assumptions|Proof|Extremal|Counterexample|Source)(?: \([^)]*\))?):"
TITLES = {
    "smoothness": "Smoothness",
    "interference": "Interference",
    "truncation": "Truncation",
    "methods": "Methods",
    "rates": "Rates",
    "networks": "Networks",
    "problems": "Problems",
    "examples": "Worked examples",
}
HEAD = r"""# The claims

Every statement that `python -m verification` judges, with its assumptions, a proof that can be
followed, its extremal example and, where it is false as worded, its counterexample. This page is
generated from the claims themselves (`python -m verification docs`). The ten results to know first
are in [findings.md](findings.md).

Status: *paraphrased* (of the paper, from public summaries of it), *derived* (a proof is given
here), *numerical* (evidence only). A claim whose expected outcome is `violated` is worded as it
might be read, and false. Tightness by regime: how near to its bound, measured/bound, a claim comes
in each norm, order, ...; the least, the most, and how many there are. These are lower limits that
are kept with the claim and checked in every run, not what one run measured (`explain` shows both).

## Notation
"""
NOTATION = r"""
- Agent $j$ of $N$ holds $W_j = W_0 + s B_j A_j$, $B_j$ is $d$ x $r$, $A_j$ is $r$ x $k$; $s$ is the
  LoRA scale, $\eta/r$, $\eta/\sqrt r$ (rsLoRA) or constant. $f_j$ is its loss, $F$ the mean loss;
  $L$ bounds the Lipschitz constant of $\nabla f_j$, $G$ the operator norm of $\nabla f_j$, $C$
  (Assumption 3) how far $W$ moves for a move of the factors; Assumption 4 bounds the variance of
  stochastic gradients by $\sigma^2$ and the heterogeneity
  $\frac1N \sum_j |\nabla f_j - \nabla F|^2$ by $\kappa^2$. $\alpha$, in some claims $lr$, is the
  step size, $T$ the number of steps, $\hat g$ a stochastic gradient, and $\Phi$ the loss $F$ as a
  function of the factors. $x^+$ is $x$ after the next step or round; of a matrix such as $I - \Pi$
  it is the pseudo-inverse.
- $\Omega_c$, Omega_c (Assumption 2): $\sigma_1(A), \sigma_1(B) \le c$. Norms: $|X|_F$ or
  $\Vert X \Vert_F$ Frobenius, $op$ operator, $*$ nuclear.
- One mix: weights $\pi_j \ge 0$ with sum one and maximum $\pi_{max}$, $m$ agents;
  $\bar B = \sum_j \pi_j B_j$, $\bar A$ likewise; $M = \sum_j \pi_j B_j A_j$; interference
  $I = M - \bar B \bar A$; $P = TSVD_r(M)$, the truncated SVD; $E = M - P$. DLoRA mixes factors
  ($\bar B \bar A$), DLoRA-FA freezes a common $A$, DeCAF mixes products and keeps balanced factors
  of $P$.
- A network: $\Pi$ symmetric, doubly stochastic, $J = 11'/N$;
  $\lambda = \sqrt\rho = |\Pi - J|_{op}$, below one by Assumption 5. $\Xi = |(I - J) X|_F^2/N$ is
  the consensus distance, $\Xi_w$ that of both factors; a tilde marks deviations from the mean,
  $\tilde X = (I - J) X$; $l_i$ are the eigenvalues of $\Pi$, $l_1 = 1$. $\varphi = (1 + \sqrt5)/2$.
- Orders: MS mixes, then steps at the mixed point (`step_first` and `mix_first` of a simulation);
  CB combines with the gradient at the unmixed point (`combine`).
- P1 ... P13 are the problems of `decaf_theory.problems`.
"""


def page(claims: Sequence[Claim]) -> str:
    """Return the page of all claims in Markdown, in reading order, with a table of contents."""
    head = _formulas(HEAD + NOTATION)
    lines = [head, "| claim | statement | status | expected |", "|---|---|---|---|"]
    lines += [
        f"| [{c.id}](#{c.id.lower()}) | {_cell(c.statement)} | {c.status} | {c.expected} |"
        for c in claims
    ]
    area, seen = None, set()
    for claim in claims:
        if claim.area != area:
            area = claim.area
            lines += ["", f"## {TITLES[area]}" + (" (continued)" if area in seen else "")]
            seen.add(area)
        lines += ["", entry(claim)]
    return "\n".join(lines) + "\n"


def entry(claim: Claim) -> str:
    """Return the section of one claim."""
    body = [_paragraph(text) for text in paragraphs(claim.text)]
    again = f"`{MAIN} --only {claim.id}`"
    if claim.expected == "violated":
        again += f", `{MAIN} replay verification/counterexamples/{claim.id}.json`"
    known = f"{claim.status}, expected: {claim.expected}"
    if claim.reaches:
        known += f"; tightness by regime: {span(claim)}"
    head = f"### {claim.id}\n\n*{known}*"
    return "\n\n".join([head, *body, f"Again: {again}"])


def span(claim: Claim) -> str:
    """Return the least and the most that its regimes reach, and how many they are; "" for none."""
    values = sorted(set(claim.reaches.values()))
    ends = " to ".join(f"{value:g}" for value in dict.fromkeys([*values[:1], *values[-1:]]))
    return f"{ends} in {len(claim.reaches)}" if values else ""


def paragraphs(text: str) -> list[str]:
    """Return a claim's paragraphs; a section is one, with or without an empty line before it."""
    return re.split(r"\n\s*\n", re.sub(rf"\n+(?={SECTION})", "\n\n", text))


def _paragraph(text: str) -> str:
    """Return one paragraph on one line, the name of its section in bold."""
    joined = _formulas(" ".join(line.strip() for line in text.splitlines()))
    return re.sub(f"^{SECTION}", r"**\1.**", joined)


def _formulas(text: str) -> str:
    """Return the text with formulas in the form that Markdown leaves alone: $`...`$."""
    return re.sub(r"\$+([^$]+)\$+", r"$`\1`$", text)


def _cell(text: str) -> str:
    """Return the text for a cell of a table, where a bar would end the cell."""
    return _formulas(text.replace(r"\|", r"\Vert ").replace("|", r"\vert "))
