"""The house's rules: who imports whom, what stays lazy, what is installed, what is pinned."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import decaf_theory
from decaf_theory import lowrank

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("decaf_theory", "verification", "figures", "paper_checks", "tests")

# what each module of the library may import from the library, by first component
ALLOWED = {
    "arrays": set(),
    "extras": set(),
    "faults": {"extras", "files", "terminal"},
    "files": set(),
    "findings": set(),
    "interrupts": set(),
    "memory": set(),
    "sums": {"files"},
    "formats": set(),
    "names": set(),
    "rng": {"arrays"},
    "bounds": set(),
    "continual": {"arrays"},
    "stats": {"arrays"},
    "small_steps": {"bounds", "topology"},
    "terminal": {"interrupts"},
    "topology": {"arrays", "names", "rng"},
    "lowrank": {"arrays"},
    "concentration": {"arrays"},
    "tsvd": {"arrays", "extras", "lowrank", "memory", "tsvd"},
    "methods": {
        *("arrays", "formats", "names", "rng", "lowrank", "tsvd", "measure", "topology", "methods"),
        *("extras", "findings", "terminal"),
    },
    "measure": {"arrays", "lowrank", "tsvd"},
    "problems": {"arrays", "findings", "names", "rng", "lowrank", "topology", "problems"},
    "pictures": {"files"},
    "compare": {"arrays", "bounds", "files", "lowrank", "measure", "methods", "pictures"}
    | {"simulate", "stats", "topology", "compare"},
    "moments": {"arrays", "lowrank", "topology"},
    "simulate": {"arrays", "memory", "rng", "lowrank", "tsvd", "topology"}
    | {"methods", "measure", "problems", "moments"},
    "adapters": {"arrays", "formats", "terminal", "lowrank", "tsvd", "topology"}
    | {"methods", "measure", "adapters", "files", "sums"}
    | {"pictures"}
    | {"bounds"},
    "adversary": {"extras", "rng"},
    "conformance": {"arrays", "extras", "files", "names", "rng", "lowrank", "topology", "methods"}
    | {"conformance", "terminal"},
    "bench": {"arrays", "extras", "files", "formats", "rng", "lowrank", "topology", "tsvd", "bench"}
    | {"methods", "problems", "simulate", "sums"}
    | {"plan", "terminal"},
    "distributed": {"__init__", "arrays", "faults", "interrupts", "terminal", "lowrank", "tsvd"}
    | {"files", "sums"}
    | {"topology", "methods", "problems", "simulate"},
    "plan": {"arrays", "bounds", "formats", "lowrank", "methods", "names", "rng", "terminal"}
    | {"topology", "tsvd"},
    "commands": {"adapters", "bench", "commands", "conformance", "files", "methods", "terminal"}
    | {"names", "plan", "sums", "topology"}
    | {"pictures"},
    "programs": {"faults", "interrupts"},
    "__main__": {"programs"},
    "cli": {"commands", "faults", "interrupts", "terminal"},
    "__init__": {"adapters", "bounds", "compare", "lowrank", "measure", "methods", "moments"}
    | {"problems", "simulate", "small_steps", "stats", "topology", "tsvd"},
}
TORCH_BY_NATURE = {"adversary"}
HEAVY = {"torch", "matplotlib", "transformers", "networkx", "scipy.stats"}
# what each room may import from the other rooms, as dotted prefixes
ROOM_ALLOWED = {
    "decaf_theory": ("decaf_theory",),
    "verification": ("decaf_theory", "verification"),
    "figures": (
        *("figures", "verification.claim", "verification.options", "verification.store"),
        *("decaf_theory.files", "decaf_theory.formats", "decaf_theory.topology"),
        *("decaf_theory.interrupts", "decaf_theory.sums", "verification.harness"),
        "decaf_theory.faults",
        "decaf_theory.names",
        "decaf_theory.programs",
        "decaf_theory.terminal",
        "verification.formulas",
        "verification.workers",
    ),
    "paper_checks": (
        *("paper_checks", "decaf_theory", "figures.partition"),
        *("verification.claim", "verification.judge", "verification.store"),
        *("verification.adapter_evidence", "verification.adapter_report"),
        *("verification.harness", "verification.provenance", "verification.workers"),
        *("verification.cluster", "verification.serving"),
    ),
}


def sources(room: str) -> list[Path]:
    return sorted(path for path in (ROOT / room).rglob("*.py") if "out" not in path.parts)


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports; `from a import b` counts as a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; say the full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def library_module(path: Path) -> str:
    parts = path.relative_to(ROOT / "decaf_theory").with_suffix("").parts
    return parts[0]


@pytest.mark.parametrize("path", sources("decaf_theory"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_imports_downward_only(path):
    module = library_module(path)
    assert module in ALLOWED, f"{module} has no line in ALLOWED: say where it stands"
    inside = {name.split(".")[1] for name in imported(path) if name.startswith("decaf_theory.")}
    own = {module} if path.parent != ROOT / "decaf_theory" else set()
    assert inside - own <= ALLOWED[module]


@pytest.mark.parametrize("room", ROOM_ALLOWED)
def test_each_room_imports_only_the_rooms_below_it(room):
    for path in sources(room):
        for name in imported(path):
            if name.split(".")[0] in ROOMS:
                fits = any(
                    name == prefix or name.startswith(prefix + ".") for prefix in ROOM_ALLOWED[room]
                )
                assert fits, f"{path.relative_to(ROOT)} imports {name}"


def test_bounds_import_nothing_of_ours():
    for path in sources("decaf_theory/bounds"):
        outside = {n for n in imported(path) if n.startswith("decaf_theory")}
        assert all(name.startswith("decaf_theory.bounds") for name in outside)


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_library_loads_no_heavy_module():
    modules = ", ".join(
        f"decaf_theory.{name}"
        for name in sorted(ALLOWED)
        if name not in ("__init__", *TORCH_BY_NATURE)
        and list((ROOT / "decaf_theory").glob(f"{name}*"))
    )
    assert not HEAVY & loaded_by("import decaf_theory")
    assert not HEAVY & loaded_by(f"import {modules}")


def test_the_package_offers_its_names_and_loads_them_when_they_are_used():
    assert dir(decaf_theory) == sorted(decaf_theory.__all__)
    assert not [name for name in loaded_by("import decaf_theory") if "decaf_theory." in name]
    loaded = loaded_by(f"from decaf_theory import {', '.join(decaf_theory.__all__)}")
    assert "decaf_theory.moments" in loaded
    assert not HEAVY & loaded
    assert decaf_theory.Factors is lowrank.Factors
    assert decaf_theory.lowrank is lowrank
    assert decaf_theory.tsvd.tsvd_of_mix is decaf_theory.tsvd_of_mix  # the package of that name


def test_names_and_type_checkers_see_the_same_package():
    seen = imported(ROOT / "decaf_theory" / "__init__.py")
    ours = {name for name in seen if name.startswith("decaf_theory.")}
    modules = set(decaf_theory.__all__) - decaf_theory.HOMES.keys() - {"__version__"}
    names = {f"decaf_theory.{home}.{name}" for name, home in decaf_theory.HOMES.items()}
    assert ours == names | {f"decaf_theory.{module}" for module in modules}
    with pytest.raises(AttributeError, match="'decaf_theory' has no attribute 'nothing'"):
        _ = decaf_theory.nothing


def test_verification_on_the_cpu_runs_without_torch():
    assert not {"torch", "matplotlib"} & loaded_by("import verification.__main__")


def test_constraints_pin_every_dependency_exactly():
    lines = (ROOT / "constraints.txt").read_text().split()
    assert lines
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines), lines
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["torch"], *extras["test"], *extras["dev"]]
    names = {re.match(r"[A-Za-z0-9._-]+", text)[0].lower().replace("_", "-") for text in wanted}
    assert names - {project["name"]} <= pinned
    # builds of torch for CUDA pin their own triton
    assert "triton" not in pinned


@pytest.mark.parametrize("room", ROOM_ALLOWED)
def test_every_room_says_what_it_is(room):
    assert ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text()))
