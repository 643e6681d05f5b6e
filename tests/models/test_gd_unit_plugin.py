"""The GD-Unit's plugin, driven through the real bindings of TensorRT-RTX; launching it needs a GPU."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models.plugins import gd_unit_plugin, kernel_file, launch
from models.plugins.kernel_file import ElementType
from models.plugins.launch import DriverLauncher, LaunchError, Sizes

trt = pytest.importorskip("tensorrt_rtx")
TYPES: dict[ElementType, Any] = {
    "fp32": trt.DataType.FLOAT,
    "fp16": trt.DataType.HALF,
    "bf16": trt.DataType.BF16,
}
KEPT: list[np.ndarray] = []


class Recorder:
    """A launcher that keeps what it is asked for."""

    def __init__(self) -> None:
        self.prepared: list[ElementType] = []
        self.launched: list[tuple[Any, ...]] = []

    def prepare(self, element: ElementType) -> None:
        self.prepared.append(element)

    def launch(
        self,
        element: ElementType,
        inputs: Sequence[int],
        output: int,
        sizes: Sizes,
        alpha: float,
        stream: int,
    ) -> None:
        self.launched.append((element, tuple(inputs), output, sizes, alpha, stream))


def _alpha(*values: float, name: str = "alpha") -> Any:
    KEPT.append(np.array(values, np.float32))  # a field points into it, and does not own it
    field = trt.PluginField(name, KEPT[-1], trt.PluginFieldType.FLOAT32)
    return trt.PluginFieldCollection([field])


def _creator() -> Any:
    gd_unit_plugin.register(trt)
    found = trt.get_plugin_registry().get_creator("GDUnit", "1", "dmd")
    assert found is not None
    return found


def _plugin(launcher: Recorder | None = None) -> Any:
    creator = gd_unit_plugin.classes(trt)[1](launcher or Recorder())
    return creator.create_plugin("edges", _alpha(0.125), trt.TensorRTPhase.BUILD)


def _described(element: ElementType, batch: int = 4) -> tuple[list[Any], list[Any]]:
    """Inputs and output of a GD-Unit with C = 7, H = 48, g = 64."""
    shapes = [(3, batch, 7), (3, batch, 48), (64, 7), (64,), (64, 48), (64,), (1, 256), (1,), (batch, 6)]
    made = []
    for shape in shapes:
        one = trt.PluginTensorDesc()
        one.dims, one.type, one.format = shape, TYPES[element], trt.TensorFormat.LINEAR
        made.append(one)
    return made[:8], made[8:]


def _dynamic(kind: Any, format: Any) -> Any:
    made = trt.DynamicPluginTensorDesc()
    made.desc.type, made.desc.format = kind, format
    return made


def test_the_registry_finds_it_and_a_second_registration_changes_nothing() -> None:
    _creator()
    gd_unit_plugin.register(trt)
    ours = [c for c in trt.get_plugin_registry().all_creators if c.name == "GDUnit"]
    assert [(c.plugin_namespace, c.plugin_version) for c in ours] == [("dmd", "1")]
    assert [field.name for field in ours[0].field_names] == ["alpha"]


def test_alpha_survives_the_way_into_an_engine_and_out_of_it() -> None:
    creator = _creator()
    for alpha in (0.125, 1 / 3, 2.0):
        built = creator.create_plugin("edges", _alpha(alpha), trt.TensorRTPhase.BUILD)
        written = built.get_fields_to_serialize()
        assert [(field.name, field.type) for field in written] == [("alpha", trt.PluginFieldType.FLOAT32)]
        read = creator.create_plugin("edges", written, trt.TensorRTPhase.RUNTIME)
        assert read.alpha == built.alpha == np.float32(alpha)


@pytest.mark.parametrize("fields", [[], _alpha(name="beta"), _alpha(1, 2), _alpha(np.nan)])
def test_a_node_without_one_alpha_is_refused_in_words(fields: Any) -> None:
    with pytest.raises(ValueError, match=r"needs the attribute alpha.*models\.export"):
        _creator().create_plugin("edges", fields, trt.TensorRTPhase.BUILD)


def test_a_clone_is_another_plugin_with_the_same_field() -> None:
    plugin = _plugin()
    for copied in (plugin.clone(), plugin.attach_to_context(None)):
        assert copied is not plugin
        assert (copied.alpha, copied.launcher) == (plugin.alpha, plugin.launcher)
        assert (copied.plugin_name, copied.plugin_namespace, copied.plugin_version) == ("GDUnit", "dmd", "1")
        assert copied.num_outputs == 1


def test_it_offers_all_three_capabilities() -> None:
    plugin = _plugin()
    for kind in ("CORE", "BUILD", "RUNTIME"):
        assert plugin.get_capability_interface(getattr(trt.PluginCapabilityType, kind)) is plugin
    assert plugin.get_workspace_size([], []) == 0


@pytest.mark.parametrize("kind", TYPES.values())
def test_inputs_and_output_are_of_one_float_type(kind: Any) -> None:
    plugin, linear = _plugin(), trt.TensorFormat.LINEAR
    assert plugin.get_output_data_types([kind] * 8) == [kind]
    same = [_dynamic(kind, linear) for _ in range(9)]
    assert all(plugin.supports_format_combination(i, same, 8) for i in range(9))
    other = next(one for one in TYPES.values() if one != kind)
    for strange in (_dynamic(other, linear), _dynamic(kind, trt.TensorFormat.CHW4)):
        mixed = [*same[:4], strange, *same[5:]]
        assert not plugin.supports_format_combination(4, mixed, 8)
    integers = [_dynamic(trt.DataType.INT32, linear) for _ in range(9)]
    assert not plugin.supports_format_combination(0, integers, 8)


def test_as_many_rows_as_windows_and_six_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    # Dimension expressions come from a builder that adds plugins, and TensorRT-RTX has none: lists instead.
    monkeypatch.setattr(trt, "DimsExprs", lambda count: [None] * count)
    builder = SimpleNamespace(constant=lambda value: f"constant {value}")
    (edges,) = _plugin().get_output_shapes([["3", "batch", "7"]], [], builder)
    assert edges == ["batch", "constant 6"]


@pytest.mark.parametrize("element", TYPES)
def test_one_launch_on_the_given_stream_with_the_sizes_of_the_tensors(element: ElementType) -> None:
    recorder = Recorder()
    plugin = _plugin(recorder)
    given, out = _described(element)
    plugin.on_shape_change(given, out)
    assert recorder.prepared == [element]
    plugin.enqueue(given, out, list(range(100, 108)), [200], 0, 77)
    sizes = Sizes(batch=4, outputs=7, hidden=48, size=64)
    assert recorder.launched == [(element, tuple(range(100, 108)), 200, sizes, 0.125, 77)]


@pytest.mark.parametrize("element", TYPES)
def test_arguments_are_those_of_the_shipped_kernel(element: ElementType) -> None:
    values = launch.arguments(range(100, 108), 200, Sizes(4, 7, 48, 64), 0.125)
    assert values[:8] == tuple(range(100, 108)) and values[-1] == 200
    assert values[8:12] == (4, 7, 48, 64)
    assert struct.unpack("<f", struct.pack("<i", values[12]))[0] == 0.125
    head = kernel_file.shipped(element).ptx.partition(")")[0]
    widths = [line.split()[1] for line in head.splitlines() if line.strip().startswith(".param")]
    expected = {ctypes.c_void_p: ".u64", ctypes.c_int: ".u32"}
    assert widths == [expected[kind] for kind in launch.TYPES]
    assert len(values) == len(launch.TYPES)


def test_a_kernel_file_of_another_kind_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_file, "PTX", tmp_path)
    (tmp_path / "gd_unit.fp32.ptx").write_text(".version 8.0\n")
    with pytest.raises(ValueError, match="run it again"):
        kernel_file.shipped("fp32")


def test_without_a_gpu_the_driver_says_so() -> None:
    pytest.importorskip("cuda.bindings.driver")
    from cuda.bindings import driver

    try:
        there = driver.cuInit(0)[0].value == 0
    except RuntimeError:  # no libcuda at all
        there = False
    if there:
        pytest.skip("this machine has a GPU")
    with pytest.raises((LaunchError, RuntimeError)):
        DriverLauncher().prepare("fp32")
