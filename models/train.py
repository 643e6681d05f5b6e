"""Training: ``python -m models.train --config FILE.toml --out DIR``.

One command trains on MMSA pickles, on your own clips or on composed windows; the configuration says which. In
``--out``: ``config.toml`` with every default, ``last.pt`` (the same command goes on from it), TensorBoard's
events, the best network, ``report.html`` and its numbers, and, for data that the application can
capture, ``bundle/`` for ``python -m runtime.live --network``. Several GPUs: ``torchrun --nproc-per-node N -m
models.train …``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from models import bundle, text_encoder
from models.ablation import ablate
from models.calibration import abstain_threshold, temperature
from models.checkpoint import config_from_dict, save
from models.composed import Composed
from models.config import ConfigError, Training, check, load
from models.data import SENSES, Data, DataError
from models.dmd import DMD, MODALITIES, DMDConfig
from models.emotion import EmotionNetwork
from models.losses import LossWeights
from models.served import Served
from models.training import Interrupted, OtherRun, Run
from models.worker import Worker, join, seed_everything

INTERRUPTED = 130
PRETRAINED = Path(__file__).parent / "pretrained"


def open_data(config: Training) -> Data:
    """The data set of a configuration. Raises DataError."""
    where, path = config.data, Path(config.data.path).expanduser()
    if where.kind == "composed":
        return Composed(path, where.windows, where.held)
    if where.kind == "clips":
        from models.clips import open_clips

        if where.text == "pieces" and config.text_encoder is not None:
            with _source(config.text_encoder.source) as source:
                return open_clips(path, where.text, text_encoder=source)
        return open_clips(path, where.text)
    from models.mmsa import open_mmsa

    return open_mmsa(path, where.text, where.masks)


def build(config: Training, data: Data) -> tuple[EmotionNetwork, LossWeights]:
    """An untrained network for a data set, with the normalisation inside, and the weights of its losses.

    Raises ConfigError for values that make no network, and where the text encoder cannot be read.
    """
    encoder = _encoder(config)
    given = dict(config.network)
    values: dict[str, Any] = asdict(DMDConfig())
    for modality in MODALITIES:
        shape = data.inputs[modality]
        dim = encoder.norm.weight.shape[0] if encoder is not None and modality == "text" else shape.dim
        values[modality] |= given.pop(modality, {}) | {"dim": dim, "steps": shape.steps}
    try:
        described = config_from_dict(values | given | {"outputs": max(1, len(data.labels))})
        described, weights = ablate(described, LossWeights(**config.loss), config.ablation)  # type: ignore[arg-type]
        dmd = DMD(described)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"network or loss: {error}") from None
    for modality in MODALITIES:
        shape = data.inputs[modality]
        if shape.mean is not None and shape.scale is not None:
            dmd.set_normalisation(modality, torch.from_numpy(shape.mean), torch.from_numpy(shape.scale))
    trained = config.text_encoder.trained_layers if config.text_encoder else -1
    return EmotionNetwork(dmd, encoder, trained), weights


def _encoder(config: Training) -> text_encoder.TextEncoder | None:
    if config.text_encoder is None:
        return None
    with _source(config.text_encoder.source) as folder:
        return text_encoder.load(folder)


@contextlib.contextmanager
def _source(source: str) -> Iterator[Path]:
    """The unpacked folder of a pretrained encoder. Raises ConfigError where there is none."""
    try:
        with text_encoder.unpacked(Path(source).expanduser()) as folder:
            yield folder
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, ConfigError | DataError):
            raise
        raise ConfigError(f"text_encoder.source: {source}: {error}") from None


def run(
    config: Training, out: Path, *, worker: Worker | None = None, console: Console | None = None
) -> dict[str, Any]:
    """Train as configured, or go on, and write the report; returns its numbers (``report.json``).

    Raises DataError, ConfigError, OtherRun, Interrupted.
    """
    worker = worker or join()
    console = console or Console(stderr=True, quiet=not worker.first)
    check(config)
    seed_everything(config.seed + worker.rank)
    data = open_data(config)
    seed_everything(config.seed)  # every process starts from the same weights
    network, weights = build(config, data)
    seed_everything(config.seed + worker.rank)
    out.mkdir(parents=True, exist_ok=True)
    training = Run(config, network, data, weights, out, worker)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress, _stopping(training):
        bar = progress.add_task(config.name, total=config.optimisation.epochs)
        training.resume()
        progress.update(bar, completed=training.progress.epoch)
        done = training.fit(progress.console.print, lambda share: progress.advance(bar, share))
    if not worker.first:
        return {}
    save(network.dmd, out, extra={"labels": list(data.labels)})
    heat: dict[str, float] = {}
    if data.labels:
        heat, abstain = calibrate(training)
    if data.features is not None:
        with contextlib.ExitStack() as stack:
            tokenizer = None
            if config.text_encoder is not None:
                source = Path(config.text_encoder.source).expanduser()
                tokenizer = stack.enter_context(text_encoder.unpacked(source)) / "tokenizer.json"
            else:  # its words were read by the bundled encoder, which goes with it
                (out / "bundle").mkdir(exist_ok=True)
                for name in ("text_encoder.onnx", "tokenizer.json"):
                    shutil.copy(PRETRAINED / name, out / "bundle")
            bundle.write(
                network,
                data,
                out / "bundle",
                name=config.name,
                tokenizer=tokenizer,
                temperatures=heat or {"": 1.0},
                abstain_below=abstain if data.labels else 0.0,
                distilled=weights.homo > 0 and weights.hetero > 0,
                how={"passes": done.epoch, "config": msgspec.to_builtins(config)},
            )
        if isinstance(data, Composed):
            data.attach(out / "bundle", Served(out / "bundle").embed)
    return report(training, data, config, out, heat)


def report(
    training: Run, data: Data, config: Training, out: Path, temperatures: dict[str, float]
) -> dict[str, Any]:
    """Write ``report.html``, ``report.md`` and ``report.json``; returns its numbers."""
    from models import report as reporting

    dmd = training.network.dmd
    collected = {
        split: reporting.collect(training.predict(split), dmd.homo_gd, dmd.hetero_gd)
        for split in ("validation", "test")
    }
    reporting.write(out, collected, data, training.progress.history, config, temperature=temperatures.get(""))
    numbers: dict[str, Any] = json.loads((out / "report.json").read_text())
    return numbers


def calibrate(training: Run) -> tuple[dict[str, float], float]:
    """From the validation split: a temperature for every subset of the senses and ``""`` for all of it, and
    the threshold below which to abstain."""
    logits, labels, subsets = [], [], []
    for batch, output in training.predict("validation"):
        logits.append(output.logits.cpu())
        labels.append(torch.from_numpy(batch.labels))
        masks = {letter: getattr(batch, f"{sense}_mask") for letter, sense in SENSES.items()}
        there = [np.where(mask.any(1), letter, "") for letter, mask in masks.items()]
        subsets += ["".join(letters) for letters in zip(*there, strict=True)]
    all_logits, all_labels = torch.cat(logits), torch.cat(labels)
    names = np.array(subsets)
    heat = {"": temperature(all_logits, all_labels)}
    divisor = torch.full((len(names), 1), heat[""])
    for subset in sorted(set(subsets)):
        rows = torch.from_numpy(np.flatnonzero(names == subset))
        if subset and len(rows) >= 100:
            heat[subset] = temperature(all_logits[rows], all_labels[rows])
            divisor[rows] = heat[subset]
    probabilities = (all_logits / divisor).softmax(1).double().numpy()
    return heat, abstain_threshold(probabilities, all_labels.numpy())


@contextlib.contextmanager
def _stopping(training: Run) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run after the batch that is being computed."""

    def stop(*_: object) -> None:
        training.stopping = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def overridden(config: Training, settings: Sequence[str]) -> Training:
    """The configuration with ``--set optimisation.rate=1e-3`` and the like. Raises ConfigError."""
    values: dict[str, Any] = msgspec.to_builtins(config)
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: expected NAME=VALUE, for example optimisation.rate=1e-3")
        if not setting.isascii() and setting.encode(errors="replace").decode() != setting:
            raise ConfigError(f"--set {setting!r}: expected UTF-8")
        try:
            parsed = tomllib.loads(f"x = {value}")["x"]
        except (ValueError, RecursionError):  # no TOML, or a number that is too long to read
            parsed = value
        *tables, field = name.split(".")
        place = values
        for table in tables:
            if place.get(table) is None:
                place[table] = {}
            place = place[table]
            if not isinstance(place, dict):
                raise ConfigError(f"--set {setting}: {table} is no table, it has no field {field}")
        place[field] = parsed
    try:
        return msgspec.convert(values, Training)
    except msgspec.ValidationError as error:
        raise ConfigError(f"--set: {error}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Configurations to start from lie in models/configs/.",
    )
    parser.add_argument("--config", type=Path, required=True, help="TOML file; fields in models/config.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; goes on if it has one")
    parser.add_argument("--data", help="path of the data set, instead of the configuration's")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a field")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args(arguments)
    try:
        config = overridden(load(options.config), options.set)
        if options.data:
            config = msgspec.structs.replace(
                config, data=msgspec.structs.replace(config.data, path=options.data)
            )
        worker = join(options.device)
        options.out.mkdir(parents=True, exist_ok=True)
        if worker.first:
            (options.out / "config.toml").write_bytes(
                msgspec.toml.encode(_without_none(msgspec.to_builtins(config)))
            )
        run(config, options.out, worker=worker)
    except (ConfigError, DataError, OtherRun, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    except Interrupted:
        print(f"stopped; the same command goes on from {options.out / 'last.pt'}", file=sys.stderr)
        return INTERRUPTED
    if worker.first:
        print(options.out / "report.html")
    return 0


def _without_none(value: Any) -> Any:
    """TOML has no null: a field that is not set is left out."""
    if isinstance(value, dict):
        return {name: _without_none(one) for name, one in value.items() if one is not None}
    return value


if __name__ == "__main__":
    sys.exit(main())
