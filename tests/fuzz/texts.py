"""Values and bytes of a file that somebody else may have written."""

import json
import math

from hypothesis import strategies as st

ODD = ["", "nan", "\x1b[31m", "é\u2028", "../x", "a" * 300, "(a+)+!", "__class__", "random"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.sampled_from([10**9, -(2**63), 10**400]),
    st.floats(),
    st.sampled_from(ODD),
    st.text(max_size=4),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


def places(value, path=()):
    """Return the paths to all values inside of a value of JSON, itself first."""
    found = [path]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value[:3]):
            found += places(inner, (*path, i))
    return found


def changed(value, path, new):
    """Return a value with what is at a path replaced; `...` removes it."""
    if not path:
        return None if new is ... else new
    first, *rest = path
    items = dict(value) if isinstance(value, dict) else list(value)
    if not rest and new is ...:
        del items[first]
    else:
        items[first] = changed(items[first], rest, new)
    return items


@st.composite
def damaged(draw, value, times=2):
    """Draw a value with some of its parts replaced or removed."""
    for _ in range(draw(st.integers(1, times))):
        path = draw(st.sampled_from(places(value)))
        value = changed(value, path, draw(st.one_of(st.just(...), VALUES)))
    return value


@st.composite
def torn(draw, data):
    """Draw bytes: a file cut short, with some bytes replaced, or something put in."""
    at = draw(st.integers(0, len(data)))
    put = draw(st.one_of(st.binary(max_size=8), st.just(b"[" * 20_000)))
    end = draw(st.sampled_from([at, min(at + len(put), len(data)), len(data)]))
    return data[:at] + put + data[end:]


def as_json(value):
    """Return the bytes of a value, with NaN and infinities as Python writes them."""
    return json.dumps(value).encode()


def as_toml(tables):
    """Return a text of TOML for tables of scalars, lists and tables; other values are dropped."""
    return "".join(f"{json.dumps(str(key))} = {_toml(value)}\n" for key, value in tables.items())


def _toml(value):
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if value is None:
        return '""'
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
