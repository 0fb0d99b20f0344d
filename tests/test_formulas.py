"""Formulas on the terminal: what LaTeX becomes, and that none of it is left."""

import re

import pytest

from verification import table
from verification.formulas import ACCENTS, SYMBOLS, TOKEN, formula, plain
from verification.run import LEDGER

CLAIMS = {claim.id: claim for claim in LEDGER.claims}
FORMULAS = {name: re.findall(r"\$+([^$]+)\$+", claim.text) for name, claim in CLAIMS.items()}
READ = {r"\sqrt", r"\frac", r"\mathrm", r"\text"}
# commands whose names can be read as they are
LETTERS = """alpha beta gamma delta epsilon varepsilon zeta eta theta kappa mu nu pi rho sigma
    varsigma tau psi omega ell Gamma Delta Theta Xi Pi Sigma Phi Omega"""
FUNCTIONS = "sin cos tanh cosh log ln det deg min max sup sum int approx"
WORDS = {rf"\{name}" for name in (LETTERS + " " + FUNCTIONS).split()}


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"\|I\|_F \le \sqrt{r} c^2", "|I|_F <= sqrt(r) c^2"),
        (r"\sigma_{r+1}(M_{21})", "sigma_(r+1)(M_21)"),
        (r"\pi_{max} \ge 1 - \delta^{1/2}", "pi_max >= 1 - delta^(1/2)"),
        (r"\frac12 x", "(1/2) x"),
        (r"\frac12", "1/2"),
        (r"\frac{a + b}{2L} + 1", "(a + b)/(2L) + 1"),
        (r"\frac{2 (a - b)}{\alpha T}", "2 (a - b)/(alpha T)"),
        (r"\frac{1/8}{5/8}", "(1/8)/(5/8)"),
        (r"\frac{x^-}{(1-a)(1-b)}", "x^-/((1-a)(1-b))"),
        (r"\frac{x}{n(n - 1)}", "x/(n(n - 1))"),
        (r"\frac x{\sqrt{8 s}}", "x/sqrt(8 s)"),
        (r"\left( \frac{1 - u}{2} \right)^2", "((1 - u)/2)^2"),
        (r"\bar B \bar A \to \tilde B_i'\tilde B_i", "Bbar Abar -> B~_i' B~_i"),
        (r"\cos\theta \sin^2\theta + 2\nu c\lambda", "cos theta sin^2 theta + 2 nu c lam"),
        (r"E\langle \nabla F, h \rangle", "E<grad F, h>"),
        (r"\max_{j \in \{1, \lfloor N/2 \rfloor\}} x_j", "max_(j in {1, floor(N/2)}) x_j"),
        (r"\mathrm{TSVD}_r(M) - c\, I\ ok", "TSVD_r(M) - c I ok"),
        (r"\frac1q \Bigl(S + \frac12\Bigr), \qquad q", "(1/q) (S + 1/2), q"),
        (r"\sqrt 10", "sqrt(1)0"),  # as in LaTeX: one digit
    ],
)
def test_latex_becomes_text_that_can_be_read_and_typed(latex, text):
    assert formula(latex) == text


def test_only_what_stands_between_dollars_is_a_formula():
    assert plain("a_{b} is $a_{bc}$, $$\\eta\n/r$$") == "a_{b} is a_bc, eta /r"


@pytest.mark.parametrize("latex", [r"\frac{1", r"\sqrt", "a}", r"x_"])
def test_a_formula_that_is_cut_off_is_refused(latex):
    with pytest.raises(ValueError, match=r"brace|lacks its argument|too many"):
        formula(latex)


@pytest.mark.parametrize("name", CLAIMS)
def test_every_command_of_a_claim_is_one_that_can_be_read_on_the_terminal(name):
    tokens = {token.strip() for text in FORMULAS[name] for token in TOKEN.findall(text)}
    commands = {token for token in tokens if len(token) > 1 and token[0] == "\\"}
    assert commands <= {*SYMBOLS, *ACCENTS, *READ, *WORDS}


@pytest.mark.parametrize("name", CLAIMS)
def test_no_latex_is_left_in_the_terminal_s_text_of_a_claim(name):
    text = table.explanation(CLAIMS[name], 90)
    assert not re.search(r"[\\$]|[_^]\{", text)
    assert text.count("(") == text.count(")")
    assert max(map(len, text.splitlines())) <= 90
    sections = {paragraph.split(":")[0] for paragraph in text.split("\n\n")}
    assert {"Assumptions", "Source"} <= sections
