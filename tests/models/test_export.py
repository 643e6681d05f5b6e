"""The exported graph is the network: same numbers in ONNX Runtime, GD-Units as nodes with a body."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor

from models import export
from models.attention import Dropouts, TransformerEncoder, past
from models.checkpoint import save
from models.dmd import DMD, DMDConfig, InputConfig
from models.export import INPUTS, OUTPUTS, example_inputs
from models.gd_unit import gd_unit

CONFIG = DMDConfig(
    text=InputConfig(6, 7, 3),
    audio=InputConfig(4, 14, 5, 3),
    vision=InputConfig(5, 10, 4, 2),
    outputs=7,
    width=8,
    heads=2,
    levels=1,
    memory_levels=2,
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[DMD, Path]:
    torch.manual_seed(0)
    model = DMD(CONFIG).eval()
    model.set_normalisation("audio", torch.randn(4), torch.rand(4) + 0.5)
    folder = tmp_path_factory.mktemp("network")
    save(model, folder)
    assert export.main(["--network", str(folder), "--out", str(folder / "out.onnx")]) == 0
    return model, folder / "out.onnx"


def _windows(batch: int) -> list[Tensor]:
    torch.manual_seed(batch)
    inputs = list(example_inputs(DMD(CONFIG), batch))
    for i in (3, 4, 5):
        inputs[i] = (torch.rand_like(inputs[i]) > 0.4).float()
    inputs[3 + batch % 3][0] = 0  # a missing sense
    return inputs


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_onnx_runtime_gives_the_networks_numbers_for_any_batch(
    exported: tuple[DMD, Path], batch: int
) -> None:
    model, path = exported
    inputs = _windows(batch)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(None, {name: x.numpy() for name, x in zip(INPUTS, inputs, strict=True)})
    with torch.no_grad():
        expected = model.infer(*inputs)
    for name, value in zip(OUTPUTS, got, strict=True):
        np.testing.assert_allclose(value, getattr(expected, name).numpy(), atol=1e-5, err_msg=name)


def test_the_file_names_its_inputs_and_outputs_and_leaves_the_batch_open(exported: tuple[DMD, Path]) -> None:
    graph = onnx.load(exported[1]).graph
    assert tuple(x.name for x in graph.input) == INPUTS
    assert tuple(x.name for x in graph.output) == OUTPUTS
    for value in (*graph.input, *graph.output):
        first, *rest = value.type.tensor_type.shape.dim
        assert first.dim_param == "batch"
        assert all(d.dim_value > 0 for d in rest)
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_gd_units_are_nodes_whose_body_is_in_the_file(exported: tuple[DMD, Path]) -> None:
    proto = onnx.load(exported[1])
    nodes = [node for node in proto.graph.node if node.domain == "dmd"]
    assert [node.op_type for node in nodes] == ["GDUnit", "GDUnit"]
    assert [onnx.helper.get_attribute_value(node.attribute[0]) for node in nodes] == [0.125, 0.125]
    assert [(f.domain, f.name) for f in proto.functions] == [("dmd", "GDUnit")]


def test_only_what_inference_needs_is_in_the_graph(exported: tuple[DMD, Path]) -> None:
    model, path = exported
    names = {tensor.name for tensor in onnx.load(path).graph.initializer}
    assert not [n for n in names if "summary" in n or "decode." in n]
    stored = sum(int(np.prod(t.dims)) for t in onnx.load(path).graph.initializer)
    assert stored < sum(p.numel() for p in model.parameters())


def test_the_function_body_alone_is_the_operator() -> None:
    torch.manual_seed(0)
    shapes = [(3, 4, 7), (3, 4, 5), (6, 7), (6,), (6, 5), (6,), (1, 24), (1,)]
    values = [torch.randn(shape) for shape in shapes]
    info = onnx.helper.make_tensor_value_info
    names = list(export.FUNCTION_INPUTS)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("GDUnit", names, ["edges"], domain="dmd", alpha=0.5)],
        "one",
        [info(n, onnx.TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)],
        [info("edges", onnx.TensorProto.FLOAT, (4, 6))],
    )
    proto = onnx.helper.make_model(
        graph,
        functions=[export.gd_unit_function()],
        opset_imports=[onnx.helper.make_opsetid("", export.OPSET), onnx.helper.make_opsetid("dmd", 1)],
        ir_version=10,
    )
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (edges,) = session.run(None, {n: v.numpy() for n, v in zip(names, values, strict=True)})
    np.testing.assert_allclose(edges, gd_unit(*values, 0.5).numpy(), atol=1e-6)


def test_a_folder_without_a_network_is_status_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(["--network", str(tmp_path), "--out", str(tmp_path / "x.onnx")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("keys", [300, 340])
def test_the_causal_mask_as_structure_gives_the_whole_masks_answer(keys: int) -> None:
    torch.manual_seed(0)
    encoder = TransformerEncoder(8, 2, 2, 340, Dropouts()).eval()
    x, memory = torch.randn(2, 300, 8), torch.randn(2, keys, 8)  # more steps than two blocks
    real = torch.arange(keys) >= torch.tensor([[0], [170]])  # (2, keys); one line begins with padding
    whole = encoder(x, memory, real)  # with gradients: one whole mask
    with torch.no_grad():
        torch.testing.assert_close(encoder(x, memory, real), whole, atol=1e-5, rtol=0)
    assert len(past(300, keys, real, x.device)) == 3


def test_the_bundled_preset_is_the_bundled_graph_in_any_precision(tmp_path: Path) -> None:
    shipped = export.PRETRAINED / "network.onnx"
    made = {}
    for precision in ("fp32", "fp16"):
        made[precision] = tmp_path / f"{precision}.onnx"
        arguments = ["--preset", "bundled", "--precision", precision, "--out", str(made[precision])]
        assert export.main(arguments) == 0
    torch.manual_seed(0)
    session = ort.InferenceSession(shipped, providers=["CPUExecutionProvider"])
    feed = {
        i.name: np.random.default_rng(0).normal(size=(2, *i.shape[1:])).astype(np.float32)
        if not i.name.endswith("_mask")
        else np.ones((2, *i.shape[1:]), np.float32)
        for i in session.get_inputs()
    }
    expected = session.run(["logits"], feed)[0]
    for precision, allowed in (("fp32", 1e-4), ("fp16", 0.1)):
        other = ort.InferenceSession(made[precision], providers=["CPUExecutionProvider"])
        assert np.abs(other.run(["logits"], feed)[0] - expected).max() < allowed
    assert made["fp16"].stat().st_size < 0.6 * made["fp32"].stat().st_size


def test_a_preset_that_is_not_one_is_refused_with_those_that_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        export.main(["--preset", "mosi", "--out", str(tmp_path / "x.onnx")])
    assert "mosi-unaligned" in capsys.readouterr().err


def test_the_pruned_graph_answers_as_the_whole_network_does() -> None:
    torch.manual_seed(0)
    model = DMD(export.PRESETS["tiny"]).eval()
    inputs = example_inputs(model, 2)
    with torch.no_grad():
        pruned = model.infer(*inputs).logits
    torch.testing.assert_close(pruned, model(*inputs).logits, atol=1e-5, rtol=0)
