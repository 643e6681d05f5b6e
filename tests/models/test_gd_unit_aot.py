"""The ahead-of-time plugin, as far as it goes without TensorRT: it hands over what the kernel takes."""

from __future__ import annotations

import inspect
import re
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from models.plugins import gd_unit_aot
from models.plugins.kernel_file import ENTRY, THREADS, shipped
from models.plugins.launch import TYPES, Sizes, arguments


class _Recorder:
    """Keeps what is registered. Not TensorRT: that could not be had; its guide names these functions."""

    TensorDesc, SymExprs, KernelLaunchParams = SimpleNamespace, tuple, SimpleNamespace
    SymIntExprs = SimpleNamespace(from_tuple=tuple)

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[Callable[..., Any]], None]:
        return lambda function: self.found.__setitem__(("register", name), function)

    def aot_impl(self, name: str) -> Callable[[Callable[..., Any]], None]:
        return lambda function: self.found.__setitem__(("aot_impl", name), function)

    @staticmethod
    def SymInt32(value: int) -> int:
        return value

    @staticmethod
    def from_shape_expr(shape: tuple[int, ...], dtype: str) -> SimpleNamespace:
        return SimpleNamespace(shape_expr=shape, dtype=dtype)


TYPE = SimpleNamespace(FLOAT="FLOAT", HALF="HALF", BF16="BF16")
BATCH, OUTPUTS, HIDDEN, SIZE, ALPHA = 4, 7, 48, 64, 0.125
SHAPES = ((3, BATCH, OUTPUTS), (3, BATCH, HIDDEN), (SIZE, OUTPUTS), (SIZE,), (SIZE, HIDDEN), (SIZE,),
          (1, 4 * SIZE), (1,))  # fmt: skip


@pytest.fixture
def defined() -> dict[str, Callable[..., Any]]:
    recorder = _Recorder()
    gd_unit_aot.define(SimpleNamespace(DataType=TYPE), recorder)
    assert {name for _, name in recorder.found} == {"dmd_aot::GDUnit"}
    return {kind: function for (kind, _), function in recorder.found.items()}


def tensors(dtype: str) -> list[SimpleNamespace]:
    return [SimpleNamespace(shape_expr=shape, dtype=dtype) for shape in SHAPES]


@pytest.mark.parametrize(("dtype", "element"), [("FLOAT", "fp32"), ("HALF", "fp16"), ("BF16", "bf16")])
def test_the_shipped_kernel_is_handed_over_with_its_numbers_in_its_order(
    defined: dict[str, Callable[..., Any]], dtype: str, element: Any
) -> None:
    edges = defined["register"](*tensors(dtype), ALPHA)
    assert (edges.shape_expr, edges.dtype) == ((BATCH, 6), dtype)
    name, ptx, launch, numbers = defined["aot_impl"](*tensors(dtype), ALPHA, (edges,), None)
    assert name == ENTRY.encode() and ptx.decode() == shipped(element).ptx
    assert (launch.grid_x, launch.block_x) == (BATCH, THREADS)
    assert 0 < launch.shared_mem <= 48 * 1024
    ours = arguments(range(8), 0, Sizes(BATCH, OUTPUTS, HIDDEN, SIZE), ALPHA)
    assert numbers == ours[8:-1]  # what the other plugin launches with, between its inputs and its output
    assert struct.unpack("<f", struct.pack("<i", numbers[-1])) == (ALPHA,)


def test_the_kernel_takes_as_many_arguments_as_tensorrt_gives(defined: dict[str, Callable[..., Any]]) -> None:
    """Eight inputs, five numbers, one output: nothing that Triton has added."""
    declared = re.search(rf"\.entry {ENTRY}\((.*?)\)", shipped("fp32").ptx, re.DOTALL)
    assert declared is not None
    assert declared[1].count(".param") == len(TYPES) == len(SHAPES) + 5 + 1


def test_types_are_values_in_the_signature_as_the_decorators_read_them(
    defined: dict[str, Callable[..., Any]],
) -> None:
    for function in defined.values():
        told = inspect.signature(function)
        assert not any(isinstance(p.annotation, str) for p in told.parameters.values())
        assert told.parameters["alpha"].annotation is float
        assert told.return_annotation is not inspect.Signature.empty
