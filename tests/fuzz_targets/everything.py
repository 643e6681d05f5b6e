"""Every decoder that meets bytes from elsewhere; what each is stands beside it, in the module of its kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runtime.recording import Recording
from tests.fuzz_targets import files, messages, recordings, requests, training
from tests.mutation import Target

DEMO = Path(__file__).resolve().parents[2] / "runtime/demo/face_and_speech.mcap"


def targets(folder: Path) -> tuple[Target, ...]:
    """The targets; ``folder`` is an empty one, for the files that they read."""
    writes = _Files(folder)
    demo = Recording.open(DEMO)
    return (
        *messages.targets(demo),
        *recordings.targets(demo, writes),
        *files.targets(folder, DEMO.with_suffix(".vtt"), writes),
        *requests.targets(),
        *training.targets(folder, writes),
    )


class _Files:
    """Makes of a reader of files a reader of bytes; each has a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0

    def __call__(self, name: str, run: Callable[[Path], object]) -> Callable[[bytes], object]:
        self._count += 1
        path = self._folder / f"read-{self._count}" / name
        path.parent.mkdir()

        def written(data: bytes) -> object:
            path.write_bytes(data)
            return run(path)

        return written
