"""Page: the report's HTML, from what was gathered and the template beside this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import accumulate
from types import MappingProxyType
from typing import Any

import numpy as np
from msgspec import UNSET

from runtime.colours import HIGHEST, LOWEST, MIDDLE, leaning, palette
from runtime.recording.layout import RecordingError
from runtime.report.draw import Axis, area, clock, line
from runtime.report.gather import (
    SEGMENTS,
    SENSES,
    Run,
    Session,
    Spoken,
    agrees,
    alone,
    own,
    runs,
    sense,
    top,
    unsure,
    value,
)
from runtime.scale import on_scale

HIGH = 200.0  # of the timeline, in its box
LOW = 90.0  # of the smaller pictures
# Okabe and Ito's palette, as in the terminal and on the page.
SEGMENT_COLOURS = dict(zip(SEGMENTS, ("#56B4E9", "#009E73", "#0072B2", "#E69F00", "#CC79A7"), strict=True))
UNKNOWN = "#8a94a3"
Shape = dict[str, str]


def render(session: Session) -> str:
    """One HTML document that loads nothing. Raises RecordingError where Jinja is missing."""
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise RecordingError("the report needs jinja2: pip install 'emotion-edge[report]'") from error
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters["clock"] = clock
    template = page.from_string((files(__package__) / "report.html.j2").read_text(encoding="utf-8"))
    times_s = session.times_s
    legend = palette(session.labels)
    axis = Axis(times_s[0] - session.hop_s, times_s[-1]) if times_s else Axis(0.0, session.info.duration_s)
    return template.render(
        info=session.info,
        session=session,
        axis=axis,
        high=HIGH,
        low=LOW,
        legend=legend,
        markers=[(axis.x(time_s), told or "marked") for time_s, told in session.markers],
        emotions=_emotions(session, axis, legend),
        strip=_boxes(axis, runs(session, [top(window) for window in session.windows]), legend),
        sentiment=_sentiment(session, axis),
        damaged=[(axis.x(first_s), axis.x(last_s)) for first_s, last_s in session.damaged_s],
        unsure=_boxes(axis, runs(session, [unsure(window) for window in session.windows])),
        words=[(word, _colour(word, legend, session.scale)) for word in session.words],
        leaning=()
        if session.scale is None
        else zip((LOWEST, MIDDLE, HIGHEST), (session.scale[0], 0.0, session.scale[1]), strict=True),
        senses=[_sense(session, axis, name) for name in SENSES],
        edges=_edges(session, axis),
        latency=_latency(session, axis),
        model=session.windows[-1].model if session.windows else None,
    )


def _colour(word: Spoken, legend: Mapping[str, str], scale: tuple[float, float] | None) -> str:
    if word.top is None and word.sentiment is not None and scale is not None:
        return leaning(word.sentiment, scale)
    return legend.get(word.top or "", UNKNOWN)


def _emotions(session: Session, axis: Axis, legend: Mapping[str, str]) -> list[Shape]:
    """The scores stacked: an area for each label; none where the network abstained."""
    known = [top(window) is not None for window in session.windows]
    stacks = [
        [0.0, *accumulate(window.emotions.scores)]
        if window.emotions is not UNSET and window.emotions.labels == session.labels
        else [0.0] * (len(session.labels) + 1)
        for window in session.windows
    ]
    return [
        {
            "name": label,
            "colour": legend[label],
            "path": area(
                axis,
                session.times_s,
                [stack[i] for stack in stacks],
                [stack[i + 1] for stack in stacks],
                known,
                session.hop_s,
                HIGH,
            ),
        }
        for i, label in enumerate(session.labels)
    ]


def _boxes(
    axis: Axis, stretches: Sequence[Run], legend: Mapping[str, str] = MappingProxyType({})
) -> list[dict[str, Any]]:
    return [
        {
            "x": axis.x(run.first_s),
            "width": max(round(axis.x(run.last_s) - axis.x(run.first_s), 2), 0.5),
            "colour": legend.get(run.value, UNKNOWN),
            "told": f"{run.value}, {clock(run.first_s)} to {clock(run.last_s)}",
        }
        for run in stretches
    ]


def _sentiment(session: Session, axis: Axis) -> dict[str, Any] | None:
    if session.scale is None:
        return None
    low, high = session.scale
    values = [value(window) for window in session.windows]
    path = line(axis, session.times_s, _heights(values, session.scale), session.hop_s, LOW)
    mean = _mean([one for one in values if one is not None])
    return {
        "path": path,
        "low": low,
        "high": high,
        "mean": mean,
        "zero": round(LOW * (1 - on_scale(0.0, session.scale)), 2),
    }


def _heights(values: Sequence[float | None], scale: tuple[float, float]) -> list[float | None]:
    """Where values stand on a scale, 0..1."""
    return [None if one is None else on_scale(one, scale) for one in values]


def _sense(session: Session, axis: Axis, name: str) -> dict[str, Any]:
    """What one sense added: how often it was there, and how far it spoke for what was published."""
    modalities = [sense(window, name) for window in session.windows]
    absent = [
        None if one.present else ("absent" if one.reason is UNSET else one.reason) for one in modalities
    ]
    owns = [own(window, name) for window in session.windows]
    values = [alone(window, name) for window in session.windows]
    heights = owns if session.labels or session.scale is None else _heights(values, session.scale)
    agreed = [found for window in session.windows if (found := agrees(window, name)) is not None]
    return {
        "name": name,
        "present": _mean([float(one.present) for one in modalities]),
        "coverage": _mean([one.coverage for one in modalities if one.present]),
        "own": _mean([one for one in owns if one is not None]),
        "alone": _mean([one for one in values if one is not None]),
        "agrees": _mean([float(one) for one in agreed]),
        "path": line(axis, session.times_s, heights, session.hop_s, LOW),
        "absent": _boxes(axis, absences := runs(session, absent)),
        "absences": absences,
        "info": session.info.streams[name],  # type: ignore[index]
    }


def _edges(session: Session, axis: Axis) -> list[dict[str, Any]]:
    """A row for each edge: mean strength in both graphs and its way over time."""
    taught = [None if window.distillation is UNSET else window.distillation for window in session.windows]
    order = next((one.order for one in taught if one is not None), ())
    rows = []
    for i, edge in enumerate(order):
        row: dict[str, Any] = {"name": edge.replace("->", " → ")}
        for space in ("homo", "hetero"):
            values = [None if one is None or one.order != order else getattr(one, space)[i] for one in taught]
            row[space] = {
                "mean": _mean([value for value in values if value is not None]),
                "path": line(axis, session.times_s, values, session.hop_s, LOW),
            }
        rows.append(row)
    return rows


def _latency(session: Session, axis: Axis) -> dict[str, Any] | None:
    """Percentiles of each segment and of their sum; the sum over time."""
    if not session.windows:
        return None
    rows = []
    for name in (*SEGMENTS, "total"):
        values = [getattr(window.latency_ms, name) for window in session.windows]
        known = [value for value in values if value is not UNSET]
        if known:
            p50, p95, most = np.percentile(known, (50, 95, 100)).tolist()
            row = {"name": name, "p50": p50, "p95": p95, "max": most, "mean": float(np.mean(known))}
            rows.append(row | {"colour": SEGMENT_COLOURS.get(name, "")})
    totals = [max(window.latency_ms.total, 0.0) for window in session.windows]
    most = max(totals) or 1.0
    path = line(axis, session.times_s, [total / most for total in totals], session.hop_s, LOW)
    return {"rows": rows, "path": path, "max": most}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
