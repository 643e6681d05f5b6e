"""Evaluation: ``python -m models.evaluate --network DIR --ravdess DIR --fer DIR --meld CSV``.

Takes the published layout of the three corpora, makes features with the live code, and runs the bundle's
ONNX files as the application does. What the network was trained on is recognised and left out. Printed
are each item alone beside the logistic regression; windows composed of items for every subset of the
senses, with calibration and what abstaining does; and the confusion. ``--card`` writes it into the card.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from capture.trouble import SourceError
from models import baseline, metrics
from models.composed import SENSE_OF, SUBSETS, Composer, Corpus, known, load
from models.corpora import EMOTIONS, KINDS, READERS, Item, Kind, extract, fingerprint
from models.data import SENSES, Batch, DataError
from models.metrics import softmax
from models.served import Answers, Served, joined

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
PART = 100  # items that a worker takes at once
CORPUS_NAMES = {"text": "MELD", "audio": "RAVDESS", "vision": "FER2013"}
LETTER = {sense: letter for letter, sense in SENSES.items()}


def read(
    folders: Mapping[Kind, Path], trained_on: Mapping[str, npt.NDArray[np.uint32]], bundle: Path, jobs: int
) -> tuple[dict[str, Corpus], list[str]]:
    """The corpora by sense, without what the network was trained on, and a line about each.

    Raises DataError where a folder is of another layout, or holds nothing new.
    """
    listed: dict[Kind, list[Item]] = {}
    said = []
    for kind, folder in folders.items():
        items = READERS[kind](folder)
        seen = set(trained_on.get(kind, np.zeros(0, np.uint32)).tolist())
        new = [item for item in items if fingerprint(kind, item) not in seen]
        if not new:
            raise DataError(f"{folder}: the network was trained on each of its {len(items)} items")
        said.append(f"{folder.name}: {len(new)} items" + _left_out(len(items) - len(new)))
        listed[kind] = new
    corpora = {}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bars = Progress(*columns, console=Console(stderr=True), transient=True)
    spawned = multiprocessing.get_context("spawn")  # a fork would copy ONNX Runtime's locks, held
    with bars as progress, ProcessPoolExecutor(jobs, spawned) as pool:
        for kind, items in listed.items():
            bar = progress.add_task(kind, total=len(items))
            parts = [items[i : i + PART] for i in range(0, len(items), PART)]
            rows: list[npt.NDArray[Any]] = []
            n = len(parts)
            for made in pool.map(extract, [kind] * n, parts, [bundle / "tokenizer.json"] * n):
                rows += made
                progress.advance(bar, len(made))
            corpora[SENSE_OF[kind]] = Corpus.of(rows, np.array([item.label for item in items]), kind)
    return corpora, said


def _left_out(count: int) -> str:
    return f" ({count} that it was trained on are left out)" if count else ""


def alone(served: Served, corpora: Mapping[str, Corpus]) -> dict[str, Answers]:
    """Every item once, with no other sense beside it: the fused answer."""
    return {
        sense: joined([served.run(batch) for batch in windows_of(served, sense, corpus.items, corpus.labels)])
        for sense, corpus in corpora.items()
    }


def windows_of(
    served: Served, sense: str, items: Sequence[npt.NDArray[Any]], labels: npt.NDArray[np.int64]
) -> list[Batch]:
    """Items of one sense as windows: the newest steps of each; a face is held for the whole window."""
    composer = _composer(served, {sense: Corpus(list(items), labels, [])}, 0)
    made = []
    for start in range(0, len(items), 64):
        part = items[start : start + 64]
        batch = composer.batch(len(part), "", labels[start : start + 64])
        values, mask = getattr(batch, sense), getattr(batch, f"{sense}_mask")
        for row, item in enumerate(part):
            steps = item[-values.shape[1] :]
            if sense == "vision":
                steps = np.repeat(item[-1:], values.shape[1], 0)
            values[row, -len(steps) :], mask[row, -len(steps) :] = steps, 1
        made.append(batch)
    return made


def _composer(served: Served, corpora: Mapping[str, Corpus], seed: int) -> Composer:
    empty = Corpus([], np.zeros(0, np.int64), [])
    one = {sense: corpora.get(sense, empty) for sense in SENSES.values()}
    rng = np.random.default_rng(seed)
    face = np.zeros(served.features.vision.dim, np.float32)
    return Composer(served.features, one["text"], one["audio"], one["vision"], face, False, rng)


def composed(served: Served, corpora: Mapping[str, Corpus], subset: str, windows: int, seed: int) -> Answers:
    """Windows of one subset of the senses; the emotions that every sense has, in equal shares."""
    there = [c for s, c in corpora.items() if LETTER[s] in subset]
    usable = [n for n in range(len(EMOTIONS)) if all(len(c.by_label[n]) for c in there)]
    labels = np.array(usable)[np.arange(windows) % len(usable)]
    composer = _composer(served, corpora, seed)
    return joined(
        [
            served.run(composer.batch(len(part), subset, part))
            for part in np.array_split(labels, max(1, windows // 64))
        ]
    )


def tables(
    served: Served, corpora: Mapping[str, Corpus], regressions: Mapping[str, Any], windows: int, seed: int
) -> str:
    """All results as Markdown."""
    rows = [
        "Every item once, alone (emotions as often as the corpus has them):",
        "",
        "| sense | items | accuracy | balanced accuracy | weighted F1 | regression: balanced | weighted F1 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for sense, answers in alone(served, corpora).items():
        corpus = corpora[sense]
        items = [served.embed(i) for i in corpus.items] if sense == "text" else corpus.items
        theirs = "| | |"
        if sense in regressions:
            guess = baseline.predict(regressions[sense], items)
            theirs = (
                f"| {metrics.balanced_accuracy(guess, corpus.labels):.3f} "
                f"| {metrics.weighted_f1(guess, corpus.labels):.3f} |"
            )
        predicted = answers.logits.argmax(1)
        rows.append(
            f"| {sense} ({CORPUS_NAMES[sense]}) | {len(predicted)} "
            f"| {metrics.accuracy(predicted, corpus.labels):.3f} "
            f"| {metrics.balanced_accuracy(predicted, corpus.labels):.3f} "
            f"| {metrics.weighted_f1(predicted, corpus.labels):.3f} {theirs}"
        )
    possible = [s for s in SUBSETS if all(SENSES[letter] in corpora for letter in s)]
    by_subset = {s: composed(served, corpora, s, windows, seed) for s in possible}
    rows += [
        "",
        f"Composed windows, {windows} for each row, emotions in equal shares (L text, A audio, V vision):",
        "",
        "| senses | accuracy | weighted F1 | ECE, T = 1 | calibrated | abstains | accuracy of the rest |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for subset, answers in by_subset.items():
        probabilities = softmax(answers.logits / served.temperature(subset))
        predicted, labels = probabilities.argmax(1), answers.labels
        spoken = probabilities.max(1) >= served.manifest.abstain_below
        kept = f"{metrics.accuracy(predicted[spoken], labels[spoken]):.3f}" if spoken.any() else "-"
        rows.append(
            f"| {subset} | {metrics.accuracy(predicted, labels):.3f} "
            f"| {metrics.weighted_f1(predicted, labels):.3f} "
            f"| {metrics.calibration_error(softmax(answers.logits), labels):.3f} "
            f"| {metrics.calibration_error(probabilities, labels):.3f} "
            f"| {1 - spoken.mean():.3f} | {kept} |"
        )
    fullest = possible[0]
    answers = by_subset[fullest]
    rows += [
        "",
        f"The fused answer and the heads of single senses on the same {fullest} windows:",
        "",
        "| | accuracy | weighted F1 |",
        "| --- | --- | --- |",
    ]
    heads = {"fused": answers.logits} | {
        f"{sense} head": answers.alone[sense] for sense in corpora if LETTER[sense] in fullest
    }
    for name, logits in heads.items():
        predicted = logits.argmax(1)
        rows.append(
            f"| {name} | {metrics.accuracy(predicted, answers.labels):.3f} "
            f"| {metrics.weighted_f1(predicted, answers.labels):.3f} |"
        )
    rows += ["", f"Confusion on {fullest} windows (row: label, column: answer):", ""]
    rows += ["| | " + " | ".join(EMOTIONS) + " |", "| --- |" + " --- |" * len(EMOTIONS)]
    counts = metrics.confusion(answers.logits.argmax(1), answers.labels, len(EMOTIONS))
    for name, line in zip(EMOTIONS, counts, strict=True):
        rows.append(f"| {name} | " + " | ".join(str(count) for count in line) + " |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--network", type=Path, default=Path("models/pretrained"), help="the bundle")
    parser.add_argument("--ravdess", type=Path, help="folder of RAVDESS speech clips, *.flac or *.wav")
    parser.add_argument("--fer", type=Path, help="folder of FER2013 pictures: <emotion>/*.jpg, any depth")
    parser.add_argument("--meld", type=Path, help="one *_sent_emo.csv of MELD, or a folder of them")
    parser.add_argument("--features", type=Path, help="instead: the test split of build/extract_corpora.py")
    parser.add_argument("--windows", type=int, default=2100, help="for each subset (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--card", action="store_true", help="write the results into MODEL_CARD.md")
    options = parser.parse_args(arguments)
    folders: dict[Kind, Path] = {kind: path for kind in KINDS if (path := getattr(options, kind))}
    if bool(folders) == bool(options.features):
        parser.error("give folders of the corpora (--ravdess, --fer, --meld), or --features")
    try:
        served = Served(options.network)
        if served.manifest.labels != EMOTIONS:
            raise DataError(
                f"{options.network}: its labels are {', '.join(served.manifest.labels) or 'none'}; this "
                f"evaluation is for {', '.join(EMOTIONS)}"
            )
        if options.features:
            corpora = {SENSE_OF[kind]: load(options.features, kind, "test") for kind in KINDS}
            said = [f"{options.features.name}: its test split"]
        else:
            corpora, said = read(folders, known(options.network), options.network, options.jobs)
        corpora = {sense: corpora[sense] for sense in SENSES.values() if sense in corpora}
        results = tables(served, corpora, baseline.load(options.network), options.windows, options.seed)
    except (DataError, SourceError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    results = f"{'; '.join(said)}. Chance is {1 / len(EMOTIONS):.3f}, seed {options.seed}.\n\n{results}"
    print(results)
    if options.card:
        card = options.network / "MODEL_CARD.md"
        before, _, rest = card.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        card.write_text(f"{before}{BEGIN}\n{results}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
