"""Nothing that captures or serves reads a format that can run code: no pickle, and nothing that uses it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for folder in ("capture", "runtime") for path in (ROOT / folder).rglob("*.py"))
HARMFUL = {
    "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "yaml", "torch",
}  # fmt: skip
# Pickles what it hands over; here only to a child that the program itself has started, over their own pipe.
BETWEEN_OWN = "multiprocessing", "concurrent"
OWN_CHILDREN = {
    "runtime/engines/worker.py", "runtime/doctor/finding.py",
    "runtime/bench_engine.py", "runtime/bench_bus.py",
}  # fmt: skip
CALLS = {"recv_pyobj", "send_pyobj", "read_pickle", "to_pickle", "eval", "exec"}


def findings(source: str) -> Iterator[str]:
    """Imports at any depth, and calls, that read or write what can run code."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (
                    name.name for name in names if name.name.split(".")[0] in (*HARMFUL, *BETWEEN_OWN)
                )
            case ast.ImportFrom(module=str(module), level=0):
                yield from {module} if module.split(".")[0] in (*HARMFUL, *BETWEEN_OWN) else ()
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in CALLS:
                yield f"{name}()"
            case ast.keyword(arg="allow_pickle", value=value):
                if not (isinstance(value, ast.Constant) and value.value is False):
                    yield "allow_pickle"
            case _:
                pass


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_that_captures_or_serves_knows_no_pickle(path: Path) -> None:
    found = set(findings(path.read_text()))
    if str(path.relative_to(ROOT)) in OWN_CHILDREN:
        own = {name for name in found if name.startswith(BETWEEN_OWN)}
        assert own, "it starts no child any more: take it from the list"
        found -= own
    assert found == set()


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "def f():\n    from pickle import loads", "import numpy, dill.source",
        "from multiprocessing import Pipe", "import concurrent.futures", "socket.recv_pyobj()",
        "np.load(path, allow_pickle=True)", "np.load(path, allow_pickle=flag)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert list(findings(source))


def test_what_runs_reaches_none_of_ours_that_unpickles() -> None:
    """``models.array_pickle`` is the one place that reads pickles; the application never loads it."""
    modules = "runtime.live, runtime.subscribe, runtime.keys, capture.camera, capture.microphone"
    code = f"import sys, {modules}, capture.transcript; print(*(m for m in sys.modules if 'array_pickle' in m"
    done = subprocess.run(
        [sys.executable, "-c", code + " or m.split('.')[0] in ('torch', 'dill', 'cloudpickle')))"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.split() == []
