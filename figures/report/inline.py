"""A drawn figure as part of the page: its SVG, changed so as not to affect the rest."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from markupsafe import Markup

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
LOCAL = re.compile(r"(url\(#|^#)")
POINTS = re.compile(r"([\d.]+)pt")


def figure(path: Path, name: str) -> Markup:
    """Return the SVG of a file: with its own ids, styles for itself only, and no fixed size.

    ValueError: the file is not an SVG.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is damaged ({error}); run python -m figures again") from None
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}script"):
                parent.remove(child)
    for element in root.iter():
        if element.tag == f"{{{SVG}}}style":
            # "*{...}" would reach the whole page
            element.text = re.sub(r"(^|\})\s*\*", rf"\1#{name}-svg *", element.text or "")
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif LOCAL.search(value):
                element.set(key, LOCAL.sub(rf"\g<1>{name}-", value))
    width = POINTS.fullmatch(root.attrib.pop("width", ""))
    root.attrib.pop("height", None)
    root.set("id", f"{name}-svg")
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-caption")
    if width:
        root.set("style", f"width:{float(width[1]) / 72:.2f}in")
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    text = ElementTree.tostring(root, encoding="unicode")
    return Markup(re.sub(r">\s+<", "><", text))
