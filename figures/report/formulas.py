"""Prose with `$...$` formulas as HTML with MathML, which browsers draw without any request.

MathML breaks no lines. So a long formula becomes several `<math>` elements, split before its
relations and, if that is not enough, before its sums: there the browser may break.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import cache

from markupsafe import Markup

WORD = re.compile(r"(?:\$+[^$]+\$+|`[^`]+`|[^\s$`])+")
OPTION = re.compile(r"--?[a-z-]+")
UPRIGHT = r"(?<![\\A-Za-z])(op|max|min|diag|clip|TSVD|rank|Var|tr|end|start)(?![A-Za-z])"
TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\s+|.", re.DOTALL)
# what the converter passes on as it is
TEXT = re.compile(r"(\\(?:text[a-z]*|[hmf]box)\s*\{)([^{}]*)")
RELATIONS = frozenset(("=", "<", ">", r"\le", r"\ge", r"\ne", r"\ll", r"\to", r"\sim"))
SUMS, SCRIPTS = frozenset("+-"), frozenset("_^")
OPENING, CLOSING = frozenset(("{", "(", "[", r"\{")), frozenset(("}", ")", "]", r"\}"))
LONG = 28  # LaTeX tokens, about 15 em
TIGHT = 'stretchy="false" lspace="0" rspace="0"'  # of bars, which would be spaced like relations
# a prime stands high already, and a superscript lifts it once more
PRIME = '<mpadded voffset="-0.3em" height="0.5em"><mo class="prime">′</mo></mpadded>'
# a bar over something: drawn by page.css, as fonts without a table for formulas leave it out
BARRED = re.compile(r"<mover>((?:(?!<mover>).)*?)<mo[^>]*>[¯‾―]</mo></mover>")
NEVER = "<>&"  # characters that stay escaped


def prose(text: str, ids: Sequence[str] = (), own: str = "") -> Markup:
    """Return a text as HTML: formulas as MathML, `code`, and the ids of other claims as links."""
    text = re.sub(r"(?<!\\)\bOmega_(\w)\b", r"$\\Omega_\1$", text)
    return Markup(" ".join(_word(word, ids, own) for word in WORD.findall(text)))


def _word(word: str, ids: Sequence[str], own: str) -> str:
    """Return the text between two spaces as HTML; lines may break only inside long formulas.

    Without the spans a browser would also break between a formula and the comma after it, and
    after the hyphen of an option (`-m`).
    """
    if OPTION.fullmatch(word):
        return f'<span class="nw">{word}</span>'
    unbroken: list[list[str]] = [[]]
    for i, part in enumerate(re.split(r"\$+([^$]+)\$+", word)):
        first, *others = formula(part) if i % 2 else [_plain(part, ids, own)]
        unbroken[-1].append(first)
        unbroken += [[piece] for piece in others]
    if len(unbroken) == 1 and len(unbroken[0]) == 1:
        return unbroken[0][0]
    return "".join(f'<span class="nw">{"".join(pieces)}</span>' for pieces in unbroken)


def _plain(text: str, ids: Sequence[str], own: str) -> str:
    def link(found: re.Match[str]) -> str:
        return found[0] if found[0] == own else f'<a href="#{found[0]}">{found[0]}</a>'

    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    named = _named(tuple(ids))
    return named.sub(link, escaped) if named else escaped


def claims_in(text: str, ids: Sequence[str]) -> list[str]:
    """Return the claims that a text names, each once, in its order."""
    named = _named(tuple(ids))
    return list(dict.fromkeys(named.findall(text))) if named else []


@cache
def _named(ids: tuple[str, ...]) -> re.Pattern[str] | None:
    known = "|".join(re.escape(name) for name in sorted(ids, key=len, reverse=True))
    return re.compile(rf"\b(?:{known})(?!\w|-[a-z0-9])") if known else None


@cache
def formula(latex: str) -> tuple[str, ...]:
    """Return a formula as one or more `<math>` elements that follow each other on a line."""
    upright = re.sub(UPRIGHT, r"\\mathrm{\1}", " ".join(latex.split()))
    return tuple(_math(piece, i > 0) for i, piece in enumerate(split(upright)))


def split(latex: str) -> list[str]:
    """Return the pieces of a formula between which a line may be broken."""
    pieces = _before(latex, RELATIONS) if _length(latex) > LONG else [latex]
    return [
        part
        for piece in pieces
        for part in (_before(piece, SUMS) if _length(piece) > LONG else [piece])
    ]


def _length(latex: str) -> int:
    return sum(not token.isspace() for token in TOKEN.findall(latex))


def _before(latex: str, breaks: frozenset[str]) -> list[str]:
    """Return the pieces split before the tokens of `breaks` that are outside brackets."""
    pieces, depth, last = [""], 0, ""
    for token in TOKEN.findall(latex):
        depth += (token in OPENING) - (token in CLOSING)
        # after another operator a sign belongs to what follows it
        operand = last not in ("", ",", *SCRIPTS, *RELATIONS, *SUMS)
        if token in breaks and depth == 0 and operand and _balanced(pieces[-1]):
            pieces.append("")
        pieces[-1] += token
        if not token.isspace():
            last = "script" if last in SCRIPTS else token
    return [piece.strip() for piece in pieces]


def _balanced(latex: str) -> bool:
    return latex.count(r"\left") == latex.count(r"\right") and latex.count("|") % 2 == 0


def _math(latex: str, continues: bool) -> str:
    """Return one `<math>` element; the sign that begins one that continues stands between terms."""
    from latex2mathml.converter import convert  # slow to load

    escaped = TEXT.sub(lambda found: found[1] + html.escape(found[2], quote=False), latex)
    text = re.sub(r"^<math[^>]*>", "<math>", convert(escaped))
    text = re.sub(r' href="[^"]*"', "", text)  # of \\href: a page of claims leads nowhere
    text = re.sub(r"&#x([0-9A-Fa-f]+);", _character, text)
    text = text.replace("<mi>′</mi>", PRIME).replace("<mo>∞</mo>", "<mi>∞</mi>")
    text = BARRED.sub(r'<mover class="bar">\1<mo stretchy="false">¯</mo></mover>', text)
    text = re.sub(r"<mo[^>]*>([|‖/])</mo>", rf"<mo {TIGHT}>\1</mo>", text)
    text = re.sub(r"([(\[,]</mo>)<mo>([−+±])</mo>", r'\1<mo form="prefix">\2</mo>', text)
    return text.replace("<mo>", '<mo form="infix">', 1) if continues else text


def _character(found: re.Match[str]) -> str:
    letter = chr(int(found[1], 16))
    return found[0] if letter in NEVER else letter
