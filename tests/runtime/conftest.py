"""What the tests of the application share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def one_date() -> Iterator[None]:
    """For tests whose time is made: the date, which goes on by itself, is looked at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("capture.clock.RENEW_NS", 10**15)
        yield
