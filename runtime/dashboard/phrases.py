"""Phrases: the stream's short codes in a person's words, and numbers that add up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import UNSET

from runtime.stream import Emotion, Face, Modality, Time

SPOKEN = 3  # of a face's strongest movements
NAMES = {"vision": "face", "audio": "voice", "text": "words"}
ICONS = {"vision": "face", "audio": "graphic_eq", "text": "notes"}
PROCESSES = {"vision": "camera", "audio": "microphone", "text": "transcript"}
REASONS = {
    "asr_none": "words are switched off",
    "asset_missing": "a model file is missing",
    "busy": "another program uses the device",
    "eased": "less of it, to keep up",
    "ended": "its source has ended",
    "frozen": "the picture stands still",
    "network_camera": "not from a network camera",
    "no_audio": "the file has no sound",
    "no_device": "no device",
    "no_face": "no face in view",
    "no_file": "its file is not there",
    "no_frames": "no picture comes",
    "no_permission": "this user may not open the device",
    "no_pyaudio": "PyAudio is not installed",
    "no_samples": "nothing has come yet",
    "no_sound": "no sound comes",
    "no_speech": "nobody speaks",
    "no_video": "the file has no picture",
    "no_whisper": "the recogniser is not installed",
    "no_words": "no words yet",
    "switched_off": "switched off",
    "unsupported": "the device cannot be used",
}


def reason(code: str | None) -> str:
    """Why a sense is absent."""
    return REASONS.get(code or "", (code or "absent").replace("_", " "))


def state(emotion: Emotion) -> str:
    """The state of a window in a sentence."""
    senses = {name: getattr(emotion.modalities, name) for name in NAMES}
    away = [NAMES[name] for name, sense in senses.items() if not sense.present]
    if emotion.state == "ok":
        return "face, voice and words are there"
    if emotion.state == "abstain":
        return "too little to be sure" if len(away) < len(senses) else "nobody to see or to hear"
    return f"without {' and '.join(away)}" if away else "degraded"


def says(sense: Modality, labels: Sequence[str]) -> str:
    """What a sense alone says: its strongest emotion, or its value."""
    if sense.logits is UNSET or not sense.logits:
        return ""
    if len(sense.logits) == 1:
        return f"{sense.logits[0]:+.2f}"
    best = max(range(len(sense.logits)), key=sense.logits.__getitem__)
    return labels[best] if best < len(labels) else ""


def clock(seconds: float) -> str:
    """Minutes, seconds and tenths."""
    tenths = round(max(seconds, 0.0) * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def time_of_day(date: str) -> str:
    """A date of the stream by the clock on this machine's wall; what is no date, as it is."""
    try:
        return f"{datetime.fromisoformat(date).astimezone():%H:%M:%S}"
    except (ValueError, OverflowError):
        return date


def when(moment: Time) -> str:
    """The end of a window: seconds into a film; of live devices, whose clock tells nobody much, a time."""
    return f"{moment.end_ns / 1e9:.1f} s" if moment.clock == "media" else time_of_day(moment.wall)


def tenths(parts: Sequence[float], total: float) -> tuple[list[float], float]:
    """Round to tenths so that the parts still add up to the total (largest remainder)."""
    units = [int(part * 10) for part in parts]
    goal = round(total * 10)
    order = sorted(range(len(parts)), key=lambda k: parts[k] * 10 - units[k], reverse=True)
    for k in order[: max(goal - sum(units), 0)]:
        units[k] += 1
    return [unit / 10 for unit in units], goal / 10


def spoken(face: Face) -> str:
    """The strongest movements in words: ``mouth smile left 42 %``."""
    shapes = face.blendshapes if face.blendshapes is not UNSET else {}
    moved = sorted((share, name) for name, share in shapes.items() if name != "_neutral" and share >= 0.1)
    said = (f"{_words(name)} {share:.0%}" for share, name in reversed(moved[-SPOKEN:]))
    return ", ".join(said) or "at rest"


def _words(name: str) -> str:
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name)
