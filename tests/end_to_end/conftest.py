"""Starts the application for a test and ends it with the test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.application import ROOT, Application


@pytest.fixture
def start(endpoint: str, tmp_path: Path) -> Iterator[Callable[..., Application]]:
    """Start the application with arguments; ended with the test."""
    started: list[Application] = []
    shared = Path(os.environ.get("EMOTION_SHARED", ROOT.parent / "shared"))
    environment = os.environ | {"EMOTION_ASSETS": str(shared / "models"), "XDG_CACHE_HOME": str(tmp_path)}

    def run(*arguments: object, **variables: str) -> Application:
        application = Application(endpoint, environment | variables, *map(str, arguments))
        started.append(application)
        return application

    yield run
    for application in started:
        application.close()
