"""Sound cards: what the kernel tells of those that record, without opening one."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

NODES = Path("/dev/snd")  # pcmC0D0c is the first card's first device that records
CARDS = Path("/proc/asound")


@dataclass(frozen=True, slots=True)
class Recorder:
    """A device of a sound card that records."""

    hw: str  # ALSA's short name for it, which is a part of PortAudio's
    name: str
    in_use: bool


def recorders(cards: Path = CARDS) -> list[Recorder]:
    """Those that are there now; none where the kernel does not tell."""
    found = []
    for info in sorted(cards.glob("card[0-9]*/pcm[0-9]*c/info")):
        try:
            lines = info.read_text().splitlines()
        except OSError:  # it has just been unplugged
            continue
        facts = dict(line.split(": ", 1) for line in lines if ": " in line)
        card, device = re.findall(r"\d+", f"{info.parent.parent.name} {info.parent.name}")
        name = facts.get("name") or info.parent.name
        found.append(Recorder(f"hw:{card},{device}", name, facts.get("subdevices_avail") == "0"))
    return found


def forbidden(folder: Path = NODES, pattern: str = "pcm*c") -> Path | None:
    """The first of ALSA's recording devices that this user may not open."""
    nodes = sorted(folder.glob(pattern))
    return next((node for node in nodes if not os.access(node, os.R_OK | os.W_OK)), None)
