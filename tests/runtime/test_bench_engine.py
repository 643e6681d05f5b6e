"""The engine benchmark at a size for tests: every candidate answers alike, or nothing is timed."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from rich.console import Console

from runtime import bench, bench_engine
from runtime.bench_engine import BenchError, Candidate, Run


def _answers(value: float) -> Run:
    return lambda: np.full((1, 1), value, np.float32)


def _fails() -> Run:
    raise RuntimeError("no such engine")


def test_every_candidate_is_timed_beside_the_plain_network(capfd: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["engine", "--shapes", "tiny", "--windows", "2"]) == 0
    said = " ".join(capfd.readouterr().out.split())
    for name in ("written plainly", "whole graph", "pruned graph", "ONNX Runtime, CPU, fp32"):
        assert name in said
    assert "1.00x" in said  # the plain one beside itself
    assert "tensorrt is passed over" in said or "tensorrt 1" in said


def test_a_candidate_that_answers_otherwise_stops_the_benchmark() -> None:
    right, wrong = (
        Candidate(name, partial(_answers, x), 1e-3) for name, x in (("plain", 0.5), ("fast", 0.6))
    )
    with pytest.raises(BenchError, match=r"fast answers 0\.1 apart"):
        bench_engine._measure(Console(quiet=True), [right, wrong], 1, 1)


def test_a_candidate_that_cannot_start_is_named() -> None:
    with pytest.raises(BenchError, match="broken: RuntimeError: no such engine"):
        bench_engine._measure(Console(quiet=True), [Candidate("broken", _fails, 1.0)], 1, 1)
