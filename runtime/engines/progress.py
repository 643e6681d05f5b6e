"""Progress of a build: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

LINE_S = 5.0  # between lines where there is no terminal


class Listener(Protocol):
    """Whom a build tells how far it is."""

    def start(self, name: str, parent: str | None, steps: int) -> None: ...
    def step(self, name: str, step: int) -> None: ...
    def finish(self, name: str) -> None: ...


class Phases:
    """How far a build is, from the phases that the library tells of.

    The library nests phases and names them as it likes; a phase counts for one step of its parent.
    """

    def __init__(self) -> None:
        self.now = "starting"
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # name -> parent, steps, done
        self._share = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self._phases[name] = parent, max(1, steps), 0
        self.now = name
        self._update()

    def step(self, name: str, step: int) -> None:
        """One step of a phase is done."""
        if name in self._phases:
            parent, steps, _ = self._phases[name]
            self._phases[name] = parent, steps, min(steps, step + 1)
            self._update()

    def finish(self, name: str) -> None:
        parent, *_ = self._phases.pop(name, (None, 0, 0))
        if parent is not None and parent in self._phases:
            self.now = parent

    @property
    def share(self) -> float:
        """0 to 1; never goes back."""
        return self._share

    def _update(self) -> None:
        done = sum(self._of(name) for name, (parent, _, _) in self._phases.items() if parent is None)
        self._share = max(self._share, min(1.0, done))

    def _of(self, name: str) -> float:
        _, steps, done = self._phases[name]
        inside = sum(self._of(child) for child, (parent, _, _) in self._phases.items() if parent == name)
        return min(1.0, (done + min(1.0, inside)) / steps)


class Shown:
    """Shows ``Phases`` while a ``with`` block runs; call ``beat`` a few times a second.

    Args:
        title: what is being built, one line.
    """

    def __init__(self, console: Console, title: str, phases: Phases) -> None:
        self._console, self._title, self._phases = console, title, phases
        self._bar: Progress | None = None
        self._task: Any = None
        self._said_at = 0.0

    def __enter__(self) -> Shown:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %  {task.fields[phase]}", markup=False),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=1.0, phase="")
        else:
            self._say(self._title)
        return self

    def beat(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._phases.share, phase=self._phases.now)
        elif time.monotonic() - self._said_at >= LINE_S:
            self._say(f"{self._title}: {self._phases.share:.0%}, {self._phases.now}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _say(self, line: str) -> None:
        self._said_at = time.monotonic()
        self._console.print(escape(line), highlight=False, soft_wrap=True)
