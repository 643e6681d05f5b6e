"""MMSA's pickles of MOSI, MOSEI and SIMS as a data set: ``python -m models.mmsa FILE`` says what is in one.

``aligned_50.pkl`` and ``unaligned_50.pkl`` of github.com/thuiar/MMSA are a dictionary of ``train``, ``valid``
and ``test``, each of them a dictionary of arrays: ``text`` (N, T_l, D_l), ``audio`` (N, T_a, D_a), ``vision``
(N, T_v, D_v), ``text_bert`` (N, 3, T_l: word pieces, mask, segment), ``regression_labels`` (N,) and, where
words and frames are not aligned, ``audio_lengths`` and ``vision_lengths`` (N,). Real steps come first.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from capture.features.spec import FeatureSpec
from models.array_pickle import Array, load, unwrapped
from models.data import F32, Batch, DataError, Input, Split, slices

log = logging.getLogger(__name__)

SPLITS: dict[Split, str] = {"train": "train", "validation": "valid", "test": "test"}
SENSES = ("text", "audio", "vision")
CORPORA = {"mosei": "MOSEI", "mosi": "MOSI", "simsv2": "SIMS v2", "sims2": "SIMS v2", "sims": "SIMS"}
BERT_WIDTH = 768  # columns of BERT-base, which the pickles' word pieces are for
CHUNK = 256  # windows that are looked through at once

Text = Literal["features", "pieces"]


@dataclass(frozen=True)
class MMSA:
    """A pickle as ``models.data.Data``; ``open_mmsa`` makes it.

    Arrays stay as the file has them, without a copy; a batch becomes float32, finite and right-aligned.
    """

    name: str
    inputs: Mapping[str, Input]
    splits: Mapping[Split, Batch]  # as stored: of any float type, real steps first
    labels: tuple[str, ...] = ()
    features: FeatureSpec | None = None

    def __len__(self) -> int:
        return len(self.splits["train"])

    def batches(self, split: Split, size: int, seed: int) -> Iterator[Batch]:
        """One pass, see ``models.data.Data``."""
        for rows in slices(self.splits[split], size, seed if split == "train" else None):
            made = {}
            for sense in SENSES:
                values = getattr(rows, sense)
                if values.ndim == 3:  # word pieces are whole numbers
                    values = _finite(values)
                made[sense], made[f"{sense}_mask"] = _right_aligned(values, getattr(rows, f"{sense}_mask"))
            yield Batch(**made, labels=rows.labels)


def open_mmsa(path: Path, text: Text = "features", masks: bool = False) -> MMSA:
    """Read a pickle; it takes as much memory as disk.

    text: ``features`` are the columns of the file, ``pieces`` are BERT's token ids for a text encoder that is
    trained. masks: False feeds windows as the authors do, as they stand and with every step a real one; True
    moves the real steps to the end and masks the rest. Pieces are always moved and masked, which an encoder
    needs. Values that are no finite numbers (MOSEI's audio has -inf) are read as 0, and a line is logged.
    Raises DataError.
    """
    return _data(path, read(path), text, masks)


def read(path: Path) -> dict[str, Stored]:
    """The splits of a pickle, by its own names for them. Raises DataError."""
    whole = load(path)
    if not isinstance(whole, dict):
        raise DataError(f"{path} holds a {type(whole).__name__}, expected a dictionary of train, valid, test")
    for name in SPLITS.values():
        if not isinstance(whole.get(name), dict):
            raise DataError(
                f"{path} has no split '{name}'; it has {_listed(whole)}. Expected train, valid and test, "
                "each a dictionary"
            )
    return {name: Stored(f"{path}: '{name}'", whole[name]) for name in SPLITS.values()}


def _data(path: Path, found: Mapping[str, Stored], text: Text, masks: bool) -> MMSA:
    splits = {split: found[name].windows(text, masks) for split, name in SPLITS.items()}
    shapes = {sense: getattr(splits["train"], sense).shape[1:] for sense in SENSES}
    bad = []
    for split, name in SPLITS.items():
        for sense in SENSES:
            values = getattr(splits[split], sense)
            if values.shape[1:] != shapes[sense]:
                raise DataError(
                    f"{path}: '{sense}' has windows of {values.shape[1:]} in '{name}' and of {shapes[sense]} "
                    "in 'train'; expected the same"
                )
            if count := _count_bad(values):
                bad.append(f"{count} in {name} {sense}")
    called = _name(path, len({shape[0] for shape in shapes.values()}) == 1)
    if bad:
        log.warning("%s: values that are no finite numbers are read as 0: %s", called, _listed(bad))
    if text == "pieces":
        shapes["text"] += (BERT_WIDTH,)
    return MMSA(called, {sense: Input(*shape) for sense, shape in shapes.items()}, splits)


def _name(path: Path, same_steps: bool) -> str:
    """``MOSI (unaligned)``, by the names of the file and its two folders; else by the file's own."""
    file, *folders = path.absolute().parts[:-4:-1]
    told = re.search("(un)?aligned", file.lower())
    kind = told[0] if told else "aligned" if same_steps else "unaligned"
    for part in (file, *folders):
        plain = re.sub("[^a-z0-9]", "", part.lower())
        for mark, corpus in CORPORA.items():
            if mark in plain:
                return f"{corpus} ({kind})"
    log.info("neither file nor folder says which corpus %s is", path)
    return f"{path.stem} ({kind})"


def _finite(values: Array) -> F32:
    """Values of a batch, which are a copy of their own, as float32; 0 for what is no finite number."""
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    bad = ~np.isfinite(values)
    if bad.any():
        values[bad] = 0
    return values


def _right_aligned(values: Array, mask: F32) -> tuple[Array, F32]:
    """Real steps moved to the end, zeros before them: values (B, T, ...), mask (B, T)."""
    if mask.all():
        return values, mask
    order = np.argsort(mask, axis=1, kind="stable")  # (B, T), padding first, real steps in their order
    moved = np.take_along_axis(values, order if values.ndim == 2 else order[..., None], axis=1)
    mask = np.take_along_axis(mask, order, axis=1)
    moved[mask == 0] = 0
    return moved, mask


def _count_bad(values: Array) -> int:
    if values.dtype.kind != "f":
        return 0
    parts = (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))
    return sum(part.size - int(np.count_nonzero(np.isfinite(part))) for part in parts)


def _listed(names: Iterable[Any]) -> str:
    told = [name for name in names if isinstance(name, str)]
    return ", ".join(" ".join(name.split()) for name in told[:20])[:400] or "nothing"


@dataclass(frozen=True)
class Stored:
    """One split as the file has it. Methods raise DataError with ``where``: the file and the split."""

    where: str
    values: Mapping[str, Any]

    def array(self, key: str, *dims: int) -> Array:
        """Numbers, with one of these counts of axes."""
        if key not in self.values:
            raise DataError(f"{self.where} has no '{key}'; it has {_listed(self.values)}")
        array = unwrapped(self.values[key])
        if array is None or array.dtype.kind not in "biuf" or array.ndim not in dims:
            what = f"{array.dtype} {array.shape}" if array is not None else type(self.values[key]).__name__
            raise DataError(f"{self.where}: '{key}' is {what}, expected numbers with {dims[0]} axes")
        return array

    def windows(self, text: Text, masks: bool) -> Batch:
        """The split as one batch, real steps first."""
        labels = self.labels()
        values = {"audio": self.array("audio", 3), "vision": self.array("vision", 3)}
        values["text"] = self.array("text", 3) if text == "features" else self.pieces()
        made = {}
        for sense, array in values.items():
            if len(array) != len(labels) or 0 in array.shape:
                raise DataError(
                    f"{self.where}: '{sense}' is {array.shape} beside {len(labels)} 'regression_labels'; "
                    "expected as many windows, of at least one step"
                )
            if masks or (sense == "text" and text == "pieces"):
                made[f"{sense}_mask"] = self.mask(sense, array.shape[:2])
            else:
                made[f"{sense}_mask"] = np.broadcast_to(np.float32(1), array.shape[:2])  # takes no memory
        return Batch(**values, **made, labels=labels)

    def labels(self) -> F32:
        """Sentiments (N,); some versions store a column of them."""
        labels = self.array("regression_labels", 1, 2)
        if labels.size != len(labels) or not labels.size or not np.isfinite(labels).all():
            raise DataError(
                f"{self.where}: 'regression_labels' is {labels.shape}, expected one finite number for each "
                "window, and at least one window"
            )
        return labels.reshape(-1).astype(np.float32)

    def bert(self) -> Array:
        """``text_bert`` (N, 3, T_l)."""
        array = self.array("text_bert", 3)
        if array.shape[1] != 3:
            raise DataError(f"{self.where}: 'text_bert' is {array.shape}, expected (windows, 3, pieces)")
        return array

    def pieces(self) -> npt.NDArray[np.int64]:
        """Word pieces (N, T_l)."""
        raw = self.bert()[:, 0]
        if not np.isfinite(raw).all() or (raw < 0).any() or (raw != np.floor(raw)).any():
            raise DataError(f"{self.where}: 'text_bert' has word pieces that are no whole numbers from 0 on")
        return raw.astype(np.int64)

    def mask(self, sense: str, shape: tuple[int, ...]) -> F32:
        """Which steps are real, (N, T): by the sense's lengths, or by the words that it is aligned to."""
        key = f"{sense}_lengths"
        if sense != "text" and key in self.values:
            lengths = self.array(key, 1)
            if len(lengths) != shape[0] or not (np.isfinite(lengths) & (lengths >= 0)).all():
                raise DataError(f"{self.where}: '{key}' must be {shape[0]} numbers from 0 on")
            return (np.arange(shape[1]) < lengths[:, None]).astype(np.float32)
        mask = self.bert()[:, 1] > 0.5
        if mask.shape != shape:
            raise DataError(
                f"{self.where}: '{sense}' has {shape} windows and steps, 'text_bert' {mask.shape}; a mask "
                "needs " + ("the same" if sense == "text" else f"the same, or '{key}'")
            )
        return mask.astype(np.float32)


def describe(path: Path) -> str:
    """What a pickle holds. Raises DataError where it cannot be trained on."""
    found = read(path)
    lines = [_data(path, found, "features", masks=False).name]
    for name, stored in found.items():
        labels = stored.labels()
        lines.append(f"{name}: {len(labels)} windows, labels {labels.min():.2f} to {labels.max():.2f}")
        for sense in SENSES:
            array = stored.array(sense, 3)
            try:
                padding = f"padding {1 - stored.mask(sense, array.shape[:2]).mean():.1%}"
            except DataError:
                padding = "padding not known"
            lines.append(f"  {sense:<6} {array.shape} {array.dtype}, {padding}")
        lines.append(f"  also {_listed(key for key in stored.values if key not in SENSES)}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.mmsa", description="Say what an MMSA pickle holds."
    )
    parser.add_argument("file", type=Path, help="aligned_50.pkl, unaligned_50.pkl or alike")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    try:
        print(describe(options.file))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
