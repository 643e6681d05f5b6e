"""The compiled GD-Unit as files and numbers: what launches it needs neither Triton nor PyTorch."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ElementType = Literal["fp32", "fp16", "bf16"]
PTX = Path(__file__).parent / "ptx"
ENTRY = "gd_unit_kernel"
WARPS = 4
THREADS = 32 * WARPS
SHARED = "// dynamic shared memory in bytes:"  # first line of a shipped file


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """One kernel, compiled for one GPU and one element type."""

    capability: int  # 87 for 8.7
    element: ElementType
    ptx: str  # takes eight inputs, five int32 and the output
    cubin: bytes  # the same as machine code, with Triton's two scratch pointers at the end
    shared_bytes: int  # of dynamic shared memory at launch


@dataclass(frozen=True, slots=True)
class ShippedKernel:
    """What a launch needs: the PTX, which the driver compiles, and its shared memory."""

    ptx: str
    shared_bytes: int


def bits(alpha: float) -> int:
    """The bits of a float32, as the int32 that the kernel takes."""
    found: int = struct.unpack("<i", struct.pack("<f", alpha))[0]
    return found


def ptx_path(element: ElementType) -> Path:
    return PTX / f"gd_unit.{element}.ptx"


def write(kernel: CompiledKernel) -> None:
    """Write a kernel as the one that the package ships for its element type."""
    ptx_path(kernel.element).write_text(f"{SHARED} {kernel.shared_bytes}\n{kernel.ptx}")


def shipped(element: ElementType) -> ShippedKernel:
    """The kernel that the package carries. Raises OSError without one, ValueError for another file."""
    path = ptx_path(element)
    first, _, ptx = path.read_text().partition("\n")
    if not first.startswith(SHARED):
        raise ValueError(f"{path} is not of python -m models.plugins.gd_unit_kernel: run it again")
    return ShippedKernel(ptx, int(first.removeprefix(SHARED)))
