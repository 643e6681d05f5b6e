"""Artefact: a built engine on disk — its manifest, where it lies, whether it still fits, how it is written.

An artefact is a folder with ``engine`` and ``manifest.json``. It is written beside its place and renamed,
so there is never half of one. Engines lie in ``$EMOTION_ENGINES``, else in the user's cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
import platformdirs

from runtime.engine import EngineError
from runtime.engines.cuda import Device

Backend = Literal["tensorrt", "tensorrt_rtx", "onnxruntime"]
Precision = Literal["fp32", "fp16", "bf16"]
BACKENDS: tuple[Backend, ...] = ("tensorrt", "tensorrt_rtx", "onnxruntime")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")

ENGINE, MANIFEST, RUNTIME_CACHE = "engine", "manifest.json", "runtime.cache"
HALF, PART = ".half", ".part"  # end the name of a folder, of a file, that is being written
GPU_OF_NONE = "none: built for "


class ArtefactError(EngineError):
    """A folder that holds no usable engine; the message says what is wrong and what to do."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``manifest.json``: what an engine was built from, with, and for."""

    format: Literal[1] = 1
    backend: Backend
    version: str  # of the library that built it, the only one that may load it
    precision: Precision
    gpu: str  # its name; "none: built for …" where there was none
    compute_capability: str | None  # of that GPU; None: see ``gpu``
    network: str  # its name
    network_hash: str  # of the bundle
    graph: str  # sha256 of its network.onnx
    features: str  # hash of its FeatureSpec
    max_batch: int
    plugin: bool  # GD-Units run in our kernel; False: as the layers of their function body
    embedded: bool = False  # that kernel lies in the engine: nothing has to be registered to read it
    plugins: tuple[str, ...]  # the names of the plugin layers
    layers: dict[str, int]  # how many of which type the library was given
    engine_layers: tuple[str, ...]  # what it made of them; empty: to be seen only on a GPU
    engine_bytes: int
    engine_sha256: str
    build_s: float
    built: str  # RFC 3339, UTC
    machine: str  # "x86_64", "aarch64"
    software: str  # the version of this application


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine has to be, to run a network on this machine; with the plugin or without is all one."""

    backend: Backend
    version: str
    precision: Precision
    device: Device | None  # None: the backend needs no GPU
    graph: str
    features: str
    machine: str
    software: str


def engines_folder() -> Path:
    """Where engines are kept: ``$EMOTION_ENGINES``, else the user's cache."""
    given = os.environ.get("EMOTION_ENGINES")
    return Path(given) if given else Path(platformdirs.user_cache_dir("emotion-edge")) / "engines"


def home(network: str, backend: Backend, precision: Precision, device: Device | None) -> Path:
    """The folder of one engine: named by what may lie side by side, not by what makes it stale."""
    where = "any" if device is None else f"{device.name} {device.capability}"
    return engines_folder() / "-".join(map(slug, (network, backend, precision, where)))


def slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_") or "_"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(folder: Path) -> Manifest:
    """The manifest of an engine; ``folder`` may also be the manifest itself.

    Raises:
        ArtefactError: there is none, or it is damaged or of another format.
    """
    path = folder / MANIFEST if folder.is_dir() else folder
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise ArtefactError(
            f"{path}: {error.strerror}: expected an engine's folder, as build/compile_trt.py writes it"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtefactError(f"{path} is damaged: {error}: build the engine anew") from error


def differences(manifest: Manifest, wanted: Wanted) -> list[str]:
    """Why an engine does not fit, a few words each; none: it does."""
    found = []
    for what, has, needs in (
        ("backend", manifest.backend, wanted.backend),
        ("library version", manifest.version, wanted.version),
        ("precision", manifest.precision, wanted.precision),
        ("graph", manifest.graph[:12], wanted.graph[:12]),
        ("features", manifest.features, wanted.features),
        ("processor", manifest.machine, wanted.machine),
        ("software", manifest.software, wanted.software),
    ):
        if has != needs:
            found.append(f"{what} {has}, now {needs}")
    if wanted.device is not None:
        # An engine without a GPU's name runs on any that its library knows: the library says so when loading.
        portable = manifest.backend == "tensorrt_rtx" and manifest.gpu.startswith(GPU_OF_NONE)
        here = f"{wanted.device.name} ({wanted.device.capability})"
        there = f"{manifest.gpu} ({manifest.compute_capability})"
        if not portable and here != there:
            found.append(f"GPU {there}, now {here}")
    return found


def damage(folder: Path, manifest: Manifest) -> str | None:
    """Whether the engine is the one that the manifest tells of: None, or what is wrong."""
    path = folder / ENGINE
    try:
        actual = sha256(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    if actual != manifest.engine_sha256:
        return f"{path} is damaged (sha256 {actual[:12]}…, expected {manifest.engine_sha256[:12]}…)"
    return None


@contextmanager
def staged(place: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``place`` when the block ends well and vanishes when it does not.

    While it is being filled it is locked; what a killed process left behind is not, and the next call
    removes it. Raises ArtefactError where ``place`` is something that must not be replaced.
    """
    place = place.resolve()
    if not _ours(place):
        raise ArtefactError(f"{place} exists and is no engine: choose another folder with --out")
    place.parent.mkdir(parents=True, exist_ok=True)
    clean(place.parent)
    half = place.parent / f".{place.name}.{os.getpid()}.{threading.get_ident()}{HALF}"
    with _locked(place.parent):  # else another process's ``clean`` could come before the lock
        half.mkdir()
        lock = os.open(half, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield half
        for path in half.iterdir():
            _to_disk(path)
        with _locked(place.parent):  # two builds of one engine: the later one stays
            _swap(half, place)
            _to_disk(place.parent)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _swap(half: Path, place: Path) -> None:
    """Put a folder in a place. A full one cannot be replaced in one step: for a moment there is none."""
    if not _ours(place):
        raise ArtefactError(f"{place} is no engine any more: choose another folder with --out")
    old = half.with_name(half.name.removesuffix(HALF) + f".old{HALF}")
    if place.exists():
        place.rename(old)
    half.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def clean(folder: Path) -> list[Path]:
    """Remove what builds that were killed left in ``folder``; returns it. Those that go on are let be."""
    removed: list[Path] = []
    if not any(folder.glob(f".*{HALF}")):
        return removed  # nothing to do, also in a folder that cannot be written
    with _locked(folder):
        for half in folder.glob(f".*{HALF}"):
            try:
                lock = os.open(half, os.O_RDONLY)
            except OSError:
                continue  # it has just become an engine, or is somebody else's
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(half)
                removed.append(half)
            except (BlockingIOError, PermissionError):
                pass  # somebody is at it, or it may not be removed
            finally:
                os.close(lock)
    return removed


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one process at a time: for moments, never for a whole build."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new."""
    half = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        half.write_bytes(content)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def _ours(place: Path) -> bool:
    """Whether a place may be replaced: it is free, or holds nothing but an engine's files, whole or not."""
    if not place.exists():
        return True
    files = (ENGINE, MANIFEST, RUNTIME_CACHE)
    return place.is_dir() and all(
        path.is_file() and (path.name in files or path.name.endswith(PART)) for path in place.iterdir()
    )


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
