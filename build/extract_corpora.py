#!/usr/bin/env python3
"""Extract features of the three corpora of the bundled network, with the feature code that runs live.

RAVDESS (voices), FER2013 (faces) and MELD (lines) become one ``.npz`` each: ``values`` (N, D) or, of lines,
word pieces (N,); ``offsets`` (items + 1,); ``labels``; ``splits`` (0 train, 1 validation, 2 test);
``variants`` (0: as it is); ``names`` and ``fingerprints``. No speaker, picture or dialogue is in two
splits. Work is done in parts of 200 items that are kept, so a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).parent.parent))

from models.corpora import KINDS, READERS, Item, Kind, extract, fingerprint, variants
from models.data import DataError

PART = 200


def _part(kind: Kind, items: list[Item], path: Path, tokenizer: Path) -> int:
    """Extract one part and keep it; runs in a worker."""
    if not path.exists():
        values = extract(kind, items, tokenizer)
        whole = path.with_suffix(".half.npz")
        np.savez(whole, values=np.concatenate(values), lengths=np.array([len(v) for v in values]))
        whole.replace(path)
    return len(items)


def extract_corpus(
    kind: Kind, items: list[Item], out: Path, tokenizer: Path, jobs: int, progress: Progress
) -> None:
    """Extract one corpus in parallel and join its parts."""
    parts = out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    groups = [items[i : i + PART] for i in range(0, len(items), PART)]
    paths = [parts / f"{kind}-{i:04d}.npz" for i in range(len(groups))]
    bar = progress.add_task(kind, total=len(items))
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        try:
            n = len(groups)
            for done in pool.map(_part, [kind] * n, groups, paths, [tokenizer] * n):
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
        variants=np.array([item.variant for item in items]),
        fingerprints=np.array([fingerprint(kind, item) for item in items], np.uint32),
        names=np.array([item.name for item in items]),
    )


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ravdess", type=Path, help="folder of RAVDESS speech clips, *.flac or *.wav")
    parser.add_argument("--fer", type=Path, help="folder of FER2013 pictures: {train,valid}/<emotion>/*.jpg")
    parser.add_argument("--meld", type=Path, help="folder of MELD's {train,dev}_sent_emo.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the features")
    parser.add_argument("--bundle", type=Path, default=Path("models/pretrained"), help="of the tokenizer")
    parser.add_argument(
        "--variants", type=int, default=3, help="disturbed copies of every training clip and picture"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(list(arguments) if arguments is not None else None)
    wanted: dict[Kind, Path] = {kind: path for kind in KINDS if (path := getattr(options, kind))}
    if not wanted:
        parser.error("nothing to do: give at least one of --ravdess, --fer, --meld")
    listed = {}
    for kind, folder in wanted.items():
        try:
            listed[kind] = variants(READERS[kind](folder), kind, options.variants)
        except DataError as error:
            parser.error(f"--{kind}: {error}")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    tokenizer = options.bundle / "tokenizer.json"
    try:
        with Progress(*columns) as progress:
            for kind, items in listed.items():
                extract_corpus(kind, items, options.out, tokenizer, options.jobs, progress)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
