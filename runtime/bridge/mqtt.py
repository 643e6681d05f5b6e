"""MQTT: every message as JSON at ``PREFIX/SESSION/TYPE``, for home automation and for dashboards of sensors.

Source: MQTT 3.1.1 (OASIS). ``session.begin`` is retained, so that a newcomer knows what runs; the broker says
``offline`` at ``PREFIX/bridge`` (retained) when the bridge is gone, whichever way it went.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from typing import Any

from runtime.bridge.bridge import BridgeError, Losses, host_port, missing
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
        self._retained = ""  # the topic of what a newcomer finds
        self._answered = threading.Event()  # the broker took the connection, or refused it
        self._losses = Losses(f"{self._host}:{self._port} does not take them")
        self._under_way = 0  # messages that the broker has not confirmed; both threads count
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
        client.on_publish = lambda *_: self._count(-1)
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
        self._answered.wait(CONNECT_S)  # else the first messages would be lost
        return f"MQTT at {self._host}:{self._port}, topics {self._prefix}/#"

    def send(self, message: Message) -> None:
        if self._refused:
            raise BridgeError(
                f"{self._host}:{self._port} refuses the connection ({self._refused}): "
                f"check --user and ${PASSWORD}"
            )
        kind = str(message.__struct_config__.tag)
        topic = f"{self._prefix}/{message.session}/{kind}"
        lasting = isinstance(message, SessionBegin)
        # Windows and totals are worth a second try; the next status comes in a second.
        careful = isinstance(message, Emotion | SessionBegin | SessionEnd)
        if lasting and topic != self._retained:
            self._forget()
            self._retained = topic
        self._publish(topic, encode(message), careful=careful, lasting=lasting)
        if isinstance(message, SessionEnd):
            self._forget()

    def _publish(self, topic: str, content: bytes, *, careful: bool = True, lasting: bool = True) -> Any:
        """To the broker's queue; what has no place in it any more is counted."""
        from paho.mqtt.client import MQTT_ERR_QUEUE_SIZE, MQTT_ERR_SUCCESS

        info = self._client.publish(topic, content, qos=int(careful), retain=lasting)
        # A careful message waits for a broker that is away, while there is room.
        if info.rc == MQTT_ERR_QUEUE_SIZE or (info.rc != MQTT_ERR_SUCCESS and not careful):
            self._losses.add()
        else:
            self._count(1)
        return info

    def _count(self, change: int) -> None:
        with self._counting:
            self._under_way += change

    def _forget(self) -> None:
        """What is retained must not outlive the session, nor the bridge."""
        if self._retained:
            self._publish(self._retained, b"")
            self._retained = ""

    def close(self) -> None:
        if self._client is None:
            return
        if self._client.is_connected():
            self._forget()
            gone = self._publish(self._state, b"offline")
            with contextlib.suppress(ValueError, RuntimeError):  # no room for it, or the broker has just gone
                gone.wait_for_publish(CLOSE_S)
        self._client.disconnect()
        self._client.loop_stop()
        self._client = None
        self._losses.add(self._under_way)  # they waited for a broker that did not come back in time
        self._losses.tell()

    @property
    def _state(self) -> str:
        return f"{self._prefix}/bridge"

    def _connected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._refused = str(reason)
        else:
            self._refused = ""
            self._publish(self._state, b"online")
        self._answered.set()

    def _disconnected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure and not self._refused:
            log.warning("%s:%d: the broker is gone (%s); connecting again", self._host, self._port, reason)
