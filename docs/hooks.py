"""What `mkdocs` needs to make a site of pages that are written to be read in the repository.

Formulas become MathML, as on the page of the claims; the README becomes the first pages; programs
of `examples/` with `# %%` cells become pages; the reference and the picture of the packages are
made from the sources. Nothing on the site is fetched from elsewhere.
"""

from __future__ import annotations

import ast
import html
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from figures.report.formulas import formula

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "decaf_theory"
PROGRAMS = {"verification", "figures", "paper_checks"}
# the sections of the README by the page that shows them; what stands above the first is on index.md
SECTIONS = {
    "index.md": ("Quickstart", "The claims", "What is not checked", "How to cite"),
    "figures.md": ("The figures",),
    "speed.md": ("Speed",),
    "systems.md": ("Full models",),
    "adding.md": ("How to add", "When something is wrong"),
}
# what is looked at from left to right, so that no backquote closes what another one opened
TOKEN = re.compile(
    r"(?P<fence>^```.*?^```$)|\$`(?P<formula>[^`]+)`\$|(?P<code>``.+?``|`[^`\n]+`)"
    r"|(?<!!)\[(?P<words>[^\]\n]+)\]\((?P<target>[^)\s]+)\)",
    re.M | re.S,
)
KEPT = re.compile(r"(<p>)?(?P<kind>inline|displayed)x(?P<latex>[0-9a-f]+)x(?(1)</p>)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made: from the README, from programs, from the library."""
    for path, text in {**_readme(), **_programs(), **_reference(), **_packages()}.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Return a page's text with formulas as MathML and links that lead somewhere on the site."""
    markdown = re.sub(r"<details( open)?>", r"<details markdown\1>", markdown)
    markdown = re.sub(r"```math\n(.*?)\n```", _displayed, markdown, flags=re.S)
    return TOKEN.sub(lambda found: _token(found, page.file.src_uri, files), markdown)


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    """Return a page's HTML with its formulas as MathML."""
    return KEPT.sub(_drawn, content)


def _token(found: re.Match[str], page: str, files: Files) -> str:
    if found["formula"]:
        return _kept(found["formula"], "inline")
    return _link(found, page, files) if found["target"] else found[0]


def _displayed(found: re.Match[str]) -> str:
    return "\n" + _kept(re.sub(r"\\tag\{(.*?)\}", r"\\qquad (\1)", found[1]), "displayed") + "\n"


def _kept(latex: str, kind: str) -> str:
    """Return a formula as one word, in which Markdown finds nothing to read."""
    return f"{kind}x{latex.encode().hex()}x"


def _drawn(found: re.Match[str]) -> str:
    latex = bytes.fromhex(found["latex"]).decode()
    if found["kind"] == "inline":
        return "".join(formula(latex))
    return f'<div class="displayed">{" ".join(formula(latex))}</div>'


def _link(found: re.Match[str], page: str, files: Files) -> str:
    """Return a link to a page of the site; of another file the words and its path."""
    words, path = found["words"], found["target"].partition("#")[0]
    if not path or ":" in path:
        return found[0]
    there = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
    if files.get_file_from_path(there):
        return found[0]
    there = there.removeprefix("../")
    return f"{words} (`{there}`)" if there not in words else f"`{there}`"


def _readme() -> dict[str, str]:
    """Return the README's sections as pages, with links as they are from docs/."""
    text = (ROOT / "README.md").read_text()
    first, *rest = re.split(r"^## ", text.replace("](docs/", "]("), flags=re.M)
    pages = {}
    for page, titles in SECTIONS.items():
        chosen = [part for part in rest if part.startswith(titles)]
        if page == "index.md":
            pages[page] = first + "".join(f"## {part}" for part in chosen)
        else:
            pages[page] = "# " + re.sub(r"^### ", "## ", "".join(chosen), flags=re.M)
    return pages


def _programs() -> dict[str, str]:
    """Return each program of examples/ with `# %%` cells as a page: its words, its code."""
    pages = {}
    for path in sorted((ROOT / "examples").glob("*.py")):
        source = path.read_text()
        if "\n# %%" in source:
            pages[f"{path.stem}.md"] = _cells(source, path.name)
    return pages


def _cells(source: str, name: str) -> str:
    heading, *cells = re.split(r"^# %%", source, flags=re.M)
    title, _, words = (ast.get_docstring(ast.parse(heading)) or name).partition("\n")
    page = [f"# {title.rstrip('.')}", words.strip(), f"The whole program: `examples/{name}`."]
    for cell in cells:
        kind, _, text = cell.partition("\n")
        if kind == " [markdown]":
            page.append(re.sub(r"^# ?", "", text, flags=re.M).strip())
        else:
            page.append(f"```python\n{text.strip()}\n```")
    return "\n\n".join(part for part in page if part)


def _reference() -> dict[str, str]:
    """Return one page for each module that `decaf_theory` lists in its docstring."""
    names = re.findall(r"^    (\w+) ", ast.get_docstring(_tree(LIBRARY)) or "", flags=re.M)
    lines = [f"- [`{name}`]({name}.md): {_first_line(name)}" for name in names]
    pages = {f"reference/{name}.md": f"# {name}\n\n::: decaf_theory.{name}\n" for name in names}
    index = "# The library\n\nWhat each module offers, from the docstrings.\n\n"
    return {"reference/index.md": index + "\n".join(lines) + "\n", **pages}


def _tree(path: Path) -> ast.Module:
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(source.read_text())


def _first_line(name: str) -> str:
    return (ast.get_docstring(_tree(LIBRARY / name)) or "").partition("\n")[0]


def _packages() -> dict[str, str]:
    """Return the page with the picture of the packages: who stands on whom."""
    imports = {name: _imports(name) for name in _modules()}
    levels = _levels(imports)
    rows = []
    for level in range(max(levels.values()), -1, -1):
        boxes = [_box(name, imports[name]) for name in sorted(imports) if levels[name] == level]
        rows.append(f'<div class="layer">{"".join(boxes)}</div>')
    return {"architecture.md": f"{ABOVE}\n<div class='layers'>{''.join(rows)}</div>\n"}


def _levels(imports: dict[str, set[str]]) -> dict[str, int]:
    """Return how high each box stands: one above the highest that it imports from."""
    levels: dict[str, int] = {}
    while len(levels) < len(imports):
        ready = [n for n, below in imports.items() if n not in levels and below <= levels.keys()]
        if not ready:
            raise ValueError(f"imports in a circle: {sorted(imports.keys() - levels.keys())}")
        for name in ready:
            levels[name] = 1 + max((levels[other] for other in imports[name]), default=-1)
    return levels


ABOVE = """# Architecture

Each box may import from the boxes below it, and from no other: a test reads every import
(`tests/test_architecture.py`). A box stands one layer above the highest that it needs; hold the
pointer over it to see which. At the top are the four programs, below them the library.
"""


def _modules() -> list[str]:
    files = {path.stem for path in LIBRARY.glob("*.py")}
    packages = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
    return sorted((files | packages | PROGRAMS) - {"__init__"})


def _imports(name: str) -> set[str]:
    """Return the boxes that a box imports from."""
    home = (ROOT if name in PROGRAMS else LIBRARY) / name
    paths = home.rglob("*.py") if home.is_dir() else [home.with_suffix(".py")]
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                whole = [alias.name for alias in node.names]
            else:
                continue
            found |= {_box_of(module) for module in whole}
    return found & set(_modules()) - {name}


def _box_of(module: str) -> str:
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == "decaf_theory" else first


def _box(name: str, below: set[str]) -> str:
    about = html.escape(f"imports {', '.join(sorted(below)) or 'none of the others'}")
    return f'<span class="box" title="{about}">{name}</span>'
