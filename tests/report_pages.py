"""A small but complete run for the tests of the report page: all claims, some with their rows."""

import hashlib
from pathlib import Path

from figures import report
from tests.claim_rows import CLAIMS, rows_of
from verification import provenance, store, texts
from verification.judge import judge
from verification.run import LEDGER, Settings

# of several areas; many rows and few, identities, whiskers, rows that do not apply, false readings
EVALUATED = ("T1", "T4a", "T8", "T10", "T13-nuclear", "T18", "T18-op", "T20", "T31-bipartite", "W1")
SVG = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="244.8pt" height="120pt"
 viewBox="0 0 244.8 120" xmlns="http://www.w3.org/2000/svg" version="1.1">
 <metadata>drawn by a program</metadata>
 <defs><style type="text/css">*{stroke-linejoin: round}</style>
  <clipPath id="p1"><rect width="200" height="100"/></clipPath><path id="m1" d="M0 0L9 9"/></defs>
 <g id="figure_1" clip-path="url(#p1)"><use xlink:href="#m1" x="20" y="20"/></g>
</svg>
"""
CAPTION = "What is shown (rows of claim T13).\n(a) One panel.\n(b) Another.\n"


def results(out: Path, changed: str = "") -> Path:
    """Store a run under `out`; the rows of the claim `changed` are larger by a half."""
    configuration = provenance.configuration(size="quick", seed=0, device="cpu")
    run, _ = store.open_run(out, {**configuration, "commit": "abc", "code": "c"}, list(CLAIMS))
    texts.write(out, LEDGER, Settings())
    for name, claim in CLAIMS.items():
        expected = LEDGER.expected[name]
        record = {"claim": name, "status": claim.status, "outcome": expected, "expected": expected}
        record |= {"tightness": None, "slack": None, "rows": 0, "seconds": 0.0}
        record |= {"regimes": []}
        rows = []
        if name in EVALUATED:
            verdict = judge(claim, rows_of(name))
            rows = [row.as_json() for row in rows_of(name)]
            record |= {"tightness": verdict.tightness, "slack": verdict.slack}
            record |= {"rows": len(rows), "outcome": verdict.outcome.value}
        if name == changed:
            for row in rows:
                row |= {key: 1.5 * row[key] for key in ("measured", "low", "high")}
        run.verdicts[name] = record
        if rows:
            path = store.rows_path(out, name)
            store.write_atomically(path, data := store.encode_rows(name, rows))
            run.files[name] = hashlib.sha256(data).hexdigest()
    run.save()
    return out


def drawn(out: Path) -> Path:
    """Put two figures under `out` that use the same ids."""
    out.mkdir(parents=True)
    for name in ("first", "second"):
        (out / f"{name}.svg").write_text(SVG)
        (out / f"{name}.txt").write_text(CAPTION)
    return out


def page(folder: Path, changed: str = "") -> Path:
    """Write the page of such a run; return its file."""
    figures = drawn(folder / "figures")
    to = folder / report.NAME
    return report.write(
        results(folder / "run", changed), figures, ["first", "absent", "second"], to
    )
