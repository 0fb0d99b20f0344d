"""Files inside the page: links that hold the data, saved by the browser without any request."""

from __future__ import annotations

import base64
import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verification import store
from verification.formulas import plain

COLUMNS = ("claim", "area", "statement", "status", "outcome", "expected", "tightness", "slack")


def rows(results: Path, claim: str) -> str:
    """Return the address of a claim's stored rows, gzipped JSON lines.

    The header of gzip holds neither a time nor a name: equal rows give equal bytes.
    """
    packed = gzip.compress(store.rows_path(results, claim).read_bytes(), mtime=0)
    return _address("application/gzip", packed)


def ledger(texts: Sequence[Mapping[str, Any]], verdicts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the address of a table of all claims with their verdicts, as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([*COLUMNS, "rows"])
    for text in texts:
        found = verdicts[text["claim"]]
        line = {**text, **found, "statement": plain(text["statement"])}
        writer.writerow([line[name] for name in (*COLUMNS, "rows")])
    return _address("text/csv;charset=utf-8", out.getvalue().encode())


def _address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
