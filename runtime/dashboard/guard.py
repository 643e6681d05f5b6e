"""Guard: who may see the page. On loopback this machine's browsers; elsewhere whoever has the token."""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import SplitResult, parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "emotion_dashboard"
REFUSED = "This page needs its token: open the address that the dashboard printed when it started.\n"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Guard:
    """ASGI middleware in front of the page and of its WebSocket.

    The token comes once, as ``?token=``; a cookie that scripts cannot read keeps it. Without a token
    (loopback) the Host header must name this machine, so that no web site can point a name of its own
    at it. A WebSocket must come from the page itself.

    Args:
        token: what must be shown; None: nothing.
        host: the loopback address that is served, beside the usual ones.
        port: names the cookie; browsers share cookies between all ports of a host.
    """

    def __init__(self, app: ASGIApp, token: str | None, host: str, port: int) -> None:
        self._app, self._token = app, token
        self._cookie = f"{COOKIE}_{port}"
        self._hosts = {*LOOPBACK, host}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["type"] == "http" and self._token and self._offered(scope):
            response = RedirectResponse(_without_token(scope), status_code=303)
            response.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
            await response(scope, receive, send)
        elif self._known(headers) and not (scope["type"] == "websocket" and _foreign(headers)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse(REFUSED, status_code=401)(scope, receive, send)

    def _offered(self, scope: Scope) -> bool:
        offered = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return self._right(offered)

    def _known(self, headers: Headers) -> bool:
        if self._token is None:
            asked = _address(f"//{headers.get('host', '')}")
            return asked is not None and asked.hostname in self._hosts
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        return self._cookie in cookies and self._right(cookies[self._cookie].value)

    def _right(self, offered: str) -> bool:
        return hmac.compare_digest(offered.encode(), (self._token or "").encode())


def _foreign(headers: Headers) -> bool:
    """A WebSocket that another site's page opens says so in its Origin."""
    origin = headers.get("origin")
    if origin is None:
        return False
    came = _address(origin)
    return came is None or came.netloc != headers.get("host")


def _address(text: str) -> SplitResult | None:
    """The parts of an address; None: it is none, such as ``//[``."""
    try:
        return urlsplit(text)
    except ValueError:
        return None


def _without_token(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1").split("&")
    rest = "&".join(part for part in query if not part.startswith("token="))
    return str(scope["path"]) + (f"?{rest}" if rest else "")
