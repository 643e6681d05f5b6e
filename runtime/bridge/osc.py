"""OSC: a bundle of Open Sound Control messages over UDP for each window; music and stage software reads it.

Source: https://opensoundcontrol.stanford.edu/spec-1_0.html. Addresses follow the columns of an export:

    /emotion/window     i seq, s state, s top, f seconds since the session's first window
    /emotion/p/LABEL    f probability             /emotion/sentiment  f value
    /emotion/SENSE      i present, f coverage     SENSE: text, audio, vision
    /emotion/homo, /emotion/hetero                f strength of each edge, in the stream's order
    /emotion/word       s word, as it is committed, where words are shared and asked for
    /emotion/session    s begin or end, s name
"""

from __future__ import annotations

import contextlib
from typing import Any

from msgspec import UNSET

from runtime.bridge.bridge import BridgeError, host_port, missing
from runtime.bridge.sessions import Sessions
from runtime.stream import Emotion, Message, SessionBegin, SessionEnd, Transcript
from runtime.stream.row import SENSES

PORT = 9000


class OscBridge:
    """Sends to one address; UDP has no listener to wait for, and nobody to notice that none is there.

    Args:
        to: HOST:PORT of the program that listens.
        words: what was said is sent, too.

    Raises:
        BridgeError: the address is malformed.
    """

    def __init__(self, to: str, *, words: bool = False) -> None:
        self._host, self._port = host_port(to, PORT)
        self._words = words
        self._client: Any = None
        self._sessions = Sessions()

    def open(self) -> str:
        try:
            from pythonosc.udp_client import UDPClient
        except ImportError as error:
            raise missing("python-osc") from error
        try:
            self._client = UDPClient(self._host, self._port)
        except (OSError, UnicodeError) as error:  # the latter: no name that a host could have, such as a..b
            raise BridgeError(f"{self._host}: no such host ({error}): check --to HOST:PORT") from error
        return f"OSC to {self._host}:{self._port}"

    def send(self, message: Message) -> None:
        if not self._sessions.news(message):
            return  # a begin is repeated for newcomers, and OSC has none; a stage cannot take a window back
        content = self._content(message)
        if not content:
            return
        from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
        from pythonosc.osc_message_builder import OscMessageBuilder

        bundle = OscBundleBuilder(IMMEDIATELY)
        for address, values in content.items():
            built = OscMessageBuilder(address)
            for value in values:
                built.add_arg(value)
            bundle.add_content(built.build())
        with contextlib.suppress(OSError):  # nobody listens there, or the network is away: as UDP has it
            self._client.send(bundle.build())

    def close(self) -> None:
        self._client = None

    def _content(self, message: Message) -> dict[str, list[Any]]:
        match message:
            case Emotion():
                return self._window(message)
            case Transcript(words=words) if self._words:
                said = [word.text for word in words if word.committed]
                return {"/emotion/word": [" ".join(said)]} if said else {}
            case SessionBegin(session=name):
                return {"/emotion/session": ["begin", name]}
            case SessionEnd(session=name):
                return {"/emotion/session": ["end", name]}
            case _:
                return {}

    def _window(self, message: Emotion) -> dict[str, list[Any]]:
        first_ns = self._sessions[message.session].first_ns
        since_s = 0.0 if first_ns is None else (message.time.end_ns - first_ns) / 1e9
        felt, value, edges = message.emotions, message.sentiment, message.distillation
        top = "" if felt is UNSET else felt.top
        content: dict[str, list[Any]] = {"/emotion/window": [message.seq, message.state, top, since_s]}
        if felt is not UNSET:
            pairs = zip(felt.labels, felt.scores, strict=True)
            content |= {f"/emotion/p/{address(label)}": [score] for label, score in pairs}
        if value is not UNSET:
            content["/emotion/sentiment"] = [value.value]
        for name in SENSES:
            sense = getattr(message.modalities, name)
            content[f"/emotion/{name}"] = [int(sense.present), sense.coverage]
        if edges is not UNSET:
            content |= {"/emotion/homo": list(edges.homo), "/emotion/hetero": list(edges.hetero)}
        return content


def address(label: str) -> str:
    """A label as a part of an OSC address: what has a meaning there, or is no printable ASCII, becomes _."""
    return "".join("_" if c in "#*,/?[]{}" or not "!" <= c <= "~" else c for c in label) or "_"
