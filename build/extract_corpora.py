#!/usr/bin/env python3
"""Extract features of the three corpora of the bundled network, with the feature code that runs live.

RAVDESS (voices), FER2013 (faces) and MELD (lines) become one ``.npz`` each: ``values`` (N, D), ``offsets``
(items + 1,), ``labels``, ``splits`` (0 train, 1 validation, 2 test) and ``names``. No speaker, picture or
dialogue is in two splits. Work is done in parts of 200 items that are kept, so a run that was interrupted
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).parent.parent))

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
TRAIN, VALIDATION, TEST = 0, 1, 2
PART = 200

# RAVDESS's third number; calm is read as neutral.
_RAVDESS = {"01": 4, "02": 4, "03": 3, "04": 5, "05": 0, "06": 2, "07": 1, "08": 6}
_MELD = {"anger": 0, "disgust": 1, "fear": 2, "joy": 3, "neutral": 4, "sadness": 5, "surprise": 6}
RAVDESS_VALIDATION, RAVDESS_TEST = {17, 18, 19}, {20, 21, 22}

Rows = npt.NDArray[np.float32]


class Item(NamedTuple):
    """One clip, picture or line."""

    name: str
    source: str  # path, or the line itself
    label: int
    split: int


def ravdess(folder: Path) -> list[Item]:
    """Voices by actor: three actors for validation, three for the test."""
    items = []
    for path in sorted(folder.glob("*.flac")):
        emotion, actor = path.stem.split("-")[2], int(path.stem.split("-")[6])
        split = VALIDATION if actor in RAVDESS_VALIDATION else TEST if actor in RAVDESS_TEST else TRAIN
        items.append(Item(path.stem, str(path), _RAVDESS[emotion], split))
    return items


def fer(folder: Path) -> list[Item]:
    """Faces: a tenth of ``train``, chosen by the name's checksum, validates; ``valid`` is the test."""
    items = []
    for path in sorted(folder.glob("*/*/*.jpg")):
        part, label = path.parts[-3], EMOTIONS.index(path.parts[-2])
        held = zlib.crc32(path.stem.encode()) % 10 == 0
        split = TEST if part == "valid" else VALIDATION if held else TRAIN
        items.append(Item(f"{part}/{path.parts[-2]}/{path.stem}", str(path), label, split))
    return items


def meld(folder: Path) -> list[Item]:
    """Lines: every tenth dialogue of ``train`` validates; ``dev`` is the test."""
    items = []
    for part in ("train", "dev"):
        with (folder / f"{part}_sent_emo.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                held = int(row["Dialogue_ID"]) % 10 == 0
                split = TEST if part == "dev" else VALIDATION if held else TRAIN
                name = f"{part}/{row['Dialogue_ID']}/{row['Utterance_ID']}"
                line = row["Utterance"].replace("\x92", "'").replace("\u2019", "'").strip()
                items.append(Item(name, line, _MELD[row["Emotion"]], split))
    return items


def voices(items: Sequence[Item]) -> list[Rows]:
    """Audio features (T, 42) of whole clips; half a second of silence lets the last frame out."""
    import av

    from capture.features.audio import SAMPLE_RATE_HZ, AudioFeatures

    features = AudioFeatures()
    found = []
    for item in items:
        with av.open(item.source) as container:
            resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)
            chunks = [
                out.to_ndarray().reshape(-1)
                for frame in container.decode(audio=0)
                for out in resampler.resample(frame)
            ]
        features.reset()
        _, values = features.accept(np.concatenate([*chunks, np.zeros(1024, np.int16)]))
        found.append(values)
    return found


def faces(items: Sequence[Item]) -> list[Rows]:
    """Vision features (1, 59) of pictures, enlarged and given a border so that a face is found."""
    import cv2

    from capture.assets import face_landmarker
    from capture.features.vision import FaceFeatures

    found = []
    with FaceFeatures(face_landmarker(), video=False) as features:
        for item in items:
            picture = cv2.resize(cv2.imread(item.source), (192, 192), interpolation=cv2.INTER_CUBIC)
            picture = cv2.copyMakeBorder(picture, 64, 64, 64, 64, cv2.BORDER_REPLICATE)
            found.append(features.extract(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), 0)[None])
    return found


def lines(items: Sequence[Item], bundle: Path) -> list[Rows]:
    """Word-piece embeddings (S, 384) by the int8 encoder that runs live."""
    import onnxruntime as ort

    from capture.features.wordpiece import WordPiece

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    encoder = ort.InferenceSession(bundle / "text_encoder.onnx", options)
    tokenizer = WordPiece(bundle / "tokenizer.json")
    found = []
    for item in items:
        ids = np.array([tokenizer.encode(item.source)[-48:]], np.int64)
        (values,) = encoder.run(["embeddings"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        found.append(values[0])
    return found


def _part(kind: str, items: list[Item], path: Path, bundle: Path) -> int:
    """Extract one part and keep it; runs in a worker."""
    if not path.exists():
        values = {"ravdess": voices, "fer": faces}[kind](items) if kind != "meld" else lines(items, bundle)
        whole = path.with_suffix(".half.npz")
        np.savez(
            whole,
            values=np.concatenate(values).astype(np.float16 if kind == "meld" else np.float32),
            lengths=np.array([len(v) for v in values]),
        )
        whole.replace(path)
    return len(items)


def extract(kind: str, items: list[Item], out: Path, bundle: Path, jobs: int, progress: Progress) -> None:
    """Extract one corpus in parallel and join its parts."""
    parts = out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    groups = [items[i : i + PART] for i in range(0, len(items), PART)]
    paths = [parts / f"{kind}-{i:04d}.npz" for i in range(len(groups))]
    bar = progress.add_task(kind, total=len(items))
    with ProcessPoolExecutor(jobs) as pool:
        try:
            n = len(groups)
            for done in pool.map(_part, [kind] * n, groups, paths, [bundle] * n):
                progress.advance(bar, done)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    loaded = [np.load(path) for path in paths]
    lengths = np.concatenate([part["lengths"] for part in loaded])
    np.savez(
        out / f"{kind}.npz",
        values=np.concatenate([part["values"] for part in loaded]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=np.array([item.label for item in items]),
        splits=np.array([item.split for item in items]),
        names=np.array([item.name for item in items]),
    )


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ravdess", type=Path, help="folder of RAVDESS speech clips, *.flac")
    parser.add_argument("--fer", type=Path, help="folder of FER2013 pictures: {train,valid}/<emotion>/*.jpg")
    parser.add_argument("--meld", type=Path, help="folder of MELD's {train,dev}_sent_emo.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the features")
    parser.add_argument("--bundle", type=Path, default=Path("models/pretrained"), help="of the text encoder")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(list(arguments) if arguments is not None else None)
    wanted = {kind: getattr(options, kind) for kind in ("ravdess", "fer", "meld") if getattr(options, kind)}
    if not wanted:
        parser.error("nothing to do: give at least one of --ravdess, --fer, --meld")
    listed = {}
    for kind, folder in wanted.items():
        try:
            listed[kind] = {"ravdess": ravdess, "fer": fer, "meld": meld}[kind](folder)
        except (OSError, KeyError, ValueError) as error:
            parser.error(f"--{kind} {folder}: not the layout of that corpus ({error})")
        if not listed[kind]:
            parser.error(f"--{kind} {folder}: no file of that corpus in it")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    try:
        with Progress(*columns) as progress:
            for kind, items in listed.items():
                extract(kind, items, options.out, options.bundle, options.jobs, progress)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
