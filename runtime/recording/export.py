"""Export: a recording as tables for statistics: CSV or Parquet files, or one XDF file for LSL's tools.

``emotions``: a row for each published window; ``words``: a row for each committed word; ``markers``: a
row for each marker that the operator set; ``audio``, ``vision``: a row for each feature vector. Times are
seconds on the session's capture clock, which all tables share; ``wall`` is the window's end as a date, of
a marker when it was set.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from capture.features import audio, vision
from capture.features.spec import StreamSpec
from capture.messages import FeatureBlock, Words
from runtime.markers import of_recording
from runtime.recording.layout import RecordingError
from runtime.recording.raw import write_raw
from runtime.recording.read import Recording
from runtime.recording.staged import staged
from runtime.recording.xdf import XdfStream, write_xdf
from runtime.stream import Emotion, MalformedMessage, decode
from runtime.stream.row import row

Format = Literal["csv", "parquet", "xdf"]
FORMATS: tuple[Format, ...] = ("csv", "parquet", "xdf")
TEXTUAL = {"words": "word", "markers": "marker"}  # tables of text, and its column
KNOWN = {spec.hash: spec for spec in (audio.SPEC, vision.SPEC)}


@dataclass
class Table:
    """Columns of one length; a value that does not apply is None."""

    name: str
    times_s: list[float] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, time_s: float, values: dict[str, Any]) -> None:
        """Append a row; a column that is new or missing is None in the other rows."""
        if values.keys() - self.columns.keys():
            order = list(self.columns)
            at = 0
            for name in values:  # a new one stands where the row has it
                if name not in self.columns:
                    order.insert(at, name)
                at = order.index(name) + 1
            empty = [None] * len(self.times_s)
            self.columns = {name: self.columns.get(name) or list(empty) for name in order}
        self.times_s.append(time_s)
        for name, column in self.columns.items():
            column.append(values.get(name))


def export(recording: Recording, to: Format, out: Path) -> list[Path]:
    """Write the tables to the folder ``out``, or to the file ``out`` for XDF: all or nothing.

    A folder also gets the pictures and the sound of a recording that holds any.

    Returns the files. Raises RecordingError where ``out`` exists or cannot be written, or where a library
    is missing.
    """
    if out.exists():
        raise RecordingError(f"{out} exists already: nothing is overwritten; choose another --out")
    write = _parquet() if to == "parquet" else _csv
    tables = list(read_tables(recording))
    try:
        with staged(out) as half:
            if to == "xdf":
                write_xdf(half, [_stream(recording, table) for table in tables])
                return [out]
            half.mkdir()
            for table in tables:
                write(half / f"{table.name}.{to}", table)
            raw = write_raw(recording, half)
    except OSError as error:
        raise RecordingError(f"{out}: cannot be written ({error.strerror}): choose another --out") from error
    return [out / name for name in (*(f"{table.name}.{to}" for table in tables), *raw)]


def read_tables(recording: Recording) -> Iterator[Table]:
    """The tables that have rows: emotions first."""
    emotions = Table("emotions")
    for _, payload in recording.emotions():
        try:
            message = decode(payload)
        except MalformedMessage:
            continue
        if isinstance(message, Emotion):
            emotions.add(message.time.end_ns / 1e9, row(message))
    words = Table("words")
    features = {name: Table(name) for name in ("audio", "vision")}
    for arrival in recording:
        match arrival.message:
            case Words(words=heard):
                for word in heard:
                    if word.committed:
                        said = {
                            "end_s": word.end_ns / 1e9,
                            "word": word.text,
                            "probability": word.probability,
                        }
                        words.add(word.start_ns / 1e9, said)
            case FeatureBlock(stamp=stamp, times_ns=times_ns, values=values) if stamp.stream in features:
                _add_block(features[stamp.stream], _names(recording, stamp.stream, values), times_ns, values)
            case _:
                pass
    markers = Table("markers")
    for marker in of_recording(recording).all:
        markers.add(marker.t_ns / 1e9, {"marker": marker.text, "wall": marker.wall})
    yield from (table for table in (emotions, words, markers, *features.values()) if table.times_s)


def _names(recording: Recording, stream: str, values: npt.NDArray[np.float32]) -> Sequence[str]:
    """The columns' names, by the spec in the session's header or by its hash; else numbers."""
    spec = recording.header.streams.get(stream)  # type: ignore[call-overload]
    spec = KNOWN.get(spec) if isinstance(spec, str) else spec
    if isinstance(spec, StreamSpec) and spec.dim == values.shape[1]:
        return spec.names
    return [f"{stream}_{i}" for i in range(values.shape[1])]


def _add_block(
    table: Table, names: Sequence[str], times_ns: npt.NDArray[np.int64], values: npt.NDArray[np.float32]
) -> None:
    for t_ns, vector in zip(times_ns.tolist(), values.tolist(), strict=True):
        table.add(t_ns / 1e9, dict(zip(names, vector, strict=True)))


def _csv(path: Path, table: Table) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["time_s", *table.columns])
        writer.writerows(zip(table.times_s, *table.columns.values(), strict=True))


def _parquet() -> Callable[[Path, Table], None]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise RecordingError("Parquet needs pyarrow: pip install 'emotion-edge[export]'") from error

    def write(path: Path, table: Table) -> None:
        try:
            columns = pyarrow.table({"time_s": table.times_s, **table.columns})
        except (OverflowError, pyarrow.ArrowInvalid) as error:
            raise RecordingError(
                f"{table.name} has a number that Parquet has not ({error}): export it to csv"
            ) from error
        parquet.write_table(columns, path)

    return write


def _stream(recording: Recording, table: Table) -> XdfStream:
    """A table as an XDF stream, which has one type: words and markers are text, of others the numbers."""
    if table.name in TEXTUAL:
        said = TEXTUAL[table.name]
        return XdfStream(
            table.name, "Markers", (said,), table.times_s, [table.columns[said]], session=_id(recording)
        )
    numbers = {
        name: [np.nan if value is None else float(value) for value in values]
        for name, values in table.columns.items()
        if all(value is None or isinstance(value, bool | int | float) for value in values)
    }
    kind = "Emotion" if table.name == "emotions" else "Features"
    return XdfStream(
        table.name,
        kind,
        tuple(numbers),
        table.times_s,
        list(numbers.values()),
        session=_id(recording),
    )


def _id(recording: Recording) -> str:
    return recording.header.session
