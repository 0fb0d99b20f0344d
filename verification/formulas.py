"""The LaTeX formulas of the claims as plain ASCII text, for the terminal.

A recursive descent over the commands that claims use: `\\frac{a}{b + c} x` -> `(a/(b + c)) x`. A
command that is in no table is a letter or a function and keeps its name: `\\sigma_1` -> `sigma_1`.
"""

from __future__ import annotations

import re

TOKEN = re.compile(r"\\langle\s*|\s*\\rangle|\\[a-zA-Z]+|\\.|\s+|\d+|.", re.DOTALL)
ACCENTS = {r"\bar": "bar", r"\hat": "hat", r"\tilde": "~", r"\dot": "dot"}
# only the size of a bracket
OPENING = (r"\left", r"\bigl", r"\Bigl", r"\biggl", r"\Biggl")
CLOSING = (r"\right", r"\bigr", r"\Bigr", r"\biggr", r"\Biggr")
SYMBOLS = {
    **dict.fromkeys((*OPENING, *CLOSING), ""),
    **{r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\ll": "<<", r"\sim": "~", r"\cdot": "*"},
    **{r"\to": "->", r"\mapsto": "->", r"\leftarrow": "<-", r"\times": "x", r"\otimes": "(x)"},
    **{r"\langle": "<", r"\rangle": ">", r"\lfloor": "floor(", r"\rfloor": ")", r"\ldots": "..."},
    **{r"\pm": "+-", r"\mp": "-+", r"\|": "|", r"\{": "{", r"\}": "}", r"\,": " ", "\\ ": " "},
    **{r"\nabla": "grad", r"\varphi": "phi", r"\infty": "inf", r"\lambda": "lam", r"\in": "in"},
    **{r"\quad": " ", r"\qquad": " ", r"\cdots": "..."},
}
# texts that need no brackets: as an index or exponent a number or word; above the bar of a fraction
# a product, with sums in brackets only; below it a number, a word with its indices, or a bracket
INDEX = r"[+-]?(?:\d+|[A-Za-z]+)|[*+-]+"
INNER = r"\([^()]*(?:\([^()]*\)[^()]*)*\)"
ABOVE = rf"(?:{INNER}|[^()+/-]|[_^][+-])+"
BELOW = rf"\d+|(?:[A-Za-z]{{2,}})?{INNER}|[A-Za-z][A-Za-z0-9_^~*']*"


def plain(text: str) -> str:
    """Return a text with its `$...$` formulas as plain text."""
    return re.sub(r"\$+([^$]+)\$+", lambda found: formula(found[1]), text)


def formula(latex: str) -> str:
    """Return one formula as plain text. ValueError: a brace or an argument is missing."""
    tokens = [token if token == "\\ " else token.strip() or " " for token in TOKEN.findall(latex)]
    tokens.reverse()
    text = _sequence(tokens)
    if tokens:
        raise ValueError(f"formula {latex!r} has a '}}' too many")
    return re.sub(r"(?<=[(\[]) +| +(?=[)\]])", "", re.sub(r" +", " ", text)).strip()


def _sequence(tokens: list[str]) -> str:
    """Return the text up to the end or the closing brace, which stays; tokens are reversed."""
    text = ""
    while tokens and tokens[-1] != "}":
        fraction = tokens[-1] == r"\frac"
        atom = _atom(tokens)
        if fraction and _multiplies(tokens):
            atom = f"({atom}) "  # a/b x could be read as a/(b x)
        # two words in a row, as \sin\theta, are no single one
        apart = atom[:1].isalpha() and re.search(r"[A-Za-z0-9~'\])]$", text) and len(atom) > 1
        text += f" {atom}" if apart else atom
    return text


def _atom(tokens: list[str]) -> str:
    """Return the next symbol, group or command with its arguments."""
    token = tokens.pop()
    if token == "{":
        return _group(tokens)
    if token in ("_", "^"):
        return token + _bracketed(_argument(tokens), INDEX)
    if token in ACCENTS:
        return _argument(tokens) + ACCENTS[token]
    if token == r"\sqrt":
        return f"sqrt({_argument(tokens)})"
    if token == r"\frac":
        above, below = _argument(tokens), _argument(tokens)
        return f"{_bracketed(above, ABOVE)}/{_bracketed(below, BELOW)}"
    if token in (r"\mathrm", r"\text"):
        return _argument(tokens)
    return SYMBOLS.get(token, token.lstrip("\\"))


def _group(tokens: list[str]) -> str:
    text = _sequence(tokens)
    if not tokens:
        raise ValueError(f"a brace is not closed after {text!r}")
    tokens.pop()
    return text


def _argument(tokens: list[str]) -> str:
    """Return what a command applies to: a group or one symbol, one digit of a number."""
    while tokens and tokens[-1] == " ":
        tokens.pop()
    if not tokens:
        raise ValueError("a command lacks its argument")
    if tokens[-1].isdigit():
        digits = tokens.pop()
        tokens += [digits[1:]] if digits[1:] else []
        return digits[0]
    return _atom(tokens)


def _bracketed(text: str, simple: str) -> str:
    """Return the text, in brackets unless it is `simple`."""
    return text if re.fullmatch(simple, text) else f"({text})"


def _multiplies(tokens: list[str]) -> bool:
    """Whether what follows is a factor of, or a power on, what came before."""
    rest = [token for token in tokens[-2:][::-1] if token != " "]
    stops = ("}", ")", "]", ",", ";", "=", "+", "-", "<", ">", "|", "/", ".", r"\|")
    relations = (r"\le", r"\ge", r"\to", r"\cdot", r"\pm", r"\ne", r"\ll", r"\quad", r"\qquad")
    return bool(rest) and rest[0] not in (*stops, *relations, *CLOSING)
