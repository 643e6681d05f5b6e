"""The pictures of a training's report: distillation graphs, feature maps, learning curves, confusion.

Drawn with matplotlib's Agg canvas and no global state, in Okabe and Ito's colours, which colour-blind
readers tell apart; once for light paper and once for dark. The same numbers give the same bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import MaxNLocator

from models.gd_unit import EDGE_ORDER, MODALITIES

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

DPI = 110
SPACES = {"homogeneous": "o", "heterogeneous": "^"}  # and their markers
CLASS_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#F0E442", "#0072B2", "#8C8C8C")
SIGNS = ("negative", "neutral", "positive")
SIGN_COLOURS = ("#D55E00", "#8C8C8C", "#56B4E9")
CORNERS = {"text": (0.0, 1.0), "vision": (-0.95, -0.62), "audio": (0.95, -0.62)}
BEND = 0.2  # of an arrow, so that the two between a pair stand apart


@dataclass(frozen=True)
class Theme:
    """Colours of one kind of paper."""

    paper: str
    ink: str
    faint: str
    senses: tuple[str, str, str]  # in MODALITIES' order


LIGHT = Theme("#ffffff", "#1f2328", "#d0d7de", ("#0072B2", "#E69F00", "#009E73"))
DARK = Theme("#14171c", "#e6e8eb", "#3a414a", ("#56B4E9", "#E69F00", "#2DC79B"))


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, the same bytes for the same figure."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(stream, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return stream.getvalue()


def distillation(units: Mapping[str, Sequence[F64]], theme: Theme = LIGHT) -> Figure:
    """Who teaches whom: a graph for each GD-Unit, and under it how each edge spreads over the windows.

    units: a unit's name -> six arrays of edge strengths, in ``EDGE_ORDER`` (teacher->student), each of
    the windows that have both senses. An arrow goes from the teacher to its student; its thickness and
    its number are the mean. An edge without a window is not drawn.
    """
    figure, axes = _sheet(2, len(units), (5.6 * len(units), 8.2), theme, (1.45, 1))
    for column, (name, strengths) in enumerate(units.items()):
        _graph(axes[0][column], name, strengths, theme)
        _spread(axes[1][column], strengths, theme)
    return figure


def _graph(axes: Axes, name: str, strengths: Sequence[F64], theme: Theme) -> None:
    axes.set_title(name, color=theme.ink)
    axes.set_xlim(-1.45, 1.45)
    axes.set_ylim(-1.05, 1.4)
    axes.set_aspect("equal")
    axes.axis("off")
    for edge, values in zip(EDGE_ORDER, strengths, strict=True):
        if not len(values):
            continue
        teacher, student = edge.split("->")
        start, end = np.array(CORNERS[teacher]), np.array(CORNERS[student])
        mean = float(values.mean())
        width = 0.6 + 16 * mean
        axes.add_patch(
            FancyArrowPatch(
                CORNERS[teacher],
                CORNERS[student],
                connectionstyle=f"arc3,rad={BEND}",
                arrowstyle=f"-|>,head_length={0.35 + 0.05 * width},head_width={0.18 + 0.03 * width}",
                mutation_scale=14,
                shrinkA=27,
                shrinkB=27,
                linewidth=width,
                color=theme.senses[MODALITIES.index(teacher)],
                gid=edge,
            )
        )
        along = end - start
        x, y = (start + end) / 2 + BEND / 2 * np.array([along[1], -along[0]])  # the bent arrow's middle
        axes.text(
            float(x), float(y), f"{mean:.2f}", ha="center", va="center", color=theme.ink, fontsize=11,
            gid=edge, bbox={"boxstyle": "round,pad=0.15", "facecolor": theme.paper, "linewidth": 0},
        )  # fmt: skip
    for sense, (x, y) in CORNERS.items():
        axes.text(
            x,
            y,
            sense,
            ha="center",
            va="center",
            color=theme.ink,
            fontsize=12,
            bbox={"boxstyle": "circle,pad=0.55", "facecolor": theme.paper, "edgecolor": theme.ink},
        )


def _spread(axes: Axes, strengths: Sequence[F64], theme: Theme) -> None:
    shown = [(edge, values) for edge, values in zip(EDGE_ORDER, strengths, strict=True) if len(values)]
    axes.axvline(1 / len(EDGE_ORDER), color=theme.faint, linestyle=":", linewidth=1.5)
    if shown:
        ink = {"color": theme.ink}
        boxes = axes.boxplot(
            [values for _, values in shown],
            orientation="horizontal",
            whis=(5, 95),
            showfliers=False,
            widths=0.55,
            patch_artist=True,
            medianprops=ink,
            whiskerprops=ink,
            capprops=ink,
            boxprops={"edgecolor": theme.ink},
        )
        for box, (edge, _) in zip(boxes["boxes"], shown, strict=True):
            box.set_facecolor(theme.senses[MODALITIES.index(edge.split("->")[0])])
        axes.set_yticks(range(1, len(shown) + 1), [edge.replace("->", " → ") for edge, _ in shown])
        axes.invert_yaxis()
    axes.set_xlabel("strength over the windows (whiskers: 5 to 95 %; dotted: 1/6)")


def feature_map(
    points: F64,
    space: I64,
    sense: I64,
    group: I64,
    groups: Sequence[str] = (),
    theme: Theme = LIGHT,
) -> Figure:
    """The t-SNE twice: coloured by modality, and by class or sign of sentiment (paper, figures 3 and 4).

    points (n, 2); space (n,) 0 homogeneous, 1 heterogeneous; sense (n,) in MODALITIES' order; group (n,)
    indices into ``groups``, the names of the classes, or into ``SIGNS`` where there are none.
    """
    figure, axes = _sheet(1, 2, (12, 5.8), theme)
    names = groups or SIGNS
    colours = CLASS_COLOURS if groups else SIGN_COLOURS
    cycle = [colours[i % len(colours)] for i in range(len(names))]
    panels: tuple[tuple[str, I64, Sequence[str], Sequence[str]], ...] = (
        ("by modality", sense, MODALITIES, theme.senses),
        ("by class" if groups else "by sentiment", group, names, cycle),
    )
    for panel, (title, index, kinds, palette) in zip(axes[0], panels, strict=True):
        for s, (kind, marker) in enumerate(SPACES.items()):
            for i, name in enumerate(kinds):
                rows = (space == s) & (index == i)
                panel.scatter(
                    points[rows, 0], points[rows, 1], s=16, marker=marker, c=palette[i], alpha=0.75,
                    linewidths=0, label=f"{kind} {name}",
                )  # fmt: skip
        panel.set_title(title, color=theme.ink)
        panel.set_xticks([])
        panel.set_yticks([])
        handles = [_key("o", colour, name) for name, colour in zip(kinds, palette, strict=True)]
        handles += [_key(marker, theme.ink, kind) for kind, marker in SPACES.items()]
        legend = panel.legend(
            handles=handles, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.02),
            facecolor=theme.paper, edgecolor=theme.faint, labelcolor=theme.ink,
        )  # fmt: skip
        legend.set_in_layout(True)
    return figure


def _key(marker: str, colour: str, name: str) -> Line2D:
    return Line2D([], [], marker=marker, color=colour, linestyle="", markersize=5, label=name)


def learning(history: Sequence[Mapping[str, float]], theme: Theme = LIGHT) -> Figure:
    """Curves over the passes: validation loss of the fused answer, parts of the objective, rate.

    history: a row for each pass with ``epoch``, ``validation``, ``rate`` and the parts by their names.
    """
    figure, axes = _sheet(1, 2, (12, 4.2), theme)
    validation, parts = axes[0]
    passes = [row.get("epoch", i + 1) for i, row in enumerate(history)]
    losses = [row.get("validation", math.nan) for row in history]
    validation.plot(
        passes, losses, color=CLASS_COLOURS[6] if theme is LIGHT else CLASS_COLOURS[1], marker="."
    )
    if np.isfinite(losses).any():
        best = int(np.nanargmin(losses))
        validation.plot(
            passes[best], losses[best], marker="o", color=CLASS_COLOURS[3], linestyle="",
            label=f"kept: {losses[best]:.4f} after pass {passes[best]:g}",
        )  # fmt: skip
        validation.legend(facecolor=theme.paper, edgecolor=theme.faint, labelcolor=theme.ink)
    validation.set_title("validation loss of the fused answer", color=theme.ink)
    parts.set_title("parts of the training objective", color=theme.ink)
    shown = [name for name in dict.fromkeys(key for row in history for key in row)
             if name not in ("epoch", "rate", "validation")]  # fmt: skip
    for i, name in enumerate(shown):
        values = [row.get(name, math.nan) for row in history]
        style = "-" if i < len(CLASS_COLOURS) else "--"
        colour = CLASS_COLOURS[i % len(CLASS_COLOURS)]
        parts.plot(passes, values, style, color=colour, label=name, linewidth=1.2, marker=".", markersize=3)
    parts.set_yscale("symlog", linthresh=1e-3)
    if shown:
        parts.legend(
            fontsize=7, ncols=1, loc="center left", bbox_to_anchor=(1, 0.5),
            facecolor=theme.paper, edgecolor=theme.faint, labelcolor=theme.ink,
        )  # fmt: skip
    for panel in axes[0]:
        panel.set_xlabel("pass")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def confusion(table: I64, labels: Sequence[str], theme: Theme = LIGHT) -> Figure:
    """Counts (label, prediction), shaded by the share of each label's windows."""
    size = 2.2 + 0.62 * len(labels)
    figure, axes = _sheet(1, 1, (size + 0.8, size), theme)
    panel = axes[0][0]
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    panel.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    for row in range(len(labels)):
        for column in range(len(labels)):
            colour = "#ffffff" if shares[row, column] < 0.55 else "#000000"
            panel.text(column, row, str(int(table[row, column])), ha="center", va="center", color=colour)
    panel.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    panel.set_yticks(range(len(labels)), labels)
    panel.set_xlabel("predicted")
    panel.set_ylabel("label")
    return figure


def _sheet(
    rows: int, columns: int, size: tuple[float, float], theme: Theme, heights: Sequence[float] | None = None
) -> tuple[Figure, list[list[Axes]]]:
    """An empty figure of the theme and its axes by row and column."""
    figure = Figure(figsize=size, dpi=DPI, facecolor=theme.paper, layout="constrained")
    made: Any = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes in made.flat:
        axes.set_facecolor(theme.paper)
        axes.tick_params(colors=theme.ink)
        axes.xaxis.label.set_color(theme.ink)
        axes.yaxis.label.set_color(theme.ink)
        for spine in axes.spines.values():
            spine.set_color(theme.faint)
    return figure, [list(line) for line in made]
