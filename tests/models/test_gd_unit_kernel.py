"""The GD-Unit's kernel: in Triton's interpreter it says what PyTorch says, and it compiles for every GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.gd_unit import gd_unit
from models.plugins import kernel_file
from models.plugins.kernel_file import ENTRY, ElementType

triton = pytest.importorskip("triton")  # Linux only
from models.plugins import gd_unit_kernel  # noqa: E402 - it imports triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
GPUS = {87: "Orin", 89: "Ada", 90: "Hopper", 110: "Thor", 120: "Blackwell"}
ELEMENTS: tuple[ElementType, ...] = ("fp32", "fp16", "bf16")
ASSEMBLERS = Path(triton.__file__).parent / "backends/nvidia/bin"

interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by the test of the interpreter, in a process")


def _inputs(batch: int, outputs: int, hidden: int, size: int, seed: int) -> tuple[Tensor, ...]:
    """What ``gd_unit`` takes, without alpha."""
    g = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    projections = randn(size, outputs), randn(size), randn(size, hidden) / hidden**0.5, randn(size)
    edge = randn(1, 4 * size) / size**0.5, randn(1)
    return (3 * randn(3, batch, outputs), 2 * randn(3, batch, hidden), *projections, *edge)


def test_in_the_interpreter_the_kernel_passes() -> None:
    # Triton decides when it is imported whether kernels are interpreted: this needs a process of its own.
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "interpreted", __file__],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert "3 passed" in ran.stdout, ran.stdout[-4000:]


@interpreted
@settings(max_examples=40, deadline=None)
@example(batch=3, outputs=9, hidden=133, size=39, seed=93, alpha=1.75)
@given(
    batch=st.integers(1, 6),
    outputs=st.integers(1, 9),
    hidden=st.integers(1, 200),
    size=st.integers(1, 80),
    seed=st.integers(0, 2**31),
    alpha=st.floats(0.01, 2),
)
def test_interpreted_it_says_what_pytorch_says(
    batch: int, outputs: int, hidden: int, size: int, seed: int, alpha: float
) -> None:
    inputs = _inputs(batch, outputs, hidden, size, seed)
    edges = torch.full((batch, 6), torch.nan)
    gd_unit_kernel.launch(*inputs, edges, alpha)
    wanted = gd_unit(*(one.double() for one in inputs), alpha)
    # Scores that lie 80 apart are rounded by 4e-6 in float32, whoever computes them.
    spread = (wanted.log().amax(1) - wanted.log().amin(1)).max().item()
    assert (edges - wanted).abs().max() <= 1e-6 * max(1.0, spread / 20)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_interpreted_halves_are_rounded_only_on_the_way_in_and_out(dtype: torch.dtype) -> None:
    inputs = tuple(one.to(dtype) for one in _inputs(3, 7, 128, 32, 5))
    edges = torch.empty(3, 6, dtype=dtype)
    gd_unit_kernel.launch(*inputs, edges, 0.125)
    wanted = gd_unit(*(one.double() for one in inputs), 0.125)
    assert (edges.double() - wanted).abs().max() <= torch.finfo(dtype).eps / 2


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", GPUS)
def test_it_compiles_for_a_gpu_that_is_not_here(capability: int) -> None:
    for element in ELEMENTS:
        made = gd_unit_kernel.compile_kernel(capability, element)
        assert re.search(rf"^\.target sm_{capability}a?\b", made.ptx, re.MULTILINE)
        assert made.cubin.startswith(b"\x7fELF")
        assert 0 < made.shared_bytes <= 48 * 1024  # more needs a special launch


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("element", ELEMENTS)
def test_what_is_shipped_is_made_of_this_source(element: ElementType) -> None:
    made = gd_unit_kernel.compile_kernel(gd_unit_kernel.PORTABLE, element, ptx_isa=gd_unit_kernel.PTX_ISA)
    shipped = kernel_file.shipped(element)
    assert shipped.shared_bytes == made.shared_bytes
    assert shipped.ptx == made.ptx, "python -m models.plugins.gd_unit_kernel writes it again"


@pytest.mark.parametrize("element", ELEMENTS)
def test_what_is_shipped_becomes_machine_code_of_every_gpu(element: ElementType, tmp_path: Path) -> None:
    source = tmp_path / "kernel.ptx"
    source.write_text(kernel_file.shipped(element).ptx)
    for capability in GPUS:
        made = tmp_path / f"{capability}.cubin"
        ptxas = ASSEMBLERS / ("ptxas-blackwell" if capability >= 100 else "ptxas")
        ran = subprocess.run(
            [ptxas, f"-arch=sm_{capability}", source, "-o", made], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"{capability}: {ran.stderr}"
        assert made.read_bytes().startswith(b"\x7fELF")


def test_a_kernel_that_reads_its_scratch_memory_is_not_shipped() -> None:
    ptx = f".entry {ENTRY}(\n\t.param .u64 {ENTRY}_param_0,\n\t.param .u64 {ENTRY}_param_1\n)\n"
    read = ptx + f"{{ ld.param.b64 %rd1, [{ENTRY}_param_1]; }}"
    assert gd_unit_kernel.without_scratch(ptx + "{ ret; }", 1).count(".param") == 1
    with pytest.raises(ValueError, match=f"{ENTRY}_param_1"):
        gd_unit_kernel.without_scratch(read, 1)


def test_the_operator_keeps_pytorchs_contract() -> None:
    inputs = tuple(one.requires_grad_() for one in _inputs(2, 7, 20, 8, 3))
    torch.library.opcheck(gd_unit, (*inputs, 0.125))
