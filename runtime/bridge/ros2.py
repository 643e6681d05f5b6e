"""ROS 2: ``hri_msgs/Expression`` for each window, as ROS4HRI has it (REP 155), and the whole message as JSON.

Source: https://www.ros.org/reps/rep-0155.html, hri_msgs 2. ROS 2 is no Python package: source its
setup file first, and run this in its Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import UNSET

from runtime.bridge.bridge import BridgeError
from runtime.bridge.sessions import Sessions
from runtime.scale import on_scale
from runtime.stream import Emotion, Message, encode

TOPIC = "/humans/faces/anonymous/expression"
NODE = "emotion_edge"
EXPRESSIONS = {  # our labels -> the constants of hri_msgs/Expression
    "angry": "angry",
    "disgust": "disgusted",
    "fear": "scared",
    "happy": "happy",
    "neutral": "neutral",
    "sad": "sad",
    "surprise": "surprised",
}
HOW_TO_GET = (
    "ROS 2 and hri_msgs are not there: source /opt/ros/$ROS_DISTRO/setup.bash and "
    "apt install ros-$ROS_DISTRO-hri-msgs, then start this in the same shell"
)


def expression(message: Emotion) -> dict[str, Any]:
    """The fields of an ``hri_msgs/Expression``.

    An abstaining window has the expression "" and confidence 0, so that a robot does not go on with what was
    felt before. Valence is there where the network tells sentiment, scaled to [-1, 1]; arousal, which no
    network here was trained for, and whatever else is absent is NaN.
    """
    felt, value = message.emotions, message.sentiment
    name, confidence, valence = "", 0.0, float("nan")
    if message.state != "abstain":
        if felt is not UNSET:
            name = EXPRESSIONS.get(felt.top, felt.top)
            confidence = max(felt.scores)
        if value is not UNSET:
            valence = 2 * on_scale(value.value, value.scale) - 1
            confidence = confidence if felt is not UNSET else float("nan")
    return {
        "header": {"stamp": stamp(message), "frame_id": ""},
        "expression": name,
        "valence": valence,
        "arousal": float("nan"),
        "confidence": confidence,
    }


def stamp(message: Emotion) -> dict[str, int]:
    """The end of the window as ``builtin_interfaces/Time``: ROS time is the system's."""
    wall_ms = round(datetime.fromisoformat(message.time.wall).timestamp() * 1000)
    return {"sec": wall_ms // 1000, "nanosec": wall_ms % 1000 * 1_000_000}


class Ros2Bridge:
    """A ROS 2 node with two publishers: the expression, and JSON at ``~/message``.

    Args:
        topic: of the expression; REP 155 puts it below the identifier of a face.
    """

    def __init__(self, topic: str = TOPIC) -> None:
        self._topic = topic
        self._node: Any = None
        self._sessions = Sessions()

    def open(self) -> str:
        try:
            import rclpy
            from hri_msgs.msg import Expression
            from rclpy.signals import SignalHandlerOptions
            from std_msgs.msg import String
        except ImportError as error:
            raise BridgeError(HOW_TO_GET) from error
        self._ros, self._expression, self._string = rclpy, Expression, String
        # Ctrl-C is ours: its own handler would end the context before the last message is out.
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node(NODE)
        self._expressions = self._node.create_publisher(Expression, self._topic, 10)
        self._messages = self._node.create_publisher(String, "~/message", 10)
        return f"ROS 2 topics {self._topic} and /{NODE}/message"

    def send(self, message: Message) -> None:
        self._messages.publish(self._string(data=encode(message).decode()))
        # A robot that reacts to the newest window must not be thrown back to one of a second ago.
        if self._sessions.news(message) and isinstance(message, Emotion):
            filled = self._expression()
            fill(filled, expression(message))
            self._expressions.publish(filled)

    def close(self) -> None:
        if self._node is not None:
            self._node.destroy_node()
            self._ros.try_shutdown()
            self._node = None


def fill(message: Any, fields: Mapping[str, Any]) -> None:
    """Set the fields of a ROS message, nested ones too."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            fill(getattr(message, name), value)
        else:
            setattr(message, name, value)
