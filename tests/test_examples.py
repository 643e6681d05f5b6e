"""The examples, each in its language, print what the stream carried: the same lines, all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime import stream
from runtime.plan import DEMO
from runtime.recording import Recording
from runtime.stream import Emotion, Publisher

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
BUILD_S = 150
WINDOWS = 12
MODEL = stream.Model(name="dmd", hash="a", features="b", engine="onnxruntime-cpu", precision="fp32")
Command = list[str]
# A fresh machine's npm and cargo may reach no registry; what they cannot fetch is no fault of an example.
UNREACHABLE = (
    *("ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN", "E403", "E404", "network failure"),
    *("Could not resolve host", "failed to download", "spurious network error", "failed to get"),
)


def need(program: str, how: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program}: {how}")
    return found


def need_libzmq() -> None:
    need("pkg-config", "apt-get install pkg-config")
    if subprocess.run(["pkg-config", "--exists", "libzmq"]).returncode:
        pytest.skip("no libzmq: apt-get install libzmq3-dev")


def build(*command: object, cwd: Path, **variables: str) -> None:
    whole, environment = [*map(str, command)], os.environ | variables
    done = subprocess.run(whole, cwd=cwd, env=environment, capture_output=True, text=True, timeout=BUILD_S)
    if done.returncode and any(sign in done.stderr for sign in UNREACHABLE):
        pytest.skip(f"{command[0]} reaches no registry: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def plain(folder: Path) -> Command:
    return [sys.executable, str(EXAMPLES / "python/plain.py")]


def typed(folder: Path) -> Command:
    return [sys.executable, str(EXAMPLES / "python/typed.py")]


def javascript(folder: Path) -> Command:
    node, npm = need("node", "apt-get install nodejs"), need("npm", "apt-get install npm")
    shutil.copytree(EXAMPLES / "javascript", folder, dirs_exist_ok=True)
    build(npm, "install", "--no-audit", "--no-fund", "--no-package-lock", cwd=folder)
    return [node, str(folder / "subscribe.mjs")]


def cpp(folder: Path) -> Command:
    cmake = need("cmake", "apt-get install cmake g++")
    need("c++", "apt-get install g++")
    need_libzmq()
    if not any(Path(base, "nlohmann/json.hpp").is_file() for base in ("/usr/include", "/usr/local/include")):
        pytest.skip("no nlohmann/json.hpp: apt-get install nlohmann-json3-dev")
    build(cmake, "-S", EXAMPLES / "cpp", "-B", folder, cwd=ROOT)
    build(cmake, "--build", folder, cwd=ROOT)
    return [str(folder / "subscribe")]


def crates() -> Command:
    """Debian's crates, where they are installed (librust-zmq-dev, librust-serde-json-dev); else crates.io."""
    debian = Path("/usr/share/cargo/registry")
    if not list(debian.glob("zmq-0*")) or not list(debian.glob("serde_json-1*")):
        return []
    instead = ('source.crates-io.replace-with="debian"', f'source.debian.directory="{debian}"')
    return ["--offline", *(part for one in instead for part in ("--config", one))]


def rust(folder: Path) -> Command:
    cargo = need("cargo", "https://rustup.rs")
    need_libzmq()
    shutil.copytree(EXAMPLES / "rust", folder / "source", ignore=shutil.ignore_patterns("target"))
    build(
        cargo, "build", "--quiet", *crates(), cwd=folder / "source", CARGO_TARGET_DIR=str(folder / "target")
    )  # fmt: skip
    return [str(folder / "target/debug/emotion-subscriber")]


def windows() -> list[Emotion]:
    """Some windows of the bundled recording; one of them abstains."""
    found = [stream.decode(payload) for _, payload in Recording.open(DEMO).emotions()][:WINDOWS]
    emotions = [message for message in found if isinstance(message, Emotion)]
    assert len(emotions) == WINDOWS
    return [
        *emotions[:3],
        Emotion(
            session="demo", seq=99, state="abstain", final=True, time=emotions[0].time, dropped=stream.Lost(),
            modalities=emotions[0].modalities, latency_ms=emotions[0].latency_ms, model=MODEL,
        ),
        *emotions[3:],
    ]  # fmt: skip


def line(message: Emotion) -> str:
    if message.state == "abstain" or not message.emotions:
        return f"{message.time.wall} unsure - {message.state}"
    return f"{message.time.wall} {message.emotions.top} {max(message.emotions.scores):.2f} {message.state}"


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher("tcp://127.0.0.1:*", "demo") as publisher:
        yield publisher


@pytest.mark.timeout(2 * BUILD_S + 30)
@pytest.mark.parametrize("example", [plain, typed, javascript, cpp, rust])
def test_an_example_prints_every_window_and_ends_with_the_session(
    example: Callable[[Path], Command], publisher: Publisher, tmp_path: Path
) -> None:
    command = [*example(tmp_path), publisher.endpoint]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        publisher.wait_for_subscriber(30)
        time.sleep(0.1)
        published = windows()
        for message in published:
            publisher.publish(message)
        publisher.publish(
            stream.SessionEnd(
                session="demo", reason="end of input", duration_s=6.0, windows=12, skipped=0, senses={}
            )
        )
        output, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, "")
    assert output.splitlines() == [*map(line, published), "ended: end of input"]
    refused = subprocess.run([*command[:-1], "nowhere"], cwd=ROOT, capture_output=True, text=True, timeout=20,
                             env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert refused.returncode == 1
    assert "nowhere" in refused.stderr and "expected tcp://HOST:PORT" in refused.stderr
    assert refused.stderr.count("\n") == 1
