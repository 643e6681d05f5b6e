"""Half precision keeps the answers, and keeps float32 where the numbers need it."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.precision import PRECISIONS, Precision, kept_wide, to_precision
from runtime import network
from runtime.engines import verify

BUNDLE = Path(network.__file__).parent.parent / "models" / "pretrained"
SENSES = ("text", "audio", "vision")
Feed = dict[str, npt.NDArray[np.float32]]


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    return onnx.load(BUNDLE / "network.onnx")


@pytest.fixture(scope="module")
def windows() -> list[Feed]:
    """Windows of the bundled recording, with every subset of the senses that they have."""
    found: list[Feed] = []
    for feed in verify.feeds(network.load(BUNDLE)).feeds:
        there = [sense for sense in SENSES if feed[f"{sense}_mask"].any()]
        for count in range(len(there)):
            for gone in combinations(there, count):
                masks = {f"{sense}_mask": np.zeros_like(feed[f"{sense}_mask"]) for sense in gone}
                found.append({**feed, **masks})
    return found


def _probabilities(model: onnx.ModelProto, windows: list[Feed]) -> npt.NDArray[np.float64]:
    """(N, 7) of each window, fused, as hot as the network says them."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = np.concatenate([session.run(["logits"], feed)[0] for feed in windows]).astype(np.float64)
    heated = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(heated / heated.sum(1, keepdims=True), np.float64)


def test_float16_says_what_float32_says_on_real_windows(graph: onnx.ModelProto, windows: list[Feed]) -> None:
    assert len(windows) >= 200
    whole, half = (_probabilities(m, windows) for m in (graph, to_precision(graph, "fp16")))
    assert np.abs(whole - half).max() < 0.01
    assert (whole.argmax(1) == half.argmax(1)).mean() >= 0.99


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_softmax_and_norms_stay_in_float32_and_products_do_not(
    graph: onnx.ModelProto, precision: Precision
) -> None:
    wide = set(kept_wide(to_precision(graph, precision)))
    assert wide >= {"Softmax", "LayerNormalization"}
    assert not wide & {"MatMul", "Gemm", "GDUnit"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_inputs_outputs_and_the_given_graph_stay_as_they_were(
    graph: onnx.ModelProto, precision: Precision
) -> None:
    before = graph.SerializeToString(deterministic=True)
    made = to_precision(graph, precision)
    assert graph.SerializeToString(deterministic=True) == before
    assert [v.name for v in made.graph.output] == [v.name for v in graph.graph.output]
    kinds = {v.type.tensor_type.elem_type for v in (*made.graph.input, *made.graph.output)}
    assert kinds == {TensorProto.FLOAT}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_takes_the_types_as_they_are(graph: onnx.ModelProto, precision: Precision) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    parsed = builder.create_network(flag)
    parser = trt.OnnxParser(parsed, logger)
    good = parser.parse(to_precision(graph, precision).SerializeToString())
    assert good, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    assert parsed.num_outputs == len(graph.graph.output)


def _masked(fill: float) -> onnx.ModelProto:
    """x (1, 4) -> softmax(x + bias) with one place filled with ``fill``."""
    bias = numpy_helper.from_array(np.array([[0, fill, 0, 0]], np.float32), "bias")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"]),
        helper.make_node("Add", ["positive", "bias"], ["score"]),
        helper.make_node("Softmax", ["score"], ["y"], axis=1),
    ]
    inner = helper.make_graph(nodes, "masked", value[:1], value[1:], [bias])
    return helper.make_model(inner, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("fill", [-1e9, -np.inf])
def test_a_mask_that_float16_cannot_hold_still_masks(fill: float) -> None:
    made = to_precision(_masked(fill), "fp16")
    session = ort.InferenceSession(made.SerializeToString())
    (said,) = session.run(None, {"x": np.array([[1, 9, 1, 1]], np.float32)})
    assert np.allclose(said, [[1 / 3, 0, 1 / 3, 1 / 3]], atol=1e-3)


def test_what_is_not_float32_is_refused(graph: onnx.ModelProto) -> None:
    with pytest.raises(ValueError, match="is not float32"):
        to_precision(to_precision(graph, "fp16"), "bf16")
    with pytest.raises(ValueError, match="fp32, fp16, bf16"):
        to_precision(graph, "fp8")  # type: ignore[arg-type]


def test_the_command_writes_a_whole_file_or_none(tmp_path: Path) -> None:
    def run(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "models.precision", source, out, "--precision", "bf16"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    good = run(BUNDLE / "network.onnx", tmp_path / "half.onnx")
    assert good.returncode == 0, good.stderr
    assert set(kept_wide(onnx.load(tmp_path / "half.onnx"))) >= {"Softmax"}
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    bad = run(tmp_path / "bad.onnx", tmp_path / "none.onnx")
    assert bad.returncode == 2 and len(bad.stderr.splitlines()) == 1 and "bad.onnx" in bad.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.onnx", "half.onnx"]
