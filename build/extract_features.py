#!/usr/bin/env python3
"""Labelled clips become training features, made by the very code that runs live.

LABELS.csv is UTF-8 with a header and the columns
  path    of a video or sound file, from the table's folder (or --clips)
  text    what is said; empty: the words, with their times, of the .srt or .vtt beside the clip, if any
  label   the name of a class, or a number: a sentiment in [-3, 3]
and, where wanted,
  split   train, validation or test; without it 80/10/10, by the checksum of the group (or the path)
  group   a speaker or a video: a group stays in one split
  start_s, end_s   the part of the file that the label is for

    path,text,label,group
    clips/0001.mp4,"Well, that is a surprise.",surprise,anna
    clips/0002.wav,I told you so.,angry,ben
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).parent.parent))

from capture import assets, offline, subtitles
from capture.features import audio, vision
from capture.media import probe
from capture.messages import Word
from capture.trouble import SourceError
from models.clip_index import INDEX, Clip, Index, Rows, TimedWord, rows_path, write_index
from models.clip_table import SPLITS, Row, labels_of, read_table
from models.data import DataError
from runtime import network

LAYOUT = 1  # of a clip's file; another one is made again
Job = tuple[Row, "str | float"]


def extract(job: Job, out: Path, asset: Path | None) -> Clip | str:
    """Make one clip's file unless it is there; runs in a worker. Returns what is wrong as one line.

    asset: the face landmarker; None leaves the pictures out.
    """
    row, label = job
    try:
        rows = _rows(row, rows_path(out, row.id), asset)
        words = _words(row)
    except SourceError as error:
        return str(error) if str(row.path) in str(error) else f"{row.path}: {error}"
    except Exception as error:  # whatever a decoder raises, the other clips go on
        return f"{row.path}: {type(error).__name__}: {error}"
    times = [rows[name] for name in ("audio_ns", "vision_ns") if len(rows[name])]
    if not times:
        return f"{row.path}: neither sound nor pictures in this part of it"
    begin_ns, end_ns = min(int(t[0]) for t in times), max(int(t[-1]) for t in times)
    said = tuple(TimedWord(w.text, min(w.end_ns, end_ns)) for w in words if w.start_ns < end_ns)
    return Clip(
        row.id,
        row.name,
        label,
        row.split,
        row.text or " ".join(word.text for word in said),
        said,
        begin_ns,
        end_ns,
        round((end_ns - begin_ns) / 1e9, 3),
        len(rows["audio_ns"]),
        len(rows["vision_ns"]),
    )


def _rows(row: Row, target: Path, asset: Path | None) -> Rows:
    """A clip's features, as they are on disk or made anew. Raises SourceError."""
    stat = row.path.stat()
    made_of = json.dumps(
        [LAYOUT, audio.SPEC.hash, asset and vision.SPEC.hash, stat.st_size, stat.st_mtime_ns]
    )
    try:
        with np.load(target) as stored:
            if str(stored["made_of"]) == made_of:
                return {name: stored[name] for name in ("audio_ns", "vision_ns")}
    except Exception:  # absent, or damaged in one of a zip file's many ways: it is made anew
        target.unlink(missing_ok=True)
    heard = offline.hear(row.path, row.start_ns, row.end_ns)
    seen = offline.Memory().rows(vision.SPEC.dim)
    if asset is not None:
        seen = offline.see(row.path, asset, row.start_ns, row.end_ns)
    rows: Rows = {
        "audio_ns": heard.times_ns, "audio": heard.values,
        "vision_ns": seen.times_ns, "vision": seen.values,
    }  # fmt: skip
    half = target.with_suffix(f".{os.getpid()}.half")
    with half.open("wb") as file:
        np.savez(file, made_of=np.array(made_of), **rows)  # type: ignore[arg-type]
    half.replace(target)
    return rows


def _words(row: Row) -> list[Word]:
    """The words of the subtitles beside a clip without text, in this part of it. Raises SourceError."""
    if row.text or (beside := subtitles.find(row.path)) is None:
        return []
    words = [word for word in subtitles.read(beside) if word.end_ns > row.start_ns]
    return sorted(words, key=lambda word: (word.end_ns, word.start_ns))  # as they are said live


def extracted(jobs: Sequence[Job], out: Path, asset: Path | None, workers: int) -> Iterator[Clip | str]:
    """Every clip, or what is wrong with it, as they are done.

    A decoder may take its process down; the clips that it could have been are tried again, each alone.
    """
    waiting = deque(jobs)
    while waiting:
        running: dict[Future[Clip | str], Job] = {}
        try:
            with _pool(workers) as pool:
                while waiting or running:
                    while waiting and len(running) < 2 * workers:
                        job = waiting.popleft()
                        running[_submit(pool, job, out, asset)] = job
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        del running[future]
                        yield result
        except BrokenProcessPool:
            for job in running.values():
                try:
                    with _pool(1) as alone:
                        result = _submit(alone, job, out, asset).result()
                except BrokenProcessPool:
                    result = f"{job[0].path}: the process that read it died"
                yield result


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _follow_parent)


def _submit(pool: ProcessPoolExecutor, job: Job, out: Path, asset: Path | None) -> Future[Clip | str]:
    """Submit; the worker that this may start inherits that Ctrl-C is not for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(extract, job, out, asset)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow_parent() -> None:
    """A worker ends when its parent is killed; the executor's own would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _landmarker(rows: Sequence[Row]) -> Path | None:
    """The face landmarker, which sound alone does not need. Raises SourceError."""
    try:
        return assets.face_landmarker()
    except SourceError:
        for row in rows:
            try:
                seen = probe(row.path).has_video
            except SourceError:
                continue  # a broken clip is named when its turn comes
            if seen:
                raise
        return None


def _workers(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number of processes from 1 on")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python build/extract_features.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""example:
  python build/extract_features.py labels.csv --out features
  python -m models.train --config models/configs/clips.toml --data features --out run
  python -m runtime.live --network run/bundle

A clip is kept when it is done: the same command goes on after a stop, and does clips again that changed.
Exit status: 0; 1: some clips are broken, and left out; 2: the table or an option is wrong; 130: stopped.""",
    )
    parser.add_argument("table", type=Path, metavar="LABELS.csv")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the features")
    parser.add_argument("--clips", type=Path, metavar="ROOT", help="where paths begin (the table's folder)")
    parser.add_argument(
        "--task",
        choices=("auto", "classification", "regression"),
        default="auto",
        help="what labels are; auto: sentiments where they are numbers, else names of classes",
    )
    parser.add_argument(
        "--network",
        type=Path,
        metavar="DIR",
        help="a network that the clips are meant for: only its labels are known ones",
    )
    parser.add_argument("--no-faces", action="store_true", help="leave the pictures out; needs no landmarker")
    parser.add_argument("--jobs", type=_workers, default=os.cpu_count() or 1, metavar="N", help="processes")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    out: Path = options.out
    try:
        known: tuple[str, ...] = ()
        task = options.task
        if options.network is not None:
            manifest = network.load(options.network).manifest
            known, task = manifest.labels, manifest.task if task == "auto" else task
        rows, how = read_table(options.table, options.clips or options.table.parent)
        jobs = list(zip(rows, labels_of(rows, options.table, task, known), strict=True))
        asset = None if options.no_faces else _landmarker(rows)
        (out / "clips").mkdir(parents=True, exist_ok=True)
    except (DataError, SourceError, network.NetworkError, network.SpecMismatch, OSError) as error:
        print(f"extract_features: {error}", file=sys.stderr)
        return 2
    clips: dict[str, Clip] = {}
    broken = 0
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    try:
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("clips", total=len(jobs))
            for result in extracted(jobs, out, asset, options.jobs):
                if isinstance(result, Clip):
                    clips[result.id] = result
                else:
                    broken += 1
                    console.print(f"left out: {result}", markup=False, highlight=False, soft_wrap=True)
                progress.advance(bar)
    except KeyboardInterrupt:
        for worker in multiprocessing.active_children():
            worker.terminate()  # a clip that is half done is not kept
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    for half in (out / "clips").glob("*.half"):  # of runs that were killed
        half.unlink(missing_ok=True)
    # In the table's order, whichever was done first: the same table gives the same index.
    write_index(
        out, Index(audio.SPEC.hash, vision.SPEC.hash, tuple(clips[r.id] for r in rows if r.id in clips))
    )
    counts = Counter(clip.split for clip in clips.values())
    print(f"{out / INDEX}: {', '.join(f'{counts[split]} {split}' for split in SPLITS)} ({how})")
    if broken:
        print(f"extract_features: {broken} of {len(jobs)} clips are broken and left out", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
