"""XDF: the Extensible Data Format 1.0 of Lab Streaming Layer, written; pyxdf, MNE, EEGLAB read it.

Source: https://github.com/sccn/xdf/wiki/Specifications. Chunks of a length, a tag and a content; headers
and footers are XML. No maintained library writes the format.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import numpy as np

MAGIC = b"XDF:"
FILE_HEADER, STREAM_HEADER, SAMPLES, STREAM_FOOTER = 1, 2, 3, 6  # tags of chunks
TOGETHER = 1000  # samples in one chunk


@dataclass(frozen=True)
class XdfStream:
    """One stream: columns of text, or of numbers, which are stored as doubles."""

    name: str
    kind: str  # LSL's content type: "Markers", "Emotion", …
    channels: tuple[str, ...]
    times_s: Sequence[float]
    columns: Sequence[Sequence[Any]]  # one for each channel
    session: str = ""

    @property
    def textual(self) -> bool:
        return any(isinstance(value, str) for column in self.columns for value in column[:1])


def write_xdf(path: Path, streams: Sequence[XdfStream]) -> None:
    """Write the streams one after the other. Raises OSError."""
    with path.open("wb") as file:
        file.write(MAGIC)
        file.write(_chunk(FILE_HEADER, b"", _xml("info", {"version": "1.0"})))
        for number, stream in enumerate(streams, start=1):
            head = struct.pack("<I", number)
            file.write(_chunk(STREAM_HEADER, head, _header(stream)))
            for first in range(0, len(stream.times_s), TOGETHER):
                file.write(_chunk(SAMPLES, head, _samples(stream, first)))
            file.write(_chunk(STREAM_FOOTER, head, _footer(stream)))


def _chunk(tag: int, head: bytes, content: bytes) -> bytes:
    body = struct.pack("<H", tag) + head + content
    return _length(len(body)) + body


def _length(n: int) -> bytes:
    """A length in front of its own width in bytes: 1, 4 or 8."""
    for width, form in ((1, "<B"), (4, "<I")):
        if n < 1 << 8 * width:
            return bytes([width]) + struct.pack(form, n)
    return bytes([8]) + struct.pack("<Q", n)


def _samples(stream: XdfStream, first: int) -> bytes:
    times = np.asarray(stream.times_s[first : first + TOGETHER], "<f8")
    columns = [column[first : first + TOGETHER] for column in stream.columns]
    count = _length(len(times))
    if stream.textual:
        parts = [count]
        for time_s, values in zip(times, zip(*columns, strict=True), strict=True):
            parts.append(struct.pack("<Bd", 8, time_s))
            for value in values:
                text = str(value).encode()
                parts.append(_length(len(text)) + text)
        return b"".join(parts)
    rows = np.empty(len(times), [("stamp", "u1"), ("time", "<f8"), ("values", "<f8", (len(columns),))])
    rows["stamp"], rows["time"] = 8, times
    rows["values"] = np.asarray(columns, "<f8").T
    return count + rows.tobytes()


def _header(stream: XdfStream) -> bytes:
    info = xml.Element("info")
    _leaves(
        info,
        {
            "name": stream.name,
            "type": stream.kind,
            "channel_count": len(stream.channels),
            "nominal_srate": 0,  # irregular: each sample has its own time, which no reader may replace
            "channel_format": "string" if stream.textual else "double64",
            "source_id": f"{stream.session}.{stream.name}",
            "session_id": stream.session,
        },
    )
    channels = xml.SubElement(xml.SubElement(info, "desc"), "channels")
    for label in stream.channels:
        xml.SubElement(xml.SubElement(channels, "channel"), "label").text = label
    return bytes(xml.tostring(info, encoding="utf-8", xml_declaration=True))


def _footer(stream: XdfStream) -> bytes:
    first, last = (stream.times_s[0], stream.times_s[-1]) if len(stream.times_s) else (0.0, 0.0)
    told = {"first_timestamp": first, "last_timestamp": last, "sample_count": len(stream.times_s)}
    return _xml("info", told)


def _xml(name: str, leaves: dict[str, Any]) -> bytes:
    root = xml.Element(name)
    _leaves(root, leaves)
    return bytes(xml.tostring(root, encoding="utf-8", xml_declaration=True))


def _leaves(parent: xml.Element, leaves: dict[str, Any]) -> None:
    for name, value in leaves.items():
        xml.SubElement(parent, name).text = str(value)
