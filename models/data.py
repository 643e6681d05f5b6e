"""What training learns from: batches of windows, and the data sets that make them.

A data set is anything with the attributes of ``Data``: an MMSA pickle (``models.mmsa``), a feature file
made from labelled clips (``models.clips``), or windows composed from corpora of one sense each
(``models.composed``). The trainer knows no more of them than this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from capture.features.spec import FeatureSpec, InputSpec

F32 = npt.NDArray[np.float32]
Split = Literal["train", "validation", "test"]
SENSES = {"L": "text", "A": "audio", "V": "vision"}  # by the letters that name a subset of them: LAV, LA…


class DataError(ValueError):
    """A data set that cannot be used; the message names the file, what was found and what was expected."""


@dataclass(frozen=True)
class Batch:
    """B windows. Masks are 1 for a real step, 0 for padding; real steps stand at the end of a window."""

    text: npt.NDArray[Any]  # (B, T_l, D_l) float32 features, or (B, T_l) int64 word pieces for a text encoder
    audio: F32  # (B, T_a, D_a)
    vision: F32  # (B, T_v, D_v)
    text_mask: F32  # (B, T_l)
    audio_mask: F32  # (B, T_a)
    vision_mask: F32  # (B, T_v)
    labels: npt.NDArray[Any]  # (B,) int64 classes, or (B,) float32 sentiments

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: npt.NDArray[np.int64] | slice) -> Batch:
        """Some of the windows."""
        return Batch(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


@dataclass(frozen=True)
class Input:
    """One modality's shape and normalisation: the network reads ``(x - mean) * scale``."""

    steps: int
    dim: int  # of the features; with word pieces, of what the text encoder makes of them
    mean: F32 | None = None  # (dim,); None: 0
    scale: F32 | None = None  # (dim,); None: 1


def inputs_of(features: FeatureSpec) -> dict[str, Input]:
    """What a FeatureSpec says of the three modalities; text goes in as its encoder makes it."""
    return {
        "text": Input(features.text.steps, features.text.dim),
        "audio": _normalised(features.audio),
        "vision": _normalised(features.vision),
    }


def _normalised(one: InputSpec) -> Input:
    return Input(one.steps, one.dim, np.array(one.mean, np.float32), np.array(one.scale, np.float32))


class Data(Protocol):
    """A data set."""

    @property
    def name(self) -> str:
        """For reports, for example "MOSI (unaligned)"."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the classes; () for a sentiment in [-3, 3]."""
        ...

    @property
    def inputs(self) -> Mapping[str, Input]:
        """Of text, audio and vision."""
        ...

    @property
    def features(self) -> FeatureSpec | None:
        """What the live application captures for it; None: a network of it cannot run live."""
        ...

    def batches(self, split: Split, size: int, seed: int) -> Iterator[Batch]:
        """One pass: ``train`` in an order (and with an augmentation) that ``seed`` decides; the other
        splits always the same, each window once."""
        ...

    def __len__(self) -> int:
        """Training windows in a pass."""
        ...


def slices(whole: Batch, size: int, seed: int | None) -> Iterator[Batch]:
    """Cut a split that lies in memory into batches, shuffled by ``seed`` unless it is None."""
    order = np.arange(len(whole)) if seed is None else np.random.default_rng(seed).permutation(len(whole))
    for start in range(0, len(whole), size):
        yield whole.rows(order[start : start + size])
