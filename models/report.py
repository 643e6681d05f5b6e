"""What a training has learned, in numbers and pictures, written as a page.

``collect`` gathers a split; ``write`` makes ``report.html`` (one file, pictures inside), ``report.md`` with
its pictures beside it and, last of all, ``report.json`` with every number, so that a folder with a
``report.json`` is a run that is done. The same arrays give the same files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from models import figures, metrics, page
from models.collected import Collected, collect, edge_strengths
from models.config import Training
from models.data import F32, Data
from models.figures import F64, I64
from models.gd_unit import EDGE_ORDER, MODALITIES
from models.page import Block, Grid, Picture, Section

__all__ = ["Collected", "FeatureMap", "collect", "edge_strengths", "feature_map", "summary", "write"]

MAP_POINTS, FEWEST_WINDOWS = 1500, 10  # of the t-SNE
SPACES = ("homo", "hetero")


def summary(
    collected: Collected, labels: Sequence[str], temperature: float | None, sims: bool = False
) -> dict[str, Any]:
    """Every number of a split; see ``report.json``. A head alone is scored where its sense is there.

    sims: sentiments are CH-SIMS's, in [-1, 1], and scored as such.
    """
    truth = collected.labels
    result: dict[str, Any] = {
        "windows": len(collected),
        "fused": scores(collected.logits, truth, labels, sims),
        "homo_fused": scores(collected.homo_fused_logits, truth, labels, sims),
    }
    if labels:
        if temperature is not None:
            result["fused_calibrated"] = scores(collected.logits / temperature, truth, labels, sims)
        predicted = collected.logits.argmax(1)
        result["confusion"] = np.asarray(
            metrics.confusion(predicted, truth.astype(np.int64), len(labels))
        ).tolist()
    for space in SPACES:
        logits = collected.homo_logits if space == "homo" else collected.hetero_logits
        result[space] = {}
        for m, sense in enumerate(MODALITIES):
            rows = collected.present[m]
            count = {"windows": int(rows.sum())}
            result[space][sense] = count | (
                scores(logits[m, rows], truth[rows], labels, sims) if rows.any() else {}
            )
        result[f"{space}_edges"] = {
            edge: _spread(values)
            for edge, values in zip(EDGE_ORDER, edge_strengths(collected, space), strict=True)
        }
    return result


def scores(logits: F32, truth: F64 | I64, labels: Sequence[str], sims: bool = False) -> dict[str, float]:
    """The scalars of ``models.metrics``: logits (n, C) of classes, or (n, 1) sentiments; truth (n,)."""
    if not labels:
        measure = metrics.sims if sims else metrics.sentiment
        found = measure(logits[:, 0].astype(np.float64), truth.astype(np.float64))
    else:
        probabilities = metrics.softmax(logits.astype(np.float64))
        found = metrics.classification(probabilities, truth.astype(np.int64))
    return {name: float(value) for name, value in found.items() if np.ndim(value) == 0}


def _spread(values: F64) -> dict[str, float | int]:
    if not len(values):
        return {"windows": 0}
    low, middle, high = np.percentile(values, (5, 50, 95))
    return {
        "windows": len(values),
        "mean": float(values.mean()),
        "deviation": float(values.std()),
        "p5": float(low),
        "median": float(middle),
        "p95": float(high),
    }


@dataclass(frozen=True)
class FeatureMap:
    """The t-SNE's points (n, 2) and what each is; see ``figures.feature_map``."""

    points: F64
    space: I64
    sense: I64
    group: I64


def feature_map(collected: Collected, labels: Sequence[str], seed: int = 0) -> FeatureMap | str:
    """Homogeneous and heterogeneous features in one plane (paper, figures 3 and 4), or why there is none.

    At most MAP_POINTS points, six for each window that is drawn by lot; senses that are missing have
    none. Distances are cosines, as in the paper's margin and soft orthogonality losses.
    """
    if len(collected) < FEWEST_WINDOWS:
        return f"skipped: {len(collected)} windows, and fewer than {FEWEST_WINDOWS} make no map"
    drawn = np.sort(np.random.default_rng(seed).permutation(len(collected))[: MAP_POINTS // 6])
    both = np.stack([collected.homo_features[:, drawn], collected.hetero_features[:, drawn]])  # (2, 3, n, d)
    there = np.broadcast_to(collected.present[:, drawn], both.shape[:3])  # (2, 3, n)
    space, sense, place = np.nonzero(there)
    features = both[there].astype(np.float64)  # (points, d)
    if (
        len(features) < FEWEST_WINDOWS
        or not np.isfinite(features).all()
        or np.ptp(features, axis=0).max() < 1e-9
    ):
        return "skipped: too few senses are there, or their features are all alike or not finite"
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    with threadpool_limits(1):  # sums of several threads come out in any order
        made = TSNE(perplexity=min(30.0, (len(unit) - 1) / 3), init="pca", random_state=seed).fit_transform(
            unit
        )
    truth = collected.labels[drawn][place]
    group = truth.astype(np.int64) if labels else np.sign(truth).astype(np.int64) + 1
    return FeatureMap(made.astype(np.float64), space.astype(np.int64), sense.astype(np.int64), group)


def write(
    folder: Path,
    collected: Mapping[str, Collected],
    data: Data,
    history: Sequence[Mapping[str, float]],
    config: Training,
    temperature: float | None = None,
) -> Path:
    """Write the report of a training to ``folder``; returns the page's path.

    collected: by split, validation and test; history: a row for each pass; temperature: what logits of
    classes are divided by to be calibrated, or None.
    """
    numbers: dict[str, Any] = {
        "name": config.name,
        "data": data.name,
        "labels": list(data.labels),
        "temperature": temperature,
        "edge_order": list(EDGE_ORDER),
        "units": _units(config),
        "splits": {
            split: summary(one, data.labels, temperature, data.name.startswith("SIMS"))
            for split, one in collected.items()
        },
        "history": [dict(row) for row in history],
        "config": msgspec.to_builtins(config),
    }
    shown = "test" if "test" in collected else next(iter(collected))
    plane = feature_map(collected[shown], data.labels)
    points = len(plane.points) if isinstance(plane, FeatureMap) else 0
    numbers["tsne"] = {"split": shown, "points": points, "note": plane if isinstance(plane, str) else ""}
    sections = _sections(numbers, collected[shown], shown, plane, data.labels)
    title = f"{config.name} on {data.name}"
    folder.mkdir(parents=True, exist_ok=True)
    markdown, web, pictures = page.render(title, sections, json.dumps(numbers["config"], indent=1))
    for name, picture in pictures.items():
        page.replace(folder / name, picture)
    page.replace(folder / "report.md", markdown.encode())
    page.replace(folder / "report.html", web.encode())
    everything = json.dumps(_finite(numbers), indent=1, allow_nan=False) + "\n"
    page.replace(folder / "report.json", everything.encode())
    return folder / "report.html"


def _sections(
    numbers: Mapping[str, Any],
    collected: Collected,
    shown: str,
    plane: FeatureMap | str,
    labels: Sequence[str],
) -> list[Section]:
    """The page's sections; pictures are of the split ``shown``."""
    splits: Mapping[str, Any] = numbers["splits"]
    heads = {"fused": "the answer"}
    if labels and numbers["temperature"] is not None:
        heads["fused_calibrated"] = f"the answer, temperature {numbers['temperature']:.3f}"
    heads["homo_fused"] = "homogeneous parts together"
    sections: list[Section] = [
        ("Results", [_grid("", {f"{split}: {name}": one[head] for split, one in splits.items()
                                for head, name in heads.items()})]),
    ]  # fmt: skip
    alone: list[Block] = [
        "Every modality's own heads, scored where the sense is there: the homogeneous part before, and the "
        "heterogeneous part after crossmodal attention."
    ]
    for split, one in splits.items():
        rows = {f"{sense}, {space}geneous": one[space][sense] for space in SPACES for sense in MODALITIES}
        alone.append(_grid(split, rows))
    sections.append(("Each modality alone", alone))
    if labels:
        table = np.array(splits[shown]["confusion"], np.int64)
        picture = Picture(
            "confusion.png",
            f"Confusion, {shown}: windows by label and prediction; shade: share of the label.",
            lambda theme: figures.confusion(table, labels, theme),
        )  # fmt: skip
        sections.append(("Confusion", [picture]))
    units = {unit: edge_strengths(collected, space) for space, unit in numbers["units"].items()}
    drawn = Picture(
        "edges.png",
        f"Who teaches whom, {shown}: an arrow goes from the teacher to its student, thickness and number "
        "are the mean strength over the windows that have both senses.",
        lambda theme: figures.distillation(units, theme),
    )
    edges = splits[shown]["homo_edges"], splits[shown]["hetero_edges"]
    listed = Grid(
        (
            "teacher → student",
            *(f"{unit} {what}" for unit in units for what in ("mean", "± deviation")),
        ),
        tuple(
            (
                edge.replace("->", " → "),
                *(_number(unit[edge].get(key)) for unit in edges for key in ("mean", "deviation")),
            )
            for edge in EDGE_ORDER
        ),
    )
    sections.append(("Learned distillation", [drawn, listed]))
    if isinstance(plane, str):
        sections.append(("Features", [f"t-SNE {plane}."]))
    else:
        made = plane
        seen = Picture(
            "tsne.png",
            f"t-SNE of {len(made.points)} homogeneous and heterogeneous features, {shown}, one of each for "
            "every modality of a window, averaged over its steps.",
            lambda theme: figures.feature_map(made.points, made.space, made.sense, made.group, labels, theme),
        )
        sections.append(("Features", [seen]))
    history = numbers["history"]
    if history:
        curves = Picture(
            "learning.png",
            f"Losses over {len(history)} passes.",
            lambda theme: figures.learning(history, theme),
        )
        sections.append(("Learning", [curves]))
    else:
        sections.append(("Learning", ["No pass was made."]))
    return sections


def _units(config: Training) -> dict[str, str]:
    """The GD-Units' names by space; one that was switched off has edges that nothing has taught."""
    off = " (switched off: untrained)"
    taught = {
        "homo": config.ablation.homo_gd and config.loss.get("homo", 1) != 0,
        "hetero": config.ablation.hetero_gd and config.loss.get("hetero", 1) != 0,
    }
    return {
        space: name + off * (not taught[space])
        for space, name in (("homo", "HomoGD"), ("hetero", "HeteroGD"))
    }


def _grid(name: str, rows: Mapping[str, Mapping[str, float]]) -> Grid:
    """A row for each name; a column for each key of any of them."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    return Grid(
        (name, *columns),
        tuple((label, *(_number(row.get(column)) for column in columns)) for label, row in rows.items()),
    )


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _finite(value: Any) -> Any:
    """JSON has no NaN: what could not be computed is null."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
