"""`python -m runtime.bridge`: carry the emotion stream to what other tools already speak."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from runtime.bridge import mqtt, osc, ros2, websocket
from runtime.bridge.bridge import Bridge, BridgeError
from runtime.bridge.lsl import LslBridge
from runtime.endpoint import DEFAULT_ENDPOINT, EndpointError
from runtime.keys import KeyFileError
from runtime.stream import subscribe

EPILOG = f"""\
examples:
  python -m runtime.bridge lsl                                LabRecorder finds "emotion" and "emotion-events"
  python -m runtime.bridge websocket                          new WebSocket("ws://127.0.0.1:{websocket.PORT}/")
  python -m runtime.bridge mqtt --broker home.local           mosquitto_sub -h home.local -t 'emotion/#' -v
  python -m runtime.bridge osc --to 127.0.0.1:9000            /emotion/window, /emotion/p/happy, …
  python -m runtime.bridge ros2                               ros2 topic echo {ros2.TOPIC}

A bridge is a subscriber like any other, in a process of its own: start it before or after the session, and
as many as you like. It waits for a session, and for the next one when that has ended.

pip install '.[bridge]' in the clone brings what lsl, websocket, mqtt and osc need; ros2 runs in the Python of
your ROS 2.

exit status: 0 you pressed Ctrl-C; 2 an option, address or password cannot be used; 3 the other side is gone.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--endpoint", default=DEFAULT_ENDPOINT, help="stream to carry (default: %(default)s)")
    common.add_argument("--session", help="only this session (default: all)")
    common.add_argument("--key", metavar="FILE", help="of a stream that asks for one (runtime.keys)")
    common.add_argument("--finals", action="store_true", help="each window once, with all its words: later")
    common.add_argument("--words", action="store_true", help="what was said, too, where it is shared")
    p = argparse.ArgumentParser(
        prog="python -m runtime.bridge",
        description="Carry the emotion stream to what your tools already speak.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    kinds = p.add_subparsers(dest="kind", required=True, metavar="lsl|ros2|websocket|mqtt|osc")
    one = kinds.add_parser("lsl", parents=[common], help="Lab Streaming Layer")
    one.add_argument("--name", default="emotion", help="of the outlet (default: %(default)s)")
    one.add_argument("--lan", action="store_true", help="other machines find it, too; LSL knows no keys")
    one = kinds.add_parser("ros2", parents=[common], help="ROS 2: hri_msgs/Expression")
    one.add_argument("--topic", default=ros2.TOPIC, help="default: %(default)s")
    one = kinds.add_parser("websocket", parents=[common], help="JSON to browsers")
    one.add_argument(
        "--serve", default=f"127.0.0.1:{websocket.PORT}", metavar="HOST:PORT", help="default: %(default)s"
    )
    one.add_argument("--token", help="what clients must show; beyond loopback one is made if you give none")
    one.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL",
        help="pages from there may connect, too (default: only from this machine)",
    )  # fmt: skip
    one = kinds.add_parser("mqtt", parents=[common], help="JSON to an MQTT broker")
    one.add_argument("--broker", default="127.0.0.1", metavar="HOST[:PORT]", help="default: %(default)s")
    one.add_argument("--prefix", default="emotion", help="of the topics (default: %(default)s)")
    one.add_argument("--user", help=f"name for the broker; its password is read from ${mqtt.PASSWORD}")
    one.add_argument("--tls", action="store_true", help="encrypt, and check the broker's certificate")
    one = kinds.add_parser("osc", parents=[common], help="Open Sound Control over UDP")
    one.add_argument(
        "--to", default=f"127.0.0.1:{osc.PORT}", metavar="HOST:PORT", help="default: %(default)s"
    )
    return p


def make(options: argparse.Namespace) -> Bridge:
    """The bridge that was asked for. Raises BridgeError."""
    match options.kind:
        case "lsl":
            return LslBridge(options.name, words=options.words, lan=options.lan)
        case "ros2":
            return ros2.Ros2Bridge(options.topic)
        case "websocket":
            return websocket.WebSocketBridge(options.serve, token=options.token, origins=options.allow_origin)
        case "mqtt":
            return mqtt.MqttBridge(options.broker, prefix=options.prefix, user=options.user, tls=options.tls)
        case _:
            return osc.OscBridge(options.to, words=options.words)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry messages until Ctrl-C; what is wrong is one line and an exit status."""
    options = parser().parse_args(arguments)
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        bridge = make(options)
        messages = subscribe(
            options.endpoint,
            session=options.session,
            key=options.key,
            finals=options.finals,
            words=options.words,
            stopping=lambda: stopping,
        )
    except (BridgeError, EndpointError, KeyFileError) as error:
        return _refuse(error, 2)
    with messages:
        try:
            print(f"{options.endpoint} -> {bridge.open()}", flush=True)
        except BridgeError as error:
            return _refuse(error, 2)
        try:
            for message in messages:
                bridge.send(message)
        except BridgeError as error:
            return _refuse(error, 3)
        finally:
            bridge.close()
    return 0


def _refuse(error: Exception, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
