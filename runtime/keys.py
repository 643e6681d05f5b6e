"""Keys: who may listen to a stream that leaves this machine: ``python -m runtime.keys``.

CURVE (https://rfc.zeromq.org/spec/26) encrypts the stream and proves who is at either end. A key folder
belongs to the machine that publishes: ``server.key_secret`` is its own key, ``clients/NAME.key`` the public
key of each program that may listen: the allow-list. A client needs one file, which also holds the server's
public key. Files are certificates of pyzmq's ``zmq.auth``; the folder is 0700, secret files are 0600.
"""

from __future__ import annotations

import argparse
import os
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq import auth

SERVER = "server"
CLIENTS = "clients"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SERVER_KEY = re.compile(rb'^\s*server-key\s*=\s*"([^"]*)"', re.MULTILINE)

EPILOG = """\
On the machine that publishes:
  python -m runtime.keys init KEYS                 once: its own key
  python -m runtime.keys add KEYS robot            a client: writes KEYS/robot.key_secret
  python -m runtime.live --endpoint tcp://0.0.0.0:5563 --keys KEYS

Carry robot.key_secret to the client by a way that nobody else can read (scp), delete it here, and there:
  python -m runtime.subscribe --endpoint tcp://HOST:5563 --key robot.key_secret

A client that made its own pair gives only its public half: add KEYS robot --public KEY.
What is added or removed is in force from the next start of the stream on.

exit status: 0; 2 something is missing, malformed, or there already
"""


class KeyFileError(ValueError):
    """A key folder or file that cannot be used; one line with what to do."""


@dataclass(frozen=True)
class ServerKeys:
    """What a publisher needs: its own pair, and where the public keys of its clients lie."""

    public: bytes
    secret: bytes
    clients: Path


@dataclass(frozen=True)
class ClientKey:
    """What a subscriber needs; keys are 40 bytes of Z85."""

    public: bytes
    secret: bytes
    server: bytes


def init(folder: Path) -> bytes:
    """Make a key folder and the server's pair; returns its public key. Raises KeyFileError."""
    if (folder / f"{SERVER}.key_secret").exists():
        raise KeyFileError(
            f"{folder} has a server key already: add clients with add, or choose another folder"
        )
    with _private(folder):
        (folder / CLIENTS).mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        public, secret = zmq.curve_keypair()
        _write(folder / f"{SERVER}.key", _certificate(public))
        _write(folder / f"{SERVER}.key_secret", _certificate(public, secret))
    return public


def add(folder: Path, name: str, public: str | None = None) -> Path | None:
    """Put a client on the allow-list; returns its file, or None where its public key was given.

    Raises KeyFileError.
    """
    if not _NAME.fullmatch(name) or name == SERVER:
        raise KeyFileError(
            f"{name!r} is no name for a client: expected letters, digits, - and _, and not {SERVER!r}"
        )
    server = server_keys(folder)
    listed = server.clients / f"{name}.key"
    if listed.exists():
        raise KeyFileError(f"{name} is on the list already: remove it first, or choose another name")
    for other, key in clients(folder).items():
        if key == public:
            raise KeyFileError(f"this key is on the list already, as {other}: remove that first")
    with _private(folder):
        if public is not None:
            _write(listed, _certificate(_z85(public)))
            return None
        own, secret = zmq.curve_keypair()
        path = folder / f"{name}.key_secret"
        _write(path, _certificate(own, secret, server.public))
        _write(listed, _certificate(own))  # last: who is listed has a file
    return path


def remove(folder: Path, name: str) -> None:
    """Take a client off the list. Raises KeyFileError."""
    listed = server_keys(folder).clients / f"{name}.key"
    if not _NAME.fullmatch(name) or not listed.is_file():
        raise KeyFileError(f"{name} is not on the list: python -m runtime.keys list {folder} shows who is")
    with _private(folder):
        listed.unlink()
        if name != SERVER:
            (folder / f"{name}.key_secret").unlink(missing_ok=True)


def clients(folder: Path) -> dict[str, str]:
    """The allow-list: names and public keys. Raises KeyFileError."""
    return {path.stem: _pair(path)[0].decode() for path in sorted(server_keys(folder).clients.glob("*.key"))}


def server_keys(folder: Path) -> ServerKeys:
    """The keys of a publisher. Raises KeyFileError."""
    path = folder / f"{SERVER}.key_secret"
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise KeyFileError(
            f"{folder} is no key folder: make one with python -m runtime.keys init {folder}"
        ) from error
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}: run it as the user who owns the folder") from error
    if mode & 0o077:
        raise KeyFileError(f"{path} can be read by others: chmod 600 {path}, or make new keys")
    for place in (folder, folder / CLIENTS):
        if place.is_dir() and place.stat().st_mode & 0o022:
            raise KeyFileError(f"{place} can be written by others, who could add clients: chmod 700 {place}")
    public, secret = _pair(path)
    if secret is None:
        raise KeyFileError(f"{path} holds no secret key: make new keys with python -m runtime.keys init")
    return ServerKeys(public, secret, folder / CLIENTS)


def client_key(path: Path) -> ClientKey:
    """The key file of a subscriber. Raises KeyFileError."""
    public, secret = _pair(path)
    server = _SERVER_KEY.search(path.read_bytes())
    if secret is None or server is None:
        raise KeyFileError(f"{path} is no client's key file: expected one of python -m runtime.keys add")
    return ClientKey(public, secret, _z85(server[1].decode("ascii", "replace")))


def _pair(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = auth.load_certificate(path)
    except (OSError, ValueError, IndexError) as error:  # the last: a line without "="
        raise KeyFileError(f"{path} is no key file: expected one of python -m runtime.keys") from error
    for key in (public, secret):
        if key is not None:
            _z85(key.decode("ascii", "replace"))
    return public, secret


def _z85(key: str) -> bytes:
    """A key as ZeroMQ writes it, checked: 40 characters of Z85."""
    try:
        if len(key) == 40 and len(zmq.utils.z85.decode(key)) == 32:
            return key.encode()
    except (ValueError, KeyError, struct.error):
        pass
    raise KeyFileError(f"{key!r} is no CURVE key: expected 40 characters of Z85 (a client's public-key)")


def _certificate(public: bytes, secret: bytes | None = None, server: bytes | None = None) -> str:
    lines = ["#   ZeroMQ CURVE certificate", "metadata"]
    if server is not None:
        lines.append(f'    server-key = "{server.decode()}"')
    lines += ["curve", f'    public-key = "{public.decode()}"']
    if secret is not None:
        lines.append(f'    secret-key = "{secret.decode()}"')
    return "\n".join(lines) + "\n"


@contextmanager
def _private(folder: Path) -> Iterator[None]:
    """What is made here nobody else may read. Raises KeyFileError where nothing can be."""
    before = os.umask(0o077)
    try:
        yield
    except OSError as error:
        raise KeyFileError(
            f"{folder}: cannot be written ({error.strerror}): choose another folder"
        ) from error
    finally:
        os.umask(before)


def _write(path: Path, text: str) -> None:
    half = path.with_name(f".{path.name}.half")
    half.write_text(text)
    half.chmod(0o600)
    half.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; what is wrong is one line and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m runtime.keys",
        description="Who may listen to a stream that leaves this machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("init", help="make a key folder")
    one.add_argument("folder", type=Path)
    one = commands.add_parser("add", help="let a client listen")
    one.add_argument("folder", type=Path)
    one.add_argument("name")
    one.add_argument("--public", metavar="KEY", help="its public key, if it made the pair itself")
    one = commands.add_parser("list", help="who may listen")
    one.add_argument("folder", type=Path)
    one = commands.add_parser("remove", help="let a client listen no more")
    one.add_argument("folder", type=Path)
    one.add_argument("name")
    options = parser.parse_args(arguments)
    try:
        _do(options)
    except KeyFileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _do(options: argparse.Namespace) -> None:
    match options.command:
        case "init":
            print(f"{options.folder}: the server's public key is {init(options.folder).decode()}")
            print(f"let a client listen: python -m runtime.keys add {options.folder} NAME")
        case "add":
            path = add(options.folder, options.name, options.public)
            if path is None:
                server = server_keys(options.folder).public.decode()
                print(f'{options.name} may listen; its key file needs the line: server-key = "{server}"')
            else:
                print(f"{path}: carry it to the client by a safe way, then delete it here; the client types")
                print(f"python -m runtime.subscribe --endpoint tcp://HOST:5563 --key {path.name}")
        case "list":
            for name, key in clients(options.folder).items():
                print(f"{name}\t{key}")
        case _:
            remove(options.folder, options.name)
            print(f"{options.name} may listen no more, from the next start of the stream on")


if __name__ == "__main__":
    sys.exit(main())
