"""Guard: who may see the page. On loopback this machine's browsers; elsewhere whoever has the token."""

from __future__ import annotations

import hmac
from urllib.parse import SplitResult, parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "emotion_dashboard"
REFUSED = "This page needs its token: open the address that the dashboard printed when it started.\n"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Guard:
    """ASGI middleware in front of the page and of its WebSocket.

    The token comes once, as ``?token=``; a cookie that scripts cannot read keeps it. Without a token
    (loopback) the Host header must name this machine, so that no web site can point a name of its own
    at it. What says where it comes from, as a WebSocket and the polling in its place do, must come from the
    page itself.

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
            # Lax: a link in a mail on the web is followed with the cookie. Nothing is changed by a GET.
            response.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
            await response(scope, receive, send)
        elif self._known(headers) and not _foreign(headers):
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
        # Not http.cookies: that stops at the first one that it cannot read, of another port of this host.
        offered = cookie_parser(headers.get("cookie", "")).get(self._cookie)
        return offered is not None and self._right(offered)

    def _right(self, offered: str) -> bool:
        return hmac.compare_digest(offered.encode(), (self._token or "").encode())


def _foreign(headers: Headers) -> bool:
    """What another site's page asks for, or opens, says so in its Origin; a followed link has none."""
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
