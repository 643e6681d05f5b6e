"""TensorRT engines without a GPU: which engine on disk fits, and every reason why none runs.

Not tested, because it needs a GPU: ``Runner`` and ``TensorRTEngine`` (loading, copying, CUDA graphs), all of
``cuda`` but ``device``, and building with TensorRT proper. See docs/tensorrt.md.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from runtime import config
from runtime import network as networks
from runtime.engine import EngineAbsent, EngineError, Prediction, choose
from runtime.engines import artefact, compiler, cuda, tensorrt, worker
from runtime.engines.artefact import Manifest
from runtime.engines.compiler import Recipe
from runtime.engines.cuda import Device
from runtime.engines.libraries import (
    MissingLibrary,
    WrongGPU,
    WrongVersion,
    capabilities,
    check_gpu,
    check_version,
    gpu_or_none,
    library,
)
from runtime.engines.progress import Phases
from runtime.engines.trt_build import BuildError, Built, NoMemory
from runtime.plan import DEMO
from runtime.recording import Recording
from runtime.replay_source import ReplaySource
from runtime.session import Session
from runtime.stream import Emotion, Message, Publisher, SessionBegin, StatusMessage, subscribe
from runtime.windows import Window

trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'emotion-edge[rtx]'")

ROOT = Path(__file__).parent.parent.parent
RTX_4090 = Device("NVIDIA GeForce RTX 4090", "8.9", 24 << 30)
RTX_5090 = Device("NVIDIA GeForce RTX 5090", "12.0", 32 << 30)


@pytest.fixture
def no_gpu() -> None:
    """For what is only said where there is no GPU."""
    if gpu_or_none()[0] is not None:
        pytest.skip("this machine has a GPU")


def recipe(device: Device | None) -> Recipe:
    """The bundled network for a GPU that need not be here: TensorRT-RTX builds for any."""
    return Recipe(networks.load(), library("tensorrt_rtx"), "fp32", False, device)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real engine, built without a GPU for every GPU that TensorRT-RTX knows."""
    place = tmp_path_factory.mktemp("built") / "engine"
    compiler.build(recipe(None), Phases(), place=place)
    return place


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where engines are looked for."""
    monkeypatch.setenv("EMOTION_ENGINES", str(tmp_path / "engines"))
    return tmp_path / "engines"


def put(built: Path, place: Path, **fields: object) -> Path:
    """A copy of the engine in a place, its manifest changed."""
    shutil.copytree(built, place)
    manifest = msgspec.to_builtins(artefact.read(built)) | fields
    (place / "manifest.json").write_bytes(msgspec.json.encode(msgspec.convert(manifest, Manifest)))
    return place


def test_an_engine_built_without_a_gpu_fits_every_gpu_that_the_library_knows(
    built: Path, engines: Path
) -> None:
    place = put(built, recipe(None).place)
    for device in (RTX_4090, RTX_5090):
        assert tensorrt.find(recipe(device)) == (place, "")


def test_an_engine_fits_with_the_plugin_or_without(built: Path, engines: Path) -> None:
    place = put(built, recipe(RTX_4090).place, plugin=True, gpu=RTX_4090.name, compute_capability="8.9")
    assert tensorrt.find(recipe(RTX_4090)) == (place, "")


def test_where_there_is_no_engine_that_is_the_reason(engines: Path) -> None:
    assert tensorrt.find(recipe(RTX_4090)) == (None, "there is none yet")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"version": "1.4.0"}, "library version 1.4.0, now "),
        ({"graph": "f" * 64}, "graph ffffffffffff, now "),
        ({"features": "0123"}, "features 0123, now "),
        ({"precision": "fp16"}, "precision fp16, now fp32"),
        ({"machine": "aarch64"}, "processor aarch64, now "),
        ({"software": "0.0.1"}, "software 0.0.1, now "),
        (
            {"gpu": "NVIDIA GeForce RTX 5090", "compute_capability": "12.0"},
            "GPU NVIDIA GeForce RTX 5090 (12.0), now NVIDIA GeForce RTX 4090 (8.9)",
        ),
    ],
)
def test_an_engine_that_was_built_for_something_else_is_stale_and_the_reason_names_both(
    built: Path, engines: Path, fields: dict[str, object], reason: str
) -> None:
    put(built, recipe(RTX_4090).place, **fields)
    place, why = tensorrt.find(recipe(RTX_4090))
    assert place is None and why.startswith("the one on disk is stale: ") and reason in why


def test_a_damaged_engine_and_a_damaged_manifest_are_not_used(built: Path, engines: Path) -> None:
    place = put(built, recipe(RTX_4090).place, gpu=RTX_4090.name, compute_capability="8.9")
    assert tensorrt.find(recipe(RTX_4090)) == (place, "")
    with (place / "engine").open("r+b") as file:
        file.seek(1000)
        file.write(b"rust")
    assert "engine is damaged (sha256 " in tensorrt.find(recipe(RTX_4090))[1]
    (place / "engine").unlink()
    assert "engine: No such file" in tensorrt.find(recipe(RTX_4090))[1]
    (place / "manifest.json").write_bytes(b'{"format": 1, "backe')
    assert "manifest.json is damaged: " in tensorrt.find(recipe(RTX_4090))[1]


def test_a_stale_engine_is_built_anew_with_a_line_that_says_why_and_then_kept(
    built: Path, engines: Path
) -> None:
    wanted = recipe(RTX_4090)
    put(built, wanted.place, software="0.0.1", gpu=RTX_4090.name, compute_capability="8.9")
    (wanted.place / "runtime.cache").write_bytes(b"of the old one")
    told = io.StringIO()
    place = tensorrt.up_to_date(wanted, Console(file=told, width=400))
    assert (
        "building the tensorrt_rtx engine (fp32): the one on disk is stale: software 0.0.1" in told.getvalue()
    )
    manifest = artefact.read(place)
    assert (manifest.gpu, manifest.compute_capability) == (RTX_4090.name, "8.9")
    assert not (place / "runtime.cache").exists()  # it went with its engine
    before = (place / "engine").stat().st_mtime_ns
    assert tensorrt.up_to_date(wanted, Console(file=io.StringIO())) == place
    assert (place / "engine").stat().st_mtime_ns == before
    assert [path.name for path in engines.iterdir()] == [place.name]


def test_where_no_engine_can_be_kept_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTION_ENGINES", "/proc/engines")
    with pytest.raises(EngineError, match="no engine can be kept there; free the space, or set EMOTION_ENG"):
        tensorrt.up_to_date(recipe(RTX_4090), Console(file=io.StringIO()))


def test_without_a_gpu_auto_falls_back_and_says_why_for_each_engine(no_gpu: None, engines: Path) -> None:
    choice = choose("auto", networks.load())
    assert choice.engine.name == "onnxruntime-cpu" and choice.spare is None
    assert list(choice.passed_over) == ["tensorrt", "tensorrt_rtx", "onnxruntime-cuda"]
    assert choice.passed_over["tensorrt"].startswith("tensorrt is not installed: it comes with JetPack")
    assert choice.passed_over["tensorrt_rtx"].startswith("no NVIDIA GPU here (CUDA says: ")
    assert not engines.exists()  # nothing is built that could not run
    with pytest.raises(EngineAbsent, match="no NVIDIA GPU here"):
        choose("tensorrt_rtx", networks.load())
    assert choose("onnxruntime", networks.load()).engine.name == "onnxruntime-cpu"


def test_an_unknown_engine_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        EngineError, match="unknown engine 'abacus': choose one of auto, onnxruntime, tensorr"
    ):
        choose("abacus", networks.load())


def test_without_cuda_python_that_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EngineAbsent, match=r"cuda-python is not installed .*pip install cuda-bindings"):
        cuda.device()


@pytest.fixture
def tensorrt_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable ``tensorrt`` whose code a test writes; the real one is not here."""
    if "tensorrt" in sys.modules:
        pytest.skip("TensorRT proper is here")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "tensorrt.py"
    sys.modules.pop("tensorrt", None)


def test_a_library_that_misses_its_own_libraries_is_one_line(tensorrt_module: Path) -> None:
    tensorrt_module.write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    with pytest.raises(MissingLibrary, match=r"tensorrt is installed but does not load: libnvinfer.so.10"):
        library("tensorrt")


def test_a_library_of_another_time_is_refused_with_what_is_expected(tensorrt_module: Path) -> None:
    tensorrt_module.write_text("__version__ = '8.5.2'")
    with pytest.raises(WrongVersion, match=r"tensorrt 8.5.2 is too old: expected 10.3 or later"):
        library("tensorrt")
    for good in ("10.3.0.30", "10.13.3.9", "11.0.0"):
        check_version("tensorrt", good)
    with pytest.raises(WrongVersion, match=r"tensorrt 12.0.1 is newer .* expected 11.x"):
        check_version("tensorrt", "12.0.1")


def test_a_gpu_that_the_library_does_not_know_is_refused_by_name() -> None:
    rtx = library("tensorrt_rtx")
    assert {"8.0", "8.6", "8.9", "12.0"} <= set(capabilities(rtx))
    check_gpu(rtx, RTX_5090)
    with pytest.raises(WrongGPU, match=r"does not run on NVIDIA H200 \(compute capability 9.0\): it knows"):
        check_gpu(rtx, Device("NVIDIA H200", "9.0", 141 << 30))


def test_the_names_that_the_runner_uses_are_in_the_real_libraries() -> None:
    """Names only: whether they do what we think can be seen on a GPU."""
    for kind, names in (
        (trt.Runtime, ("deserialize_cuda_engine",)),
        (trt.ICudaEngine, ("num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_shape")),
        (trt.ICudaEngine, ("get_tensor_dtype", "create_execution_context", "create_runtime_config")),
        (trt.IExecutionContext, ("set_input_shape", "get_tensor_shape", "set_tensor_address")),
        (trt.IExecutionContext, ("execute_async_v3", "is_stream_capturable")),
        (trt.IRuntimeConfig, ("cuda_graph_strategy", "create_runtime_cache", "set_runtime_cache")),
        (trt.IRuntimeConfig, ("dynamic_shapes_kernel_specialization_strategy",)),
        (trt.IRuntimeCache, ("serialize", "deserialize")),
        (trt.CudaGraphStrategy, ("DISABLED",)),
        (trt.DynamicShapesKernelSpecializationStrategy, ("EAGER",)),
        (cuda.runtime(), ("cudaGetDeviceCount", "cudaGetDeviceProperties", "cudaGetErrorString")),
        (cuda.runtime(), ("cudaStreamCreateWithFlags", "cudaStreamNonBlocking", "cudaStreamSynchronize")),
        (cuda.runtime(), ("cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaStreamCaptureMode")),
        (cuda.runtime(), ("cudaGraphInstantiate", "cudaGraphDestroy", "cudaGraphLaunch")),
        (cuda.runtime(), ("cudaHostAlloc", "cudaHostAllocDefault", "cudaFreeHost", "cudaMalloc", "cudaFree")),
        (cuda.runtime(), ("cudaMemcpyAsync", "cudaMemcpyKind")),
    ):
        assert [name for name in names if not hasattr(kind, name)] == [], kind


# What can happen to the process that builds. The work is ours; the processes, pipes and signals are real.


def too_long(listener: worker.Listener) -> Built:
    listener.start("tactics", None, 10)
    listener.step("tactics", 3)
    time.sleep(60)
    return Built(b"")


def crash(listener: worker.Listener) -> Built:
    os.kill(os.getpid(), signal.SIGSEGV)
    return Built(b"")


def unforeseen(listener: worker.Listener) -> Built:
    raise KeyError("weights")


def hungry(listener: worker.Listener) -> Built:
    raise MemoryError


def the_worker() -> int:
    """The process that this one builds in."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in map(int, children):
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    pytest.fail("no process builds")


def test_progress_comes_from_the_process_that_builds() -> None:
    phases, shares = Phases(), []

    def beat() -> None:
        shares.append(phases.share)
        if phases.share > 0.3:
            os.kill(the_worker(), signal.SIGKILL)

    with pytest.raises(NoMemory, match="the build was killed, as Linux does when memory runs out: close oth"):
        worker.run(too_long, phases, beat)
    assert shares[0] == 0 and shares[-1] == pytest.approx(0.4)


def test_a_build_that_stands_still_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "STALL_S", 1.5)
    with pytest.raises(
        NoMemory, match="the build has stood still for 2 s in 'tactics', as it does where mem"
    ):
        worker.run(too_long, Phases(), lambda: None)


@pytest.mark.parametrize(
    ("work", "kind", "line"),
    [
        (crash, BuildError, r"the library crashed \(SIGSEGV\): too little memory, or a fault of its own"),
        (unforeseen, BuildError, "the build failed: KeyError: 'weights'"),
        (hungry, NoMemory, "the build ran out of memory"),
    ],
)
def test_a_build_that_fails_is_one_line(work: object, kind: type[Exception], line: str) -> None:
    with pytest.raises(kind, match=line):
        worker.run(work, Phases(), lambda: None)  # type: ignore[arg-type]


WAITING = """
import sys
from rich.console import Console
from runtime import network
from runtime.engines import tensorrt
from runtime.engines.compiler import Recipe
from runtime.engines.cuda import Device
from runtime.engines.libraries import library
if __name__ == "__main__":
    device = Device("NVIDIA GeForce RTX 4090", "8.9", 0)
    recipe = Recipe(network.load(), library("tensorrt_rtx"), "fp32", False, device)
    try:
        tensorrt.up_to_date(recipe, Console(stderr=True))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopping_the_application_while_it_builds_leaves_no_half_engine(
    tmp_path: Path, engines: Path, number: signal.Signals
) -> None:
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not list(engines.glob(f".*{artefact.HALF}")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(number)
    process.wait(30)
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < until, "the process that builds goes on for nobody"
        time.sleep(0.05)
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert not list(engines.glob("*/engine"))
    if number == signal.SIGINT:
        assert process.returncode == 130 and list(engines.iterdir()) == []
    else:
        (left,) = engines.iterdir()
        assert artefact.clean(engines) == [left] and list(engines.iterdir()) == []


# What is published.


class Failing:
    """Stands for an engine whose GPU is lost in the middle of a session."""

    name, precision = "tensorrt", "fp16"

    def __init__(self, good: int) -> None:
        self._left, self._true = good, choose("onnxruntime-cpu", networks.load()).engine

    def infer(self, window: Window) -> Prediction:
        self._left -= 1
        if self._left < 0:
            raise EngineError("cudaGraphLaunch failed: unspecified launch failure")
        return self._true.infer(window)


def demo(engine: Failing, endpoint: str, *, spare: bool) -> list[Message]:
    """What a session over the bundled recording publishes."""
    messages: list[Message] = []
    recording = Recording.open(DEMO)
    network = networks.load()
    with Publisher(endpoint, "gpu") as publisher:
        Session(
            config.Config(fast=True, demo=True),
            network,
            engine,
            publisher,
            ReplaySource(recording, paced=False),
            name="gpu",
            replayed=recording,
            passed_over={},
            spare=(lambda: choose("onnxruntime-cpu", network).engine) if spare else None,
            show=messages.append,
        ).run()
    return messages


def test_the_application_publishes_why_each_faster_engine_does_not_run(no_gpu: None, endpoint: str) -> None:
    command = [sys.executable, "-m", "runtime.live", "--demo", "--fast", "--no-dashboard"]
    process = subprocess.Popen(
        [*command, "--endpoint", endpoint], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with subscribe(endpoint, stopping=lambda: process.poll() is not None) as messages:
        begin = next(message for message in messages if isinstance(message, SessionBegin))
    assert process.wait(60) == 0
    assert begin.model.engine == "onnxruntime-cpu" and isinstance(begin.passed_over, dict)
    assert list(begin.passed_over) == ["tensorrt", "tensorrt_rtx", "onnxruntime-cuda"]
    assert begin.passed_over["tensorrt_rtx"].startswith("no NVIDIA GPU here")


def test_an_engine_that_fails_in_a_session_is_replaced_and_the_reason_is_published(endpoint: str) -> None:
    messages = demo(Failing(5), endpoint, spare=True)
    emotions = [message for message in messages if isinstance(message, Emotion)]
    assert [message.model.engine for message in emotions][:3] == ["tensorrt"] * 3
    assert emotions[-1].model.engine == "onnxruntime-cpu" and emotions[-1].model.precision == "fp32"
    assert [message.seq for message in emotions] == list(range(len(emotions)))  # no window is lost
    why = "cudaGraphLaunch failed: unspecified launch failure"
    first, second = (message for message in messages if isinstance(message, SessionBegin))
    assert first.passed_over is msgspec.UNSET and first.model.engine == "tensorrt"
    assert second.passed_over == {"tensorrt": why} and second.model.engine == "onnxruntime-cpu"
    (event,) = (m for m in messages if isinstance(m, StatusMessage) and m.event is not msgspec.UNSET)
    assert event.event == f"engine: tensorrt failed, onnxruntime-cpu goes on: {why}"
    assert event.engine == "onnxruntime-cpu"


def test_an_engine_that_was_asked_for_by_name_is_not_replaced(endpoint: str) -> None:
    with pytest.raises(EngineError, match="unspecified launch failure"):
        demo(Failing(2), endpoint, spare=False)
