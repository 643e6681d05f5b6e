"""Noise: keeps the known chatter of native libraries off standard error; every other line gets through.

MediaPipe, PortAudio (which tries every ALSA plugin) and FFmpeg write straight to file descriptor 2,
and offer no switch that Python reaches. So what they write during a short, named phase is held back
and read: known lines are left out, all others are written to standard error when the phase ends.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

MEDIAPIPE = re.compile(
    r"^WARNING: (All log messages|Logging) before .* written to STDERR"
    r"|^INFO: Created TensorFlow Lite XNNPACK delegate"
    r"|^[IW]\d{4} .*(face_landmarker_graph|inference_feedback_manager|gl_context|task_runner)\w*\.cc:"
)
PORTAUDIO = re.compile(
    r"^ALSA lib |^Expression '.*' failed in 'src/hostapi/alsa/"
    r"|^Cannot connect to server|^jack server is not running|^JackShmReadWritePtr|^connect\(2\) call to /"
    r"|^attempt to connect to server failed|^Failed to connect to server|^ *$"
)
ANYTHING = re.compile("")  # where the caller reports the failure itself


@contextmanager
def without(chatter: re.Pattern[str]) -> Iterator[None]:
    """Hold standard error (the file descriptor) back during the block, then let all but chatter through."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if not chatter.search(line.decode(errors="replace")):
                    os.write(2, line)
