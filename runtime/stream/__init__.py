"""The emotion stream, schema 1: its messages, who publishes them, and a helper to subscribe.

ZeroMQ multipart ``[topic, JSON]`` on an XPUB socket; the topic is ``emotion.<session>.``, so that a
subscription to ``emotion`` gets every session. What was said goes to ``words.<session>.``, the face
in numbers to ``face.<session>.``, pictures and sound to ``raw.<session>.``: each only where the operator
shares it. ``python -m runtime.stream --schema`` prints the JSON schema.
"""

from runtime.stream.messages import (
    Date,
    Distillation,
    Emotion,
    Emotions,
    Face,
    Head,
    Latency,
    Lost,
    MalformedMessage,
    Message,
    Modalities,
    Modality,
    Model,
    Picture,
    Revised,
    Said,
    SenseStatus,
    Sentiment,
    SessionBegin,
    SessionEnd,
    Sound,
    State,
    StatusMessage,
    Time,
    Transcript,
    decode,
    encode,
    schema,
    schema_text,
    wall,
)
from runtime.stream.publish import Publisher
from runtime.stream.subscribe import Subscription, subscribe

__all__ = [
    "Date",
    "Distillation",
    "Emotion",
    "Emotions",
    "Face",
    "Head",
    "Latency",
    "Lost",
    "MalformedMessage",
    "Message",
    "Modalities",
    "Modality",
    "Model",
    "Picture",
    "Publisher",
    "Revised",
    "Said",
    "SenseStatus",
    "Sentiment",
    "SessionBegin",
    "SessionEnd",
    "Sound",
    "State",
    "StatusMessage",
    "Subscription",
    "Time",
    "Transcript",
    "decode",
    "encode",
    "schema",
    "schema_text",
    "subscribe",
    "wall",
]
