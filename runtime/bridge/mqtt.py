"""MQTT: every message as JSON at ``PREFIX/SESSION/TYPE``, for home automation and for dashboards of sensors.

Source: MQTT 3.1.1 (OASIS). ``session.begin`` is retained, so that a newcomer knows what runs; the broker says
``offline`` at ``PREFIX/bridge`` (retained) when the bridge is gone, whichever way it went.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterable
from typing import Any

from runtime.bridge.bridge import BridgeError, Losses, host_port, missing
from runtime.bridge.sessions import Sessions
from runtime.stream import Emotion, Message, SessionBegin, SessionEnd, encode

log = logging.getLogger("runtime.bridge")

PORT, TLS_PORT = 1883, 8883
CONNECT_S = 10.0
QUEUED = 200  # messages that wait for a broker that is away; then new ones are lost
CLOSE_S = 2.0
PASSWORD = "MQTT_PASSWORD"


class MqttBridge:
    """A client of a broker; one that is lost is connected to again, by itself.

    Args:
        broker: HOST[:PORT].
        prefix: of every topic.
        user: name for the broker; the password comes from the environment, where no list of processes
            shows it.
        tls: encrypt, and check the broker's certificate.

    Raises:
        BridgeError: the address or the prefix is malformed.
    """

    def __init__(
        self, broker: str, *, prefix: str = "emotion", user: str | None = None, tls: bool = False
    ) -> None:
        self._host, self._port = host_port(broker, TLS_PORT if tls else PORT)
        if not prefix or set(prefix) & set("+#\0") or prefix.startswith("/") or prefix.endswith("/"):
            raise BridgeError(
                f"prefix {prefix!r}: expected a topic such as emotion, without +, # or a slash at its ends"
            )
        self._prefix, self._user, self._tls = prefix, user, tls
        self._client: Any = None
        self._refused = ""
        self._sessions = Sessions()
        self._retained: dict[str, str] = {}  # session -> the topic of what a newcomer finds
        self._answered = threading.Event()  # the broker took the connection, or refused it
        self._losses = Losses(f"{self._host}:{self._port} does not take them")
        self._under_way: set[int] = set()  # ids of what the broker has not confirmed; both threads count
        self._own: set[int] = set()  # those of them that are none of the stream's
        self._counting = threading.Lock()

    def open(self) -> str:
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise missing("paho-mqtt") from error
        self._client = client = Client(CallbackAPIVersion.VERSION2)
        client.max_queued_messages_set(QUEUED)
        client.will_set(self._state, "offline", qos=1, retain=True)
        client.on_connect, client.on_disconnect = self._connected, self._disconnected
        client.on_publish = lambda _client, _data, mid, *_: self._count(mid)
        if self._user is not None:
            client.username_pw_set(self._user, os.environ.get(PASSWORD))
        if self._tls:
            client.tls_set()
        client.connect_timeout = CONNECT_S
        try:
            client.connect(self._host, self._port)
        except (OSError, ValueError) as error:
            raise BridgeError(
                f"{self._host}:{self._port}: no MQTT broker answers ({error}): "
                f"start one, or give --broker HOST:PORT"
            ) from error
        client.loop_start()
        answered = self._answered.wait(CONNECT_S)  # else the first messages would be lost
        if self._refused or not answered:
            self._stop()
            raise self._refusal()
        return f"MQTT at {self._host}:{self._port}, topics {self._prefix}/#"

    def send(self, message: Message) -> None:
        if self._refused:
            raise self._refusal()
        kind = str(message.__struct_config__.tag)
        topic = f"{self._prefix}/{message.session}/{kind}"
        lasting = isinstance(message, SessionBegin)
        self._sessions.news(message)
        # Windows and totals are worth a second try; the next status comes in a second.
        careful = isinstance(message, Emotion | SessionBegin | SessionEnd)
        if lasting:
            self._retained[message.session] = topic
        self._publish(topic, encode(message), careful=careful, lasting=lasting)
        self._forget(self._retained.keys() - self._sessions)

    def _publish(
        self, topic: str, content: bytes, *, careful: bool = True, lasting: bool = True, own: bool = False
    ) -> Any:
        """To the broker's queue; what is the stream's and has no place in it any more is counted."""
        from paho.mqtt.client import MQTT_ERR_QUEUE_SIZE, MQTT_ERR_SUCCESS

        info = self._client.publish(topic, content, qos=int(careful), retain=lasting)
        # A careful message waits for a broker that is away, while there is room.
        if info.rc != MQTT_ERR_QUEUE_SIZE and (info.rc == MQTT_ERR_SUCCESS or careful):
            self._count(info.mid, own=own)
        elif not own:
            self._losses.add()
        return info

    def _count(self, mid: int, *, own: bool = False) -> None:
        """It is under way, or confirmed: whichever of the two threads comes first."""
        with self._counting:
            self._under_way ^= {mid}
            self._own = (self._own | {mid} if own else self._own) & self._under_way

    def _forget(self, sessions: Iterable[str]) -> None:
        """What is retained must not outlive its session, nor the bridge."""
        for session in list(sessions):
            self._publish(self._retained.pop(session), b"", own=True)

    def close(self) -> None:
        if self._client is None:
            return
        if self._client.is_connected():
            self._forget(self._retained)
            gone = self._publish(self._state, b"offline", own=True)
            with contextlib.suppress(ValueError, RuntimeError):  # no room for it, or the broker has just gone
                gone.wait_for_publish(CLOSE_S)
        self._stop()
        with self._counting:  # paho's thread may not have ended yet
            waiting = len(self._under_way - self._own)
        self._losses.add(waiting)  # for a broker that did not come back in time
        self._losses.tell()

    def _stop(self) -> None:
        """Let go of the broker; paho's thread may sit in a connect for longer than anybody waits for us."""
        client = self._client
        client.on_connect = client.on_disconnect = None
        client.disconnect()
        stopping = threading.Thread(target=client.loop_stop, name="mqtt-stop", daemon=True)
        stopping.start()
        stopping.join(CLOSE_S)
        self._client = None

    def _refusal(self) -> BridgeError:
        if not self._refused:
            return BridgeError(
                f"{self._host}:{self._port}: something is there, and no MQTT broker answers: "
                f"check --broker HOST:PORT, and --tls for one that encrypts"
            )
        return BridgeError(
            f"{self._host}:{self._port} refuses the connection ({self._refused}): "
            f"check --user and ${PASSWORD}"
        )

    @property
    def _state(self) -> str:
        return f"{self._prefix}/bridge"

    def _connected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._refused = str(reason)
        else:
            self._refused = ""
            # Not carefully: the queue may be full of what has waited for this connection.
            self._publish(self._state, b"online", careful=False, own=True)
        self._answered.set()

    def _disconnected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure and self._answered.is_set() and not self._refused:
            log.warning("%s:%d: the broker is gone (%s); connecting again", self._host, self._port, reason)
