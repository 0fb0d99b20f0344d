"""The site of the documentation: all of it is there, and nothing is fetched from elsewhere."""

import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="mkdocs is not installed")
pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed")

from docs import hooks

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return out


class Fetched(HTMLParser):
    """What a browser loads for a page, without a click."""

    def __init__(self):
        super().__init__()
        self.urls = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            loads = name in ("src", "srcset", "data", "poster") or (tag, name) == ("link", "href")
            if loads and tag != "a" and value:
                self.urls.append((tag, dict(attrs).get("rel"), value))


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        parser = Fetched()
        parser.feed(page.read_text())
        outside = [url for url in parser.urls if re.match(r"(https?:)?//", url[2])]
        assert not outside, page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text()), sheet


@pytest.mark.slow
def test_formulas_are_drawn_and_none_is_left_as_it_was_written(site):
    for page in sorted(site.rglob("index.html")):
        text = re.sub(r"<pre.*?</pre>|<script.*?</script>", "", page.read_text(), flags=re.S)
        assert not re.search(r"\$(`|<code>)|```", text), page
    assert (site / "claims" / "index.html").read_text().count("<math>") > 2000


@pytest.mark.slow
def test_every_example_of_a_docstring_is_on_a_page_of_the_library(site):
    shown = "".join(page.read_text() for page in (site / "reference").rglob("index.html"))
    for name in (
        "sqrt_rho",
        "tsvd_of_mix",
        "smoothness_sharp",
        "interference_norm",
        "mean_interval",
    ):
        assert f'id="decaf_theory.{name}"' in shown or f'.{name}"' in shown, name


def test_every_section_of_the_readme_is_on_one_page():
    sections = re.findall(r"^## (.+)$", (ROOT / "README.md").read_text(), flags=re.M)
    shown = Counter(
        section
        for section in sections
        for titles in hooks.SECTIONS.values()
        if section.startswith(titles)
    )
    assert shown == Counter(sections)


def test_every_page_of_docs_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    made = {*hooks._readme(), *hooks._programs(), *hooks._reference(), *hooks._packages()}
    assert set(re.findall(r"[\w/]+\.md", menu)) == pages | made


def test_a_box_stands_above_all_that_it_imports():
    levels = hooks._levels({name: hooks._imports(name) for name in hooks._modules()})
    assert levels["arrays"] == 0
    for name, level in levels.items():
        assert all(levels[below] < level for below in hooks._imports(name)), name


def test_a_program_becomes_its_words_and_its_code():
    text = "# %% [markdown]\n# ## Text\n# goes on.\n\n# %%\nx = 1\n"
    page = hooks._cells(f'"""A title.\n\nWords.\n"""\n\n{text}', "a.py")
    assert page.split("\n\n") == [
        *("# A title", "Words.", "The whole program: `examples/a.py`.", "## Text\ngoes on."),
        "```python\nx = 1\n```",
    ]
