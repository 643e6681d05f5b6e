"""Face: drawn from blendshapes and the head's rotation, or the camera itself where pictures are shared."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from math import degrees, sin

from msgspec import UNSET
from nicegui.element import Element

from runtime.dashboard.board import Board
from runtime.dashboard.drawing import attrs, box, card, say, swap, text
from runtime.dashboard.phrases import spoken
from runtime.stream import Face, Head, Picture

WIDTH, HEIGHT = 200, 216
CENTRE = (100.0, 106.0)
DOT = 0.004  # of the picture's width: a landmark
HOW_TO_SHARE = "The stream does not share the face: start it with --share-face (the camera: --share-raw)."


@dataclass(frozen=True, slots=True)
class Drawing:
    """SVG attributes of a face, in a box of 200 x 216."""

    head: str  # transform of all
    features: str  # transform of what lies on the front of the head
    jaw: float  # how far the chin goes down
    brows: tuple[str, str]  # paths, the left of the picture first
    eyes: tuple[str, str]
    irises: tuple[tuple[float, float, float], ...]  # x, y, radius
    lips: str
    mouth: str  # inside the lips


def draw(face: Face) -> Drawing:
    """What the blendshapes move. The picture is no mirror: a person's left side is on its right."""
    shapes = face.blendshapes if face.blendshapes is not UNSET else {}
    head = face.head if face.head is not UNSET else Head(pitch=0.0, yaw=0.0, roll=0.0)
    x, y = CENTRE
    brows, eyes, irises = [], [], []
    for side, name in ((-1, "Right"), (1, "Left")):
        brows.append(_brow(shapes, name, x, side))
        height = max(0.8, 8 - 7.5 * shapes.get(f"eyeBlink{name}", 0) + 4 * shapes.get(f"eyeWide{name}", 0)
                     - 2.5 * shapes.get(f"eyeSquint{name}", 0))  # fmt: skip
        middle = x + side * 28
        eyes.append(
            f"M{middle - 15:.1f} 90 Q{middle:.1f} {90 - 2 * height:.1f} {middle + 15:.1f} 90 "
            f"Q{middle:.1f} {90 + 1.7 * height:.1f} {middle - 15:.1f} 90 z"
        )
        outward = shapes.get(f"eyeLookOut{name}", 0) - shapes.get(f"eyeLookIn{name}", 0)
        down = shapes.get(f"eyeLookDown{name}", 0) - shapes.get(f"eyeLookUp{name}", 0)
        irises.append((middle + side * 6 * outward, 90 + 3 * down, min(5.0, 0.9 * height)))
    lips, mouth = _mouth(shapes, x)
    return Drawing(
        head=f"rotate({-degrees(head.roll):.1f} {x:.0f} {y:.0f})",
        features=f"translate({34 * sin(head.yaw):.1f} {26 * sin(head.pitch):.1f})",
        jaw=8 * shapes.get("jawOpen", 0),
        brows=(brows[0], brows[1]),
        eyes=(eyes[0], eyes[1]),
        irises=tuple(irises),
        lips=lips,
        mouth=mouth,
    )


def _brow(shapes: Mapping[str, float], name: str, x: float, side: int) -> str:
    down = shapes.get(f"browDown{name}", 0)
    inner = 66 - 11 * shapes.get("browInnerUp", 0) + 10 * down
    outer = 68 - 10 * shapes.get(f"browOuterUp{name}", 0) + 4 * down
    middle = (inner + outer) / 2 - 7 + 3 * down
    return (
        f"M{x + side * 13:.1f} {inner:.1f} Q{x + side * 28:.1f} {middle:.1f} {x + side * 45:.1f} {outer:.1f}"
    )


def _mouth(shapes: Mapping[str, float], x: float) -> tuple[str, str]:
    """The lips' outline and the opening between them."""
    x += 8 * (shapes.get("mouthLeft", 0) - shapes.get("mouthRight", 0))
    narrow = 11 * max(shapes.get("mouthPucker", 0), shapes.get("mouthFunnel", 0))
    corners = []
    for side, name in ((-1, "Right"), (1, "Left")):
        smile, frown = shapes.get(f"mouthSmile{name}", 0), shapes.get(f"mouthFrown{name}", 0)
        wide = 25 + 9 * smile + 7 * shapes.get(f"mouthStretch{name}", 0) - narrow
        corners.append((x + side * wide, 150 - 12 * smile + 10 * frown))
    (left, left_y), (right, right_y) = corners
    raised = _both(shapes, "mouthUpperUp")
    opened = 34 * shapes.get("jawOpen", 0) * (1 - shapes.get("mouthClose", 0)) + 5 * _both(
        shapes, "mouthLowerDown"
    )
    thin = 1 - 0.5 * max(shapes.get("mouthRollUpper", 0), _both(shapes, "mouthPress"))
    upper, lower = 150 - 5 * raised, 150 + opened
    outline = (
        f"M{left:.1f} {left_y:.1f} Q{x:.1f} {upper - 11 * thin:.1f} {right:.1f} {right_y:.1f} "
        f"Q{x:.1f} {2 * lower - 150 + 13 * thin:.1f} {left:.1f} {left_y:.1f} z"
    )
    inside = (
        f"M{left + 3:.1f} {left_y:.1f} Q{x:.1f} {upper:.1f} {right - 3:.1f} {right_y:.1f} "
        f"Q{x:.1f} {2 * lower - 150:.1f} {left + 3:.1f} {left_y:.1f} z"
    )
    return outline, inside


def _both(shapes: Mapping[str, float], name: str) -> float:
    return (shapes.get(f"{name}Left", 0) + shapes.get(f"{name}Right", 0)) / 2


def dots(picture: Picture) -> str:
    """The landmarks as one SVG path of dots, in pixels of the picture."""
    return "".join(f"M{x * picture.width:.0f} {y * picture.height:.0f}h0" for x, y in picture.landmarks)


class FacePanel:
    """The face that the network sees: numbers, drawn; the camera only where the operator shares it."""

    def __init__(self) -> None:
        with card("Face", "face") as self._card:
            with box("drawn") as self._drawn:
                attrs(self._drawn, role="img", aria_label="no face yet")
                with box("", "svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", aria_hidden="true"):
                    self._parts()
            with box("seen gone") as self._seen:
                self._camera = box("", "img", alt="the camera's picture")
                with box("", "svg", preserveAspectRatio="none", aria_hidden="true") as self._over:
                    self._dots = box("landmarks", "path")
            self._note = text("", "muted small")
        self._shown: object = None
        self._pictured: object = None

    def show(self, board: Board) -> None:
        face, picture = board.face_now, board.picture_now
        swap(self._seen, picture is None, "gone")
        swap(self._drawn, picture is not None or face is None, "gone")
        if picture is not None and picture is not self._pictured:
            self._pictured = picture
            self._show_camera(picture)
        if face is None:
            shared = board.begin is None or board.begin.config.get("share_face")
            missing = "no face yet" if board.face is None else "no face is seen any more"
            say(self._note, "" if picture is not None else missing if shared else HOW_TO_SHARE)
            return
        swap(self._card, not face.present, "away")
        note = spoken(face) if face.present else "no face in view"
        say(self._note, note)
        if picture is None and face.present and face is not self._shown:
            self._shown = face
            self._show_drawing(draw(face), note)
        elif not face.present:
            attrs(self._drawn, aria_label=note)

    def _show_camera(self, picture: Picture) -> None:
        attrs(self._camera, src=f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}")
        attrs(self._over, viewBox=f"0 0 {picture.width} {picture.height}")
        attrs(self._dots, d=dots(picture) or "M0 0", stroke_width=f"{max(1.0, DOT * picture.width):.1f}")

    def _show_drawing(self, drawing: Drawing, note: str) -> None:
        attrs(self._drawn, aria_label=f"face: {note}")
        attrs(self._head, transform=drawing.head)
        attrs(self._front, transform=drawing.features)
        attrs(self._skull, ry=f"{86 + drawing.jaw:.1f}", cy=f"{CENTRE[1] + drawing.jaw:.1f}")
        for path, d in zip((*self._brows, *self._eyes), (*drawing.brows, *drawing.eyes), strict=True):
            attrs(path, d=d)
        for circle, (x, y, radius) in zip(self._irises, drawing.irises, strict=True):
            attrs(circle, cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{radius:.1f}")
        attrs(self._lips, d=drawing.lips)
        attrs(self._mouth, d=drawing.mouth)

    def _parts(self) -> None:
        x, y = CENTRE
        with box("", "g") as self._head:
            self._skull = box("skull", "ellipse", cx=f"{x:.0f}", cy=f"{y:.0f}", rx="68", ry="86")
            with box("", "g") as self._front:
                self._eyes: list[Element] = [box("eye", "path") for _ in range(2)]
                self._irises = [box("iris", "circle") for _ in range(2)]
                self._brows = [box("brow", "path") for _ in range(2)]
                box("nose", "path", d=f"M{x - 9:.0f} 119 q9 8 18 0")
                self._lips, self._mouth = box("lips", "path"), box("mouth", "path")
