"""Address: where the page is served, HOST:PORT, and whether it reaches beyond this machine."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import quote

from runtime.endpoint import why_not

DEFAULT = "127.0.0.1:8563"


class AddressError(ValueError):
    """An address that the page cannot be served on: its value, what was expected, what to do."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a TCP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``HOST:PORT``, an IPv6 host in brackets. Raises AddressError."""
        host, _, port = text.rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        good = bool(host) and not set(host) & set("/@ ") and (":" not in host or f"[{host}]:{port}" == text)
        if not good or not (port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 65536):
            raise AddressError(f"dashboard = {text!r}: expected HOST:PORT, such as {DEFAULT}")
        return cls(host, int(port))

    @property
    def loopback(self) -> bool:
        """Only programs of this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name: it may lead anywhere
            return False

    def check_free(self) -> None:
        """Raises AddressError: the address is in use, or is none of this machine."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            family, kind, protocol, _, address = found[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except (OSError, UnicodeError) as error:
            raise AddressError(
                f"dashboard = {self}: cannot be served on ({why_not(error)}): "
                f"choose another with --dashboard HOST:PORT"
            ) from error

    def url(self, token: str | None = None) -> str:
        """What to open in a browser; everywhere (0.0.0.0, ::) is reached under the machine's name."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}/" + (f"?token={quote(token, safe='')}" if token else "")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
