"""The GD-Unit as a TensorRT plugin: ``IPluginV3`` and its creator, ``dmd::GDUnit`` version 1.

The weights are inputs, not fields: they are constants of the graph, so TensorRT converts, shares and refits
them, and the plugin's only field is ``alpha``. TensorRT takes the node's attributes for fields by name, from
10.3 to 11. ``enqueue`` puts one launch on TensorRT's stream and returns; nothing waits, nothing is allocated.

One code serves ``tensorrt`` and ``tensorrt_rtx``: the classes are made for the module that is handed in.
Held to the bindings of TensorRT-RTX 1.7; inside an engine it is untested (docs/tensorrt.md).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from models.plugins.kernel_file import ElementType
from models.plugins.launch import DriverLauncher, Launcher, Sizes

NAME, NAMESPACE, VERSION = "GDUnit", "dmd", "1"
INPUTS = 8  # logits, reprs, w_logit, b_logit, w_repr, b_repr, w_edge, b_edge
EDGES = 6


def register(trt: Any) -> None:
    """Make ``dmd::GDUnit`` known to a TensorRT module's registry; a second call changes nothing.

    trt: ``tensorrt`` or ``tensorrt_rtx``. Raises RuntimeError where the registry refuses.
    """
    registry = trt.get_plugin_registry()
    if any(_is_ours(one) for one in registry.all_creators):
        return
    creator = classes(trt)[1]()
    if not registry.register_creator(creator, NAMESPACE):
        raise RuntimeError(f"{trt.__name__} {trt.__version__} does not take the plugin {NAMESPACE}::{NAME}")
    _kept.append(creator)


_kept: list[Any] = []  # the registry does not own a creator of Python


def _is_ours(creator: Any) -> bool:
    found = creator.name, creator.plugin_namespace, creator.plugin_version
    return found == (NAME, NAMESPACE, VERSION)


@cache
def classes(trt: Any) -> tuple[type, type]:
    """The plugin's class and its creator's, for a TensorRT module."""
    elements: dict[Any, ElementType] = {
        trt.DataType.FLOAT: "fp32",
        trt.DataType.HALF: "fp16",
        trt.DataType.BF16: "bf16",
    }

    class GDUnitPlugin(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
        """Edges (B, 6) from the inputs of ``models.gd_unit.gd_unit``; all of one type, all linear.

        alpha: flattens the softmax over edges. launcher: brings the kernel onto the GPU.
        """

        def __init__(self, alpha: float, launcher: Launcher) -> None:
            for base in (
                trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime
            ):  # fmt: skip
                base.__init__(self)
            self.alpha, self.launcher = alpha, launcher
            self._stored = np.array([alpha], np.float32)  # a field points into it, and does not own it
            self.plugin_name, self.plugin_namespace, self.plugin_version = NAME, NAMESPACE, VERSION
            self.num_outputs = 1

        def get_capability_interface(self, type: Any) -> Any:
            return self

        def clone(self) -> Any:
            return GDUnitPlugin(self.alpha, self.launcher)

        # Building

        def get_output_data_types(self, input_types: Any) -> list[Any]:
            return [input_types[0]]

        def get_output_shapes(self, inputs: Any, shape_inputs: Any, builder: Any) -> list[Any]:
            edges = trt.DimsExprs(2)
            edges[0], edges[1] = inputs[0][1], builder.constant(EDGES)
            return [edges]

        def supports_format_combination(self, pos: int, in_out: Any, num_inputs: int) -> bool:
            one, first = in_out[pos].desc, in_out[0].desc
            return bool(
                one.format == trt.TensorFormat.LINEAR and one.type in elements and one.type == first.type
            )

        def configure_plugin(self, given: Any, out: Any) -> None:
            pass  # nothing depends on the range of sizes

        def get_workspace_size(self, given: Any, out: Any) -> int:
            return 0

        # Running

        def get_fields_to_serialize(self) -> Any:
            field = trt.PluginField("alpha", self._stored, trt.PluginFieldType.FLOAT32)
            return trt.PluginFieldCollection([field])

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def on_shape_change(self, given: Any, out: Any) -> None:
            self.launcher.prepare(elements[given[0].type])  # before a launch is captured into a CUDA graph

        def set_tactic(self, tactic: int) -> None:
            pass  # there is one

        def enqueue(
            self, input_desc: Any, output_desc: Any, inputs: Any, outputs: Any, workspace: int, stream: int
        ) -> None:
            logits, reprs, w_logit = (tuple(one.dims) for one in list(input_desc)[:3])
            sizes = Sizes(batch=logits[1], outputs=logits[2], hidden=reprs[2], size=w_logit[0])
            element = elements[input_desc[0].type]
            self.launcher.launch(element, list(inputs), outputs[0], sizes, self.alpha, stream)

    class GDUnitCreator(trt.IPluginCreatorV3One):
        """Makes the plugin from its field ``alpha``, when a graph is parsed and when an engine is read."""

        def __init__(self, launcher: Launcher | None = None) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_namespace, self.plugin_version = NAME, NAMESPACE, VERSION
            self._no_value = np.array([], np.float32)
            field = trt.PluginField("alpha", self._no_value, trt.PluginFieldType.FLOAT32)
            self.field_names = trt.PluginFieldCollection([field])
            self.launcher: Launcher = launcher or DriverLauncher()

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            return GDUnitPlugin(_alpha(fields), self.launcher)

    return GDUnitPlugin, GDUnitCreator


def _alpha(fields: Any) -> float:
    """The value of ``alpha``. Raises ValueError without it, or where it is not one number."""
    found = [np.asarray(field.data, np.float32).ravel() for field in fields if field.name == "alpha"]
    if len(found) != 1 or found[0].size != 1 or not np.isfinite(found[0][0]):
        raise ValueError(
            f"{NAMESPACE}::{NAME} needs the attribute alpha, one float32, not {[list(v) for v in found]}: "
            f"export the network again (python -m models.export)"
        )
    return float(found[0][0])
