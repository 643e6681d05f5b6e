"""Keys: a stream that leaves this machine is heard by those on the list, and by nobody else."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from runtime import keys
from runtime.endpoint import EndpointError
from runtime.keys import KeyFileError, add, client_key, clients, init, remove, server_keys
from runtime.stream import Publisher, StatusMessage, subscribe

ROOT = Path(__file__).resolve().parents[2]
MESSAGE = StatusMessage(session="lab", uptime_s=1.0, senses={}, windows=0, skipped=0, engine="none")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    init(tmp_path / "keys")
    return tmp_path / "keys"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def talking(folder: Path) -> Iterator[Publisher]:
    """A guarded stream on loopback that says something ten times a second, and lets ``robot`` listen."""
    add(folder, "robot")
    done = threading.Event()
    with Publisher("tcp://127.0.0.1:*", "lab", folder) as publisher:

        def talk() -> None:
            while not done.wait(0.1):
                publisher.publish(MESSAGE)

        thread = threading.Thread(target=talk)
        thread.start()
        yield publisher
        done.set()
        thread.join()


def heard(endpoint: str, key: Path | None, seconds: float = 1.5) -> int:
    return sum(1 for _, _ in zip(range(2), subscribe(endpoint, key=key, timeout_s=seconds), strict=False))


# --- files


def test_secrets_are_their_owners_alone(folder: Path) -> None:
    path = add(folder, "robot")
    assert path is not None
    assert mode(folder) == 0o700 and mode(folder / keys.CLIENTS) == 0o700
    assert mode(path) == mode(folder / "server.key_secret") == 0o600
    assert path.read_text().count("secret-key") == 1
    assert "secret-key" not in (folder / keys.CLIENTS / "robot.key").read_text()


def test_a_client_file_holds_all_that_the_client_needs(folder: Path) -> None:
    path = add(folder, "robot")
    assert path is not None
    key = client_key(path)
    assert key.server == server_keys(folder).public
    assert zmq.curve_public(key.secret) == key.public == clients(folder)["robot"].encode()


def test_a_key_that_can_be_read_by_others_is_refused(folder: Path) -> None:
    (folder / "server.key_secret").chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        server_keys(folder)


@pytest.mark.parametrize("place", [".", keys.CLIENTS])
def test_a_list_that_others_may_write_to_is_refused(folder: Path, place: str) -> None:
    (folder / place).chmod(0o777)
    for command in (["list", str(folder)], ["add", str(folder), "robot"]):
        assert keys.main(command) == 2
    with pytest.raises(KeyFileError, match="who could add clients: chmod 700"):
        Publisher("tcp://127.0.0.1:*", "lab", folder)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("add", "KEYS", "../robot"), "no name for a client"),
        (("add", "KEYS", "server"), "and not 'server'"),
        (("add", "KEYS", "server", "--public", "a" * 40), "and not 'server'"),
        (("remove", "KEYS", "server"), "server is not on the list"),
        (("add", "KEYS", "robot", "--public", "abc"), "no CURVE key: expected 40 characters"),
        (("add", "KEYS", "robot", "--public", "'" * 40), "no CURVE key"),
        (("add", "/nowhere", "robot"), "no key folder: make one with"),
        (("remove", "KEYS", "robot"), "robot is not on the list"),
        (("init", "KEYS"), "has a server key already"),
        (("list", "/nowhere"), "no key folder"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], told: str
) -> None:
    arguments = [str(folder) if word == "KEYS" else word for word in command]
    before = sorted(folder.rglob("*"))
    assert keys.main(arguments) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and sorted(folder.rglob("*")) == before


def test_one_key_is_on_the_list_under_one_name(folder: Path) -> None:
    public = zmq.curve_keypair()[0].decode()
    add(folder, "robot", public)
    with pytest.raises(KeyFileError, match="already, as robot"):
        add(folder, "another", public)
    assert list(clients(folder)) == ["robot"]


def test_a_folder_that_may_not_be_entered_is_one_line(folder: Path) -> None:
    folder.chmod(0)
    user = os.geteuid()
    if user == 0:  # who may enter everything
        os.seteuid(65534)
    try:
        with pytest.raises(KeyFileError, match="Permission denied: run it as the user who owns") as caught:
            server_keys(folder)
    finally:
        os.seteuid(user)
        folder.chmod(0o700)
    assert "server.key_secret" in str(caught.value) and "\n" not in str(caught.value)


# --- who hears


def test_the_list_in_force_is_that_of_the_folder_and_of_no_other_like_it(tmp_path: Path) -> None:
    """Square brackets are a pattern to whoever looks for files by one."""
    ours, other = tmp_path / "keys[1]", tmp_path / "keys1"
    init(ours), init(other)
    friend, stranger = add(ours, "friend"), add(other, "stranger")
    assert friend is not None and stranger is not None
    other_key = client_key(stranger)
    forged = stranger.with_name("forged.key_secret")
    forged.write_text(
        stranger.read_text().replace(other_key.server.decode(), server_keys(ours).public.decode())
    )
    with Publisher("tcp://127.0.0.1:*", "lab", ours) as publisher:
        done = threading.Event()

        def talk() -> None:
            while not done.wait(0.1):
                publisher.publish(MESSAGE)

        thread = threading.Thread(target=talk)
        thread.start()
        try:
            assert heard(publisher.endpoint, friend, 5) == 2
            assert heard(publisher.endpoint, forged) == 0
        finally:
            done.set()
            thread.join()


def test_who_is_on_the_list_hears_and_nobody_else_does(
    talking: Publisher, folder: Path, tmp_path: Path
) -> None:
    robot = folder / "robot.key_secret"
    assert heard(talking.endpoint, robot) == 2
    assert heard(talking.endpoint, None) == 0
    stranger = tmp_path / "stranger"
    init(stranger)
    add(stranger, "stranger")
    text = (stranger / "stranger.key_secret").read_text()
    theirs, ours = (server_keys(place).public.decode() for place in (stranger, folder))
    (tmp_path / "stranger.key_secret").write_text(
        text.replace(theirs, ours)
    )  # knows the server, is not listed
    assert heard(talking.endpoint, tmp_path / "stranger.key_secret") == 0
    assert heard(talking.endpoint, robot) == 2  # and costs the others nothing


def test_a_client_does_not_take_another_server_for_its_own(talking: Publisher, tmp_path: Path) -> None:
    init(tmp_path / "other")
    assert heard(talking.endpoint, add(tmp_path / "other", "robot")) == 0


def test_a_pair_that_the_client_made_itself_is_as_good(folder: Path, tmp_path: Path) -> None:
    public, secret = zmq.curve_keypair()
    assert add(folder, "laptop", public.decode()) is None
    file = tmp_path / "laptop.key_secret"
    server = server_keys(folder).public.decode()
    file.write_text(
        f'metadata\n    server-key = "{server}"\ncurve\n    public-key = "{public.decode()}"\n'
        f'    secret-key = "{secret.decode()}"\n'
    )
    with (
        Publisher("tcp://127.0.0.1:*", "lab", folder) as publisher,
        subscribe(publisher.endpoint, key=file) as one,
    ):
        until = time.monotonic() + 5
        publisher.wait_for_subscriber(5)
        publisher.publish(MESSAGE)
        assert next(one).session == "lab" and time.monotonic() < until


def test_who_is_removed_hears_no_more_from_the_next_start_on(folder: Path) -> None:
    add(folder, "robot")
    key = shutil.copy(folder / "robot.key_secret", folder.parent / "kept")
    add(folder, "other")
    remove(folder, "robot")
    assert list(clients(folder)) == ["other"] and not (folder / "robot.key_secret").exists()
    with Publisher("tcp://127.0.0.1:*", "lab", folder) as publisher:
        publisher.publish(MESSAGE)
        assert heard(publisher.endpoint, Path(key), seconds=1) == 0


# --- beyond this machine


def test_beyond_loopback_only_with_keys_and_somebody_on_the_list(folder: Path) -> None:
    with pytest.raises(EndpointError, match=r"python -m runtime\.keys"):
        Publisher("tcp://0.0.0.0:*", "lab")
    with pytest.raises(KeyFileError, match="nobody is on the list"):
        Publisher("tcp://0.0.0.0:*", "lab", folder)
    path = add(folder, "robot")
    with Publisher("tcp://0.0.0.0:*", "lab", folder) as publisher:
        port = publisher.endpoint.rpartition(":")[2]
        with subscribe(f"tcp://127.0.0.1:{port}", key=path) as one:
            publisher.wait_for_subscriber(5)
            publisher.publish(MESSAGE)
            assert next(one).session == "lab"


def test_an_ipc_stream_is_its_users_alone_whatever_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Publisher(f"ipc://{tmp_path / 'stream'}", "lab"):
            assert (tmp_path / "stream").is_socket() and mode(tmp_path / "stream") == 0o600
        assert os.umask(0) == 0  # the publisher gave it back
    finally:
        os.umask(before)


def test_the_whole_way_by_commands(folder: Path, endpoint: str) -> None:
    """As a user types it: add, run the demo with keys, listen with the file and without."""

    def run(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        )

    def refused(*arguments: object) -> str:
        process = run("runtime.live", "--demo", *arguments)
        told = process.communicate(timeout=60)[1]
        assert process.returncode == 2
        return told

    assert "nobody is on the list" in refused("--endpoint", endpoint, "--keys", folder)
    assert "python -m runtime.keys" in refused("--endpoint", "tcp://0.0.0.0:5999")
    add(folder, "robot")
    listening = [
        run("runtime.subscribe", "--endpoint", endpoint, "--json", "--count", 3, "--timeout", 20, *key)
        for key in (("--key", folder / "robot.key_secret"), ())
    ]
    live = run("runtime.live", "--demo", "--no-dashboard", "--endpoint", endpoint, "--keys", folder)
    try:
        out, told = listening[0].communicate(timeout=60)
        assert listening[0].returncode == 0, told
        assert out.count('"type"') == 3
        out, told = listening[1].communicate(timeout=60)
        assert listening[1].returncode == 3 and out == "", told
    finally:
        for process in (live, *listening):
            process.terminate()
            process.communicate(timeout=20)
