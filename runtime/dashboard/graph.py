"""Graph: the six edges of a GD-Unit between three senses, as SVG; thickness is strength."""

from __future__ import annotations

from math import hypot

from msgspec import UNSET
from nicegui import ui

from runtime.dashboard.board import SENSES, Board
from runtime.dashboard.drawing import attrs, box, card, say, styles, swap, text, unstyled
from runtime.dashboard.phrases import NAMES

WIDTH, HEIGHT = 240, 176
AT = {"vision": (120, 30), "audio": (34, 144), "text": (206, 144)}  # centres of the nodes
RADIUS, ARROW = 24, 11
BEND = 17  # how far a curve leaves the straight line, so that both directions are seen
WEAK, STRONG = 1.0, 9.0  # px
PAIRS = [(teacher, student) for teacher in SENSES for student in SENSES if teacher != student]
KINDS = {"homo": "what the senses share", "hetero": "what is each sense's own"}
TITLES = {"homo": "homogeneous", "hetero": "heterogeneous"}
NOTHING = "no edges: there is nothing to go by"
NEVER = "this network publishes no edges"


class GraphPanel:
    """Both GD-Units side by side: who teaches whom in the window that is shown."""

    def __init__(self) -> None:
        with card("Distillation", "distillation", "who teaches whom; thicker is stronger"):
            with box("graphs") as self._both:
                self._graphs = {kind: _Graph(kind) for kind in KINDS}
            self._none = text("", "muted")

    def show(self, board: Board) -> None:
        emotion = board.emotion
        edges = None if emotion is None or not emotion.distillation else emotion.distillation
        swap(self._none, emotion is None or edges is not None, "gone")
        swap(self._both, edges is None and emotion is not None, "gone")
        if emotion is None or edges is None:
            # A network that has edges gives them with every answer; without a sense there is no answer.
            nothing = emotion is None or (emotion.emotions is UNSET and emotion.sentiment is UNSET)
            say(self._none, NOTHING if nothing else NEVER)
            for graph in self._graphs.values():
                graph.reset()
            return
        present = {name: getattr(emotion.modalities, name).present for name in SENSES}
        for kind, graph in self._graphs.items():
            strengths = getattr(edges, kind)
            graph.show(dict(zip(edges.order, strengths, strict=True)), present)


class _Graph:
    def __init__(self, kind: str) -> None:
        with box(f"graph {kind}", "figure") as self._figure:
            size = f"0 0 {WIDTH} {HEIGHT}"
            with box("canvas") as self._canvas:
                attrs(self._canvas, role="img", aria_label=f"{TITLES[kind]} edges")
                with box("edges", "svg", viewBox=size, aria_hidden="true"):
                    self._arrow(kind)
                    self._edges = {pair: _edge(pair, kind) for pair in PAIRS}
                ui.html(_nodes(size), sanitize=False).classes("nodes")
            with box("caption", "figcaption"):
                text(TITLES[kind], "kind")
                text(KINDS[kind], "muted small")
                self._strongest = text("", "small")
        self._kind = kind

    def show(self, strengths: dict[str, float], present: dict[str, bool]) -> None:
        said = []
        for (teacher, student), path in self._edges.items():
            share = min(max(strengths.get(f"{teacher}->{student}", 0.0), 0.0), 1.0)
            width = WEAK + (STRONG - WEAK) * share
            styles(path, stroke_width=f"{width:.1f}px", opacity=f"{0.14 + 0.86 * min(1, share * 1.6):.2f}")
            said.append((share, f"{NAMES[teacher]} teaches {NAMES[student]} {share:.0%}"))
        said.sort(reverse=True)
        share, best = said[0]
        say(self._strongest, best.replace(" teaches ", " → ") if share > 0 else "no edge")
        attrs(self._canvas, aria_label=f"{TITLES[self._kind]} edges: {', '.join(line for _, line in said)}")
        for name, there in present.items():
            swap(self._canvas, not there, f"no-{name}")

    def reset(self) -> None:
        """As before the first window."""
        for path in self._edges.values():
            unstyled(path)
        say(self._strongest, "")
        attrs(self._canvas, aria_label=f"{TITLES[self._kind]} edges")
        for name in SENSES:
            swap(self._canvas, False, f"no-{name}")

    @staticmethod
    def _arrow(kind: str) -> None:
        with box("", "defs"):
            marker = box("", "marker", id=f"arrow-{kind}", viewBox="0 0 10 10", refX="2", refY="5")
            attrs(marker, markerWidth=f"{ARROW + 3}", markerHeight=f"{ARROW + 3}")
            attrs(marker, markerUnits="userSpaceOnUse", orient="auto")
            with marker:
                box("", "path", d="M0 0.6 L9 5 L0 9.4 z")


def _edge(pair: tuple[str, str], kind: str) -> ui.element:
    """A curve from the teacher's rim to just before the student's, with an arrow at its end."""
    (x0, y0), (x1, y1) = AT[pair[0]], AT[pair[1]]
    length = hypot(x1 - x0, y1 - y0)
    along = ((x1 - x0) / length, (y1 - y0) / length)
    aside = (along[1], -along[0])
    shift = 7  # both directions leave a node beside one another
    start = (x0 + along[0] * RADIUS + aside[0] * shift, y0 + along[1] * RADIUS + aside[1] * shift)
    gap = RADIUS + ARROW
    end = (x1 - along[0] * gap + aside[0] * shift, y1 - along[1] * gap + aside[1] * shift)
    middle = ((x0 + x1) / 2 + aside[0] * BEND, (y0 + y1) / 2 + aside[1] * BEND)
    curve = f"M{start[0]:.1f} {start[1]:.1f} Q{middle[0]:.1f} {middle[1]:.1f} {end[0]:.1f} {end[1]:.1f}"
    path = box("edge", "path", d=curve, data_edge=f"{kind}:{pair[0]}->{pair[1]}")
    attrs(path, marker_end=f"url(#arrow-{kind})")
    return path


def _nodes(size: str) -> str:
    circles = "".join(
        f'<g class="node {name}"><circle cx="{x}" cy="{y}" r="{RADIUS}"/>'
        f'<text x="{x}" y="{y}" dy="0.35em">{NAMES[name]}</text></g>'
        for name, (x, y) in AT.items()
    )
    return f'<svg viewBox="{size}" aria-hidden="true">{circles}</svg>'
