"""The paper's Tables 1 to 4 from MMSA pickles: ``python -m models.tables --mosi DIR --mosei DIR --out DIR``.

Every cell is a training of its own, kept under ``--out``/runs; a cell that is done is not trained again, so
the same command goes on after a stop. ``tables.md`` and ``tables.json`` are written after every cell.
Table 1 and 2 compare on MOSI and MOSEI, Table 3 takes DMD's parts away, Table 4 looks at each modality alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table as TerminalTable

from models import published
from models.config import ConfigError, DataConfig, Optimisation, TextEncoderConfig, Training
from models.data import DataError
from models.layouts import Score, Table, Variant, layout
from models.page import Grid, markdown_table, replace
from models.published import CORPORA

INTERRUPTED = 130
FILES = {True: "aligned_50.pkl", False: "unaligned_50.pkl"}  # by whether words and frames are aligned
NOTE = (
    "Paper: Li, Wang, Cui, CVPR 2023. Without a star the paper's words are GloVe's (300 numbers); MMSA's "
    "pickles hold BERT's (768), which is what DMD (ours) reads. DMD* fine-tunes BERT. Numbers of ours are "
    "mean ± deviation over the seeds."
)

Train = Callable[[Training, Path], Any]


def pickles(corpus: str, folder: Path) -> dict[tuple[str, bool], Path]:
    """The pickles in ``folder`` or in its ``Processed``. Raises ConfigError where there is none."""
    for place in (folder, folder / "Processed"):
        found = {
            (corpus, aligned): place / name for aligned, name in FILES.items() if (place / name).is_file()
        }
        if found:
            return found
    raise ConfigError(
        f"--{corpus} {folder}: neither {FILES[True]} nor {FILES[False]} is there or in its Processed folder; "
        "MMSA's download has them in MOSI/Processed and MOSEI/Processed"
    )


def mmsa_training(
    path: Path, variant: Variant, seed: int, bert: Path | None = None, epochs: int | None = None
) -> Training:
    """A cell's configuration, with the authors' hyperparameters; ``bert`` is the folder of BERT's weights."""
    how = published.OPTIMISATION if epochs is None else published.OPTIMISATION | {"epochs": epochs}
    encoder = None
    if variant.bert:
        if bert is None:
            raise ConfigError(f"{variant.name} fine-tunes BERT: give its folder with --bert")
        encoder = TextEncoderConfig(str(bert), rate=published.BERT_RATE)
    return Training(
        data=DataConfig("mmsa", str(path), text="pieces" if variant.bert else "features"),
        name=variant.name,
        seed=seed,
        network=published.NETWORK[variant.corpus],
        optimisation=msgspec.convert(how, Optimisation),
        ablation=variant.ablation,
        text_encoder=encoder,
    )


def folder(out: Path, config: Training) -> Path:
    """Where a cell lives: another for other hyperparameters, the same wherever its data lie."""
    values = msgspec.to_builtins(config)
    values["data"]["path"] = Path(config.data.path).name
    if config.text_encoder is not None:
        values["text_encoder"]["source"] = Path(config.text_encoder.source).name
    mark = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    return out / "runs" / f"{config.name}-{config.seed}-{mark}"


def finished(cell: Path) -> Mapping[str, Any] | None:
    """The test split's numbers of a cell that is done, or None. Raises ConfigError for a damaged report."""
    path = cell / "report.json"
    if not path.is_file():
        return None
    try:
        test: Mapping[str, Any] = json.loads(path.read_text())["splits"]["test"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a report ({error!r}): remove {cell} to train it again") from None
    return test


Results = Mapping[tuple[Variant, int], Mapping[str, Any]]


def fill(table: Table, results: Results, seeds: Sequence[int]) -> Grid:
    """The table with what is known; a cell that no seed has finished is "…"."""

    def one(score: Score) -> str:
        values = [value(results[score.variant, s], score) for s in seeds if (score.variant, s) in results]
        if not values:
            return "…"
        mean = f"{np.mean(values):.1f}"
        return f"{mean} ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else mean

    return Grid(
        table.header,
        tuple(
            tuple(entry if isinstance(entry, str) else " / ".join(map(one, entry)) for entry in row)
            for row in table.rows
        ),
    )


def value(test: Mapping[str, Any], score: Score) -> float:
    """A score of one seed, in percent. Raises ConfigError where the report lacks it."""
    found: list[float] = []
    for path in score.heads:
        place: Any = test
        for key in (*path, score.metric):
            place = place.get(key) if isinstance(place, Mapping) else None
        if place is None:
            raise ConfigError(f"the report of {score.variant.name} has no {'.'.join(path)} {score.metric}")
        found.append(100 * float(place))
    return float(np.std(found) if score.spread else np.mean(found))


def publish(out: Path, tables: Sequence[Table], results: Results, seeds: Sequence[int]) -> list[Grid]:
    """Write ``tables.md`` and ``tables.json`` with what is known so far."""
    grids = [fill(table, results, seeds) for table in tables]
    lines = ["# DMD's tables", "", f"Seeds {', '.join(map(str, seeds))}. {NOTE}", ""]
    for table, grid in zip(tables, grids, strict=True):
        lines += [f"## Table {table.number}. {table.title}", "", *markdown_table(grid), ""]
    numbers = {
        "seeds": list(seeds),
        "tables": [
            {"number": t.number, "title": t.title, "header": g.header, "rows": g.rows}
            for t, g in zip(tables, grids, strict=True)
        ],
        "cells": [
            {"variant": variant.name, "seed": seed, "test": test} for (variant, seed), test in results.items()
        ],
    }
    out.mkdir(parents=True, exist_ok=True)
    replace(out / "tables.md", "\n".join(lines).encode())
    replace(out / "tables.json", (json.dumps(numbers, indent=1, ensure_ascii=False) + "\n").encode())
    return grids


def make(options: argparse.Namespace, train: Train, console: Console) -> int:
    """Train what is not done yet, and write the tables. Raises ConfigError, DataError."""
    from models.train import overridden

    given: dict[tuple[str, bool], Path] = {}
    for corpus in CORPORA:
        if (place := getattr(options, corpus)) is not None:
            given |= pickles(corpus, place.expanduser())
    made = [layout(number, given, options.bert is not None) for number in options.tables]
    tables = [table for table in made if isinstance(table, Table)]
    for reason in (table for table in made if isinstance(table, str)):
        console.print(reason + ": left out")
    variants = list(dict.fromkeys(variant for table in tables for variant in table.variants))
    cells: dict[tuple[Variant, int], Training] = {}
    for seed in options.seeds:
        for variant in variants:
            config = mmsa_training(
                given[variant.corpus, variant.aligned], variant, seed, options.bert, options.epochs
            )
            cells[variant, seed] = overridden(config, options.set)
    results: dict[tuple[Variant, int], Mapping[str, Any]] = {}
    for i, ((variant, seed), config) in enumerate(cells.items(), 1):
        place = folder(options.out, config)
        test = finished(place)
        state = "done before" if test is not None else str(place)
        console.print(f"cell {i} of {len(cells)}: {variant.name}, seed {seed}: {state}", highlight=False)
        if options.dry_run:
            continue
        if test is None:
            train(config, place)
            test = finished(place)
            if test is None:
                raise ConfigError(f"{place}: the training left no report.json")
        results[variant, seed] = test
        publish(options.out, tables, results, options.seeds)
    if not options.dry_run:
        for table, grid in zip(tables, publish(options.out, tables, results, options.seeds), strict=True):
            shown = TerminalTable(*grid.header, title=f"Table {table.number}. {table.title}")
            for row in grid.rows:
                shown.add_row(*row)
            console.print(shown)
        console.print(f"{options.out / 'tables.md'}", highlight=False)
    return 0


def main(arguments: Sequence[str] | None = None, train: Train | None = None) -> int:
    """Exit status: 0 done, 2 for what cannot be used, 130 stopped. ``train`` is ``models.train.run``."""
    parser = argparse.ArgumentParser(
        prog="python -m models.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--mosi", type=Path, metavar="DIR", help="with aligned_50.pkl, unaligned_50.pkl or both"
    )
    parser.add_argument("--mosei", type=Path, metavar="DIR", help="the same of CMU-MOSEI")
    parser.add_argument(
        "--bert", type=Path, metavar="FOLDER", help="BERT-base's weights, for the rows with *"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(published.SEEDS))
    parser.add_argument("--tables", type=int, nargs="+", choices=(1, 2, 3, 4), default=[1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, help="passes at most; the paper's are 30")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
                        help="override a field of every cell's configuration")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="list the cells and train nothing")
    options = parser.parse_args(arguments)
    if options.mosi is None and options.mosei is None:
        parser.error("give --mosi, --mosei or both")
    from models.train import run
    from models.training import Interrupted

    try:
        return make(options, train or run, Console(width=None if sys.stdout.isatty() else 160))
    except (ConfigError, DataError, ValueError, OSError) as error:
        print(f"tables: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Interrupted):
        done = sum(1 for report in (options.out / "runs").glob("*/report.json"))
        print(f"stopped after {done} finished cells; the same command goes on", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
