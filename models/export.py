"""Export: the inference graph as one ONNX file, for ONNX Runtime, TensorRT and TensorRT-RTX.

Inputs ``text audio vision text_mask audio_mask vision_mask``, float32, any batch, the lengths of the
configuration; outputs as in ``models.dmd.Inference``. A GD-Unit is the node ``dmd::GDUnit``; its body
travels in the file as a model-local function, so a runtime without a kernel for it inlines it.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from onnx import TensorProto, helper
from onnx_ir.passes import common as passes
from onnxscript import values
from onnxscript.optimizer import fold_constants
from torch import Tensor, nn

from models.checkpoint import BadCheckpoint, load
from models.dmd import DMD, Inference
from models.dmd_config import PRESETS
from models.gd_unit import STUDENTS, TEACHERS
from models.precision import PRECISIONS, Precision, to_precision

PRETRAINED = Path(__file__).parent / "pretrained"

OPSET = 18
LARGEST_FOLDED = 1 << 26  # numbers in a constant: above any weight that is transposed
DOMAIN, NODE, VERSION = "dmd", "GDUnit", 1
INPUTS = ("text", "audio", "vision", "text_mask", "audio_mask", "vision_mask")
FUNCTION_INPUTS = ("logits", "reprs", "w_logit", "b_logit", "w_repr", "b_repr", "w_edge", "b_edge")
OUTPUTS = tuple(field.name for field in fields(Inference))


class _InferenceGraph(nn.Module):
    def __init__(self, model: DMD) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        text: Tensor,
        audio: Tensor,
        vision: Tensor,
        text_mask: Tensor,
        audio_mask: Tensor,
        vision_mask: Tensor,
    ) -> tuple[Tensor, ...]:
        result = self.model.infer(text, audio, vision, text_mask, audio_mask, vision_mask)
        return tuple(getattr(result, name) for name in OUTPUTS)


def export_onnx(model: DMD, path: Path, precision: Precision = "fp32") -> onnx.ModelProto:
    """Write the inference graph of ``model`` to ``path``, whole or not at all, and return it.

    It is checked by onnx. The model is left in evaluation mode. Raises onnx.checker.ValidationError for an
    invalid graph, OSError where ``path`` cannot be written.
    """
    model.eval()
    example = example_inputs(model)
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            _InferenceGraph(model),
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes=tuple({0: batch} for _ in example),
            custom_translation_table={torch.ops.dmd.gd_unit.default: _gd_unit_node},
            verbose=False,
            optimize=False,  # its rewriting of patterns takes most of a minute, and runtimes do it themselves
        )
    assert program is not None
    _fold(program.model)
    proto = program.model_proto
    _add_function(proto)
    onnx.checker.check_model(proto, full_check=True)
    proto = to_precision(proto, precision)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.half")
    try:
        onnx.save(proto, half)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
    return proto


def _fold(model: onnx_ir.Model) -> None:
    """Compute what depends on weights alone, once; drop what is computed twice, and what nobody reads."""
    fold_constants(model, input_size_limit=LARGEST_FOLDED, output_size_limit=LARGEST_FOLDED)
    for tidy in (
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(),
        passes.DeduplicateInitializersPass(),
    ):
        tidy(model)


def example_inputs(model: DMD, batch: int = 2) -> tuple[Tensor, ...]:
    """Random windows of the model's sizes, every step real, in the order of ``INPUTS``."""
    sizes = [model.config.input(m) for m in ("text", "audio", "vision")]
    features = [torch.randn(batch, s.steps, s.dim) for s in sizes]
    return (*features, *(torch.ones(batch, s.steps) for s in sizes))


def _gd_unit_node(*inputs: Any) -> Any:
    """How the exporter writes ``dmd::gd_unit``: one node of our domain."""
    *tensors, alpha = inputs
    return values.Op(values.Opset(DOMAIN, VERSION), NODE, _schema())(*tensors, alpha=alpha)


def _schema() -> onnx.defs.OpSchema:
    schema = onnx.defs.OpSchema
    return schema(
        NODE,
        DOMAIN,
        VERSION,
        inputs=[schema.FormalParameter(name, "T") for name in FUNCTION_INPUTS],
        outputs=[schema.FormalParameter("edges", "T")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "one float type")],
        attributes=[schema.Attribute("alpha", schema.AttrType.FLOAT, "flattens the softmax over edges")],
    )


def _add_function(proto: onnx.ModelProto) -> None:
    proto.functions.append(gd_unit_function())
    if all(entry.domain != DOMAIN for entry in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))


def gd_unit_function() -> onnx.FunctionProto:
    """The body of ``dmd::GDUnit``, equal to ``models.gd_unit.gd_unit``; its attribute is ``alpha``."""

    def constant(name: str, numbers: tuple[int, ...]) -> onnx.NodeProto:
        tensor = helper.make_tensor(name, TensorProto.INT64, [len(numbers)], numbers)
        return helper.make_node("Constant", [], [name], value=tensor)

    alpha = helper.make_node("Constant", [], ["alpha_value"])
    alpha.attribute.append(
        onnx.AttributeProto(name="value_float", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
    )
    node = helper.make_node
    nodes = [
        constant("students", STUDENTS),
        constant("teachers", TEACHERS),
        alpha,
        node("Transpose", ["w_logit"], ["w_logit_t"], perm=[1, 0]),
        node("MatMul", ["logits", "w_logit_t"], ["logit_product"]),
        node("Add", ["logit_product", "b_logit"], ["z_logit"]),  # (3, B, g)
        node("Transpose", ["w_repr"], ["w_repr_t"], perm=[1, 0]),
        node("MatMul", ["reprs", "w_repr_t"], ["repr_product"]),
        node("Add", ["repr_product", "b_repr"], ["z_repr"]),  # (3, B, g)
        node("Concat", ["z_logit", "z_repr"], ["z"], axis=-1),  # (3, B, 2g)
        node("Gather", ["z", "students"], ["z_student"], axis=0),  # (6, B, 2g)
        node("Gather", ["z", "teachers"], ["z_teacher"], axis=0),  # (6, B, 2g)
        node("Concat", ["z_student", "z_teacher"], ["pairs"], axis=-1),  # (6, B, 4g)
        node("Transpose", ["w_edge"], ["w_edge_t"], perm=[1, 0]),
        node("MatMul", ["pairs", "w_edge_t"], ["edge_product"]),
        node("Add", ["edge_product", "b_edge"], ["score"]),  # (6, B, 1)
        node("Cast", ["score"], ["score_wide"], to=TensorProto.FLOAT),
        node("Mul", ["score_wide", "alpha_value"], ["flattened"]),
        node("Softmax", ["flattened"], ["weights_wide"], axis=0),
        node("CastLike", ["weights_wide", "logits"], ["weights"]),
        constant("last_axis", (2,)),
        node("Squeeze", ["weights", "last_axis"], ["by_edge"]),  # (6, B)
        node("Transpose", ["by_edge"], ["edges"], perm=[1, 0]),  # (B, 6)
    ]
    return helper.make_function(
        DOMAIN,
        NODE,
        list(FUNCTION_INPUTS),
        ["edges"],
        nodes,
        opset_imports=[helper.make_opsetid("", OPSET)],
        attributes=["alpha"],
    )


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for a network that cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m models.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="A trained network:   python -m models.export --network DIR --out FILE.onnx\n"
        "The bundled one:     python -m models.export --preset bundled --precision fp16 --out FILE.onnx\n"
        "The authors' sizes:  python -m models.export --preset mosi-unaligned --out FILE.onnx  (untrained)",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--network", type=Path, metavar="DIR", help="folder with network.safetensors")
    which.add_argument(
        "--preset",
        choices=("mosi-unaligned", "mosei-unaligned", "bundled"),
        help="the bundled network, or one of the authors' sizes with random weights, to measure with",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")
    args = parser.parse_args(argv)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        if args.preset in PRESETS:
            torch.manual_seed(0)
            model = DMD(PRESETS[args.preset])
        else:
            model = load(args.network or PRETRAINED)
        print("tracing the network; one of the authors' sizes takes a minute", file=sys.stderr)
        proto = export_onnx(model, args.out, args.precision)
    except BadCheckpoint as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"export: {args.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {len(proto.graph.node)} nodes, {args.out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
