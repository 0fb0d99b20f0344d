"""A file of safetensors: its header read and checked, its tensors read one at a time."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from decaf_theory.arrays import Array
from decaf_theory.files import from_json

INDEX = ".index.json"  # ends the name of a file that says which tensor is in which file
ALPHA = ".alpha"  # ends the name of a tensor that holds alpha; it may be an integer
# the types that are read, each with its name in NumPy
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
TYPES = {**DTYPES, "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1"}


@dataclass(frozen=True)
class Tensor:
    """A tensor that is stored and not yet read.

    name: what errors call it. shape and dtype, as safetensors writes it: of what is stored. path,
    start: the file, and where in it the numbers begin.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    path: Path
    start: int

    @property
    def nbytes(self) -> int:
        """How many bytes the numbers take in the file."""
        return math.prod(self.shape) * np.dtype(TYPES[self.dtype]).itemsize

    def numbers(self) -> Array:
        """Return the numbers in float64, exactly; ValueError: the file has become shorter."""
        size = math.prod(self.shape)
        X = np.fromfile(self.path, TYPES[self.dtype], size, offset=self.start)
        if X.size != size:
            raise ValueError(f"{self.path}: damaged or cut short: it ends within {self.name}")
        if self.dtype == "BF16":  # the upper half of a float32; NumPy has no such type
            X = (X.astype(np.uint32) << 16).view(np.float32)
        return X.astype(np.float64).reshape(self.shape)

    def read(self) -> Array:
        """Return the numbers in float64, exactly; ValueError: some are nan or inf."""
        X = self.numbers()
        require_finite(self.name, X)
        return X


def require_finite(name: str, X: Array) -> None:
    """Raise ValueError if an array holds nan or inf."""
    if not np.all(np.isfinite(X)):
        raise ValueError(f"{name} holds nan or inf")


def whole(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors by name and the metadata of a file, or of all files of an index.

    ValueError: what `stored` raises; an index that is not one, or names what its files do not hold.
    """
    if not path.name.endswith(INDEX):
        return stored(path)
    try:
        index = from_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(map(_is_plain, places.values())):
        raise ValueError(f"{path}: weight_map must hold names of files in its own folder")
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for name in sorted(set(places.values())):
        if not (path.parent / name).is_file():
            raise ValueError(f"{path}: names {name}, which is missing")
        part, about = stored(path.parent / name)
        listed = {key for key, held in places.items() if held == name}
        for key in sorted(listed ^ part.keys()):
            what = "names a tensor that is not in" if key in listed else "does not name a tensor of"
            raise ValueError(f"{path}: {what} {name}: {key}")
        tensors |= part
        metadata |= about
    return dict(sorted(tensors.items())), metadata


def _is_plain(name: object) -> bool:
    """Return whether this is the name of a file, and not a path to elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def stored(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file by name, in order of their names, and the file's metadata.

    ValueError: a file that is damaged or cut short, a name that cannot be printed, a type that is
    none of floating point.
    """
    try:
        with safe_open(path, framework="numpy"):  # checks the header, and the length of the file
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged or cut short: {error}") from None
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", None) or {}
    for name, about in header.items():
        if not name.isprintable():
            raise ValueError(f"{path}: tensor {name!r}: names must be printable")
        if about["dtype"] not in (TYPES if name.endswith(ALPHA) else DTYPES):
            raise ValueError(
                f"{path}: tensor {name}: dtype must be in {tuple(DTYPES)}, got {about['dtype']}"
            )
    return {
        name: Tensor(
            f"{path}: tensor {name}",
            tuple(header[name]["shape"]),
            header[name]["dtype"],
            path,
            8 + length + header[name]["data_offsets"][0],
        )
        for name in sorted(header)
    }, metadata
