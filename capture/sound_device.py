"""Sound device: a microphone through PyAudio, in buffers of 20 ms, each with its converter's time."""

from __future__ import annotations

import queue
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from capture import noise, sound_cards
from capture.clock import Clock
from capture.features.audio import SAMPLE_RATE_HZ
from capture.sound import Int16
from capture.trouble import SourceError, may_not

BUFFER_S = 0.02
WAITING_BUFFERS = 250  # 5 s; more than that and the newest is lost, and said to be
USUAL_HZ = (48_000, 44_100, 32_000)
_WHY = {  # PortAudio's errors (portaudio.h)
    -9985: ("busy", "close the program that uses it, or choose another"),
    -9994: ("unsupported", "it has none of the usual forms of samples; choose another"),
    -9997: ("unsupported", "it has none of the usual sample rates; choose another"),
    -9998: ("unsupported", "it has neither one nor two channels; choose another"),
}
OLDEST_S = 1.0  # a converter's time beyond that is a driver's invention


@dataclass(frozen=True, slots=True)
class Buffer:
    """Some sound as the device gave it."""

    samples: Int16  # (N, channels)
    t_ns: int  # capture time of its first sample, by the device's converter
    t_ready_ns: int  # when it came
    lost: bool  # the device, or we, lost sound right before it


class SoundDevice:
    """An open microphone; ``start`` it, then take ``buffers``.

    16 kHz mono where the device can, else what it prefers.

    Args:
        name: ``default``, a number, or a part of a name.
        delay_ns: from the world to a sample, beyond what the device says of itself.

    Raises:
        SourceError: ``no_pyaudio``; ``no_device``, it says which ones there are; ``no_permission``;
            ``busy``; ``unsupported``: it has none of the usual rates.
    """

    def __init__(self, name: str, delay_ns: int = 0) -> None:
        self._delay_ns = delay_ns
        self._pyaudio = import_pyaudio()
        self.buffers: queue.Queue[Buffer] = queue.Queue(WAITING_BUFFERS)
        self._full = False
        self._clock: Clock | None = None
        with noise.without(noise.PORTAUDIO):
            self._portaudio = self._pyaudio.PyAudio()
            device = _choose(self._portaudio, name)
            self.rate_hz, self.channels, self._stream = self._open(device)
        self.description = f"{device['name']} ({self.rate_hz} Hz)"

    def start(self, clock: Clock) -> None:
        """Let it run; its buffers carry times on ``clock``."""
        self._clock = clock
        self._stream.start_stream()

    @property
    def active(self) -> bool:
        """False when the device has stopped by itself."""
        return bool(self._stream.is_active())

    def close(self) -> None:
        with noise.without(noise.PORTAUDIO):
            self._stream.close()
            self._portaudio.terminate()

    def _open(self, device: Mapping[str, Any]) -> tuple[int, int, Any]:
        preferred_hz = round(device["defaultSampleRate"])
        channels = (1, 2) if device["maxInputChannels"] > 1 else (1,)
        error: Exception | None = None
        for rate_hz in dict.fromkeys((SAMPLE_RATE_HZ, preferred_hz, *USUAL_HZ)):
            for count in channels:
                try:
                    stream = self._portaudio.open(
                        rate=rate_hz,
                        channels=count,
                        format=self._pyaudio.paInt16,
                        input=True,
                        input_device_index=device["index"],
                        frames_per_buffer=round(rate_hz * BUFFER_S),
                        stream_callback=self._receive,
                        start=False,
                    )
                    return rate_hz, count, stream
                except (OSError, ValueError) as caught:  # PortAudio's errors; the next form may do
                    error = caught
        self._portaudio.terminate()
        card = re.search(r"\(hw:(\d+),(\d+)\)", device["name"])
        pattern = "" if card is None else f"pcmC{card[1]}D{card[2]}c"
        if pattern and (node := sound_cards.forbidden(sound_cards.NODES, pattern)) is not None:
            raise SourceError("no_permission", f"microphone {device['name']!r}: {may_not(node, 'audio')}")
        code = int(error.args[0]) if isinstance(error, OSError) and error.args else 0
        reason, advice = _WHY.get(code, ("no_device", "connect it again, or choose another"))
        raise SourceError(reason, f"microphone {device['name']!r} cannot be opened ({error}): {advice}")

    def _receive(self, data: bytes, count: int, times: Mapping[str, float], flags: int) -> tuple[None, int]:
        assert self._clock is not None
        now_ns = self._clock.now_ns()
        age_s = times["current_time"] - times["input_buffer_adc_time"]
        if not 0 < age_s < OLDEST_S:
            age_s = count / self.rate_hz
        age_s += self._delay_ns / 1e9
        lost = self._full or bool(flags & self._pyaudio.paInputOverflow)
        samples = np.frombuffer(data, "<i2").reshape(count, self.channels)
        try:
            self.buffers.put_nowait(Buffer(samples, now_ns - round(age_s * 1e9), now_ns, lost))
            self._full = False
        except queue.Full:
            self._full = True
        return None, self._pyaudio.paContinue


def import_pyaudio() -> Any:
    """The module. Raises SourceError (``no_pyaudio``) with what to install."""
    try:
        import pyaudio
    except ModuleNotFoundError as error:
        raise SourceError(
            "no_pyaudio", "the microphone needs PyAudio: pip install 'emotion-edge[mic]'"
        ) from error
    except ImportError as error:
        raise SourceError(
            "no_pyaudio", f"PyAudio does not find its library ({error}): apt install libportaudio2"
        ) from error
    return pyaudio


def _choose(portaudio: Any, name: str) -> Mapping[str, Any]:
    devices = [portaudio.get_device_info_by_index(i) for i in range(portaudio.get_device_count())]
    inputs = [device for device in devices if device["maxInputChannels"] > 0]
    if name == "default":
        try:
            default: Mapping[str, Any] = portaudio.get_default_input_device_info()
            return default
        except OSError:
            chosen = inputs[:1]
    elif name.isdigit():
        chosen = [device for device in inputs if device["index"] == int(name)]
    else:
        chosen = [device for device in inputs if name.lower() in device["name"].lower()]
    if chosen:
        return dict(chosen[0])
    portaudio.terminate()
    # PortAudio lists no device that it could not open once.
    if not inputs and (node := sound_cards.forbidden(sound_cards.NODES)) is not None:
        raise SourceError("no_permission", f"microphone {name!r}: {may_not(node, 'audio')}")
    for card in sound_cards.recorders(sound_cards.CARDS):
        meant = not inputs if name == "default" else name.lower() in f"{card.name} ({card.hw})".lower()
        if meant and card.in_use and not name.isdigit():
            raise SourceError("busy", f"microphone {card.name!r} is in use: {_WHY[-9985][1]}")
    there = ", ".join(f"{device['index']}: {device['name']}" for device in inputs) or "none"
    raise SourceError(
        "no_device",
        f"there is no microphone {name!r} (on this machine: {there}): connect one, or choose another",
    )
