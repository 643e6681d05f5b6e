"""How long a training step takes: ``python -m models.bench step --shapes mosi-unaligned --batch 16``.

Our network and the plain one of ``models.bench_plain`` take turns with the same weights and windows:
forward in training mode, every loss, backward, clipping, Adam. Before, both must give the same total
loss in evaluation mode. The ratio of their medians is what counts; seconds depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from models.bench_plain import PlainDMD
from models.dmd import DMD
from models.dmd_config import PRESETS, DMDConfig
from models.losses import LossWeights, objective

WEIGHTS = LossWeights()
CLIP = 0.6  # of every gradient's value, as the authors'


class UnequalLosses(RuntimeError):
    """The two networks do not compute the same thing, so their times cannot be compared."""


@dataclass(frozen=True)
class Timing:
    """What was measured; seconds are medians over ``repeats`` steps."""

    shapes: str
    batch: int
    device: str
    machine: str
    threads: int
    compiled: bool
    repeats: int
    parameters: int
    loss_difference: float  # relative, of the total in evaluation mode
    ours_s: float
    plain_s: float

    @property
    def ratio(self) -> float:
        return self.ours_s / self.plain_s


def windows(config: DMDConfig, batch: int, device: str) -> tuple[tuple[Tensor, ...], Tensor]:
    """Random text, audio and vision (B, steps, dim), and sentiments (B, 1) in steps of one."""
    sizes = [config.input(m) for m in ("text", "audio", "vision")]
    features = tuple(torch.randn(batch, s.steps, s.dim, device=device) for s in sizes)
    return features, torch.randint(-3, 4, (batch, 1), device=device).float()


def our_loss(model: DMD, features: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Forward and objective of the network."""
    return objective(model(*features), labels, model.homo_gd, model.hetero_gd, WEIGHTS)[0]


def plain_loss(model: PlainDMD, features: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Forward and objective of the plain network."""
    return model.loss(model(*features), labels, WEIGHTS)


def stepper(model: nn.Module, loss: Callable[[], Tensor], device: str) -> Callable[[], float]:
    """One training step, as a function that gives its seconds."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> float:
        start = _now(device)
        optimiser.zero_grad()
        torch.autograd.backward(loss())
        nn.utils.clip_grad_value_([p for p in model.parameters() if p.grad is not None], CLIP)
        optimiser.step()
        return _now(device) - start

    return step


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()  # what was asked for is done
    return time.perf_counter()


def compare(
    shapes: str, batch: int, device: str, repeats: int, *, compiled: bool = False, quiet: bool = True
) -> Timing:
    """Measure both, in turns. Raises UnequalLosses."""
    torch.manual_seed(0)
    config = PRESETS[shapes]
    ours = DMD(config).to(device).eval()
    plain = PlainDMD(config).to(device).eval().copy_of(ours)
    few, few_labels = windows(config, min(batch, 4), device)
    with torch.no_grad():
        expected, got = float(plain_loss(plain, few, few_labels)), float(our_loss(ours, few, few_labels))
    difference = abs(got - expected) / abs(expected)
    if not difference < 1e-5:
        raise UnequalLosses(f"the losses differ: {got} here, {expected} from the plain network")
    features, labels = windows(config, batch, device)
    run = torch.compile(our_loss) if compiled else our_loss
    steps = {
        "ours": stepper(ours.train(), lambda: run(ours, features, labels), device),
        "plain": stepper(plain.train(), lambda: plain_loss(plain, features, labels), device),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    console = Console(stderr=True, quiet=quiet)
    for i in track(range(repeats + 1), "training steps", console=console):
        for name, step in steps.items():
            taken = step()
            if i:  # the first of each warms up
                seconds[name].append(taken)
    return Timing(
        shapes,
        batch,
        device,
        machine(device),
        torch.get_num_threads(),
        compiled,
        repeats,
        sum(p.numel() for p in ours.parameters()),
        difference,
        statistics.median(seconds["ours"]),
        statistics.median(seconds["plain"]),
    )


def machine(device: str) -> str:
    """The processor, or the GPU, and PyTorch's version."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if device == "cuda":
        name = torch.cuda.get_device_name()
    elif cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, PyTorch {torch.__version__}"


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("step",), default="step")
    parser.add_argument("--shapes", choices=tuple(PRESETS), default="mosi-unaligned")
    parser.add_argument("--batch", type=int, default=16, help="windows in a step")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="ours through torch.compile")
    parser.add_argument("--repeats", type=int, default=2, help="measured steps of each")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: as it finds them")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    args = parser.parse_args(argv)
    if min(args.batch, args.repeats) < 1 or args.threads < 0:
        parser.error("--batch and --repeats must be at least 1, --threads at least 0")
    if args.device == "cuda" and not torch.cuda.is_available():
        print("models.bench: --device cuda: PyTorch sees no GPU here; use --device cpu", file=sys.stderr)
        return 2
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        timing = compare(
            args.shapes, args.batch, args.device, args.repeats, compiled=args.compile, quiet=args.json
        )
    except UnequalLosses as error:
        print(f"models.bench: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(asdict(timing) | {"ratio": timing.ratio}))
        return 0
    title = (
        f"training step, {timing.shapes}, batch {timing.batch}, {timing.parameters / 1e6:.1f} M parameters"
    )
    table = Table("network", "median of", "seconds a step", title=title)
    table.add_row(
        "ours, compiled" if timing.compiled else "ours", str(timing.repeats), f"{timing.ours_s:.3f}"
    )
    table.add_row("plain", str(timing.repeats), f"{timing.plain_s:.3f}")
    table.add_row("ratio", "", f"{timing.ratio:.2f}")
    Console().print(table)
    print(f"{timing.machine}, {timing.threads} thread(s), loss differs by {timing.loss_difference:.1e}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
