"""The training loop: passes over a data set, validation after each, the best network kept.

Everything that the next pass depends on is written to ``last.pt`` after each pass, atomically, so a run that
was stopped or killed goes on to the very numbers of one that was not. Under ``torchrun`` every process takes
its share of each pass's batches and gradients are averaged; the first process writes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.calibration import temperature
from models.config import Training
from models.data import Batch, Data, Split
from models.dmd import DMDOutput
from models.emotion import EmotionNetwork
from models.losses import LossWeights
from models.optimisation import Step, drop_senses, optimiser, plateau, tensors, widened
from models.worker import Worker


class OtherRun(ValueError):
    """A folder holds a run of another configuration."""


class Interrupted(Exception):
    """The run was asked to stop; it is kept and can go on."""


@dataclass
class Progress:
    """Where a run is."""

    epoch: int = 0  # passes done
    best: float = math.inf  # validation loss of the best pass
    since: int = 0  # passes without progress
    history: list[dict[str, float]] = field(default_factory=list)  # one row a pass


class Run:
    """One training: the network, its optimiser, and where it is.

    Args:
        config: what was asked for.
        network: untrained; what is best on validation is in it when ``fit`` returns.
        folder: for ``last.pt`` and TensorBoard's events.
        worker: from ``join``.
    """

    def __init__(
        self, config: Training, network: EmotionNetwork, data: Data, weights: LossWeights, folder: Path,
        worker: Worker,
    ) -> None:  # fmt: skip
        how = config.optimisation
        self.config, self.how, self.data, self.folder, self.worker = config, how, data, folder, worker
        self.network = network.to(worker.device)
        self.step = Step(self.network, weights, how.precision if worker.device.type == "cuda" else "fp32")
        self.optimiser = optimiser(self.network, config)
        self.scaler = torch.amp.GradScaler(
            worker.device.type, enabled=how.precision == "fp16" and worker.device.type == "cuda"
        )
        self.progress = Progress()
        self.best = copy.deepcopy(self.network.state_dict())
        self.average = copy.deepcopy(self.network.state_dict()) if how.average else None
        self.updates = 0
        self.stopping = False
        self.frozen = False

    @property
    def updates_in_a_pass(self) -> int:
        batches = math.ceil(len(self.data) / self.how.batch) // self.worker.count
        return max(1, math.ceil(batches / self.how.accumulate))

    def fit(self, said: Callable[[str], None], advance: Callable[[float], None]) -> Progress:
        """Train on from where the run is, until the passes are over or nothing improves any more.

        said: called with one line after each pass; advance: with the share of a pass that each batch is.
        Raises Interrupted where ``stopping`` was set; ``last.pt`` is there to go on from.
        """
        step: nn.Module = self.step
        if self.how.compile:
            step = torch.compile(step)  # type: ignore[assignment]
        if self.worker.count > 1:
            step = DistributedDataParallel(step, find_unused_parameters=True)
        writer = _writer(self.folder) if self.worker.first else None
        at = self.progress
        while at.epoch < self.how.epochs and not (self.how.patience and at.since >= self.how.patience):
            losses = self._pass(step, advance)
            row = {"epoch": at.epoch + 1.0, "rate": self.rate(), **losses}
            row["validation"] = self.validate()
            at.epoch += 1
            better = row["validation"] < at.best
            at.since = 0 if better else at.since + 1
            if better:
                at.best, self.best = row["validation"], copy.deepcopy(self._kept())
            at.history.append(row)
            if self.worker.first:
                self.save()
            if writer:
                for name, value in row.items():
                    writer.add_scalar(name, value, at.epoch)
            said(
                f"pass {at.epoch}  train {row['total']:.3f}  validation {row['validation']:.4f}"
                + ("  best so far" if better else "")
            )
        if writer:
            writer.close()
        self.network.load_state_dict(self.best)
        self.network.eval()
        return at

    def _pass(self, step: nn.Module, advance: Callable[[float], None]) -> dict[str, float]:
        """One pass over the training windows; the mean of every part of the objective."""
        self._freeze_encoder_in_time()
        self.network.train()
        sums: dict[str, float] = {}
        seed = self.config.seed * 100_003 + self.progress.epoch
        rng = np.random.default_rng([seed, self.worker.rank])
        count, pending = 0, 0
        share = 1 / max(1, math.ceil(len(self.data) / self.how.batch) // self.worker.count)
        for batch in self._mine(self.data.batches("train", self.how.batch, seed)):
            if self.stopping:
                raise Interrupted
            made, labels = tensors(drop_senses(batch, self.how.modality_dropout, rng), self.worker.device)
            total, parts = step(made, labels)
            self.scaler.scale(total).backward()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            count, pending = count + 1, pending + 1
            if pending == self.how.accumulate:
                self._update()
                pending = 0
            advance(share)
        if pending:
            self._update()
        return {name: value / max(1, count) for name, value in sums.items()}

    def _freeze_encoder_in_time(self) -> None:
        encoder = self.config.text_encoder
        if encoder is None or not 0 <= encoder.trained_epochs <= self.progress.epoch:
            return
        if self.average is not None and encoder.trained_epochs == self.progress.epoch:
            kept = {name: value for name, value in self.average.items() if name.startswith("encoder.")}
            self.network.load_state_dict(kept, strict=False)
        if not self.frozen:
            self.network.freeze_encoder()
            self.frozen = True

    def _mine(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """This process's share: every process gets the same number, or gradients would wait for ever."""
        group: list[Batch] = []
        for batch in batches:
            group.append(batch)
            if len(group) == self.worker.count:
                yield group[self.worker.rank]
                group = []

    def _update(self) -> None:
        """One step of the optimiser. Gradients of accumulated passes are summed, as the authors' are."""
        self.scaler.unscale_(self.optimiser)
        if self.how.clip:
            nn.utils.clip_grad_value_(self.network.parameters(), self.how.clip)
        if self.how.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.how.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = group["base"] * self.rate()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad()
        self.updates += 1
        if self.average is not None:
            # Young averages follow closely.
            decay = min(self.how.average, (1 + self.updates) / (10 + self.updates))
            frozen = {n for n, parameter in self.network.named_parameters() if not parameter.requires_grad}
            for name, value in self.network.state_dict().items():
                if name in frozen:
                    continue
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)

    def rate(self) -> float:
        """Factor on the learning rates, now."""
        factor = min(1.0, (self.updates + 1) / self.how.warmup) if self.how.warmup else 1.0
        if self.how.schedule == "cosine":
            whole = self.how.epochs * self.updates_in_a_pass
            return factor * (0.5 + 0.5 * math.cos(math.pi * min(1.0, self.updates / whole)))
        if self.how.schedule == "plateau":
            return factor * plateau([row["validation"] for row in self.progress.history], self.how.plateau)
        return factor

    def _kept(self) -> dict[str, Tensor]:
        return self.network.state_dict() if self.average is None else self.average

    @torch.no_grad()
    def validate(self) -> float:
        """Mean loss of the fused answer over the validation split: absolute error or cross-entropy.

        Cross-entropy is taken at the temperature that suits it best: how sure a network is gets calibrated
        afterwards, and must not decide which one is kept. Every process computes all of it, so all agree
        on when to stop.
        """
        now = self.network.state_dict()
        if self.average is not None:
            now = copy.deepcopy(now)
            self.network.load_state_dict(self.average)
        self.network.eval()
        logits, labels = [], []
        for batch in self.data.batches("validation", 4 * self.how.batch, 0):
            made, truth = tensors(batch, self.worker.device)
            logits.append(self.network.infer(*made).logits.float())
            labels.append(truth)
        if self.average is not None:
            self.network.load_state_dict(now)
        said, true = torch.cat(logits), torch.cat(labels)
        if not self.data.labels:
            return float(F.l1_loss(said[:, 0], true))
        with torch.enable_grad():
            heat = temperature(said, true)
        return float(F.cross_entropy(said / heat, true))

    def save(self) -> None:
        """Keep everything that the next pass depends on."""
        state = {
            "network": self.network.state_dict(),
            "best": self.best,
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "updates": self.updates,
            "progress": {f.name: getattr(self.progress, f.name) for f in fields(self.progress)},
            "config": msgspec.json.encode(self.config).decode(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if self.worker.device.type == "cuda" else [],
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        half = self.folder / "last.pt.half"
        torch.save(state, half)
        half.replace(self.folder / "last.pt")

    def resume(self) -> bool:
        """Go on from ``last.pt`` if there is one. Raises OtherRun where it is another configuration's."""
        path = self.folder / "last.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.worker.device, weights_only=True)
        kept = msgspec.json.decode(state["config"], type=Training)
        if _but_length(kept) != _but_length(self.config):
            raise OtherRun(
                f"{self.folder} holds a run of another configuration: choose another --out, or remove it"
            )
        self.network.load_state_dict(state["network"])
        self.best, self.average = state["best"], state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.updates = state["updates"]
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["random"].cpu())
        if state["random_cuda"]:
            torch.cuda.set_rng_state_all([one.cpu() for one in state["random_cuda"]])
        return True

    @torch.no_grad()
    def predict(self, split: Split) -> Iterator[tuple[Batch, DMDOutput]]:
        """Everything the network says of a split, batch by batch."""
        self.network.eval()
        for batch in self.data.batches(split, 4 * self.how.batch, 0):
            made, _ = tensors(batch, self.worker.device)
            yield batch, widened(self.network(*made))


def _but_length(config: Training) -> Training:
    """What must not change when a run goes on: everything but how long it may go on."""
    how = msgspec.structs.replace(config.optimisation, epochs=0, patience=0)
    return msgspec.structs.replace(config, optimisation=how)


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # TensorBoard is part of the train extra, and training does without
        return None
    return SummaryWriter(str(folder / "tensorboard"))
