"""Libraries: which of TensorRT, TensorRT-RTX and ONNX Runtime this machine has, and what each can run on."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any

from runtime.engine import EngineAbsent, EngineError
from runtime.engines.artefact import Backend
from runtime.engines.cuda import Device, device

OLDEST = {"tensorrt": (10, 3), "tensorrt_rtx": (1, 0), "onnxruntime": (1, 20)}
NEWEST = {"tensorrt": 11, "tensorrt_rtx": 1, "onnxruntime": 1}  # major versions that this was written for
INSTALL = {
    "tensorrt": "it comes with JetPack; elsewhere pip install tensorrt",
    "tensorrt_rtx": "pip install 'emotion-edge[rtx]'",
    "onnxruntime": "pip install onnxruntime",
}


class MissingLibrary(EngineAbsent):
    """The library is not installed."""


class WrongVersion(EngineError):
    """The library is there, in a version that cannot be used."""


class WrongGPU(EngineError):
    """The library does not run on this GPU, or needs one."""


@dataclass(frozen=True, slots=True)
class Library:
    """A library that can be imported."""

    backend: Backend
    version: str

    @property
    def number(self) -> tuple[int, ...]:
        """Major and minor."""
        return tuple(int(n) for n in re.findall(r"\d+", self.version)[:2])

    @property
    def module(self) -> Any:
        return importlib.import_module(self.backend)


def library(backend: Backend) -> Library:
    """Import a library and check its version.

    Raises:
        MissingLibrary: it is not installed, or what it links to is not.
        WrongVersion: it is older than what this was written for, or a major version newer.
    """
    try:
        module = importlib.import_module(backend)
    except (ImportError, OSError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == backend:
            raise MissingLibrary(f"{backend} is not installed: {INSTALL[backend]}") from error
        raise MissingLibrary(f"{backend} is installed but does not load: {error}") from error
    version = str(module.__version__)
    check_version(backend, version)
    return Library(backend, version)


def check_version(backend: Backend, version: str) -> None:
    """Raises WrongVersion for a version that this was not written for."""
    numbers = Library(backend, version).number
    oldest = OLDEST[backend]
    if numbers < oldest:
        raise WrongVersion(
            f"{backend} {version} is too old: expected {'.'.join(map(str, oldest))} or later; upgrade it"
        )
    if numbers[0] > NEWEST[backend]:
        raise WrongVersion(
            f"{backend} {version} is newer than this program knows: expected {NEWEST[backend]}.x; "
            f"install that, or choose another --backend"
        )


def check_gpu(library: Library, gpu: Device) -> None:
    """Raises WrongGPU where the library lists the compute capabilities it knows, and this is none of them."""
    known = capabilities(library)
    if known and gpu.capability not in known:
        raise WrongGPU(
            f"{library.backend} {library.version} does not run on {gpu.name} (compute capability "
            f"{gpu.capability}): it knows {', '.join(known)}; choose another --backend"
        )


def capabilities(library: Library) -> list[str]:
    """The compute capabilities that TensorRT-RTX lists; empty for a library that lists none."""
    listed = getattr(library.module, "ComputeCapability", None)
    names = [] if listed is None else [name for name in listed.__members__ if name.startswith("SM")]
    return [f"{name[2:-1]}.{name[-1]}" for name in names]


def gpu_or_none() -> tuple[Device | None, str]:
    """The GPU, or None and why there is none."""
    try:
        return device(), ""
    except EngineError as error:
        return None, str(error)
