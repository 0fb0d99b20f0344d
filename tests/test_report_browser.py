"""The report page in a browser: headless Chromium from the system, driven by playwright.

Where either is missing these tests are skipped: pip install playwright, apt-get install chromium.
"""

import io
import os
import re
import shutil
from contextlib import contextmanager

import pytest
from matplotlib.image import imread

from tests import report_pages

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium; apt-get install chromium"),
]
FLAGS = (
    "--no-sandbox --headless --disable-gpu --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
PHONE, DESK = {"width": 375, "height": 812}, {"width": 1280, "height": 900}
NARROW = {"width": 300, "height": 600}  # narrower than the longest formula
VIOLATED = ["T4a", "T13-nuclear", "T18-op"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return report_pages.page(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@contextmanager
def opened(browser, file, fragment="", **options):
    """Open the page; at the end nothing may be on the console and nothing asked for but the file.

    JavaScript errors and what the page's own policy refuses are on the console, too.
    """
    context = browser.new_context(**{"viewport": DESK, **options})
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    context.on("request", lambda request: asked.append(request.url))
    context.route(re.compile("^(?!file:|data:)"), lambda route: route.abort())
    page.goto(file.as_uri() + fragment)
    yield page
    assert said == []
    own = [url for url in asked if not url.startswith("data:")]
    assert {url.split("#")[0] for url in own} == {file.as_uri()}
    context.close()


@pytest.fixture
def page(browser, file):
    with opened(browser, file) as found:
        yield found


def shown(page):
    return page.eval_on_selector_all("tbody[id]:not([hidden])", "all => all.map(e => e.id)")


def expanded(page, claim):
    return page.get_attribute(f"#{claim} .toggle", "aria-expanded") == "true"


def header(page, key):
    return page.locator(f"th[data-key={key}]")


def test_the_table_sorts_by_its_headers_and_back(page):
    before = shown(page)
    assert header(page, "order").get_attribute("aria-sort") == "ascending"
    header(page, "tightness").locator("button").click()
    assert header(page, "tightness").get_attribute("aria-sort") == "descending"
    assert header(page, "order").get_attribute("aria-sort") == "none"
    values = page.eval_on_selector_all(
        "tbody[id]", "all => all.map(e => Number(e.dataset.tightness))"
    )
    assert values == sorted(values, reverse=True)
    assert len(set(values)) > 3
    header(page, "tightness").locator("button").press("Enter")
    assert header(page, "tightness").get_attribute("aria-sort") == "ascending"
    header(page, "area").locator("button").press("Space")
    areas = page.eval_on_selector_all("tbody[id]", "all => all.map(e => e.dataset.area)")
    assert areas == sorted(areas)
    header(page, "order").locator("button").click()
    assert shown(page) == before


def test_the_name_of_a_claim_and_its_link_stand_on_one_line(page):
    heads = page.eval_on_selector_all(
        "tbody[id] .c-order",
        """all => all.map(e => ["toggle", "permalink"].map(
            name => e.querySelector("." + name).getBoundingClientRect()))""",
    )
    assert len(heads) > 100
    assert all(
        name["top"] < link["bottom"] and link["top"] < name["bottom"] for name, link in heads
    )


def test_the_name_of_a_claim_is_broken_at_its_hyphens_only(browser, file):
    with opened(browser, file, viewport=PHONE) as page:
        names = page.eval_on_selector_all(
            ".c-order .toggle",
            """all => all.map(e => {
                const text = document.createRange();
                text.selectNodeContents(e);
                return [e.innerText, text.getClientRects().length];
            })""",
        )
    assert len(names) > 100
    assert [name for name, lines in names if lines > len(name.split("-"))] == []


def test_the_table_filters_by_outcome_area_and_text_together(page):
    everything = shown(page)
    page.click(".chip[data-value=violated]")
    violated = shown(page)
    assert set(VIOLATED) <= set(violated)
    assert len(violated) < len(everything)
    assert page.inner_text("#count") == f"{len(violated)} of {len(everything)} claims"
    page.click(".chip[data-value=Truncation]")
    both = shown(page)
    assert "T18-op" in both
    assert "T4a" not in both
    page.fill("#search", "golden NUCLEAR")
    assert shown(page) == ["T18-op"]
    page.fill("#search", "no claim says this")
    assert shown(page) == []
    assert page.is_visible("#none")
    page.click("#clear")
    assert shown(page) == everything
    assert page.is_disabled("#clear")
    page.click(".chip[data-value=holds]")
    page.click(".chip[data-value=violated]")
    assert shown(page) == everything


def test_search_finds_words_of_a_proof_and_not_those_of_rows(page):
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("hölder")
    assert "T9" in shown(page)
    page.fill("#search", "instances = 240")
    assert shown(page) == []


def test_symbols_are_found_links_and_commands_copied_and_bars_painted(browser, file):
    granted = ["clipboard-read", "clipboard-write"]
    with opened(browser, file, permissions=granted) as page:
        page.fill("#search", "omega")
        found = shown(page)
        assert {"T2", "T13"} <= set(found)
        assert "W2" not in found
        page.fill("#search", "phi golden")
        assert "T18" in shown(page)
        page.click("#clear")
        page.click("#T18 .permalink")
        assert page.url.endswith("#T18")
        assert expanded(page, "T18")
        assert page.evaluate("navigator.clipboard.readText()") == page.url
        command = page.locator("#T18-detail .command", has_text="Run")
        command.locator("button").click()
        wanted = command.locator("code").inner_text()
        assert page.evaluate("navigator.clipboard.readText()") == wanted
        assert page.inner_text("#told") == f"Copied: {wanted}"
        bars = page.locator("#T18-detail mover.bar")
        for i in range(2):
            assert painted(bars.nth(i)) >= 0.6
        assert painted(page.locator("#T18-detail mi:not(mover *)").first) < 0.6


def painted(part):
    """Return the largest share of dark pixels of a line in the upper third of what is drawn."""
    image = imread(io.BytesIO(part.screenshot()))[..., :3].mean(axis=-1)
    return (image[: len(image) // 3] < 0.6).mean(axis=1).max()


def test_a_claim_opens_by_mouse_and_shows_all_of_its_parts(page):
    assert not page.is_visible("#T18-op-detail")
    page.click("#T18-op .c-outcome")
    assert expanded(page, "T18-op")
    detail = page.locator("#T18-op-detail")
    text = detail.inner_text()
    for part in ("ASSUMPTIONS", "COUNTEREXAMPLE", "SOURCE", "Deciding row."):
        assert part in text
    assert "python -m verification --only T18-op" in text
    assert "replay verification/counterexamples/T18-op.json" in text
    assert "import numpy as np" in text
    assert detail.locator("use.decides").count() == 1
    assert detail.locator(".dots use:not(.decides)").count() == 2
    page.click("#T18-op .c-outcome")
    assert not expanded(page, "T18-op")
    page.click("#T18-op .toggle")
    assert expanded(page, "T18-op")


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_a_claim_opens_by_keyboard_and_focus_is_seen(page, key):
    page.focus("th[data-key=rows] button")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-controls')") == "T1-detail"
    outline = page.evaluate("getComputedStyle(document.activeElement).outline")
    assert "solid 3px" in outline
    page.keyboard.press(key)
    assert expanded(page, "T1")
    assert page.is_visible("#T1-detail")
    page.keyboard.press(key)
    assert not page.is_visible("#T1-detail")


NAME = "e => e.id || e.getAttribute('aria-controls') || e.textContent.trim()"


def test_every_control_is_reached_by_tab_and_none_holds_the_focus(page):
    reached = []
    for _ in range(120):  # the answers link to many claims
        page.keyboard.press("Tab")
        reached.append(page.evaluate(f"({NAME})(document.activeElement)"))
    wanted = ["Skip to the claims", "theme", "search", "open-all", "close-all", "Claim"]
    wanted += ["T1-detail", "T2-detail"]
    places = [reached.index(name) for name in wanted]
    assert places == sorted(places)


def test_a_link_to_a_claim_opens_it_even_where_filters_hide_it(browser, file):
    with opened(browser, file, "#T18-op") as page:
        assert expanded(page, "T18-op")
        page.fill("#search", "golden")
        page.click("#T18-op-detail a[href='#T18']")
        assert expanded(page, "T18")
        page.fill("#search", "golden")
        page.click("#T18-detail a[href='#T9']")
        assert expanded(page, "T9")
        assert page.input_value("#search") == ""


def test_all_formulas_have_size(page):
    page.click("#open-all")
    sizes = page.eval_on_selector_all(
        "math", "all => all.map(e => e.getBoundingClientRect()).map(r => [r.width, r.height])"
    )
    assert len(sizes) > 1500
    assert all(width > 2 and height > 5 for width, height in sizes)
    # a fraction is as high as a fraction: drawn, not written in a row
    fraction, number = (page.locator(f"#T25 {tag}").first.bounding_box() for tag in ("mfrac", "mn"))
    assert fraction["height"] > 1.5 * number["height"]
    # nothing of LaTeX is left over
    text = page.evaluate("document.querySelector('main').innerText")
    left = re.search(r"\\[a-z]+|\$", text)
    assert not left, text[max(0, left.start() - 100) : left.end() + 100]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [NARROW, PHONE, DESK], ids=["narrow", "phone", "desk"])
def test_nothing_makes_the_page_scroll_sideways(browser, file, theme, size):
    with opened(browser, file, viewport=size, color_scheme=theme) as page:
        room = "[document.documentElement.scrollWidth, innerWidth]"
        width = size["width"]
        assert page.evaluate(room) == [width, width]
        page.click("#open-all")
        assert page.evaluate(room) == [width, width]
        # wide formulas scroll inside their paragraph, and there is room for at least some of them
        cut = page.evaluate(
            """() => [...document.querySelectorAll('math')].filter(e => {
                const box = e.closest('p, td, li').getBoundingClientRect();
                const own = e.getBoundingClientRect();
                const p = e.closest('p, td, li');
                return own.right > box.right + 1 && p.scrollWidth <= p.clientWidth + 1;
            }).map(e => e.closest('tbody')?.id)"""
        )
        assert cut == []


CONTRAST = """
() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const known = new Map();
  const painted = color => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const rgba = color => {
    if (!known.has(color)) known.set(color, painted(color));
    return known.get(color);
  };
  const light = rgb => {
    const [r, g, b] = rgb.slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = e => {
    for (; e; e = e.parentElement) {
      const found = rgba(getComputedStyle(e).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255, 255];
  };
  const low = new Map(); let count = 0;
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    const box = e.getBoundingClientRect();
    if (!own || !box.width || e.closest('.paper, .skip, script, title, mover.bar > mo')) continue;
    const style = getComputedStyle(e);
    const ink = rgba(e.namespaceURI.endsWith('svg') ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    count += 1;
    if (ratio < 4.5) low.set(`${e.tagName}.${e.className.baseVal ?? e.className}`, ratio);
  }
  return [count, [...low]];
}
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(browser, file, theme):
    with opened(browser, file, color_scheme=theme) as page:
        page.click("#open-all")
        page.click(".chip[data-value=violated]")
        page.click(".chip[data-value=holds]")
        count, low = page.evaluate(CONTRAST)
        assert count > 5000
        assert low == []


@pytest.mark.parametrize(("scheme", "other"), [("light", "dark"), ("dark", "light")])
def test_the_theme_follows_the_system_until_it_is_chosen(browser, file, scheme, other):
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, file, color_scheme=scheme) as page:
        first = page.evaluate(ground)
        assert (sum(map(int, re.findall(r"\d+", first))) > 600) == (scheme == "light")
        while page.inner_text("#theme") != f"Theme: {other}":
            page.click("#theme")
        second = page.evaluate(ground)
        assert second != first
        page.reload()
        assert page.evaluate(ground) == second
        page.emulate_media(media="print")
        printed = page.evaluate(ground)
        assert printed == "rgb(255, 255, 255)"


def test_in_print_all_is_open_and_nothing_is_a_control(page):
    page.emulate_media(media="print")
    hidden = page.eval_on_selector_all(
        ".detail", "all => all.filter(e => !e.getBoundingClientRect().height).length"
    )
    assert hidden == 0
    assert page.locator(".detail").count() > 80
    for control in ("#theme", "#search", ".chip >> nth=0", "nav"):
        assert not page.is_visible(control)


def test_without_scripts_all_is_open_and_readable(browser, file):
    with opened(browser, file, java_script_enabled=False) as page:
        assert page.is_visible("#T18-detail")
        assert not page.is_visible("#search")


def test_a_script_that_is_not_its_own_does_not_run(browser, file, tmp_path):
    other = tmp_path / "page.html"
    attack = (
        "<script>document.title = 'other'</script><img src=x onerror='document.title=1'></main>"
    )
    other.write_text(file.read_text().replace("</main>", attack))
    context = browser.new_context()
    tab, asked = context.new_page(), []
    context.on("requestfinished", lambda request: asked.append(request.url))
    tab.goto(other.as_uri())
    assert tab.title().startswith("decaf-theory: ")
    assert asked == [other.as_uri()]
    context.close()


def test_the_accessibility_tree_names_landmarks_table_and_buttons(page):
    assert page.get_by_role("main").count() == 1
    assert page.get_by_role("banner").count() == 1
    assert page.get_by_role("contentinfo").count() == 1
    assert page.get_by_role("navigation", name="On this page").count() == 1
    assert page.get_by_role("search", name="Claims").count() == 1
    assert page.get_by_role("table", name="All claims with their verdicts").count() == 1
    assert page.get_by_role("button", name="T18", exact=True).get_attribute("aria-expanded")
    assert page.get_by_role("columnheader", name="Tightness").count() == 1
    assert page.get_by_label("Search").count() == 1
