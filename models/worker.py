"""Worker: this process among those that train one network together, started by ``torchrun``, or alone."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Worker:
    """This process among those of a run."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0


def join(device: str = "auto") -> Worker:
    """Join the processes that ``torchrun`` started, or be alone. device: auto, cpu, cuda."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if "RANK" not in os.environ:
        return Worker(torch.device(device))
    local = int(os.environ["LOCAL_RANK"])
    if device == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    where = torch.device("cuda", local) if device == "cuda" else torch.device("cpu")
    return Worker(where, dist.get_rank(), dist.get_world_size())


def seed_everything(seed: int) -> None:
    """Python, NumPy and every device of PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries may use the global generator
    torch.manual_seed(seed)
