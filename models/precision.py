"""Half precision: a float32 ONNX graph as a strongly typed one of float16 or bfloat16, without PyTorch.

``python -m models.precision IN.onnx OUT.onnx --precision fp16``, on any machine with the package onnx: a
Jetson converts the graph that a bundle carries. TensorRT 10 and 11 and TensorRT-RTX take types as a graph has
them, so every change of type is a Cast node here. What stays float32:

* inputs and outputs of the graph, and what reads an input first: raw features have their own ranges;
* softmax, normalisation layers, and functions that overflow or cancel (``WIDE``);
* what ONNX does not define in the type: a convolution has no bfloat16 before opset 22;
* the softmax of a GD-Unit, whose function body casts by itself and takes any float type.

onnxconverter-common and ONNX Runtime's converter know no bfloat16 and leave model-local functions alone
or break them; so this one is our own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

Precision = Literal["fp32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LARGEST = {"fp16": 65504.0, "bf16": 3.38e38}  # what lies beyond becomes this; infinities stay
WIDE = frozenset(
    {
        "Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "InstanceNormalization",
        "BatchNormalization", "GroupNormalization", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2",
        "Pow", "Sqrt", "Reciprocal", "Exp", "Log", "CumSum", "Range", "Erf",
    }
)  # fmt: skip
FLOAT_INPUTS = {"Resize": (0,)}  # of these only some inputs may be half; of all others, each float input


def to_precision(proto: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """The same network in another precision; ``proto`` is left as it is.

    Raises ValueError for an unknown precision, a graph that is not float32, or one whose types onnx cannot
    infer.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    kinds = _kinds(model)
    halves = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    if strange := sorted(name for name, kind in kinds.items() if kind in halves):
        raise ValueError(f"{strange[0]} is not float32: convert the float32 graph, network.onnx of a bundle")
    if precision == "fp32":
        return model
    _Conversion(model, kinds, precision).run()
    onnx.checker.check_model(model, full_check=True)
    return model


def _kinds(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value in the graph."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise ValueError(f"onnx does not know the types of this graph: {error}") from None
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kinds[value.name] = value.type.tensor_type.elem_type
    for node in graph.node:
        if missing := [name for name in node.output if name and not kinds.get(name)]:
            raise ValueError(f"onnx does not know the type of {missing[0]} ({node.op_type})")
    return kinds


class _Conversion:
    """One graph on its way. ``kinds`` are the types that its values had."""

    def __init__(self, model: onnx.ModelProto, kinds: dict[str, int], precision: Precision) -> None:
        self.graph, self.kinds = model.graph, kinds
        self.type, self.largest = TYPES[precision], LARGEST[precision]
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self.opsets = {opset.domain: opset.version for opset in model.opset_import}
        self.wide = {value.name for value in self.graph.input}  # values that are float32 in the new graph
        self.nodes: list[NodeProto] = []
        self.casts: dict[tuple[str, int], str] = {}  # (value, type) -> its name in that type
        self.new_weights: dict[str, TensorProto] = {}

    def run(self) -> None:
        inputs = {value.name for value in self.graph.input}
        for node in self.graph.node:
            if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
                raise ValueError(f"{node.op_type} {node.name}: a graph inside a node is not converted")
            reads_input = any(name in inputs for name in node.input if self._float(name))
            self._node(node, wide=node.op_type in WIDE or reads_input or not self._defined(node))
        for value in self.graph.output:
            if self._float(value.name) and value.name not in self.wide:
                self._rename(value.name, f"{value.name}__half")
                self.nodes.append(
                    helper.make_node("Cast", [f"{value.name}__half"], [value.name], to=TensorProto.FLOAT)
                )
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        del self.graph.value_info[:]  # types have changed; they are inferred anew
        del self.graph.initializer[:]
        used = {name for node in self.nodes for name in node.input} | {v.name for v in self.graph.output}
        every = self.weights | self.new_weights
        self.graph.initializer.extend(every[name] for name in every if name in used)

    def _float(self, name: str) -> bool:
        return self.kinds.get(name) == TensorProto.FLOAT

    def _defined(self, node: NodeProto) -> bool:
        """Whether ONNX has this operator in the new type; one of another domain is taken to."""
        if node.domain not in ("", "ai.onnx"):
            return True
        schema = onnx.defs.get_schema(node.op_type, self.opsets[""], "")
        wanted = f"tensor({TensorProto.DataType.Name(self.type).lower()})"
        return all(
            wanted in allowed.allowed_type_strs
            for allowed in schema.type_constraints
            if "tensor(float)" in allowed.allowed_type_strs
        )

    def _node(self, node: NodeProto, *, wide: bool) -> None:
        made = NodeProto()
        made.CopyFrom(node)
        target = TensorProto.FLOAT if wide else self.type
        halved = FLOAT_INPUTS.get(node.op_type)
        for i, name in enumerate(node.input):
            if self._float(name):
                narrow = target if halved is None or i in halved else TensorProto.FLOAT
                made.input[i] = self._as(name, narrow)
        if not wide:
            self._attributes(made)
        self.nodes.append(made)
        if wide:
            self.wide.update(name for name in node.output if self._float(name))

    def _attributes(self, node: NodeProto) -> None:
        """Constants and casts inside a node speak of types, too."""
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = self.type
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(self._narrow(attribute.t))
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                many = attribute.name == "value_floats"
                numbers = np.array(list(attribute.floats) if many else attribute.f, np.float32)
                tensor = self._narrow(numpy_helper.from_array(numbers))
                attribute.CopyFrom(helper.make_attribute("value", tensor))

    def _as(self, name: str, kind: int) -> str:
        """The value ``name`` in a type: itself, a weight stored so, or a cast of it."""
        if name in self.weights:
            if kind == TensorProto.FLOAT:
                return name
            if f"{name}__half" not in self.new_weights:
                tensor = self._narrow(self.weights[name])
                tensor.name = f"{name}__half"
                self.new_weights[tensor.name] = tensor
            return f"{name}__half"
        if kind == (TensorProto.FLOAT if name in self.wide else self.type):
            return name
        if (name, kind) not in self.casts:
            self.casts[name, kind] = f"{name}__{TensorProto.DataType.Name(kind).lower()}"
            self.nodes.append(helper.make_node("Cast", [name], [self.casts[name, kind]], to=kind))
        return self.casts[name, kind]

    def _narrow(self, tensor: TensorProto) -> TensorProto:
        numbers = numpy_helper.to_array(tensor)
        finite = np.where(np.isfinite(numbers), np.clip(numbers, -self.largest, self.largest), numbers)
        element = helper.tensor_dtype_to_np_dtype(self.type)
        return numpy_helper.from_array(finite.astype(element), tensor.name)

    def _rename(self, old: str, new: str) -> None:
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new


def _write(model: onnx.ModelProto, path: Path) -> None:
    half = path.with_name(path.name + ".half")
    try:
        onnx.save(model, half)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def kept_wide(model: onnx.ModelProto) -> Iterable[str]:
    """The operators that compute in float32 in a converted graph."""
    kinds = _kinds(model)
    for node in model.graph.node:
        if node.op_type != "Cast" and any(kinds.get(name) == TensorProto.FLOAT for name in node.input):
            yield node.op_type


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.precision",
        description="Write a float32 ONNX graph in another precision, strongly typed: inputs and outputs, "
        "softmax and norms stay float32. For TensorRT, and for checking what an engine will compute.",
    )
    parser.add_argument(
        "source", type=Path, metavar="IN.onnx", help="for example models/pretrained/network.onnx"
    )
    parser.add_argument("out", type=Path, metavar="OUT.onnx")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16")
    options = parser.parse_args(arguments)
    try:
        model = onnx.load(options.source)
        _write(to_precision(model, options.precision), options.out)
    except Exception as error:  # protobuf's DecodeError and onnx's ValidationError share no base
        print(f"precision: {options.source}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
