"""Recordings: everything a session heard and said, in one MCAP file that replays to the same numbers.

``Recorder`` writes while the session runs, ``Recording`` reads; ``python -m runtime.recording info
FILE`` shows what is inside. The file's layout is described in ``runtime.recording.layout``.
"""

from runtime.recording.layout import Arrival, Header, RecordingError
from runtime.recording.left_out import LeftOut, left_out
from runtime.recording.read import Recording
from runtime.recording.write import Recorder

__all__ = ["Arrival", "Header", "LeftOut", "Recorder", "Recording", "RecordingError", "left_out"]
