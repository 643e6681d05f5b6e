"""The table of labelled clips, LABELS.csv: its rows, their labels and their splits.

Every mistake in it is one line that names the row; nothing is guessed.
"""

from __future__ import annotations

import csv
import hashlib
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from models.data import DataError, Split

SPLITS: tuple[Split, ...] = get_args(Split)
REQUIRED = ("path", "text", "label")
Task = Literal["auto", "classification", "regression"]


class Row(NamedTuple):
    """One labelled clip of the table."""

    line: int
    name: str  # the path as it is written
    path: Path
    text: str  # "": words are in the subtitles beside the clip, if any
    label: str
    group: str
    split: Split
    start_ns: int
    end_ns: int | None

    @property
    def id(self) -> str:
        """Sixteen hex digits that say which part of which clip."""
        return hashlib.sha256(f"{self.name}|{self.start_ns}|{self.end_ns}".encode()).hexdigest()[:16]


def split_of(group: str) -> Split:
    """Eight tenths of the groups train, one validates, one tests: by the CRC-32 of their names."""
    held: dict[int, Split] = {0: "test", 1: "validation"}
    return held.get(zlib.crc32(group.encode()) % 10, "train")


def read_table(table: Path, clips: Path) -> tuple[list[Row], str]:
    """The rows of LABELS.csv, and how their splits were found.

    clips: where its paths begin. Raises DataError, naming the line.
    """
    reader = csv.DictReader(StringIO(_text(table), newline=""), strict=True)
    try:
        names = [(name or "").strip() for name in reader.fieldnames or []]
        if not names:
            raise DataError(f"{table} is empty: expected a header with {', '.join(REQUIRED)}")
        if missing := [name for name in REQUIRED if name not in names]:
            raise DataError(
                f"{table}, line 1: no column {', '.join(missing)}; found {' | '.join(names)} "
                "(columns are separated by commas)"
            )
        reader.fieldnames = names
        rows = [_row(f"{table}, line {reader.line_num}", reader.line_num, raw, clips) for raw in reader]
    except csv.Error as error:
        raise DataError(f"{table}, line {reader.line_num}: {error}: expected a CSV table") from None
    if not rows:
        raise DataError(f"{table}: no clip below the header")
    _refuse_doubles(table, rows)
    if "split" in names:
        return rows, "split by the table"
    by = "group" if "group" in names else "path"
    return rows, f"split 80/10/10 by the checksum of the {by}"


def _text(table: Path) -> str:
    try:
        content = table.read_bytes()
    except OSError as error:
        raise DataError(f"{table}: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{table}, line {line}: not UTF-8 ({error.reason}): save the table as UTF-8"
        ) from None


def _row(where: str, line: int, raw: Mapping[str | None, object], clips: Path) -> Row:
    if None in raw:
        raise DataError(f"{where}: more values than columns: put a text with commas between double quotes")

    def value(column: str) -> str:
        return str(raw.get(column) or "").strip()

    def time_ns(column: str, otherwise: float) -> float:
        try:
            seconds = float(value(column) or otherwise)
        except ValueError:
            seconds = math.nan
        if not seconds >= 0:
            raise DataError(f"{where}: {column} is {value(column)!r}, expected seconds from 0 on")
        return seconds * 1e9

    name, group = value("path"), value("group")
    if not name:
        raise DataError(f"{where}: the path is empty")
    try:
        path = clips / Path(name).expanduser()
        found = path.is_file()
    except (OSError, RuntimeError) as error:  # too long, or in the home of nobody
        raise DataError(f"{where}: no file {name}: {error}") from None
    if not found:
        raise DataError(f"{where}: no file {path}: paths begin at {clips} (--clips)")
    if not value("label"):
        raise DataError(f"{where}: the label is empty")
    split = split_of(group or name)
    if "split" in raw:
        named = [known for known in SPLITS if known == value("split").lower()]
        if not named:
            raise DataError(f"{where}: split is {value('split')!r}, expected {', '.join(SPLITS)}")
        split = named[0]
    start_ns, end_ns = time_ns("start_s", 0), time_ns("end_s", math.inf)
    if math.isinf(start_ns) or end_ns <= start_ns:
        raise DataError(f"{where}: end_s {value('end_s')!r} does not lie behind start_s {value('start_s')!r}")
    end = None if math.isinf(end_ns) else round(end_ns)
    return Row(line, name, path, value("text"), value("label"), group, split, round(start_ns), end)


def _refuse_doubles(table: Path, rows: Iterable[Row]) -> None:
    """The same clip twice, or a group in two splits: then test would know what train has seen."""
    parts: dict[str, Row] = {}
    groups: dict[str, Row] = {}
    for row in rows:
        where = f"{table}, line {row.line}"
        if (same := parts.setdefault(row.id, row)) is not row:
            raise DataError(f"{where}: {row.name} is there twice, first on line {same.line}")
        first = groups.setdefault(row.group, row) if row.group else row
        if first.split != row.split:
            raise DataError(
                f"{where}: group {row.group!r} is in {row.split}, and on line {first.line} in {first.split}: "
                "a group stays in one split"
            )


def labels_of(rows: Sequence[Row], table: Path, task: Task, known: Sequence[str] = ()) -> list[str | float]:
    """Names of classes, or sentiments in [-3, 3]; ``auto``: sentiments where every label is a number.

    known: the only names that may be; (): any. Raises DataError, naming the line.
    """
    numbers = [_number(row.label) for row in rows]
    if task == "auto" and any(number is not None for number in numbers):
        task = "regression"
    if task == "regression":
        return [_sentiment(row, number, table) for row, number in zip(rows, numbers, strict=True)]
    spelled: dict[str, Row] = {}
    for row in rows:
        where = f"{table}, line {row.line}: label {row.label!r}"
        if known and row.label not in known:
            raise DataError(f"{where}, expected one of {', '.join(known)}")
        first = spelled.setdefault(row.label.lower(), row)
        if first.label != row.label:
            raise DataError(f"{where}, but {first.label!r} on line {first.line}: spell a class in one way")
    return [row.label for row in rows]


def _sentiment(row: Row, number: float | None, table: Path) -> float:
    where = f"{table}, line {row.line}: label {row.label!r}"
    if number is None:
        raise DataError(f"{where} is no number, as others are (--task classification: all are names)")
    if not -3 <= number <= 3:
        raise DataError(
            f"{where}, expected a sentiment in [-3, 3] (--task classification: numbers are names of classes)"
        )
    return number


def _number(label: str) -> float | None:
    try:
        return float(label)
    except ValueError:
        return None
