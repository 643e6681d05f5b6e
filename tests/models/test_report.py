"""The report of a training: its numbers are those of the arrays, and its pictures show them."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import image
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from models import figures, metrics, report
from models.config import Ablation, DataConfig, Training
from models.data import Batch, Input, Split, slices
from models.dmd import DMD, DMDConfig, DMDOutput, InputConfig
from models.gd_unit import EDGE_ORDER, MODALITIES
from models.report import Collected

SHAPES = {"text": (6, 5), "audio": (12, 3), "vision": (8, 4)}  # steps, features
CONFIG = Training(DataConfig("mmsa", "made-up.pkl"), name="tiny")
HISTORY = [
    {"epoch": 1.0, "rate": 1.0, "total": 9.0, "task": 8.0, "validation": 1.5},
    {"epoch": 2.0, "rate": 1.0, "total": 7.0, "task": 6.0, "validation": 1.25},
    {"epoch": 3.0, "rate": 0.1, "total": 6.5, "task": 5.5, "validation": 1.75},
]


@dataclass
class MadeUp:
    """A data set in memory; every fourth window has no face and every fifth no voice."""

    labels: tuple[str, ...]
    windows: int = 24
    name: str = "made up"
    features: None = None

    @property
    def inputs(self) -> dict[str, Input]:
        return {sense: Input(*shape) for sense, shape in SHAPES.items()}

    def batches(self, split: Split, size: int, seed: int) -> Iterator[Batch]:
        return slices(self.whole(split), size, None)

    def whole(self, split: Split) -> Batch:
        rng = np.random.default_rng(["train", "validation", "test"].index(split))
        n, arrays = self.windows, dict[str, Any]()
        for sense, (steps, dim) in SHAPES.items():
            arrays[sense] = rng.normal(size=(n, steps, dim)).astype(np.float32)
            arrays[f"{sense}_mask"] = np.ones((n, steps), np.float32)
        arrays["vision_mask"][::4] = 0
        arrays["audio_mask"][::5] = 0
        arrays["text_mask"][:, :2] = 0
        labels = rng.integers(0, 3, n) if self.labels else np.linspace(-3, 3, n).astype(np.float32)
        return Batch(**arrays, labels=labels)

    def __len__(self) -> int:
        return self.windows


def network(outputs: int) -> DMD:
    torch.manual_seed(0)
    sizes = {sense: InputConfig(dim, steps, 3) for sense, (steps, dim) in SHAPES.items()}
    return DMD(DMDConfig(**sizes, outputs=outputs, width=8, heads=2, levels=1)).eval()


def predictions(model: DMD, data: MadeUp, split: Split) -> Iterator[tuple[Batch, DMDOutput]]:
    names = "text", "audio", "vision", "text_mask", "audio_mask", "vision_mask"
    with torch.no_grad():
        for batch in data.batches(split, 10, 0):
            yield batch, model(*(torch.from_numpy(getattr(batch, name)) for name in names))


def collected(model: DMD, data: MadeUp) -> dict[str, Collected]:
    splits: tuple[Split, ...] = ("validation", "test")
    return {s: report.collect(predictions(model, data, s), model.homo_gd, model.hetero_gd) for s in splits}


@dataclass
class Written:
    data: MadeUp
    gathered: dict[str, Collected]
    folder: Path
    numbers: dict[str, Any]


def written(folder: Path, labels: tuple[str, ...]) -> Written:
    data = MadeUp(labels)
    gathered = collected(network(len(labels) or 1), data)
    page = report.write(folder, gathered, data, HISTORY, CONFIG, temperature=2.0 if labels else None)
    assert page == folder / "report.html"
    return Written(data, gathered, folder, json.loads((folder / "report.json").read_text()))


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return written(tmp_path_factory.mktemp("sentiment"), ())


@pytest.fixture(scope="module")
def emotions(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return written(tmp_path_factory.mktemp("emotions"), ("calm", "glad", "cross"))


def test_collecting_in_batches_is_what_the_network_says_of_the_whole_split(sentiment: Written) -> None:
    model, whole = network(1), sentiment.data.whole("test")
    names = "text", "audio", "vision", "text_mask", "audio_mask", "vision_mask"
    with torch.no_grad():
        output = model(*(torch.from_numpy(getattr(whole, name)) for name in names))
        edges = model.homo_gd(output.homo_logits, output.homo_repr)
        hetero_edges = model.hetero_gd(output.hetero_logits, output.hetero_repr)
    found = sentiment.gathered["test"]
    assert len(found) == 24
    np.testing.assert_array_equal(found.labels, whole.labels)
    for mine, theirs in (
        (found.logits, output.logits),
        (found.homo_fused_logits, output.homo_fused_logits),
        (found.homo_logits, output.homo_logits),
        (found.hetero_logits, output.hetero_logits),
        (found.homo_edges, edges),
        (found.hetero_edges, hetero_edges),
    ):
        np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-5)
    np.testing.assert_array_equal(found.present, output.present.numpy())
    assert not found.present[MODALITIES.index("vision"), ::4].any()
    real = output.step_masks[0][3]  # text, the fourth window
    mean = output.homo[0][3, real].mean(0)
    np.testing.assert_allclose(found.homo_features[0, 3], mean.numpy(), atol=1e-5)


def test_a_split_without_a_window_is_refused() -> None:
    model = network(1)
    with pytest.raises(ValueError, match="without a window"):
        report.collect([], model.homo_gd, model.hetero_gd)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_sentiments_numbers_are_those_of_the_arrays(sentiment: Written, split: str) -> None:
    found, numbers = sentiment.gathered[split], sentiment.numbers["splits"][split]
    assert numbers["windows"] == 24
    error = np.abs(found.logits[:, 0] - found.labels).mean()
    assert numbers["fused"]["MAE"] == pytest.approx(error, abs=1e-4)
    for name, value in metrics.sentiment(found.logits[:, 0], found.labels).items():
        assert numbers["fused"][name] == pytest.approx(value, abs=1e-6, nan_ok=True)
    for m, sense in enumerate(MODALITIES):
        rows = found.present[m]
        error = np.abs(found.hetero_logits[m, rows, 0] - found.labels[rows]).mean()
        assert numbers["hetero"][sense]["MAE"] == pytest.approx(error, abs=1e-4)
        assert numbers["hetero"][sense]["windows"] == rows.sum()
    assert numbers["homo"]["vision"]["windows"] == 18


def test_the_emotions_numbers_are_those_of_the_arrays(emotions: Written) -> None:
    found, numbers = emotions.gathered["test"], emotions.numbers["splits"]["test"]
    predicted = found.logits.argmax(1)
    table = np.zeros((3, 3), int)
    np.add.at(table, (found.labels.astype(int), predicted), 1)
    assert numbers["confusion"] == table.tolist()
    raised = np.exp(found.logits.astype(float))
    expected = metrics.classification(raised / raised.sum(1, keepdims=True), found.labels.astype(int))
    for name, value in numbers["fused"].items():
        assert value == pytest.approx(expected[name], abs=1e-6)
    assert (predicted == found.labels).mean() == pytest.approx(numbers["fused"]["accuracy"], abs=1e-6)
    cooled = numbers["fused_calibrated"]
    assert cooled["accuracy"] == numbers["fused"]["accuracy"] and cooled["ECE"] != numbers["fused"]["ECE"]


def test_edges_are_named_teacher_to_student_and_count_windows_that_have_both(sentiment: Written) -> None:
    found, numbers = sentiment.gathered["test"], sentiment.numbers["splits"]["test"]
    assert sentiment.numbers["edge_order"] == list(EDGE_ORDER)
    for i, edge in enumerate(EDGE_ORDER):
        ends = [MODALITIES.index(end) for end in edge.split("->")]
        rows = found.present[ends].all(0)
        shown = numbers["homo_edges"][edge]
        assert shown["windows"] == rows.sum()
        assert shown["mean"] == pytest.approx(found.homo_edges[rows, i].mean(), abs=1e-6)
        assert shown["deviation"] == pytest.approx(found.homo_edges[rows, i].std(), abs=1e-6)


def drawn(strengths: tuple[float, ...]) -> tuple[Figure, dict[str, FancyArrowPatch]]:
    figure = figures.distillation({"HomoGD": [np.array([s - 0.01, s + 0.01]) for s in strengths]})
    arrows = [p for p in figure.axes[0].patches if isinstance(p, FancyArrowPatch)]
    return figure, {str(arrow.get_gid()): arrow for arrow in arrows}


def test_the_graphs_arrows_go_from_teacher_to_student_with_their_numbers_and_thickness() -> None:
    strengths = (0.05, 0.1, 0.4, 0.2, 0.15, 0.1)
    figure, arrows = drawn(strengths)
    numbers = {t.get_gid(): t for t in figure.axes[0].texts if t.get_gid()}
    assert list(arrows) == list(EDGE_ORDER)
    for edge, strength in zip(EDGE_ORDER, strengths, strict=True):
        teacher, student = edge.split("->")
        start, end = arrows[edge]._posA_posB  # type: ignore[attr-defined]
        assert tuple(start) == figures.CORNERS[teacher] and tuple(end) == figures.CORNERS[student]
        assert numbers[edge].get_text() == f"{strength:.2f}"
    widths = [arrows[edge].get_linewidth() for edge in EDGE_ORDER]
    assert np.argsort(widths, kind="stable").tolist() == np.argsort(strengths, kind="stable").tolist()
    labels = [tick.get_text() for tick in figure.axes[1].get_yticklabels()]
    assert labels == [edge.replace("->", " → ") for edge in EDGE_ORDER]


def test_a_number_of_the_graph_lies_on_its_own_arrow() -> None:
    figure, arrows = drawn((0.2,) * 6)
    figure.canvas.draw()
    axes = figure.axes[0]
    for text in (t for t in axes.texts if t.get_gid()):
        place = axes.transData.transform(text.get_position())
        ways = {edge: arrow.get_path().interpolated(50) for edge, arrow in arrows.items()}
        away = {
            edge: np.linalg.norm(axes.transData.transform(way.vertices) - place, axis=1).min()
            for edge, way in ways.items()
        }
        assert min(away, key=lambda edge: away[edge]) == text.get_gid()


def test_an_edge_that_no_window_has_is_not_drawn() -> None:
    strengths = [np.array([0.5])] * 5 + [np.array([])]
    figure = figures.distillation({"HomoGD": strengths})
    assert len([p for p in figure.axes[0].patches if isinstance(p, FancyArrowPatch)]) == 5
    assert figures.png(figure).startswith(b"\x89PNG")


def test_pictures_are_real_and_not_empty(emotions: Written) -> None:
    names = {path.name for path in emotions.folder.glob("*.png")}
    assert names == {"edges.png", "tsne.png", "learning.png", "confusion.png"}
    for name in names:
        pixels = image.imread(emotions.folder / name)
        assert min(pixels.shape[:2]) > 300
        colours = np.unique((pixels[..., :3] * 255).astype(int) @ (1, 256, 65536))
        assert len(colours) > 20, name
        dull = (pixels[..., :3] > 0.99).all(-1).mean()
        assert 1 - dull > 0.01, name


def test_the_page_needs_nothing_outside_itself(emotions: Written) -> None:
    page = (emotions.folder / "report.html").read_text()
    sources = re.findall(r'(?:src|srcset|href)="([^"]*)"', page)
    assert len(sources) == 8 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert "@import" not in page and "url(" not in page and "<script" not in page
    assert "prefers-color-scheme: dark" in page
    pictures = [image.imread(BytesIO(b64decode(s.split(",", 1)[1]))) for s in sources]
    for dark, light in zip(pictures[::2], pictures[1::2], strict=True):
        assert dark.shape == light.shape and dark[0, 0, :3].mean() < 0.2 < 0.9 < light[0, 0, :3].mean()


def test_the_markdown_shows_the_same_results_and_pictures_that_are_there(sentiment: Written) -> None:
    text = (sentiment.folder / "report.md").read_text()
    assert "# tiny on made up" in text
    for name in re.findall(r"\]\(([^)]+)\)", text):
        assert (sentiment.folder / name).is_file()
    assert f"{sentiment.numbers['splits']['test']['fused']['MAE']:.4f}" in text
    edge = sentiment.numbers["splits"]["test"]["hetero_edges"]["text->vision"]
    assert re.search(rf"text → vision .*{edge['mean']:.4f}", text)
    assert "confusion" not in text.lower()


def test_the_same_arrays_give_the_same_files(sentiment: Written, tmp_path: Path) -> None:
    report.write(tmp_path, sentiment.gathered, sentiment.data, HISTORY, CONFIG)
    for path in sentiment.folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_numbers_are_written_last(
    sentiment: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    kept = report.page.replace
    monkeypatch.setattr(
        report.page, "replace", lambda path, content: (order.append(path.name), kept(path, content))
    )
    report.write(tmp_path, sentiment.gathered, sentiment.data, HISTORY, CONFIG)
    assert order[-1] == "report.json" and len(order) == 6
    assert not list(tmp_path.glob("*.half")) and not list(tmp_path.glob(".*"))


def test_the_map_has_six_points_a_window_less_the_missing_senses(sentiment: Written) -> None:
    found = sentiment.gathered["test"]
    plane = report.feature_map(found, ())
    assert isinstance(plane, report.FeatureMap)
    assert len(plane.points) == 2 * found.present.sum() == sentiment.numbers["tsne"]["points"]
    assert np.isfinite(plane.points).all()
    vision = plane.sense == MODALITIES.index("vision")
    assert (vision & (plane.space == 0)).sum() == 18
    signs = np.sign(found.labels[found.present[0]]).astype(int) + 1
    np.testing.assert_array_equal(plane.group[(plane.sense == 0) & (plane.space == 1)], signs)


def test_the_map_tells_spaces_apart_that_are_apart(sentiment: Written) -> None:
    found = sentiment.gathered["test"]
    rng = np.random.default_rng(0)
    middle = np.eye(6, 8).reshape(2, 3, 1, 8) * 5
    made = (middle + rng.normal(size=(2, 3, 24, 8)) * 0.1).astype(np.float32)
    plane = report.feature_map(
        replace(found, homo_features=made[0], hetero_features=made[1], present=np.ones((3, 24), bool)), ()
    )
    assert isinstance(plane, report.FeatureMap)
    cluster = plane.space * 3 + plane.sense
    distance = np.linalg.norm(plane.points[:, None] - plane.points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (cluster[distance.argmin(1)] == cluster).all()


def test_too_few_windows_have_no_map_and_the_report_says_why(tmp_path: Path) -> None:
    data = MadeUp((), windows=6)
    gathered = collected(network(1), data)
    report.write(tmp_path, gathered, data, [], CONFIG)
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["tsne"]["points"] == 0 and "6 windows" in numbers["tsne"]["note"]
    assert "t-SNE skipped: 6 windows" in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "tsne.png").exists()


def test_a_unit_that_was_switched_off_is_named_so(sentiment: Written, tmp_path: Path) -> None:
    config = Training(CONFIG.data, ablation=Ablation(hetero_gd=False))
    report.write(tmp_path, sentiment.gathered, sentiment.data, [], config)
    head = "HomoGD mean | HomoGD ± deviation | HeteroGD (switched off: untrained) mean"
    assert head in (tmp_path / "report.md").read_text()


def test_the_curves_show_the_history_and_mark_the_kept_pass() -> None:
    figure = figures.learning(HISTORY)
    validation, parts = figure.axes
    np.testing.assert_array_equal(validation.lines[0].get_xydata(), [(1, 1.5), (2, 1.25), (3, 1.75)])
    np.testing.assert_array_equal(validation.lines[1].get_xydata(), [(2, 1.25)])
    curves = {line.get_label(): list(line.get_ydata()) for line in parts.lines}
    assert curves == {"total": [9, 7, 6.5], "task": [8, 6, 5.5]}
