"""Markers: where they lie, whatever a session calls itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.markers import place


@pytest.mark.parametrize("session", ["../../home/x", "/etc/cron.d/x", "..", "a b", "é", ""])
def test_a_sessions_name_names_a_file_and_no_way_to_one(
    session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert place(session, None).parent == tmp_path / "emotion-edge" / "markers"
