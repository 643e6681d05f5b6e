"""Sharing: what the operator lets out beside emotions — words, the face in numbers, pictures and sound."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from capture import messages as captured
from capture.features.vision import BLENDSHAPES, PRESENCE
from capture.messages import FeatureBlock, Pcm, Word, Words
from capture.rate_cap import RateCap
from runtime.config import Config
from runtime.stream import Face, Head, Message, Picture, Said, Sound, Transcript

FACE_HZ = 10.0
DIGITS = 3  # of blendshapes, radians and landmarks


class Sharing:
    """From what arrives to what is published of it beside emotions; nothing, unless it was asked for."""

    def __init__(self, config: Config, session: str) -> None:
        self._config, self._session = config, session
        self._transcripts = self._faces = 0
        self._provisional: tuple[Word, ...] = ()  # those that were shared last
        self._cap = RateCap(FACE_HZ)

    def of(self, message: captured.Message) -> Iterator[Message]:
        """What may be published of a message of a capture process."""
        config = self._config
        match message:
            case Words() if config.share_words:
                yield from self._words(message)
            case FeatureBlock(stamp=stamp) if config.share_face and stamp.stream == "vision":
                yield from self._face(message)
            case captured.Picture() if config.share_raw:
                yield picture(message, self._session)
            case Pcm(stamp=stamp, rate_hz=rate_hz, samples=samples) if config.share_raw:
                pcm = samples.astype("<i2").tobytes()
                yield Sound(session=self._session, t_ns=stamp.t_capture_ns, rate_hz=rate_hz, pcm=pcm)
            case _:
                pass

    def _words(self, heard: Words) -> Iterator[Message]:
        """What was said, when there is news: committed words, or other provisional ones."""
        provisional = tuple(word for word in heard.words if not word.committed)
        if provisional == self._provisional and len(provisional) == len(heard.words):
            return
        self._provisional = provisional
        said = (
            Said(text=word.text, start_ns=word.start_ns, end_ns=word.end_ns, committed=word.committed)
            for word in heard.words
        )
        yield Transcript(
            session=self._session, seq=self._transcripts, until_ns=heard.until_ns, words=tuple(said)
        )
        self._transcripts += 1

    def _face(self, block: FeatureBlock) -> Iterator[Message]:
        for t_ns, vector in zip(block.times_ns.tolist(), block.values, strict=True):
            if len(vector) > PRESENCE and self._cap.passes(t_ns):
                yield face(vector, t_ns, self._session, self._faces)
                self._faces += 1


def face(vector: npt.NDArray[np.float32], t_ns: int, session: str, seq: int) -> Face:
    """A vector of vision features (59,), ``capture.features.vision.SPEC``, as a message."""
    if not vector[PRESENCE]:
        return Face(session=session, seq=seq, t_ns=t_ns, present=False)
    shapes = np.clip(np.round(vector[: len(BLENDSHAPES)].astype(float), DIGITS), 0.0, 1.0).tolist()
    pitch, yaw, roll = np.round(vector[len(BLENDSHAPES) :][:3].astype(float), DIGITS).tolist()
    return Face(
        session=session,
        seq=seq,
        t_ns=t_ns,
        present=True,
        blendshapes=dict(zip(BLENDSHAPES, shapes, strict=True)),
        head=Head(pitch=pitch, yaw=yaw, roll=roll),
    )


def picture(seen: captured.Picture, session: str) -> Picture:
    """What a camera process sends, as a message of the stream."""
    return Picture(
        session=session,
        t_ns=seen.stamp.t_capture_ns,
        width=seen.width,
        height=seen.height,
        jpeg=seen.jpeg,
        landmarks=tuple((x, y) for x, y in np.round(seen.landmarks, DIGITS).tolist()),
    )
