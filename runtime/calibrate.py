"""Calibrate: by how much sound and picture are apart, by claps and flashes: ``python -m runtime.calibrate``.

A clap is a jump of sound energy within 5 ms, a flash a jump of the picture's brightness. The offset is the
one that most pairs of them agree on, so that other noises and changes of the picture do no harm.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from rich.console import Console

from capture.address import shown
from capture.features.audio import SAMPLE_RATE_HZ
from capture.sample_clock import SETTLE, SampleClock
from capture.sound import Resampler
from capture.sound_device import Buffer, SoundDevice
from capture.track import Track
from capture.trouble import SourceError

Floats = npt.NDArray[np.float64]

APART_S = 0.2  # claps, and flashes, that follow sooner are one: an echo, a flicker
CLAP_DB = 15.0  # above what was heard right before
QUIET_DB = 20.0  # a clap is fainter than the loudest by no more
BEFORE_MS, CLAP_MS = 80, 5
FLASH = 8.0  # of 255: the brightness of the whole picture
DIM = 0.25  # a flash is dimmer than the brightest by no more
FARTHEST_S = 0.4  # between sound and picture; claps once a second or slower are told apart
LEAST_PAIRS = 3
RIVAL = 0.75  # another offset with so many of the pairs makes both doubtful
HOLE_S = 0.005  # in the energies: what came before it is not what was heard right before
HOLE_NS = 40_000_000  # in a file's time stamps; less is their rounding
SCALED = (64, 36)  # width and height that brightness is measured at
TURN_S = 0.1

EPILOG = """\
Film something that flashes and claps at one moment, five times or more, a second or more apart, not in a
steady beat: a torch switched on against a table, an "audio video sync test" on a screen, held so close that
the flash fills the picture. --live measures the devices with the time stamps that a session gives them; a
film tells of itself, and how to put it right.

  python -m runtime.calibrate clap.mp4
  python -m runtime.calibrate --live --camera 0 --microphone default --seconds 30

exit status: 0 the offset was found; 1 it was not: too few claps or flashes, or they do not agree;
2 a file, device or option cannot be used; 130 you pressed Ctrl-C.
"""


class Unclear(Exception):
    """No offset can be told; one line with what was found and what to do."""


class Offset(msgspec.Struct, frozen=True):
    """How much later than the flash its clap is, by their time stamps."""

    offset_ms: float  # median of the pairs; positive: the sound comes later
    spread_ms: float  # standard deviation of the pairs
    pairs: int
    claps: int  # all that were found
    flashes: int
    picture_ms: float  # from one picture to the next: a flash is seen by the first picture after it


@dataclass(frozen=True)
class Heard:
    """Sound energy: mean squares (N,) of about 1 ms each, of 16-bit samples, and when each began."""

    times_s: Floats
    power: Floats


@dataclass(frozen=True)
class Seen:
    """Mean brightness (N,) of each picture, 0 to 255, and its time stamp."""

    times_s: Floats
    luma: Floats


def claps(heard: Heard) -> Floats:
    """Times of the sudden noises, in seconds."""
    found: list[tuple[float, float, float]] = []  # time, power, rise in dB
    for part in np.split(np.arange(len(heard.power)), np.flatnonzero(np.diff(heard.times_s) > HOLE_S) + 1):
        power = heard.power[part] + 1.0  # (N,) a floor of one step of 16 bits
        if len(power) < BEFORE_MS + CLAP_MS:
            continue
        total = np.concatenate([[0.0], np.cumsum(power)])
        before = (total[BEFORE_MS:] - total[:-BEFORE_MS])[:-CLAP_MS] / BEFORE_MS  # (N - 84,)
        ahead = np.lib.stride_tricks.sliding_window_view(power, CLAP_MS)[BEFORE_MS:]  # (N - 84, 5)
        rise_db = 10 * np.log10(ahead.max(axis=1) / before)
        for i in np.flatnonzero(rise_db > CLAP_DB):
            first = int(np.argmax(ahead[i] > ahead[i].max() / 10))
            at = float(heard.times_s[part[BEFORE_MS + i + first]])
            found.append((at, float(ahead[i].max()), float(rise_db[i])))
    loudest = max((power for _, power, _ in found), default=0.0)
    loud = [one for one in found if one[1] > loudest * 10 ** (-QUIET_DB / 10)]
    return _sharpest([(at, rise) for at, _, rise in loud])


def flashes(seen: Seen) -> Floats:
    """Times of the first picture of each sudden brightness, in seconds."""
    luma, found = seen.luma, []
    usual = 1.5 * float(np.median(np.abs(np.diff(luma)))) if len(luma) > 1 else 0.0
    for i in range(1, len(luma) - 1):
        base = float(np.median(luma[max(0, i - 5) : i]))
        rise = float(luma[i : i + 3].max()) - base
        if rise > max(FLASH, 6 * usual) and luma[i] - base > rise / 5 > luma[i - 1] - base:
            found.append((float(seen.times_s[i]), rise))
    brightest = max((rise for _, rise in found), default=0.0)
    return _sharpest([one for one in found if one[1] > DIM * brightest])


def _sharpest(found: Sequence[tuple[float, float]]) -> Floats:
    """Of candidates ``(time, rise)`` that lie close together, the one that rises most."""
    kept: list[tuple[float, float]] = []
    for at, rise in found:
        if not kept or at - kept[-1][0] > APART_S:
            kept.append((at, rise))
        elif rise > kept[-1][1]:
            kept[-1] = (at, rise)
    return np.array([at for at, _ in kept])


def offset(heard: Heard, seen: Seen) -> Offset:
    """The offset that most pairs of a clap and a flash agree on. Raises Unclear."""
    sounds, lights = claps(heard), flashes(seen)
    told = f"{len(sounds)} claps and {len(lights)} flashes were found"
    if min(len(sounds), len(lights)) < LEAST_PAIRS:
        remedy = "let the flash fill the picture, in a dim room"
        if len(sounds) < LEAST_PAIRS:
            remedy = "clap harder, in a quiet room"
        raise Unclear(f"{told}, and at least {LEAST_PAIRS} of each are needed: {remedy}")
    picture_s = float(np.median(np.diff(seen.times_s)))
    width_s = min(max(0.03, picture_s), 0.45 * APART_S)  # so that no clap has two flashes
    apart = (sounds[:, None] - lights[None, :]).ravel()  # every clap less every flash
    apart = np.sort(apart[np.abs(apart) < FARTHEST_S + width_s])
    near = np.abs(apart[:, None] - apart[None, :]) <= width_s  # (P, P)
    votes = near.sum(axis=1)
    best = int(votes.argmax()) if len(votes) else -1
    agreed = np.median(apart[near[best]]) if best >= 0 else 0.0
    pairs = apart[np.abs(apart - agreed) <= width_s]
    if len(pairs) < max(LEAST_PAIRS, min(len(sounds), len(lights)) / 2):
        raise Unclear(
            f"{told}, but only {len(pairs)} pairs within {FARTHEST_S:g} s agree on an offset: "
            "let each clap have its flash, and nothing else make noise or light"
        )
    rivals = votes[np.abs(apart - agreed) > 2 * width_s]
    if len(rivals) and rivals.max() >= RIVAL * len(pairs):
        raise Unclear(f"{told}, and they fit at more than one offset: leave a second or more between two")
    return Offset(
        round(1000 * float(np.median(pairs)), 2),
        round(1000 * float(pairs.std()), 2),
        len(pairs), len(sounds), len(lights), round(1000 * picture_s, 2),
    )  # fmt: skip


def correction(found: Offset, film: Path | None) -> str:
    """What sets it right: in a film its sound is moved; live, the sense that is late is set back."""
    if abs(found.offset_ms) <= max(found.picture_ms / 2, 2 * found.spread_ms / math.sqrt(found.pairs)):
        return "this is within what pictures so far apart can tell: nothing is to be corrected"
    if film is not None:
        name, right = shlex.quote(str(film)), shlex.quote(str(film.with_stem(f"{film.stem}-right")))
        move = f"-itsoffset {-found.offset_ms / 1000:.3f} -i {name} -map 0:v -map 1:a -c copy"
        return f"a copy that is right: ffmpeg -i {name} {move} {right}"
    late = "microphone" if found.offset_ms > 0 else "camera"
    ms = f"{abs(found.offset_ms):.0f}"
    return f"python -m runtime.live --{late}-delay-ms {ms}    (in a --config file: {late}_delay_ms = {ms})"


class _Meter:
    """Gathers the energy of sound that comes in pieces."""

    def __init__(self) -> None:
        self._times_s: list[Floats] = [np.empty(0)]
        self._power: list[Floats] = [np.empty(0)]

    def hear(self, t_s: float, samples: npt.NDArray[Any], rate_hz: int) -> None:
        """Take samples (N,), the first of which happened at ``t_s``."""
        blocks = round(len(samples) * 1000 / rate_hz)
        if blocks:
            edges = np.arange(blocks) * len(samples) // blocks
            self._power.append(np.add.reduceat(samples.astype(float) ** 2, edges) * blocks / len(samples))
            self._times_s.append(t_s + edges / rate_hz)

    def heard(self) -> Heard:
        return Heard(np.concatenate(self._times_s), np.concatenate(self._power))


def from_file(path: Path) -> tuple[Heard, Seen]:
    """Energy and brightness of a film. Raises SourceError, also for a film without sound or picture."""
    picture, sound = Track(path, "video"), Track(path, "audio")
    seen = [
        (t_ns / 1e9, float(frame.reformat(*SCALED, format="gray").to_ndarray().mean()))
        for t_ns, frame in picture.frames()
    ]
    picture.close()
    meter, resampler, next_ns, begin_s, count = _Meter(), Resampler(), -HOLE_NS, 0.0, 0
    for t_ns, frame in sound.frames():
        if abs(t_ns - next_ns) >= HOLE_NS:
            resampler, begin_s, count = Resampler(), t_ns / 1e9, 0
        next_ns = t_ns + frame.samples * 1_000_000_000 // frame.sample_rate
        samples = resampler.convert(frame)
        meter.hear(begin_s + count / SAMPLE_RATE_HZ, samples, SAMPLE_RATE_HZ)
        count += len(samples)
    sound.close()
    return meter.heard(), _seen(seen)


def live(camera: str, microphone: str, seconds: float, left: Callable[[float], None]) -> tuple[Heard, Seen]:
    """Energy and brightness of the devices, on the clock and by the code of a session.

    Args:
        camera: number, path, or address.
        microphone: as in ``SoundDevice``.
        left: told the seconds left, a few times a second.

    Raises:
        SourceError: a device is not there, or gives nothing.
    """
    from capture.features.vision import SPEC
    from capture.frames import Newest, from_camera, open_camera
    from capture.link import Link
    from capture.rate_cap import RateCap

    source = camera if "://" in camera else f"device:{camera}"
    device = SoundDevice(microphone)
    link, slot, seen, buffers = Link("vision", SPEC, "calibrate", None), Newest(), [], list[Buffer]()
    try:
        slot.fill(from_camera(open_camera(source), source, link, RateCap(1000)))
        device.start(link.clock)
        end = time.monotonic() + seconds
        while (left_s := end - time.monotonic()) > 0:
            left(left_s)
            if (frame := slot.take(TURN_S)) is not None:
                seen.append((frame.t_ns / 1e9, float(frame.rgb()[::8, ::8].mean())))
            while not device.buffers.empty():
                buffers.append(device.buffers.get())
    finally:
        link.stopping = True
        device.close()
    if slot.missing is not None:
        raise slot.missing
    if not seen:
        raise SourceError(
            "no_frames",
            f"camera {shown(camera)} was opened and gave no picture: try another cable or USB port",
        )
    if len(buffers) < SETTLE:
        raise SourceError("no_sound", f"microphone {device.description} gave no sound: is it muted or gone?")
    return _heard(buffers, device.rate_hz), _seen(seen)


def _heard(buffers: Sequence[Buffer], rate_hz: int) -> Heard:
    """Buffers at the times that a session would give them."""
    starts = np.cumsum([0, *(len(one.samples) for one in buffers)]).tolist()
    firsts = [(n, one.t_ns) for n, one in zip(starts, buffers[:SETTLE], strict=False)]
    clock = SampleClock.settled(rate_hz, firsts)
    meter = _Meter()
    for n, one in zip(starts, buffers, strict=False):
        clock.observe(n, one.t_ns, one.lost)
        meter.hear(clock.time_ns(n) / 1e9, one.samples.mean(axis=1), rate_hz)
    return meter.heard()


def _seen(pictures: Sequence[tuple[float, float]]) -> Seen:
    times_s, luma = np.array(pictures, dtype=float).reshape(-1, 2).T
    return Seen(times_s, luma)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.calibrate",
        description="Measure by how much sound and picture are apart, with claps and flashes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, nargs="?", help="a film with claps and flashes")
    parser.add_argument("--live", action="store_true", help="listen to and look through the devices instead")
    parser.add_argument("--camera", default="0", help="number, path or address (default: %(default)s)")
    parser.add_argument("--microphone", default="default", help="number or name (default: %(default)s)")
    parser.add_argument("--seconds", type=_seconds, default=30.0, help="how long (default: %(default)g)")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 5 <= seconds <= 600:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 5 to 600 seconds")
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0; 1 when no offset can be told; 2 for what cannot be used; 130 after Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.live == (options.file is not None):
        parser.error("expected either a FILE or --live: python -m runtime.calibrate --help")
    try:
        with Console(stderr=True).status("reading the film …") as shown:
            if options.live:
                heard, seen = live(
                    options.camera, options.microphone, options.seconds,
                    lambda left_s: shown.update(f"clap and flash … {left_s:.0f} s left"),
                )  # fmt: skip
            else:
                heard, seen = from_file(options.file)
        found = offset(heard, seen)
    except Unclear as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    except SourceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    if options.json:
        print(msgspec.json.encode(found).decode())
        return 0
    when = "after" if found.offset_ms >= 0 else "before"
    print(
        f"sound comes {abs(found.offset_ms):.1f} ms {when} the picture ({found.offset_ms:+.1f} ms; "
        f"spread {found.spread_ms:.1f} ms, {found.pairs} pairs, a picture every {found.picture_ms:.0f} ms)"
    )
    print(correction(found, options.file))
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the thread that grabs may be stuck in a driver
