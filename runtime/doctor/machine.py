"""Checks of the machine: Python and packages, devices and permissions, disk, memory, clock, endpoint."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import platformdirs
from packaging.requirements import Requirement

from capture import devices
from capture.address import shown
from capture.sound_cards import NODES, forbidden
from capture.trouble import SourceError, may_not
from runtime.config import Config, ConfigError
from runtime.dashboard.address import DEFAULT, Address, AddressError
from runtime.doctor import system
from runtime.doctor.finding import Finding, fault, ok, warning
from runtime.endpoint import EndpointError
from runtime.keys import KeyFileError
from runtime.plan import senses_of
from runtime.recording import Recording, RecordingError
from runtime.stream import Publisher

PACKAGE = "emotion-edge"
EXTRAS = {  # module -> its extra, and what is missing without it
    "pyaudio": ("mic", "no microphone"),
    "faster_whisper": ("whisper", "no words but subtitles"),
    "nicegui": ("dashboard", "no page in a browser"),
    "jinja2": ("report", "no report of a session"),
    "pyarrow": ("export", "no recordings as Parquet"),
    "pylsl": ("bridge", "no way to LSL, MQTT, OSC, WebSocket"),
}
LEAST_DISK_BYTES = 1 << 30
LEAST_MEMORY_BYTES = 1 << 30
COARSE_CLOCK_S = 1e-3


def packages() -> Finding:
    """What the live install needs is there, in the versions that it was written for."""
    wrong = []
    for text in importlib.metadata.requires(PACKAGE) or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append((str(requirement), "is missing"))
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append((str(requirement), f"is {found}"))
    if wrong:
        told = ", ".join(f"{name} {what}" for name, what in wrong)
        return fault(told, f"pip install {' '.join(repr(name) for name, _ in wrong)}")
    return ok(f"{PACKAGE} {importlib.metadata.version(PACKAGE)}, Python {sys.version.split()[0]}")


def extras(config: Config) -> Finding:
    """What is optional, and what a session lacks without it."""
    missing = [(extra, without) for module, (extra, without) in EXTRAS.items() if not installed(module)]
    if not missing:
        return ok(", ".join(extra for extra, _ in EXTRAS.values()))
    names = ",".join(extra for extra, _ in missing)
    told = "; ".join(f"{extra}: {without}" for extra, without in missing)
    whisper = config.asr.startswith("whisper") and recognises(config)
    asked = whisper and any(extra == "whisper" for extra, _ in missing)
    return (fault if asked else warning)(told, f"pip install '{PACKAGE}[{names}]'")


def installed(module: str) -> bool:
    """Whether it can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def source(config: Config) -> Finding:
    """What a session reads is there and can be read; devices have checks of their own."""
    if config.demo:
        return ok("the bundled recording")
    try:
        if config.replay is not None:
            recording = Recording.open(config.replay)
            return ok(f"{config.replay}: {recording.duration_s:.1f} s of {recording.header.session}")
        senses, absent = senses_of(config)
    except (ConfigError, RecordingError, SourceError) as error:
        detail, _, remedy = str(error).rpartition(": ")
        if isinstance(error, SourceError) and error.reason == "unreadable":  # the decoder's reason follows
            return fault(str(error), "choose another file")
        return fault(detail or str(error), remedy)
    except OSError as error:  # in a folder that may not be entered
        return fault(f"{config.input} cannot be read ({error.strerror})", "choose another file")
    if config.input is None:
        return ok("the devices of this machine")
    told = [sense.stream for sense in senses] + [f"no {name} ({reason})" for name, reason in absent.items()]
    tried = ", not tried here" if "://" in config.input else ""
    return ok(f"{shown(config.input)}: {', '.join(told)}{tried}")


def instead_of_devices(config: Config) -> str:
    """What a session reads in their place; nothing where it opens them."""
    if config.demo:
        return "the demo is replayed"
    named = ((name, getattr(config, name)) for name in ("input", "replay"))
    return next((f"{name} is {shown(value)}" for name, value in named if value is not None), "")


def recognises(config: Config) -> bool:
    """Whether sound goes to Whisper: a microphone's unless told otherwise, a file's only if told so."""
    if config.microphone == "none" or config.demo or config.replay is not None:
        return False
    asked = config.asr.startswith("whisper")
    if config.input is None:
        return asked or config.asr == "auto"
    return asked and "://" not in config.input


def camera(config: Config, listed: Path = devices.VIDEO, folder: Path = devices.DEV) -> Finding:
    """The camera that a session would open is there, and may be opened."""
    if config.camera == "none":
        return ok("switched off")
    if other := instead_of_devices(config):
        return ok(f"not opened: {other}")
    found = devices.cameras(listed, folder)
    if not found:
        inside = Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()
        how = "pass it to the container: --device /dev/video0" if inside else "connect one"
        return warning("none on this machine", f"{how}, or use --input FILE, or --input rtsp://…")
    chosen = str(Path(config.camera).resolve()) if config.camera.startswith("/") else config.camera
    wanted = [c for c in found if chosen in (c.option.split()[1], c.path)]
    if not wanted:
        there = ", ".join(f"{c.option.split()[1]}: {c.name}" for c in found)
        return fault(f"there is no camera {config.camera} (there are {there})", found[0].option)
    if not wanted[0].readable:
        detail, _, remedy = may_not(wanted[0].path, "video").partition(": ")
        return fault(detail, remedy)
    return ok(f"{wanted[0].name} ({wanted[0].path})")


def microphone(config: Config, folder: Path = NODES) -> Finding:
    """The microphone that a session would open is there, and may be opened."""
    if config.microphone == "none":
        return ok("switched off")
    if other := instead_of_devices(config):
        return ok(f"not opened: {other}")
    try:
        found = devices.microphones()
    except SourceError as error:
        detail, _, remedy = str(error).rpartition(": ")
        return warning(detail or str(error), remedy)
    if not found:
        # Only now: a sound server may give what its device files do not.
        node = forbidden(folder)
        if node is not None:
            detail, _, remedy = may_not(node, "audio").partition(": ")
            return fault(detail, remedy)
        return warning("none on this machine", "connect one, or use --input FILE")
    name = config.microphone.lower()
    if name == "default":
        matching = [one for one in found if one.default] or found
    else:
        matching = [one for one in found if name == one.option.split()[1]]
        matching = matching or [one for one in found if name in one.name.lower()]
    if not matching:
        there = ", ".join(f"{m.option.split()[1]}: {m.name}" for m in found)
        return fault(f"there is no microphone {config.microphone!r} (there are {there})", found[0].option)
    return ok(f"{matching[0].name} ({matching[0].rate_hz} Hz)")


def endpoint(config: Config) -> Finding:
    """The stream can be published where it was asked for, to those who may hear it."""
    try:
        Publisher(config.endpoint, "doctor", None if config.keys is None else Path(config.keys)).close()
    except (EndpointError, KeyFileError) as error:
        detail, _, remedy = str(error).rpartition(": ")
        return fault(detail, remedy)
    return ok(f"{config.endpoint} is free")


def page(config: Config) -> Finding:
    """The page can be served where it was asked for, or where it is by itself."""
    try:
        address = Address.parse(config.page or DEFAULT)
        address.check_free()
    except AddressError as error:
        detail, _, remedy = str(error).rpartition(": ")
        return (fault if config.page else warning)(detail, remedy)
    return ok(f"{address} is free")


def libraries() -> Finding:
    """OpenCV and MediaPipe find the libraries of the system that they link to."""
    program = "import cv2, mediapipe\nfrom mediapipe.tasks.python import vision"
    with tempfile.TemporaryDirectory() as folder:  # MediaPipe brings matplotlib, which keeps a cache
        environment = os.environ | {"MPLCONFIGDIR": folder}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode == 0:
        return ok("OpenCV and MediaPipe can be loaded")
    last = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
    _, command = system.missed(last) or ("", "pip install --force-reinstall mediapipe")
    return fault(f"OpenCV or MediaPipe cannot be loaded: {last}", command)


def disk(config: Config) -> Finding:
    """There is room, and permission, for what is downloaded, built and recorded."""
    folders = {"the cache": Path(platformdirs.user_cache_dir(PACKAGE))}
    if config.record is not None:
        folders["the recording"] = Path(config.record).absolute().parent
    least = None
    for what, folder in folders.items():
        there = folder
        try:
            there = next(path for path in (folder, *folder.parents) if path.exists())
            with tempfile.TemporaryFile(dir=there) as file:
                file.write(b"\0" * 4096)
                file.flush()
        except OSError as error:
            return fault(
                f"{what} cannot be written in {there} ({error.strerror})", f"make room, or chown {there}"
            )
        free = shutil.disk_usage(there).free
        least = free if least is None else min(least, free)
        if free < LEAST_DISK_BYTES:
            return warning(
                f"{free / 1e6:.0f} MB left for {what} in {there}", "make room: 1 GB is comfortable"
            )
    return ok(f"{(least or 0) / 1e9:.0f} GB free")


def memory() -> Finding:
    """A session takes some 700 MB, with a recogniser more."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    if available < LEAST_MEMORY_BYTES:
        return warning(f"{available / 1e6:.0f} MB available", "close other programs, or use --asr none")
    return ok(f"{available / 1e9:.1f} GB available, {os.cpu_count()} processors")


def clock() -> Finding:
    """The capture clock is fine enough, and dates can be believed."""
    info = time.get_clock_info("monotonic")
    if info.resolution > COARSE_CLOCK_S:
        return warning(
            f"the monotonic clock ticks every {info.resolution * 1e3:g} ms", "use another kernel clock"
        )
    told = f"ticks every {info.resolution * 1e9:g} ns"
    if shutil.which("timedatectl") is None:
        return ok(f"{told}; whether the date is synchronised is not known here")
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    if answer.stdout.strip() == "no":
        return warning("the date is not synchronised: wall times may be off", "sudo timedatectl set-ntp true")
    return ok(told if answer.returncode else f"{told}; the date is synchronised")
