"""What who started a session sees of it: lines while somebody reads them, and what it all was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from runtime.plan import DEMO
from runtime.recording import Recording
from runtime.stream import SenseStatus, SessionEnd
from runtime.summary import Totals, summary
from tests.conftest import ROOT
from tests.runtime.test_view import emotion, rendered


@pytest.mark.parametrize("log", ["read", "in the pipe"])
def test_a_reader_of_the_pipe_who_goes_away_ends_the_lines_and_neither_session_nor_recording(
    tmp_path: Path, log: str
) -> None:
    command = [sys.executable, "-m", "runtime.live", "--no-dashboard", "--replay", str(DEMO), "--fast"]
    command += ["--endpoint", f"ipc://{tmp_path}/stream", "--record", str(tmp_path / "a.mcap")]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.PIPE if log == "read" else subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()  # as ``| head`` does, when it has read enough
    told = "" if process.stderr is None else process.stderr.read()
    assert process.wait(60) == 0, told
    if process.stderr is not None:
        assert told.count("Broken pipe") == 1 and "the session goes on" in " ".join(told.split())
        assert "Traceback" not in told and "Exception" not in told
    kept, demo = Recording.open(tmp_path / "a.mcap"), Recording.open(DEMO)
    assert (kept.end or {})["reason"] == "end of input"
    assert len(list(kept.emotions())) == len(list(demo.emotions())) and kept.warnings == []


def test_the_summary_of_a_loop_is_of_all_its_rounds() -> None:
    totals = Totals()
    for dropped in (3, 4):
        for seq in range(5):
            totals.update(emotion(seq))
        senses = {"vision": SenseStatus(state="ended", dropped=dropped, restarts=1)}
        totals.update(
            SessionEnd(
                session="lab", reason="end of input", duration_s=11.0, windows=5, skipped=2, senses=senses
            )
        )
    begun = emotion(0)
    totals.update(msgspec.structs.replace(begun, dropped=msgspec.structs.replace(begun.dropped, audio=9)))
    told = rendered(summary(totals))
    assert "11 in 22.0 s" in told
    assert "vision 7   audio 9   windows 4" in told and "restarts  2" in told
