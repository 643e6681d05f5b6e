"""Guard: who is let in to the page, and who is not, with the cookies and origins that browsers send."""

from __future__ import annotations

import pytest

pytest.importorskip("nicegui", reason="pip install 'emotion-edge[dashboard]'")

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from runtime.dashboard.guard import COOKIE, Guard

TOKEN, PORT = "a token of many letters", 8563
OWN = f'{COOKIE}_{PORT}="{TOKEN}"'


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(Request(scope, receive).url.path)(scope, receive, send)


def browser(token: str | None = TOKEN) -> TestClient:
    return TestClient(Guard(page, token, "127.0.0.1", PORT), base_url=f"http://127.0.0.1:{PORT}")


@pytest.mark.parametrize(
    "others", ['prefs={"theme":"dark"}', "a=b; ;c", "=", 'open="', "naïve=ü", "emotion_dashboard_9=other"]
)
def test_a_cookie_of_another_port_that_nobody_can_read_locks_no_viewer_out(others: str) -> None:
    for cookies in (f"{others}; {OWN}", f"{OWN}; {others}"):
        assert browser().get("/", headers={"Cookie": cookies.encode()}).status_code == 200
    assert browser().get("/", headers={"Cookie": others.encode()}).status_code == 401


def test_a_link_with_the_token_leaves_a_cookie_that_a_followed_link_takes_along_and_no_script_reads() -> None:
    answer = browser().get("/", params={"token": TOKEN, "at": "5"}, follow_redirects=False)
    assert answer.status_code == 303 and answer.headers["location"] == "/?at=5"
    _, *marks = answer.headers["set-cookie"].split("; ")
    assert {"httponly", "samesite=lax"} <= {mark.lower() for mark in marks}


@pytest.mark.parametrize("token", [TOKEN, None])
@pytest.mark.parametrize("way", ["/", "/_nicegui_ws/socket.io/?EIO=4&transport=polling"])
def test_another_sites_script_is_refused_whichever_way_it_takes(token: str | None, way: str) -> None:
    def status(method: str, **headers: str) -> int:
        return browser(token).request(method, way, headers={"Cookie": OWN} | headers).status_code

    for method in ("GET", "POST"):
        assert status(method) == 200
        assert status(method, Origin=f"http://127.0.0.1:{PORT}") == 200
        for origin in ("http://evil.example", "http://127.0.0.1:9999", "null", "http://["):
            assert status(method, Origin=origin) == 401
