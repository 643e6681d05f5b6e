"""Microphone: a sound device or a file's sound track in; audio features out, 50 vectors per second.

python -m capture.microphone --source device:default
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
from functools import partial
from pathlib import Path

import av

from capture.bus import Sender
from capture.delivery import LOSSLESS, ORDERED
from capture.features.audio import SAMPLE_RATE_HZ, SHIFT_SAMPLES, SPEC
from capture.hot_plug import when_there
from capture.link import DELAY_HELP, RAW_HELP, Link, Outlet, arguments, delay_ms, run
from capture.sample_clock import SETTLE, SampleClock
from capture.sound import Int16, Resampler, Sound, duration_ns
from capture.sound_device import Buffer, SoundDevice
from capture.track import Track, wait_until

JUMP_NS = 40_000_000  # a file's time stamps may be off by less; more is a hole in the sound
NO_SOUND_S = 1.5  # a device that gives no samples for so long is opened anew
DRIFT_NEWS_PPM = 5.0  # a change of a card's drift that is worth telling
TURN_S = 0.2


def listen(link: Link, source: str, pcm_endpoint: str | None, delay_ns: int = 0, raw: bool = False) -> None:
    """Publish the features of all sound until the source ends or the session stops.

    Args:
        pcm_endpoint: of the recogniser, who gets the sound itself.
        delay_ns: from the world to a device's sample; its times are so much earlier.
        raw: publish the sound itself, too; otherwise nobody but the recogniser gets it.

    Raises:
        SourceError: ``no_device``, ``no_permission``, ``busy``, ``unsupported``, ``no_pyaudio``; of a
            file ``no_file``, ``unreadable``, ``no_audio``.
    """
    link.beat()
    track = Track(Path(source.removeprefix("file:")), "audio") if source.startswith("file:") else None
    open_device = partial(SoundDevice, source.removeprefix("device:"), delay_ns)
    device = when_there(link, open_device) if track is None else None
    go = link.wait_for_go(detail=source if device is None else device.description)
    if link.stopping:
        return

    def stopping() -> bool:
        link.beat()  # a slow recogniser makes a file wait; that is no stall
        return link.stopping or link.wish.recogniser == "off"

    # A file that is read at once waits for the recogniser. A person does not: sound that finds the
    # pipe full (40 s behind) is a hole in ``seq`` and in time.
    pcm = (
        None
        if pcm_endpoint is None
        else Sender(pcm_endpoint, delivery=ORDERED if link.clock.paced else LOSSLESS, stopping=stopping)
    )
    listeners = (() if pcm is None else (pcm.send,)) + ((link.sound,) if raw else ())
    if pcm is not None:
        link.hold(pcm)  # the recogniser may be 80 s behind when a file is over
    sound = Sound(link, *listeners)
    link.status("running")
    if track is not None:
        read_file(link, track, go.start_ns, sound)
    while device is not None and not link.stopping:
        read_device(link, device, sound)
        if not link.stopping:
            device = when_there(link, open_device)
    sound.end()


def read_file(link: Outlet, track: Track, start_ns: int, sound: Sound) -> None:
    """Hear a file from media time ``start_ns`` on, each block when it is over (at once if unpaced)."""
    resampler, form = Resampler(), None
    begun, begin_ns, frames_in, skip = False, 0, 0, 0
    for t_ns, frame in track.frames(start_ns):
        expected_ns = begin_ns + frames_in * 1_000_000_000 // frame.sample_rate
        new_form = (frame.sample_rate, frame.layout.name, frame.format.name)
        if begun and t_ns < expected_ns - JUMP_NS:
            continue  # a broken file says the same time twice
        if not begun or t_ns > expected_ns + JUMP_NS or new_form != form:
            if begun and not _play(link, resampler.convert(None), sound):
                return
            resampler, form = Resampler(), new_form
            skip = max(0, start_ns - t_ns) * SAMPLE_RATE_HZ // 1_000_000_000
            sound.begin(t_ns + duration_ns(skip))
            begun, begin_ns, frames_in = True, t_ns, 0
        frames_in += frame.samples
        samples = resampler.convert(frame)
        if not _play(link, samples[skip:], sound):
            return
        skip = max(0, skip - len(samples))
    if begun and not link.stopping:
        _play(link, resampler.convert(None), sound)
    link.dropped += track.corrupt


def _play(link: Outlet, samples: Int16, sound: Sound) -> bool:
    """Hear samples in pieces of 20 ms, each at its time; False when the session stops."""
    for start in range(0, len(samples), SHIFT_SAMPLES):
        piece = samples[start : start + SHIFT_SAMPLES]
        if not wait_until(link, sound.until_ns + duration_ns(len(piece)), link.beat):
            return False
        sound.hear(piece, link.clock.now_ns())
        link.beat()
    return not link.stopping


def read_device(link: Link, device: SoundDevice, sound: Sound) -> None:
    """Hear a device until the session stops or the device is gone; then it is closed."""
    resampler = Resampler()
    clock: SampleClock | None = None
    settling: list[tuple[int, Buffer]] = []
    heard = 0  # samples of the device so far
    drift_ppm: float | None = None  # as it was told last
    device.start(link.clock)
    silent_s = 0.0
    while not link.stopping:
        try:
            buffer = device.buffers.get(timeout=TURN_S)
        except queue.Empty:
            link.beat()
            silent_s += TURN_S  # not by the clock: a process that was held up has not listened meanwhile
            if silent_s > NO_SOUND_S or not device.active:
                link.status("degraded", "no_sound", f"microphone {device.description} gives no samples")
                break
            continue
        silent_s = 0.0
        drift_ppm = _news(drift_ppm, None if clock is None else clock.drift_ppm)
        told = "" if drift_ppm is None else f", its clock is off by {drift_ppm:+.0f} ppm and corrected"
        link.status("running", detail=f"{device.description}{told}")
        settling.append((heard, buffer))
        heard += len(buffer.samples)
        if clock is None:
            if len(settling) < SETTLE:
                continue
            clock = SampleClock.settled(device.rate_hz, [(n, b.t_ns) for n, b in settling])
            sound.begin(clock.time_ns(0))
        for n, waiting in settling:
            anchor_ns = clock.anchor_ns
            gap_ns = clock.observe(n, waiting.t_ns, waiting.lost)
            if gap_ns:
                sound.hear(resampler.convert(None), waiting.t_ready_ns)
                resampler = Resampler()
                sound.begin(clock.time_ns(n))
                link.dropped += round(gap_ns * SPEC.rate_hz / 1e9)
            else:
                sound.shift(round(clock.anchor_ns - anchor_ns))
            sound.hear(resampler.convert(_frame(waiting.samples, device)), waiting.t_ready_ns)
        settling.clear()
    sound.hear(resampler.convert(None), link.clock.now_ns())
    device.close()


def _news(told_ppm: float | None, now_ppm: float | None) -> float | None:
    """The drift that is to be told: the last one, until it is another one by a few millionths."""
    if now_ppm is None or (told_ppm is not None and abs(now_ppm - told_ppm) < DRIFT_NEWS_PPM):
        return told_ppm
    return now_ppm


def _frame(samples: Int16, device: SoundDevice) -> av.AudioFrame:
    layout = "mono" if device.channels == 1 else "stereo"
    frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
    frame.sample_rate = device.rate_hz
    return frame


def source_name(text: str) -> str:
    """Check ``--source``. Raises ArgumentTypeError for what is no source."""
    if text.partition(":")[0] in ("device", "file"):
        return text
    raise argparse.ArgumentTypeError(
        f"{text!r} is no source: use device:default, device:NAME, device:NUMBER or file:PATH"
    )


def main() -> int:
    parser = arguments("capture.microphone", __doc__ or "")
    parser.add_argument(
        "--source",
        type=source_name,
        default="device:default",
        help="device:default, device:NUMBER, device:part of its NAME, or file:PATH\n(default: %(default)s)",
    )
    parser.add_argument("--pcm", metavar="ENDPOINT", help="also send the sound itself, to the recogniser")
    parser.add_argument("--delay-ms", type=delay_ms, default=0.0, metavar="MS", help=DELAY_HELP)
    parser.add_argument("--raw", action="store_true", help=RAW_HELP)
    options = parser.parse_args()
    link = Link("audio", SPEC, options.session, options.endpoint)
    delay_ns = round(options.delay_ms * 1e6)
    return run(link, lambda link: listen(link, options.source, options.pcm, delay_ns, options.raw))


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a thread may be stuck in a driver, and nothing is left to tidy
