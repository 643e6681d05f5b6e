"""What who started a session sees of it: lines while somebody reads them, and what it all was."""

from __future__ import annotations

import msgspec

from runtime.stream import SenseStatus, SessionEnd
from runtime.summary import Totals, summary
from tests.runtime.test_view import emotion, rendered


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
