"""The index of extracted clips, ``clips.json``, between ``build/extract_features.py`` and ``models.clips``.

Beside it, ``clips/<id>.npz`` holds a clip's features: ``audio_ns`` (T,) int64 and ``audio`` (T, 42) float32,
``vision_ns`` and ``vision`` (T, 59), times in media time; and ``made_of``, what they were made of.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy.typing as npt

from capture.features import audio, vision
from models import arrays
from models.data import DataError, Split

INDEX = "clips.json"
ARRAYS = ("audio_ns", "audio", "vision_ns", "vision")
AGAIN = "run build/extract_features.py again"

Rows: TypeAlias = dict[str, npt.NDArray[Any]]


class TimedWord(msgspec.Struct, frozen=True):
    """A word of a subtitle, and the media time when it was over."""

    text: str
    end_ns: int


class Clip(msgspec.Struct, frozen=True):
    """One labelled clip."""

    id: str  # of its file, clips/<id>.npz
    path: str
    label: str | float
    split: Split
    text: str
    words: tuple[TimedWord, ...]  # of the text, in the order of their ends; () where no times are known
    begin_ns: int  # media time of its first sample
    end_ns: int  # of its last one
    seconds: float
    audio_rows: int
    vision_rows: int


class Index(msgspec.Struct, frozen=True):
    """``clips.json``."""

    audio: str  # StreamSpec.hash of the audio features
    vision: str
    clips: tuple[Clip, ...]


def read_index(folder: Path) -> Index:
    """Read a folder's index and check it against this version's features and the files beside it.

    Raises DataError.
    """
    path = folder / INDEX
    try:
        index = msgspec.json.decode(path.read_bytes(), type=Index)
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}: run build/extract_features.py LABELS.csv --out {folder} first"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is no index of clips ({error}): {AGAIN}") from None
    for sense, found, ours in (
        ("audio", index.audio, audio.SPEC.hash),
        ("vision", index.vision, vision.SPEC.hash),
    ):
        if found != ours:
            raise DataError(
                f"{path}: made with other {sense} features ({found}, this version makes {ours}): {AGAIN}"
            )
    for clip in index.clips:
        file = rows_path(folder, clip.id)
        try:
            there = file.is_file()
        except OSError as error:  # the name is too long
            raise DataError(f"{path}: clip {clip.id[:40]!r}…: {error.strerror}: {AGAIN}") from None
        if not there:
            raise DataError(f"{file}, the features of {clip.path}, is missing: {AGAIN}")
    return index


def write_index(folder: Path, index: Index) -> None:
    """Write ``clips.json``, whole or not at all."""
    half = folder / f"{INDEX}.half"
    half.write_bytes(msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n")
    half.replace(folder / INDEX)


def rows_path(folder: Path, id: str) -> Path:
    """Where a clip's features lie."""
    return folder / "clips" / f"{id}.npz"


def read_rows(folder: Path, clip: Clip) -> Rows:
    """A clip's features, see the module's words. Raises DataError."""
    path = rows_path(folder, clip.id)
    try:
        stored = arrays.read(path)
        rows = {name: stored[name] for name in ARRAYS}
    except Exception as error:  # a damaged zip file raises of many kinds
        raise DataError(
            f"{path}, the features of {clip.path}, cannot be read ({error}): remove it and {AGAIN}"
        ) from None
    for sense, dim in (("audio", audio.SPEC.dim), ("vision", vision.SPEC.dim)):
        if rows[sense].shape != (rows[f"{sense}_ns"].size, dim) or rows[f"{sense}_ns"].ndim != 1:
            raise DataError(f"{path}: {sense} is {rows[sense].shape}: remove it and {AGAIN}")
    return rows
