"""Load somebody's function by its name: "module:function", or "path/to/file.py:function"."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from decaf_theory.files import place


def load(name: str) -> Callable[..., Any]:
    """Return the function; its module is executed, as `import` does.

    ValueError: there is none, or the module raises an error or exits.
    """
    module_name, _, attribute = name.rpartition(":")
    if not module_name or not attribute:
        raise ValueError(
            f"function must be module:function or file.py:function, got {name!r}; "
            f"for aggregate in mix.py say mix:aggregate"
        )
    try:
        module = _of_file(module_name) if module_name.endswith(".py") else _module(module_name)
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"{module_name} cannot be imported: {type(error).__name__}: {text}"
        ) from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{module_name} has no {attribute!r}{_nearest(module, attribute)}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{name} must be a function, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _nearest(module: ModuleType, attribute: str) -> str:
    public = [each for each in dir(module) if callable(getattr(module, each))]
    near = get_close_matches(attribute, public, n=1, cutoff=0.0)
    return f"; the nearest is {near[0]}" if near else ""


def _of_file(name: str) -> ModuleType:
    path = place(name)
    if not path.is_file():
        raise FileNotFoundError("no such file")
    sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # of a file that ends with .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)
