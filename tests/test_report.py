"""The report page without a browser: formulas, dots, figures, bytes, and what it may ask for."""

import base64
import csv
import gzip
import hashlib
import html
import io
import json
import re
import tomllib
from collections import Counter
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from decaf_theory.bench.rows import verdict
from decaf_theory.files import to_json
from decaf_theory.sums import sealed
from figures import report
from figures.cli import main
from figures.report import about, formulas, inline, strips
from figures.table import FIGURES
from tests import report_pages
from verification import store
from verification.claim import Row, deciding_row
from verification.evidence import at_least, at_most, same
from verification.ledger import NOTATION
from verification.run import LEDGER

TEXTS = [NOTATION, *(claim.text for claim in LEDGER.claims)]
TEXTS += [figure.CAPTION.replace("{{", "{").replace("}}", "}") for figure in FIGURES.values()]
FORMULAS = sorted({" ".join(f.split()) for t in TEXTS for f in re.findall(r"\$+([^$]+)\$+", t)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("page")
    report_pages.page(made)
    return made


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text()


class Reader(HTMLParser):
    """Collects tags with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def values(self, *names):
        return [attrs[n] for _, attrs in self.tags for n in names if attrs.get(n)]


# ---- formulas


def test_every_formula_of_every_claim_becomes_well_formed_mathml():
    assert len(FORMULAS) > 1000
    for latex in FORMULAS:
        for piece in formulas.formula(latex):
            tree = ElementTree.fromstring(piece)
            assert tree.tag == "math"
            text = "".join(tree.itertext())
            assert text.strip(), latex
            assert not set(text) & set("\\{}$&") - set("{}" if r"\{" in latex else ""), latex


def test_the_pieces_of_a_long_formula_are_the_formula_and_none_ends_within_a_bracket():
    broken = 0
    for latex in FORMULAS:
        pieces = formulas.split(latex)
        broken += len(pieces) > 1
        assert "".join(pieces).replace(" ", "") == latex.replace(" ", "")
        for piece in pieces[1:]:
            assert re.match(r"=|<|>|[+-]|\\(le|ge|ne|ll|to|sim)(?![a-zA-Z])", piece), latex
        for piece in pieces:
            for pair in ("{}", "()", "[]"):
                assert piece.count(pair[0]) == piece.count(pair[1]), latex
            left, right = (re.findall(rf"\\{side}(?![a-z])", piece) for side in ("left", "right"))
            assert len(left) == len(right), latex
    assert broken > 50


@pytest.mark.parametrize(
    ("latex", "pieces"),
    [
        ("a = b", ["a = b"]),  # short
        ("x_+ + " * 9 + "y = -z", ["x_+", *["+ x_+"] * 8, "+ y", "= -z"]),
        ("f(a = b, c + d + e + f + g + h + i + j + k + l)", None),  # within brackets
        (r"\frac{a + b = c + d + e + f + g + h + i + j}{k + l}", None),
        (r"\left( a + b + c + d + e + f + g + h + i + j + k + l + m \right)", None),
        ("|a + b + c + d + e + f + g + h + i + j + k + l + m + n|", None),
    ],
)
def test_a_formula_is_broken_before_relations_and_then_sums_outside_brackets(latex, pieces):
    assert formulas.split(latex) == (pieces or [latex])


def test_prose_is_escaped_and_only_other_claims_are_links():
    text = "By T4a, T18-op and T18: a < b & `x_y` (T13-T14), $x$, not T1800, T18-opx or T4a-c."
    found = formulas.prose(text, ["T4a", "T13", "T14", "T18", "T18-op"], own="T18")
    assert re.findall('href="#([^"]+)"', found) == ["T4a", "T18-op", "T13", "T14"]
    assert "a &lt; b &amp; <code>x_y</code>" in found
    assert re.search(r'<span class="nw"><math>.*</math>,</span> not T1800', found)


def test_no_line_is_broken_within_an_option():
    found = formulas.prose("python -m figures --only report, a - b")
    assert found == (
        'python <span class="nw">-m</span> figures <span class="nw">--only</span> report, a - b'
    )


def test_words_in_formulas_stand_upright_and_commands_stay():
    (found,) = formulas.formula(r"|X|_{op} \le \max(a, diag(b))")
    assert '<mi mathvariant="normal">o</mi><mi mathvariant="normal">p</mi>' in found
    assert found.count('mathvariant="normal"') == 6
    assert "max" in found


def test_signs_of_one_term_and_signs_between_two_are_told_apart():
    (found,) = formulas.formula("(-B, -A) - C")
    assert [form for form in re.findall(r"<mo([^>]*)>−", found)] == [' form="prefix"'] * 2 + [""]
    pieces = formulas.formula("a_1 + a_2 + a_3 + a_4 + a_5 + a_6 + a_7 + a_8 = -b")
    assert all('<mo form="infix">' in piece for piece in pieces[1:])
    assert "<mo>−</mo>" not in pieces[0]


# ---- dots


@pytest.mark.parametrize(
    ("row", "used"),
    [
        (at_most("holds", 0.25, 1.0, rounding=0.0), 0.25),
        (at_most("attained", 1.0, 1.0, rounding=0.0), 1.0),
        (at_most("twice", 2.0, 1.0, rounding=0.0), 1.5),
        (at_least("from above", 4.0, 1.0, rounding=0.0), 0.25),
        (at_most("beyond", 1e9, 1e-9, rounding=0.0), 2.0),
        (at_most("negative", -3.0, 1.0, rounding=0.0), 0.0),
        (same("identity", 1e-16, rounding=4e-16), 0.25),
        (at_most("empty", 0.0, 0.0, rounding=0.0), 0.0),
    ],
)
def test_a_dot_shows_the_share_of_its_room_that_a_row_uses(row, used):
    assert strips.used(row) == pytest.approx(used, rel=1e-12, abs=1e-15)


def test_a_row_without_finite_numbers_has_no_dot_and_is_counted():
    rows = [at_most("x", 1.0, np.inf, rounding=0.0), at_most("x", 1, 2, rounding=0.0)]
    plot = strips.plot(rows, rows[0])
    assert plot.nowhere == 1
    assert [strip.rows for strip in plot.strips] == [1]


@pytest.mark.parametrize("claim", report_pages.EVALUATED)
def test_every_row_of_a_claim_is_one_dot_and_one_of_them_decides(folder, claim):
    rows = [Row.from_json(row) for row in store.read_rows(folder / "run", claim)]
    decides = deciding_row(rows)
    plot = strips.plot(rows, decides)
    marks = [mark for strip in plot.strips for mark in strip.marks]
    assert len(marks) + plot.nowhere == len(rows)
    assert [mark.text for mark in marks if mark.decides] == [strips.sentence(decides)]
    assert 1 <= len(plot.strips) <= strips.MOST
    for strip in plot.strips:
        assert all(0 <= mark.x <= 100 for mark in strip.marks)
        assert all(abs(mark.y) + 3 <= strip.height / 2 for mark in strip.marks)
    beyond = any(strips.used(row) > 1 for row in rows)
    assert beyond >= any(row.outcome == "violated" for row in rows)
    assert [name for _, name in plot.ticks][-1] == ("∞" if beyond else "bound")


# ---- figures


def test_figures_keep_their_ids_apart_and_their_styles_to_themselves(tmp_path):
    (tmp_path / "a.svg").write_text(report_pages.SVG)
    found = inline.figure(tmp_path / "a.svg", "figure-a")
    root = ElementTree.fromstring(found)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert sorted(ids) == sorted(f"figure-a-{x}" for x in ("svg", "p1", "m1", "figure_1"))
    assert 'clip-path="url(#figure-a-p1)"' in found
    assert 'href="#figure-a-m1"' in found
    assert "#figure-a-svg *{stroke-linejoin" in found
    assert "metadata" not in found
    assert "DOCTYPE" not in found
    assert root.get("style") == "width:3.40in"
    assert root.get("width") is None


def test_a_damaged_figure_is_named(tmp_path):
    (tmp_path / "a.svg").write_text(report_pages.SVG[:400])
    with pytest.raises(ValueError, match=r"a\.svg is damaged .*; run python -m figures again"):
        inline.figure(tmp_path / "a.svg", "figure-a")


def test_figures_that_are_not_drawn_are_left_out_and_captions_are_paragraphs(page):
    assert "<b>Figure 1.</b> What is shown" in page
    assert "<b>Figure 2.</b> What is shown" in page
    assert "Figure 3." not in page
    assert "<p>(b) Another.</p>" in page


# ---- the page


@pytest.mark.slow
def test_equal_rows_give_equal_bytes_and_a_changed_row_others(folder, page, tmp_path):
    assert report_pages.page(tmp_path / "again").read_text() == page
    assert report_pages.page(tmp_path / "other", changed="T1").read_text() != page


def test_the_page_asks_for_nothing_and_may_run_its_own_script_alone(page):
    tags = Reader(page).tags
    (policy,) = [a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    sum_ = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{sum_}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    for tag, attrs in tags:
        assert tag not in ("iframe", "object", "embed", "base", "form", "img")
        assert not {"src", "srcset", "action", "background", "poster"} & attrs.keys()
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("href", "xlink:href"):
            held = ("#", "data:application/gzip;base64,", "data:text/csv;")
            kinds = {"link": ("#", "data:image/svg+xml,"), "a": (*held, "https://")}
            assert attrs.get(name, "#").startswith(kinds.get(tag, ("#",)))
            if attrs.get(name, "").startswith("https"):  # followed by a click alone
                assert attrs["rel"] == "external"
                assert attrs[name] in dict(about.links()).values()
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_ids_are_unique_and_links_labels_and_controls_lead_somewhere(page):
    reader = Reader(page)
    ids = Counter(reader.values("id"))
    assert [name for name, count in ids.items() if count > 1] == []
    inner = [x[1:] for x in reader.values("href", "xlink:href") if x.startswith("#")]
    led = reader.values("aria-controls", "aria-labelledby", "for") + inner
    assert set(led) <= ids.keys()


def test_the_page_has_landmarks_one_title_and_every_claim_with_its_commands(page):
    tags = Counter(tag for tag, _ in Reader(page).tags)
    assert (tags["header"], tags["main"], tags["footer"], tags["h1"], tags["nav"]) == (1,) * 5
    for claim in LEDGER.claims:
        assert f'<tbody id="{claim.id}"' in page
        assert f"<code>python -m verification --only {claim.id}</code>" in page
        if LEDGER.expected[claim.id] == "violated":
            file = f"verification/counterexamples/{claim.id}.json"
            assert f"<code>python -m verification replay {file}</code>" in page
    assert len(page.encode()) < 5e6


def test_the_answers_are_those_of_the_readme_and_say_where_a_run_differs(page):
    start = page.index('<section id="answers"')
    answers = page[start : page.index("</section>", start)]
    assert answers.count('<tr><th scope="row">') == 7
    assert answers.index("<b>DLoRA</b> averages the factors") < answers.index("<table")
    assert '<a href="#notation">' in answers
    assert start < page.index('<section id="ledger"')
    assert '<a href="#T18-heavy">' in answers
    assert "came out otherwise" not in answers
    rows = about.answers({claim.id: claim.id == "T18" for claim in LEDGER.claims})
    assert [row["differs"] for row in rows if row["differs"]] == [["T18"]]
    read = about.README.read_text().split(about.HEAD)[1].split("\n\n")[0].splitlines()
    for row, line in zip(rows, read, strict=True):
        text = html.unescape(re.sub("<[^>]+>", "", row["verdict"]))
        assert text == line.split(" | ")[1].removesuffix(" |").replace("`", "")


def test_the_citation_is_that_of_the_other_files():
    found = about.citation()
    told = (about.ROOT / "CITATION.cff").read_text()
    for words in (r'title: "([^"]+)"', r"\nversion: (\S+)", r'doi: "([^"]+)"', r'url: "([^"]+)"'):
        for value in re.findall(words, told):
            assert value in found.replace("{DeCAF}", "DeCAF")
    for given, family in re.findall(r"given-names: ([^,]+), family-names: (\w+)", told):
        assert f"{family}, {given}" in found
    project = tomllib.loads(about.PROJECT.read_text())["project"]
    assert f"version = {{{project['version']}}}" in found
    assert dict(about.links())["Paper"] in found


def held(address):
    return base64.b64decode(address.split(";base64,")[1])


def test_rows_and_the_ledger_are_in_the_page(folder, page):
    saved = {a["download"]: held(a["href"]) for _, a in Reader(page).tags if "download" in a}
    names = [f"{name}.jsonl.gz" for name in report_pages.EVALUATED]
    assert sorted(saved) == sorted([*names, "claims.csv"])
    for name in report_pages.EVALUATED:
        stored = store.rows_path(folder / "run", name).read_bytes()
        assert gzip.decompress(saved[f"{name}.jsonl.gz"]) == stored
    table = list(csv.DictReader(io.StringIO(saved["claims.csv"].decode(), newline="")))
    verdicts = store.read_verdicts(folder / "run")
    assert [row["claim"] for row in table] == [claim.id for claim in LEDGER.claims]
    for row, found in zip(table, verdicts, strict=True):
        assert (row["claim"], row["outcome"]) == (found["claim"], found["outcome"])
        assert row["tightness"] == ("" if found["tightness"] is None else str(found["tightness"]))
    assert not any("$" in row["statement"] for row in table)


def test_claims_and_figures_lead_to_each_other(page):
    for name, number in (("first", 1), ("second", 2)):
        start = page.index(f'<figure id="figure-{name}"')
        assert '<a href="#T13">T13</a>' in page[start : page.index("</figure>", start)]
        assert f'<a href="#figure-{name}">Figure {number}</a>' in part(page, "T13")
        assert f'<a href="#figure-{name}">' not in part(page, "T18")


def part(page, claim):
    start = page.index(f'<tbody id="{claim}"')
    return page[start : page.index("</tbody>", start)]


@pytest.mark.parametrize(
    ("measure", "wrong"),
    [("QR loop / ours", False), ("added MB", False), ("error / sigma_1", True), ("cases", True)],
)
def test_only_a_goal_that_no_busy_machine_misses_is_in_the_colour_of_alarm(
    tmp_path, monkeypatch, measure, wrong
):
    row = verdict("G1", "a case", measure, [9.0], "<=", 5.0)
    monkeypatch.setattr(report, "bench", lambda results: [row])
    assert [found["wrong"] for found in report._bench(tmp_path)] == [wrong]
    row |= {"status": "ok"}
    assert not report._bench(tmp_path)[0]["wrong"]


def test_a_bar_over_letters_is_painted_by_the_page_and_still_said():
    for latex in (r"I = M - \bar B \bar A", r"\overline{B A}", r"\bar{\tilde X}"):
        (found,) = formulas.formula(latex)
        bars = re.findall(r"<mo[^>]*>[¯‾―]</mo>", found)
        assert bars
        assert found.count('<mover class="bar">') == len(bars)
        assert set(bars) == {'<mo stretchy="false">¯</mo>'}
    (found,) = formulas.formula(r"\hat g + \tilde X")
    assert "bar" not in found


@pytest.mark.slow
def test_an_unexpected_outcome_is_shown_as_such(folder, tmp_path):
    run = report_pages.results(tmp_path / "run")
    verdicts = store.read_json(run / "verdicts.json")
    verdicts[0] = sealed({**verdicts[0], "outcome": "inconclusive"})
    store.write_atomically(run / "verdicts.json", json.dumps(verdicts).encode())
    assert main(["--results", str(run), "--out", str(tmp_path), "--only", "report"]) == 0
    text = (tmp_path / "report.html").read_text()
    assert text.count('<strong class="unexpected">') == 1
    assert "1 unexpected</title>" in text
    assert "inconclusive, expected: holds" in text


# ---- the command line


@pytest.mark.slow
def test_the_page_goes_where_it_is_asked_to_go_or_beside_the_figures(folder, tmp_path, capsys):
    arguments = ["--results", str(folder / "run"), "--out", str(tmp_path), "--only", "report"]
    assert main(arguments) == 0
    assert main([*arguments, "--report", str(tmp_path / "deep" / "page.html")]) == 0
    pages = [tmp_path / "report.html", tmp_path / "deep" / "page.html"]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert capsys.readouterr().out.splitlines() == [f"report: {path}" for path in pages]


@pytest.mark.slow
def test_a_page_that_lacks_its_rows_says_so_and_ends_with_one(folder, tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "out"), "--only", "report", "--results"]
    assert main([*arguments, str(tmp_path / "none")]) == 1
    assert "report: not written: " in (told := capsys.readouterr().out)
    assert "run.json is missing; run python -m verification" in told
    run = report_pages.results(tmp_path / "run")
    known = store.read_sealed(run / "claims.json")
    known["claims"] = known["claims"][1:]
    store.write_atomically(run / "claims.json", to_json(sealed(known)))
    assert main([*arguments, str(run)]) == 1
    assert "claims.json says nothing about T1; run" in capsys.readouterr().out
    (run / "rows" / "T18.jsonl").write_text("")
    known = report_pages.texts.write(run, LEDGER, report_pages.Settings())
    assert main([*arguments, str(run)]) == 1
    assert "T18.jsonl is truncated or altered" in capsys.readouterr().out


def test_figures_of_other_rows_do_not_stay_beside_those_of_these(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "difference.svg").write_text("of other rows")
    arguments = ["--results", str(tmp_path / "none"), "--out", str(out), "--no-report"]
    assert main(arguments) == 0
    assert not list(out.glob("difference.*"))


@pytest.mark.parametrize("command", ["text", "textbf", "mbox"])
def test_what_a_formula_says_in_words_is_no_markup_of_the_page(command):
    (found,) = formulas.formula(rf"\{command}{{<script>a & b</script>}} < x")
    tree = ElementTree.fromstring(found)
    assert "script" not in {element.tag for element in tree.iter()}
    assert "<script>a\xa0&\xa0b</script>" in "".join(tree.itertext())


def test_a_formula_leads_nowhere():
    (found,) = formulas.formula(r"\href{javascript:alert(1)}{x} + 1")
    assert "javascript" not in found
    assert "<mi>x</mi>" in found
