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
    """Return the function; its module is executed, as `import` does. ValueError: there is none."""
    module_name, _, attribute = name.rpartition(":")
    if not module_name or not attribute:
        raise ValueError(
            f"function must be module:function or file.py:function, got {name!r}; "
            f"for aggregate in mix.py say mix:aggregate"
        )
    module = _module(module_name)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [each for each in dir(module) if callable(getattr(module, each))]
            near = get_close_matches(attribute, public, n=1, cutoff=0.0)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise ValueError(f"{module_name} has no {attribute!r}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{name} must be a function, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _module(name: str) -> ModuleType:
    if name.endswith(".py"):
        path = place(name)
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        sys.path.insert(0, str(path.parent.resolve()))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None  # of a file that ends with .py
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise  # a package that the module itself needs
        raise ValueError(f"there is no module {name!r} here or installed") from None
