"""A bundle's manifest: the temperature of a window is that of the senses it has."""

from __future__ import annotations

import pytest

from runtime.network import Manifest


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (("text", "audio", "vision"), 2.0),
        (("vision", "text"), 3.0),
        (("audio",), 1.5),  # not measured: that of all windows
        ((), 1.5),
    ],
)
def test_the_temperature_is_that_of_the_senses_that_are_there(
    present: tuple[str, ...], expected: float
) -> None:
    manifest = Manifest("n", "classification", temperature=1.5, temperatures={"LAV": 2.0, "LV": 3.0})
    assert manifest.temperature_of(present) == expected
