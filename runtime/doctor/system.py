"""System: which library of the operating system a program did not find, and the command that brings it."""

from __future__ import annotations

import re

PICTURES = "sudo apt-get install -y libegl1 libgl1 libgles2 libglib2.0-0 libxcb1"  # OpenCV, MediaPipe
PACKAGES = {  # the beginning of a library's name -> what brings it, with those that are missed next
    "libEGL": PICTURES,
    "libGL": PICTURES,
    "libglib": PICTURES,
    "libgthread": PICTURES,
    "libxcb": PICTURES,
    "libportaudio": "sudo apt-get install -y libportaudio2",
}
MISSED = re.compile(r"(?:.*/)?(\S+?\.so[.\d]*): cannot open shared object file")


def missed(said: str) -> tuple[str, str] | None:
    """The library that a loader's message names, and how to get it; None: the message names none."""
    found = MISSED.search(said)
    if found is None:
        return None
    library = found[1]
    for begins, command in PACKAGES.items():
        if library.startswith(begins):
            return library, command
    return library, f"install the package that has it: apt-file search {library}"
