"""CUDA: the few calls that a GPU engine needs, through cuda-python; all that touches a GPU outside TensorRT.

``device`` runs on any machine and says in one line why there is no GPU. The rest needs a GPU, and is kept
this small because a machine without one cannot test it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.engine import EngineAbsent, EngineError


@dataclass(frozen=True, slots=True)
class Device:
    """The first GPU of this machine."""

    name: str  # "Orin", "NVIDIA GeForce RTX 4090"
    capability: str  # compute capability, "8.7"
    memory_bytes: int


def device() -> Device:
    """The GPU that engines run on: CUDA's device 0.

    Raises:
        EngineAbsent: cuda-python is not installed, or CUDA finds no GPU or no driver.
    """
    rt = runtime()
    status, count = rt.cudaGetDeviceCount()
    if status != rt.cudaError_t.cudaSuccess:
        raise EngineAbsent(f"no NVIDIA GPU here (CUDA says: {_text(rt, status)})")
    if not count:
        raise EngineAbsent("no NVIDIA GPU here (CUDA counts none)")
    (found,) = _checked(rt, "cudaGetDeviceProperties", rt.cudaGetDeviceProperties(0))
    name = found.name.decode().strip("\0 ")
    return Device(name, f"{found.major}.{found.minor}", int(found.totalGlobalMem))


class Stream:
    """A CUDA stream of its own; ``handle`` is what TensorRT takes."""

    def __init__(self) -> None:
        self._rt = runtime()
        (self._stream,) = self._call("cudaStreamCreateWithFlags", self._rt.cudaStreamNonBlocking)
        self.handle = int(self._stream)

    def wait(self) -> None:
        """Until everything that was put into the stream is done."""
        self._call("cudaStreamSynchronize", self._stream)

    def upload(self, pair: Pair) -> None:
        self._copy(pair.address, pair.host.ctypes.data, pair, self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def download(self, pair: Pair) -> None:
        self._copy(pair.host.ctypes.data, pair.address, pair, self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what ``work`` puts into this stream as a CUDA graph; returns what launches it again.

        Thread-local capture: another library's allocations in another thread do not break it.
        """
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            self._rt.cudaStreamEndCapture(self._stream)  # the first error is the one to tell
            raise
        (graph,) = self._call("cudaStreamEndCapture", self._stream)
        (executable,) = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)  # the executable is a copy
        return lambda: self._launch(executable)

    def _launch(self, executable: Any) -> None:
        self._call("cudaGraphLaunch", executable, self._stream)

    def _copy(self, to: int, source: int, pair: Pair, kind: Any) -> None:
        self._call("cudaMemcpyAsync", to, source, pair.host.nbytes, kind, self._stream)

    def _call(self, name: str, *arguments: Any) -> Sequence[Any]:
        return _checked(self._rt, name, getattr(self._rt, name)(*arguments))


class Pair:
    """One tensor twice: a page-locked array on the host and as much memory on the GPU.

    shape: of ``host``, zero at first; dtype: of its numbers.
    """

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._rt = rt = runtime()
        kind = np.dtype(dtype)
        size = max(1, int(np.prod(shape)) * kind.itemsize)
        (self._locked,) = _checked(rt, "cudaHostAlloc", rt.cudaHostAlloc(size, rt.cudaHostAllocDefault))
        (address,) = _checked(rt, "cudaMalloc", rt.cudaMalloc(size))
        self.address = int(address)
        memory: Any = (ctypes.c_char * size).from_address(int(self._locked))
        self.host: npt.NDArray[Any] = np.ndarray(shape, kind, memory)
        self.host[...] = 0

    def close(self) -> None:
        """Give both back; ``host`` must not be touched after that."""
        self._rt.cudaFree(self.address)
        self._rt.cudaFreeHost(self._locked)


def runtime() -> Any:
    """CUDA's runtime API. Raises EngineAbsent where cuda-python is not installed."""
    try:
        from cuda.bindings import runtime as found
    except ImportError as error:
        raise EngineAbsent(
            f"cuda-python is not installed ({error}): pip install cuda-bindings, "
            f"of the CUDA version that your TensorRT was made for"
        ) from error
    return found


def _checked(rt: Any, name: str, result: tuple[Any, ...]) -> Sequence[Any]:
    status, *values = result
    if status != rt.cudaError_t.cudaSuccess:
        raise EngineError(f"{name} failed: {_text(rt, status)}")
    return values


def _text(rt: Any, status: Any) -> str:
    told = rt.cudaGetErrorString(status)[1]
    return told.decode() if isinstance(told, bytes) else str(status)
