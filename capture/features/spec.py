"""FeatureSpec: the contract between the code that makes features and a network that reads them.

A ``StreamSpec`` names what a capture stream carries; its hash travels in every message. A
``FeatureSpec`` is what a network was trained on: for each modality the stream, the window cut from
it and the normalisation. A network refuses streams of another spec.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from capture.messages import STREAMS, StreamName


class SpecMismatch(ValueError):
    """Features and network do not belong together."""


class StreamSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a feature stream carries."""

    extractor: str  # the code and its parameters, spelled out; another value is another feature
    names: tuple[str, ...]  # one per column
    rate_hz: float  # nominal vectors per second; 0 for events such as words

    @property
    def dim(self) -> int:
        return len(self.names)

    @property
    def hash(self) -> str:
        """Twelve hex digits over everything above."""
        return _digest(self)


class InputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a network reads one stream: the window, its size in steps, the normalisation.

    A network's input is ``(x - mean) * scale`` per column. For text the steps are word pieces and
    the columns are the text encoder's, so ``dim`` differs from the stream's.
    """

    stream: StreamSpec
    window_s: float
    steps: int
    dim: int
    mean: tuple[float, ...] = ()  # empty: 0
    scale: tuple[float, ...] = ()  # empty: 1; a 0 shuts the column out


class FeatureSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a network expects of its inputs; stored beside its weights as ``features.json``."""

    text: InputSpec
    audio: InputSpec
    vision: InputSpec

    @property
    def hash(self) -> str:
        return _digest(self)

    @property
    def window_s(self) -> float:
        """The longest of the three windows, seconds."""
        return max(self.text.window_s, self.audio.window_s, self.vision.window_s)

    def input(self, stream: str) -> InputSpec:
        return {"text": self.text, "audio": self.audio, "vision": self.vision}[stream]

    def check(self, streams: Mapping[StreamName, StreamSpec]) -> None:
        """Compare with what the capture code makes.

        Raises:
            SpecMismatch: naming the first modality, the first difference and what to do.
        """
        for name in STREAMS:
            ours, theirs = self.input(name).stream, streams[name]
            if ours.hash == theirs.hash:
                continue
            raise SpecMismatch(
                f"the network expects other {name} features ({_difference(ours, theirs)}; spec {ours.hash}, "
                f"captured {theirs.hash}): choose a network made for these features with --network, "
                f"or train one"
            )


def load(path: Path) -> FeatureSpec:
    """Read a ``features.json``. Raises SpecMismatch when it is not one, OSError when it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=FeatureSpec)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SpecMismatch(f"{path} is not a feature spec: {error}") from error


def save(spec: FeatureSpec, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(spec), indent=1) + b"\n")


def _digest(spec: StreamSpec | FeatureSpec) -> str:
    return hashlib.sha256(msgspec.json.encode(spec)).hexdigest()[:12]


def _difference(ours: StreamSpec, theirs: StreamSpec) -> str:
    if ours.dim != theirs.dim:
        return f"{ours.dim} columns, captured {theirs.dim}"
    if ours.names != theirs.names:
        column = next(i for i, (a, b) in enumerate(zip(ours.names, theirs.names, strict=True)) if a != b)
        return f"column {column} is {ours.names[column]}, captured {theirs.names[column]}"
    if ours.rate_hz != theirs.rate_hz:
        return f"{ours.rate_hz:g} Hz, captured {theirs.rate_hz:g} Hz"
    return f"made by {ours.extractor!r}, captured by {theirs.extractor!r}"
