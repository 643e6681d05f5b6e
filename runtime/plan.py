"""Plan: from a configuration to a session — which processes to run, or which recording to replay."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from capture import subtitles
from capture.media import Media, probe
from capture.messages import StreamName
from capture.trouble import SourceError
from runtime import engine as engines
from runtime import network as networks
from runtime.config import Config, ConfigError
from runtime.engine import Engine
from runtime.network import Network
from runtime.recording import Recording, RecordingError
from runtime.replay_source import ReplaySource
from runtime.sources import LiveSource, Source
from runtime.supervisor import Sense

log = logging.getLogger("runtime.plan")

DEMO = Path(__file__).parent / "demo" / "face_and_speech.mcap"
DELAYS: dict[StreamName, str] = {"vision": "camera_delay_ms", "audio": "microphone_delay_ms"}
PCM = "ipc://{folder}/pcm"  # where the microphone process hands sound to the recogniser


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that was checked before anything is started."""

    config: Config
    network: Network
    engine: Engine
    name: str
    recording: Recording | None
    senses: list[Sense]
    absent: dict[StreamName, str]
    passed_over: dict[str, str]  # faster engines -> why they do not run
    spare: Callable[[], Engine] | None  # what runs if the engine fails

    @property
    def delay_s(self) -> float:
        """How late the slowest device is, from the world to a sample."""
        return max(_delays_ms(self.config, self.senses).values(), default=0.0) / 1000

    def source(self) -> Source:
        """A fresh source of arrivals; the demo makes one for each round of its loop."""
        if self.recording is not None:
            return ReplaySource(self.recording, paced=not self.config.fast)
        file = self.config.input is not None and "://" not in self.config.input
        return LiveSource(
            self.senses,
            session=self.name,
            absent=self.absent,
            media=file,
            paced=not self.config.fast,
            raw=self.config.raw,
        )


def make(config: Config) -> Plan:
    """Check every input.

    Raises:
        ConfigError, SourceError, RecordingError, NetworkError, SpecMismatch, EngineError: what was
            given cannot be used. Nothing has been started or written then.
    """
    if config.page is not None:  # a page without words and a face is half a page
        config = msgspec.structs.replace(config, share_words=True, share_face=True)
    network = networks.load(networks.BUNDLED if config.network is None else Path(config.network))
    recording = None
    senses: list[Sense] = []
    absent: dict[StreamName, str] = {}
    if config.replay is not None or config.demo:
        recording = Recording.open(DEMO if config.replay is None else Path(config.replay))
        recording.check(network.features)
    else:
        senses, absent = senses_of(config)
    _say_what_is_not_applied(config, senses)
    if config.record is not None and Path(config.record).exists():
        raise RecordingError(f"{config.record} exists: a recording is never overwritten; choose another name")
    name = config.session or (recording and recording.header.session) or time.strftime("%Y%m%d-%H%M%S")
    chosen = engines.choose(config.engine, network, threads=config.threads)
    return Plan(
        config, network, chosen.engine, name, recording, senses, absent, chosen.passed_over, chosen.spare
    )


def senses_of(config: Config) -> tuple[list[Sense], dict[StreamName, str]]:
    """The capture processes of a configuration, and why the other senses have none."""
    senses, absent = _senses_of(config)
    if not senses:
        left = ", ".join(f"{sense}: {reason}" for sense, reason in absent.items())
        raise ConfigError(f"nothing is left to look at or to listen to ({left}): switch one sense on")
    if config.raw:
        shown = ("vision", "audio")
        senses = [replace(s, arguments=(*s.arguments, "--raw")) if s.stream in shown else s for s in senses]
    return senses, absent


def _senses_of(config: Config) -> tuple[list[Sense], dict[StreamName, str]]:
    if config.input is None:
        return _devices(config)
    if "://" in config.input:
        if config.fast:
            raise ConfigError(f"fast = True: {config.input} is live and cannot be read faster")
        if config.camera == "none":
            return [], {"vision": "switched_off"}
        camera = Sense("vision", "capture.camera", _device(config.input, config.camera_delay_ms), device=True)
        return [camera], {"audio": "network_camera", "text": "network_camera"}
    return _file(config, probe(Path(config.input)))


def _devices(config: Config) -> tuple[list[Sense], dict[StreamName, str]]:
    senses: list[Sense] = []
    absent: dict[StreamName, str] = {}
    if config.camera == "none":
        absent["vision"] = "switched_off"
    else:
        camera = _device(f"device:{config.camera}", config.camera_delay_ms)
        senses.append(Sense("vision", "capture.camera", camera, True))
    asr = config.asr
    if asr == "auto":
        asr = "whisper" if importlib.util.find_spec("faster_whisper") is not None else "none"
    if config.microphone == "none":
        absent["audio"] = "switched_off"
        asr = "none"
    if asr.startswith("subtitles"):
        raise ConfigError(f"asr = {config.asr!r}: subtitles go with --input FILE")
    if asr == "none":
        absent["text"] = "asr_none"
    else:
        senses.append(replace(_whisper(asr, config), live=True))
    if config.microphone != "none":
        sound = _device(f"device:{config.microphone}", config.microphone_delay_ms)
        sound += () if asr == "none" else ("--pcm", PCM)
        senses.append(Sense("audio", "capture.microphone", sound, True))
    return senses, absent


def _say_what_is_not_applied(config: Config, senses: list[Sense]) -> None:
    """A --config file may hold the delays of this machine's devices, also when something else is read."""
    applied = _delays_ms(config, senses)
    for name in DELAYS.values():
        if (value := getattr(config, name)) and name not in applied:
            log.warning(
                "%s = %g is not applied: no such device is read, and a file has its times", name, value
            )


def _delays_ms(config: Config, senses: list[Sense]) -> dict[str, float]:
    """The delays of devices that are read."""
    delayed = [sense.stream for sense in senses if "--delay-ms" in sense.arguments]
    return {name: getattr(config, name) for stream, name in DELAYS.items() if stream in delayed}


def _device(source: str, delay_ms: float) -> tuple[str, ...]:
    return ("--source", source, *(("--delay-ms", str(delay_ms)) if delay_ms else ()))


def _file(config: Config, media: Media) -> tuple[list[Sense], dict[StreamName, str]]:
    source = ("--source", f"file:{media.path}")
    senses: list[Sense] = []
    absent: dict[StreamName, str] = {}
    heard = media.has_audio and config.microphone != "none"
    if media.has_video and config.camera != "none":
        senses.append(Sense("vision", "capture.camera", source, False))
    else:
        absent["vision"] = "switched_off" if media.has_video else "no_video"
    kind, _, which = config.asr.partition(":")
    file = Path(which) if which and kind == "subtitles" else subtitles.find(media.path)
    if kind == "auto":
        kind = "none" if file is None else "subtitles"
    if kind == "subtitles":
        if file is None or not file.is_file():
            raise SourceError(
                "no_file", f"{file or media.path.with_suffix('.srt')} is not there: --asr subtitles:FILE"
            )
        subtitles.read(file)  # raises here, before anything is started
        until = ("--until-ns", str(media.duration_ns))
        senses.append(Sense("text", "capture.transcript", ("--asr", f"subtitles:{file}", *until), False))
    elif kind == "whisper" and heard:
        senses.append(_whisper(config.asr, config))
    else:
        absent["text"] = "asr_none" if kind == "none" else "switched_off" if media.has_audio else "no_audio"
    if heard:
        pcm = ("--pcm", PCM) if kind == "whisper" else ()
        senses.append(Sense("audio", "capture.microphone", source + pcm, False))
    else:
        absent["audio"] = "switched_off" if media.has_audio else "no_audio"
    return senses, absent


def _whisper(asr: str, config: Config) -> Sense:
    language = () if config.language is None else ("--language", config.language)
    return Sense("text", "capture.transcript", ("--asr", asr, "--pcm", PCM, *language), False)
