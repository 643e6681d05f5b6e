"""A minute of the soak: every kind of fault is done, said and survived; how soon, the benchmark tells."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from runtime import mischief
from runtime.bench_soak import Soak, recorded
from runtime.endless_film import endless_film
from runtime.verdict import unsaid
from tests.end_to_end.application import ROOT

KINDS = {
    "killed", "page killed", "junk on a pipe", "200 subscribers come and go", "a subscriber that never reads",
    "application stopped 2 s", "application stopped 4 s", "stalled 3 s", "stalled for good",
}  # fmt: skip


def test_every_fault_is_done_said_and_survived(
    shared: Path, tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nicegui", reason="pip install 'emotion-edge[dashboard]'")
    for name in [name for name in os.environ if name.startswith("PYTEST")]:
        monkeypatch.delenv(name)  # NiceGUI serves another page where it sees them
    monkeypatch.setenv("EMOTION_ASSETS", str(shared / "models"))
    monkeypatch.setattr(mischief, "EVERY_S", (0.5, 1.0))
    monkeypatch.setattr(mischief, "GAP_S", 4.0)
    monkeypatch.setattr(mischief, "LONG_STALL_S", 12.0)
    clip = Path(shutil.copy(shared / "media/face_and_speech.mp4", tmp_path / "clip.mp4"))
    shutil.copy(ROOT / "runtime/demo/face_and_speech.vtt", tmp_path / "clip.vtt")
    minutes = 1.25
    run = Soak(endless_film(clip, tmp_path, minutes), minutes, 0, endpoint, None)
    run.run(lambda now_s: None)
    assert {fault.kind for fault in run.faults} == KINDS
    assert all(fault.over_s is not None for fault in run.faults)
    assert all(fault.well_s is not None for fault in run.faults if fault.sense or fault.kind == "page killed")
    assert unsaid(run.seen, run.faults) == []
    assert run.seen.others and all(-0.5 < one.cores < 64 for one in run.seen.others)
    answers = {message.seq for _, message in run.seen.windows}
    assert len(answers) > 50 and answers <= recorded(run.recording)
    killed = sum(fault.kind in ("killed", "stalled for good") for fault in run.faults)
    assert run.seen.end is not None
    assert sum(sense.restarts for sense in run.seen.end.senses.values()) == killed
