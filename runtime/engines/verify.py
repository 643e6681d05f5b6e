"""Verify: an engine and ONNX Runtime on the same windows, and how far apart they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.engines.ends import OUTPUTS, Ends, Tensors, session
from runtime.network import Network
from runtime.plan import DEMO
from runtime.recording import Recording, RecordingError
from runtime.windows import Window, Windower

LARGEST = {"fp32": 1e-3, "fp16": 0.01, "bf16": 0.05}  # difference of a probability (or of an output's share)
SAME_TOP = 0.99  # share of the windows
MADE = 32  # windows, where no recording fits the network
HOP_S = 0.25  # denser than live: more windows from one recording

Run = Callable[[Tensors], Tensors]


@dataclass(frozen=True, slots=True)
class Feeds:
    """Windows as the graph takes them, batches of one."""

    windows: tuple[Window | None, ...]  # None: made, not recorded
    feeds: tuple[dict[str, npt.NDArray[np.float32]], ...]
    of: str  # what they are, for people


@dataclass(frozen=True, slots=True)
class Report:
    """The largest differences over all windows."""

    windows: int
    output: float  # of a calibrated probability, or of the regressed value
    same_top: float  # share of windows with the same most probable class; 1 for a regression
    by_name: dict[str, float]  # of each output of the graph
    batches: float  # between windows one at a time and windows in one batch; 0 for batches of one
    finite: bool

    def fits(self, precision: str) -> bool:
        """Within what ``LARGEST`` and ``SAME_TOP`` allow."""
        far = LARGEST[precision]
        return self.finite and self.output <= far and self.batches <= far and self.same_top >= SAME_TOP


def reference(network: Network) -> Run:
    """The bundle's own graph in ONNX Runtime on the CPU."""
    return onnx_run(network, network.file("network.onnx"))


def onnx_run(network: Network, graph: Any) -> Run:
    """A graph (a path, or its bytes) in ONNX Runtime on the CPU. Raises EngineError."""
    loaded = session(network, graph)
    return lambda feed: dict(zip(OUTPUTS, loaded.run(list(OUTPUTS), dict(feed)), strict=True))


def feeds(network: Network) -> Feeds:
    """The windows of the bundled recording, where it fits the network; else made ones of the right sizes."""
    try:
        recording = Recording.open(DEMO)
        recording.check(network.features)
        ends = Ends(network)
        windows = tuple(w for w in _windows(recording, network) if any(s.present for s in w.senses.values()))
        return Feeds(windows, tuple(map(ends.feed, windows)), f"of {DEMO.name}")
    except RecordingError as error:
        rng = np.random.default_rng(0)
        made = tuple(_made(network, rng) for _ in range(MADE))
        return Feeds((None,) * MADE, made, f"made of random numbers ({error})")


def compare(network: Network, given: Feeds, one: Run, other: Run, *, batch: int = 1) -> Report:
    """Run every window through both, one at a time, and ``other`` once more in a batch of ``batch``."""
    ends = Ends(network)
    largest = dict.fromkeys(OUTPUTS, 0.0)
    output, same, finite = 0.0, 0, True
    alone: list[npt.NDArray[np.float32]] = []
    for window, feed in zip(given.windows, given.feeds, strict=True):
        expected, got = one(feed), {name: np.array(array) for name, array in other(feed).items()}
        finite &= all(bool(np.isfinite(got[name]).all()) for name in OUTPUTS)
        for name in OUTPUTS:
            largest[name] = max(largest[name], _far(expected[name], got[name]))
        answers = [_answer(network, ends, a["logits"][0], window) for a in (expected, got)]
        output = max(output, _far(*answers))
        same += int(answers[0].argmax() == answers[1].argmax())
        alone.append(got["logits"][0])
    batches = 0.0
    if batch > 1 and given.feeds:
        some = given.feeds[:batch]
        joined = {name: np.concatenate([feed[name] for feed in some]) for name in some[0]}
        batches = _far(np.stack(alone[: len(some)]), np.asarray(other(joined)["logits"]))
    count = len(given.feeds)
    return Report(count, output, same / max(1, count), largest, batches, finite)


def _windows(recording: Recording, network: Network) -> Iterator[Window]:
    header = recording.header
    windower = Windower(
        network.features,
        hop_s=HOP_S,
        lateness_s=header.lateness_s or HOP_S,
        start_ns=header.start_ns,
        paced=header.paced,
    )
    for arrival in recording.arrivals():
        yield from windower.advance(arrival.t_arrival_ns)
        yield from windower.add(arrival.message, arrival.t_arrival_ns)
    yield from windower.finish()


def _made(network: Network, rng: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
    """A window of random numbers whose senses begin anywhere, right-aligned as live."""
    feed: dict[str, npt.NDArray[np.float32]] = {}
    for name in ("text", "audio", "vision"):
        spec = network.features.input(name)
        mask = (np.arange(spec.steps) >= rng.integers(spec.steps)).astype(np.float32)
        values = rng.normal(size=(spec.steps, spec.dim)).astype(np.float32)
        feed[name], feed[f"{name}_mask"] = (values * mask[:, None])[None], mask[None]
    return feed


def _answer(
    network: Network, ends: Ends, logits: npt.NDArray[np.float32], window: Window | None
) -> npt.NDArray[np.float32]:
    """What would be published: calibrated probabilities (K,), or the sentiment (1,)."""
    if window is not None:
        return ends.calibrated(np.asarray(logits, np.float32), window)
    if network.manifest.task != "classification":
        return np.asarray(logits, np.float32)
    heated = np.exp((logits - logits.max()) / network.manifest.temperature)
    return np.asarray(heated / heated.sum(), np.float32)


def _far(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """The largest difference; infinite where either holds no number."""
    far = float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).max())
    return far if np.isfinite(far) else float("inf")
