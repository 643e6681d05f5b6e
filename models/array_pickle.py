"""Pickles of NumPy arrays and plain containers, read without running what is in them.

A pickle is a program: it names functions and calls them. Here every name is answered by a small stand-in that
checks what it is given, or the file is refused. NumPy's own ``dtype`` and ``ndarray`` are no answers: with a
state that a pickle may choose, plain bytes would pass for pointers to objects. Arrays lie over the bytes that
were read, without a copy, and cannot be written to.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import rich.progress
from rich.console import Console

from models.data import DataError

Array = npt.NDArray[Any]

BAR_FROM = 1 << 28  # bytes of a file that takes seconds to read


def load(path: Path) -> Any:
    """What the file holds, of any protocol; its arrays are to be unwrapped. Raises DataError."""
    try:
        with _opened(path) as file:
            return _Reader(file, path).load()
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path} is no pickle of arrays, or it is damaged ({type(error).__name__}: {reason})"
        ) from None


def unwrapped(value: Any) -> Array | None:
    """The array of a value: of a stand-in, or of a list or tuple of numbers; None where there is none."""
    if isinstance(value, _Array):
        return value.value
    if not isinstance(value, list | tuple):
        return None
    try:
        return np.array([one.value if isinstance(one, _Array) else one for one in value])
    except ValueError:  # rows of several lengths
        return None


def _opened(path: Path) -> IO[bytes]:
    if path.stat().st_size < BAR_FROM:
        return path.open("rb")
    reading: Any = rich.progress.open(
        path, "rb", description=f"reading {path.name}", console=Console(stderr=True), transient=True
    )
    opened: IO[bytes] = reading
    return opened


def _bytearray8(reader: Any) -> None:
    """A bytearray is filled with zeros before it is read, so its length is checked first."""
    if (length := int.from_bytes(reader.read(8), "little")) > reader.size:
        raise ValueError(f"{length} bytes are said to follow in a file of {reader.size}")
    data = bytearray(length)
    if reader.readinto(data) != length:
        raise EOFError("the file ends too early")
    reader.append(data)


class _Reader(pickle._Unpickler):
    """Knows the names of NumPy's arrays and of plain containers, and refuses all others.

    Python's own unpickler, not the one in C: that one makes its memo as large as a file of a few bytes says.
    """

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _bytearray8}

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file)
        self.path = path
        self.size = path.stat().st_size

    def find_class(self, module: str, name: str, /) -> Any:
        if (found := _GLOBALS.get((module, name))) is None:
            raise DataError(
                f"{self.path} is refused: it asks for {f'{module}.{name}'!r}, which was not run. Data are "
                "NumPy arrays and plain containers, so this file is of another kind, or harmful"
            )
        return found


class _Maker:
    """What a pickle may call. It has no attribute that a pickle could set."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: object) -> None:
        raise ValueError("a function has no state")


class _Type:
    """Stands in for ``numpy.dtype``: numbers, text and objects, with their byte order."""

    __slots__ = ("dtype",)

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch(r"[biufSU][1-9]\d{0,5}|O\d?", code):
            raise ValueError(f"arrays of type {code!r:.20} are not expected")
        self.dtype: np.dtype[Any] = np.dtype("O" if code[0] == "O" else code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *structure = state
        if order not in ("<", ">", "=", "|") or structure[:3] != [None] * 3:
            raise ValueError("arrays of structures are not expected")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands in for ``numpy.ndarray``: made empty, then given its shape, type and bytes."""

    __slots__ = ("value",)

    def __init__(self, value: Array | None = None) -> None:
        self.value = value

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, raw = state
        self.value = _viewed(raw, kind, shape, "F" if fortran else "C")


def _viewed(raw: Any, kind: Any, shape: tuple[int, ...], order: Literal["C", "F"]) -> Array:
    """An array over the bytes; of objects, with those of the list."""
    if not isinstance(kind, _Type) or not all(type(axis) is int and axis >= 0 for axis in shape):
        raise ValueError("an array without a type or a shape")
    objects = kind.dtype.hasobject
    there, count = len(raw) if objects else memoryview(raw).nbytes, math.prod(shape)
    if there != count * (1 if objects else kind.dtype.itemsize):
        raise ValueError(f"an array {shape} of {kind.dtype} is not made of {there} bytes or objects")
    if not count:
        return np.empty(shape, kind.dtype)
    if not objects:
        return np.frombuffer(raw, kind.dtype).reshape(shape, order=order)
    array = np.empty(count, object)
    for index, one in enumerate(raw):
        array[index] = one
    return array.reshape(shape)  # NumPy lists objects in C's order, whatever the array's


def _uncalled(*_: object) -> None:
    raise ValueError("an array that NumPy would not have written")


_NDARRAY = _Maker(_uncalled)  # only ever handed to _reconstruct


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    if kind is not _NDARRAY or shape != (0,) or code not in (b"b", "b"):
        raise ValueError("an array that NumPy would not have written")
    return _Array()


def _from_buffer(raw: Any, kind: Any, shape: tuple[int, ...], order: Literal["C", "F"]) -> _Array:
    return _Array(_viewed(raw, kind, shape, order))


def _scalar(kind: Any, raw: Any) -> Any:
    return _viewed(raw, kind, (), "C")[()]


def _encoded(text: str, encoding: str) -> bytes:
    """How protocols before 3 write bytes."""
    if encoding != "latin1":
        raise ValueError(f"bytes written as {encoding!r:.20}, expected latin1")
    return text.encode("latin1")


def _bytes(*given: object) -> bytes:
    if given:
        raise ValueError("bytes that Python would not have written")
    return b""


_GLOBALS: dict[tuple[str, str], _Maker] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Maker(_Type),
    ("_codecs", "encode"): _Maker(_encoded),
    ("collections", "OrderedDict"): _Maker(dict),
}
for _core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    _GLOBALS[f"{_core}.multiarray", "_reconstruct"] = _Maker(_reconstruct)
    _GLOBALS[f"{_core}.multiarray", "scalar"] = _Maker(_scalar)
    _GLOBALS[f"{_core}.numeric", "_frombuffer"] = _Maker(_from_buffer)  # protocol 5
for _builtins in ("builtins", "__builtin__"):
    _GLOBALS[_builtins, "set"] = _Maker(set)
    _GLOBALS[_builtins, "frozenset"] = _Maker(frozenset)
    _GLOBALS[_builtins, "bytes"] = _Maker(_bytes)
