#!/usr/bin/env python3
"""Labelled clips become training features, by the code that runs live.

LABELS.csv has a header and the columns ``path`` (from the table's folder, or --clips), ``text``, ``label``:
names of classes, or numbers in [-3, 3]. Optional columns: ``split`` (train, validation, test), ``group``
(a speaker or a video: a group stays in one split), ``start_s`` and ``end_s`` (a part of the file). Where
``text`` is empty, words come from the .srt or .vtt beside the clip, with their times. Without a split
column, a tenth of the groups validates and a tenth tests, by the checksum of their names.

    python build/extract_features.py labels.csv --out features
    python -m models.train --config models/configs/clips.toml --data features --out run
    python -m runtime.live --network run/bundle

Each clip is kept when it is done: a run that was stopped goes on, and clips that changed are done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).parent.parent))

from capture import assets, subtitles
from capture.features import audio, vision
from capture.link import SourceError
from models.clips import INDEX, Clip, Index, SpokenWord, split_of
from models.data import Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Row(NamedTuple):
    """One line of the table."""

    line: int
    path: Path
    text: str
    label: str
    split: Split
    start_s: float
    end_s: float | None

    @property
    def id(self) -> str:
        return f"{zlib.crc32(f'{self.path}|{self.start_s}|{self.end_s}'.encode()):08x}"


class BadTable(ValueError):
    """A table that cannot be used; the message names the line."""


def read_table(table: Path, clips: Path) -> list[Row]:
    """The rows of LABELS.csv. Raises BadTable."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            if missing := {"path", "text", "label"} - set(names):
                raise BadTable(f"{table}: no column {', '.join(sorted(missing))}; it has {', '.join(names)}")
            rows = [_row(table, reader.line_num, raw, clips) for raw in reader]
    except OSError as error:
        raise BadTable(f"{table}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadTable(
            f"{table}: not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from None
    except csv.Error as error:
        raise BadTable(f"{table}: not a CSV table ({error})") from None
    if not rows:
        raise BadTable(f"{table}: no clip in it")
    if double := [row for row in rows if sum(row.id == other.id for other in rows) > 1]:
        raise BadTable(f"{table}, line {double[1].line}: {double[1].path.name} is there twice")
    return rows


def _row(table: Path, line: int, raw: dict[str, str | None], clips: Path) -> Row:
    def value(name: str) -> str:
        return (raw.get(name) or "").strip()

    where = f"{table}, line {line}"
    path = (clips / value("path")).resolve()
    if not value("path") or not path.is_file():
        raise BadTable(f"{where}: path {value('path')!r} is no file in {clips}")
    if not value("label"):
        raise BadTable(f"{where}: the label is empty")
    split = split_of(value("group") or value("path"))
    if value("split"):
        try:
            split = msgspec.convert(value("split"), Split)
        except msgspec.ValidationError:
            raise BadTable(f"{where}: split {value('split')!r}, expected {', '.join(SPLITS)}") from None
    try:
        start_s, end_s = float(value("start_s") or 0), float(value("end_s")) if value("end_s") else None
    except ValueError:
        raise BadTable(
            f"{where}: start_s {value('start_s')!r} and end_s {value('end_s')!r} must be seconds"
        ) from None
    if start_s < 0 or (end_s is not None and end_s <= start_s):
        raise BadTable(f"{where}: end_s {end_s} must lie behind start_s {start_s}, which is 0 or more")
    return Row(line, path, value("text"), value("label"), split, start_s, end_s)


def labels_of(rows: Sequence[Row], table: Path, task: str) -> list[str | float]:
    """Names, or numbers where every label is one. Raises BadTable."""
    numbers: list[float | None] = []
    for row in rows:
        try:
            numbers.append(float(row.label))
        except ValueError:
            numbers.append(None)
    if task == "classification" or (task == "auto" and any(number is None for number in numbers)):
        return [row.label for row in rows]
    found: list[str | float] = []
    for row, number in zip(rows, numbers, strict=True):
        if number is None or not -3 <= number <= 3:
            raise BadTable(f"{table}, line {row.line}: label {row.label!r}, expected a number in [-3, 3]")
        found.append(number)
    return found


def extract(row: Row, out: Path, asset: Path | None) -> str | None:
    """Make one clip's file unless it is there; runs in a worker. Returns what is wrong, or None.

    asset: the face landmarker; None leaves the pictures out.
    """
    from capture import offline

    target = out / "clips" / f"{row.id}.npz"
    stat = row.path.stat()
    made_of = json.dumps([audio.SPEC.hash, asset and vision.SPEC.hash, stat.st_size, stat.st_mtime_ns])
    try:
        with np.load(target) as stored:
            if str(stored["made_of"]) == made_of:
                return None
    except (OSError, KeyError, ValueError):
        pass
    start_ns = round(row.start_s * 1e9)
    try:
        heard = offline.hear(row.path, start_ns)
        seen = offline.Memory().rows(vision.SPEC.dim)
        if asset is not None:
            seen = offline.see(row.path, asset, start_ns)
    except SourceError as error:
        return str(error)
    if not len(heard.times_ns) and not len(seen.times_ns):
        return f"{row.path} has neither sound nor pictures from {row.start_s:g} s on"
    arrays = {}
    for name, rows in (("audio", heard), ("vision", seen)):
        kept = rows.times_ns <= (round(row.end_s * 1e9) if row.end_s is not None else np.iinfo(np.int64).max)
        arrays |= {f"{name}_ns": rows.times_ns[kept], name: rows.values[kept]}
    half = target.with_suffix(f".{os.getpid()}.half.npz")
    np.savez(half, made_of=made_of, **arrays)  # type: ignore[arg-type]
    half.replace(target)
    return None


def clip_of(row: Row, label: str | float, out: Path) -> Clip:
    """The index's entry of a clip that was extracted."""
    with np.load(out / "clips" / f"{row.id}.npz") as stored:
        end_ns = max(int(t[-1]) for name in ("audio_ns", "vision_ns") if len(t := stored[name]))
    words = tuple(SpokenWord(word) for word in row.text.split())
    if not words and (beside := subtitles.find(row.path)) is not None:
        words = tuple(SpokenWord(word.text, word.end_ns) for word in subtitles.read(beside))
    return Clip(row.id, str(row.path), label, row.split, words, end_ns)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, metavar="LABELS.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the features")
    parser.add_argument("--clips", type=Path, help="where the paths begin (default: the table's folder)")
    parser.add_argument("--task", choices=("auto", "classification", "regression"), default="auto")
    parser.add_argument("--no-faces", action="store_true", help="leave the pictures out; needs no landmarker")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    try:
        rows = read_table(options.table, options.clips or options.table.parent)
        labels = labels_of(rows, options.table, options.task)
        asset = None if options.no_faces else assets.face_landmarker()
    except (BadTable, SourceError) as error:
        print(f"extract_features: {error}", file=sys.stderr)
        return 2
    (options.out / "clips").mkdir(parents=True, exist_ok=True)
    for half in (options.out / "clips").glob("*.half.npz"):  # of a run that was killed
        half.unlink()
    broken: dict[str, str] = {}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as progress, ProcessPoolExecutor(options.jobs) as pool:
        bar = progress.add_task("clips", total=len(rows))
        waiting = {pool.submit(extract, row, options.out, asset): row for row in rows}
        try:
            for done in as_completed(waiting):
                if (wrong := done.result()) is not None:
                    broken[waiting[done].id] = wrong
                    progress.console.print(f"left out: {wrong}", markup=False)
                progress.advance(bar)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            print("stopped; the same command goes on from here", file=sys.stderr)
            return 130
    clips = tuple(
        clip_of(row, label, options.out)
        for row, label in zip(rows, labels, strict=True)
        if row.id not in broken
    )
    whole = Index(audio.SPEC.hash, vision.SPEC.hash, clips)
    half = options.out / f"{INDEX}.half"
    half.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n")
    half.replace(options.out / INDEX)
    counts = ", ".join(f"{sum(clip.split == split for clip in clips)} {split}" for split in SPLITS)
    print(f"{options.out / INDEX}: {counts}" + (f"; {len(broken)} left out" if broken else ""))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
