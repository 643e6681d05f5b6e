"""Launching the GD-Unit's kernel on a CUDA stream, through the driver: no PyTorch, no Triton, no waiting."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from models.plugins.kernel_file import ENTRY, THREADS, ElementType, bits, shipped

POINTER, INTEGER = ctypes.c_void_p, ctypes.c_int
TYPES = (POINTER,) * 8 + (INTEGER,) * 5 + (POINTER,)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of one launch."""

    batch: int
    outputs: int  # C, of the logits
    hidden: int  # H, of the representations
    size: int  # g, of the joint space


class LaunchError(RuntimeError):
    """CUDA refused the kernel."""


class Launcher(Protocol):
    """What brings the kernel onto a GPU."""

    def prepare(self, element: ElementType) -> None:
        """Have the kernel ready in the current CUDA context, so that a launch may be captured."""

    def launch(
        self,
        element: ElementType,
        inputs: Sequence[int],
        output: int,
        sizes: Sizes,
        alpha: float,
        stream: int,
    ) -> None:
        """Enqueue on a stream. inputs, output: device addresses, as in ``models.gd_unit.gd_unit``."""


def arguments(inputs: Sequence[int], output: int, sizes: Sizes, alpha: float) -> tuple[int, ...]:
    """The kernel's arguments, in its order; their C types are ``TYPES``."""
    return (*inputs, sizes.batch, sizes.outputs, sizes.hidden, sizes.size, bits(alpha), output)


class DriverLauncher:
    """Launches through the CUDA driver (package cuda-bindings). Untested: no GPU was at hand."""

    def __init__(self) -> None:
        self._functions: dict[tuple[int, ElementType], tuple[Any, int]] = {}  # by context

    def prepare(self, element: ElementType) -> None:
        """Raises LaunchError where the driver refuses the kernel, OSError where the package has none."""
        self._function(element)

    def launch(
        self,
        element: ElementType,
        inputs: Sequence[int],
        output: int,
        sizes: Sizes,
        alpha: float,
        stream: int,
    ) -> None:
        """Raises LaunchError."""
        from cuda.bindings import driver

        function, shared = self._function(element)
        packed = (arguments(inputs, output, sizes, alpha), TYPES)
        _check(driver.cuLaunchKernel(function, sizes.batch, 1, 1, THREADS, 1, 1, shared, stream, packed, 0))

    def _function(self, element: ElementType) -> tuple[Any, int]:
        from cuda.bindings import driver

        (context,) = _check(driver.cuCtxGetCurrent())
        key = int(context), element
        if key not in self._functions:
            kernel = shipped(element)
            (module,) = _check(driver.cuModuleLoadData(kernel.ptx.encode() + b"\0"))
            (function,) = _check(driver.cuModuleGetFunction(module, ENTRY.encode()))
            self._functions[key] = function, kernel.shared_bytes
        return self._functions[key]


def _check(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a driver call gives beside its status. Raises LaunchError."""
    status, *given = answer
    if status.value != 0:
        raise LaunchError(f"the GD-Unit's kernel: CUDA says {status.name}")
    return tuple(given)
