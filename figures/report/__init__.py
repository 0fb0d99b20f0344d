"""The page that shows a whole run: `report.html`, one self-contained file.

    write(results, figures, names, to)

reads the stored rows, verdicts and texts under `results` and the figures drawn in `figures`; equal
ones give equal bytes. `page.html.j2` is the page, `page.css` its look, `page.js` what moves.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from decaf_theory.files import write_atomically
from decaf_theory.formats import digits, ratio
from figures.report import about, downloads
from figures.report.formulas import claims_in, prose
from figures.report.inline import figure
from figures.report.strips import plot, sentence
from figures.rows import MissingError, attacks, bench
from verification import store
from verification.claim import RESOLUTION, Outcome, deciding_row, tightest_row

HERE = Path(__file__).parent
NAME = "report.html"
NONE = "–"  # in a cell without a number
PROVENANCE = ("version", "commit", "code", "python", "device", "dtype", "threads", "seed", "size")
BEGIN = "python -m verification"
EXACT = ("error", "cases", "worst ratio", "difference")  # in measures that are no time or memory


def write(results: Path, figures: Path, names: Sequence[str], to: Path) -> Path:
    """Write the page with the figures `names` as far as they are drawn; return its path.

    StoreError: a file that the page needs is missing or damaged, with the command that makes it.
    """
    write_atomically(to, render(content(results, figures, names)).encode())
    return to


def render(content: Mapping[str, Any]) -> str:
    """Return the page. By the sum in its policy it may run only its own script."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # slow to load

    script = (HERE / "page.js").read_text(encoding="utf-8")
    sum_ = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["digits"] = digits
    template = environment.get_template("page.html.j2")
    inline = {
        "script": Markup(script),
        "style": Markup((HERE / "page.css").read_text(encoding="utf-8")),
    }
    return template.render(**content, **inline, script_sum=sum_) + "\n"


def content(results: Path, figures: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return the contents of the page, under the template's names."""
    run = store.read_run(results)
    verdicts = {record["claim"]: record for record in store.read_verdicts(results)}
    texts = store.read_sealed(results / "claims.json")
    ids = [text["claim"] for text in texts["claims"] if text["claim"] in verdicts]
    unknown = sorted(verdicts.keys() - set(ids))
    if unknown:
        raise store.StoreError(
            f"{results}/claims.json says nothing about {', '.join(unknown)}; run {BEGIN} again"
        )
    hunted = _attacks(results)
    judged = [text for text in texts["claims"] if text["claim"] in verdicts]
    claims = [entry(results, run, text, verdicts[text["claim"]], ids, hunted) for text in judged]
    shown = [
        {"name": f"figure-{name}", "number": number, **drawing}
        for number, (name, drawing) in enumerate(drawn(figures, names, ids), 1)
    ]
    for claim in claims:
        claim["figures"] = [figure for figure in shown if claim["id"] in figure["claims"]]
    return {
        "answers": about.answers({claim["id"]: not claim["as_expected"] for claim in claims}),
        "links": about.links(),
        "citation": about.citation(),
        "ledger": downloads.ledger(judged, verdicts),
        "claims": claims,
        "left_out": len(texts["claims"]) - len(claims),
        "notation": [prose(text) for text in texts["notation"]],
        "totals": totals(claims),
        "outcomes": Counter(claim["outcome"] for claim in claims),
        "areas": Counter(claim["area"] for claim in claims),
        "figures": shown,
        "bench": _bench(results),
        "provenance": {name: run.get(name) for name in PROVENANCE},
        "libraries": run.get("libraries", {}),
        "again": f"{BEGIN} all --size {run['size']} --seed {run['seed']}",
    }


def entry(
    results: Path,
    run: Mapping[str, Any],
    text: Mapping[str, Any],
    verdict: Mapping[str, Any],
    ids: Sequence[str],
    hunted: Mapping[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    """Return the contents of the page for one claim."""
    name, found = text["claim"], verdict["rows"] > 0
    rows = store.read_evidence(results, name) if found else []
    decides, tightest = deciding_row(rows), tightest_row(rows)
    tightness = verdict["tightness"]
    return {
        "id": name,
        "area": text["title"],
        "words": about.symbols([text["statement"], *(body for _, body in text["sections"])]),
        "status": text["status"],
        "statement": prose(text["statement"], ids, name),
        "sections": [(title, prose(body, ids, name)) for title, body in text["sections"]],
        "outcome": verdict["outcome"].replace("_", " "),
        "expected": (verdict["expected"] or "nothing").replace("_", " "),
        "as_expected": verdict["outcome"] == verdict["expected"],
        "tightness": ratio(tightness, NONE),
        "sort_tightness": -1 if tightness is None else tightness,
        "attained": tightness is not None and abs(tightness - 1) <= RESOLUTION,
        "slack": ratio(verdict["slack"], NONE),
        "rows": verdict["rows"],
        "plot": plot(rows, decides) if rows else None,
        "decides": sentence(decides) if decides else "",
        "tightest": sentence(tightest) if tightest and tightest is not decides else "",
        "attacks": hunted.get(name, []),
        "counterexample": text["counterexample"],
        "command": text["command"],
        "explain": text["explain"],
        "sum": run["files"].get(name, ""),
        "data": downloads.rows(results, name) if found else "",
    }


def totals(claims: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the numbers at the head of the page."""
    expected = Counter(claim["outcome"] for claim in claims if claim["as_expected"])
    return {
        "claims": len(claims),
        "holds": expected[Outcome.HOLDS],
        "violated": expected[Outcome.VIOLATED],
        "unexpected": sum(not claim["as_expected"] for claim in claims),
        "attained": sum(claim["attained"] and claim["outcome"] == "holds" for claim in claims),
        "rows": sum(claim["rows"] for claim in claims),
    }


def drawn(
    figures: Path, names: Sequence[str], ids: Sequence[str]
) -> list[tuple[str, dict[str, Any]]]:
    """Return the figures that were drawn: image, paragraphs of the caption, claims it names."""
    found = []
    for name in names:
        image, caption = figures / f"{name}.svg", figures / f"{name}.txt"
        if image.exists() and caption.exists():
            text = caption.read_text(encoding="utf-8")
            parts = [prose(part, ids) for part in re.split(r"\n(?=\([a-z]\))", text)]
            drawing = {"image": figure(image, f"figure-{name}"), "caption": parts}
            found.append((name, {**drawing, "claims": claims_in(text, ids)}))
    return found


def _attacks(results: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the stored attacks of each claim."""
    found: dict[str, list[dict[str, Any]]] = {}
    for attack in attacks(results):
        shown = {"variant": attack["variant"], "ratio": f"{attack['ratio']:.6f}"}
        found.setdefault(attack["claim"], []).append({**shown, "outcome": attack["outcome"]})
    return found


def _bench(results: Path) -> list[dict[str, Any]]:
    """Return the verdicts of the benchmark that have a goal; none if it was not run.

    `wrong`: what is missed is no matter of a busy machine, as speed and memory are.
    """
    try:
        found = bench(results)
    except MissingError:
        return []
    goals = [row for row in found if row["kind"] == "verdict" and row.get("limit")]
    return [{**row, "wrong": row["status"] == "missed" and exact(row["measure"])} for row in goals]


def exact(measure: str) -> bool:
    """Whether a measure of the benchmark is the same on a busy machine: an error, a count."""
    return any(word in measure for word in EXACT)
