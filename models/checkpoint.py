"""Checkpoints: our own (safetensors beside JSON) and the authors' parameter names and .pth files.

A network is a folder: ``network.safetensors`` holds every parameter and buffer, ``network.json`` the
configuration. Nothing here unpickles anything but tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.dmd import DMD, DMDConfig, InputConfig

WEIGHTS, DESCRIPTION = "network.safetensors", "network.json"
FORMAT = 1
MOST_LEVELS = 100


class BadCheckpoint(ValueError):
    """A file that does not hold this network; the message names the file or the parameter."""


def save(model: DMD, folder: Path, extra: Mapping[str, Any] | None = None, *, half: bool = False) -> None:
    """Write the network to ``folder``; ``extra`` (JSON values) is kept under its own key.

    half: matrices in half precision, for which ``round_to_half`` leaves nothing to lose.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (t.half() if half and t.dim() > 1 else t).detach().cpu().contiguous()
        for name, t in model.state_dict().items()
    }
    save_file(tensors, folder / WEIGHTS)
    description = {
        "format": FORMAT,
        "network": "dmd",
        "config": asdict(model.config),
        "extra": dict(extra or {}),
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")


@torch.no_grad()
def round_to_half(model: DMD) -> None:
    """Round every matrix to the nearest half precision, in place: what is stored is then what runs."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.copy_(parameter.half())


def load(folder: Path) -> DMD:
    """Read a network that ``save`` wrote, in evaluation mode. Raises BadCheckpoint."""
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        if description.get("format") != FORMAT:
            raise BadCheckpoint(
                f"{folder / DESCRIPTION}: format {description.get('format')!r}, expected {FORMAT}"
            )
        model = DMD(config_from_dict(description["config"]))
        model.load_state_dict(load_file(folder / WEIGHTS))
    except OSError as error:
        raise BadCheckpoint(f"{error.filename or folder}: {error.strerror or error}") from None
    except BadCheckpoint:
        raise
    except (
        KeyError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError, SafetensorError
    ) as error:  # fmt: skip
        raise BadCheckpoint(
            f"{folder} holds no usable network: {' '.join(str(error).split())[:300]}"
        ) from None
    return model.eval()


def config_from_dict(values: Mapping[str, Any]) -> DMDConfig:
    """The inverse of ``dataclasses.asdict`` for DMDConfig.

    Raises TypeError for an unknown field, ValueError for more layers than anybody would train.
    """
    known = dict(values)
    for name in ("levels", "memory_levels"):
        if known.get(name, 0) > MOST_LEVELS:
            raise ValueError(f"{name} = {known[name]!r}, expected at most {MOST_LEVELS}")
    for name in ("text", "vision", "audio"):
        known[name] = InputConfig(**known[name])
    for field in fields(DMDConfig):
        if isinstance(known.get(field.name), list):
            known[field.name] = tuple(known[field.name])
    return DMDConfig(**known)


_LETTER = {"text": "l", "vision": "v", "audio": "a"}
_M = "(text|vision|audio)"
_NAMES: tuple[tuple[str, str], ...] = (  # ours -> the authors'; {0}, {1} are modality letters
    (rf"decoupled\.{_M}\.project", "proj_{0}"),
    (rf"decoupled\.{_M}\.encode_hetero", "encoder_s_{0}"),
    (rf"decoupled\.{_M}\.decode", "decoder_{0}"),
    (r"encode_homo", "encoder_c"),
    (rf"homo_summary\.{_M}", "align_c_{0}"),
    (rf"hetero_summary\.{_M}", "proj_cosine_{0}"),
    (rf"homo_encoder\.{_M}", "self_attentions_c_{0}"),
    (rf"crossmodal\.{_M}_from_{_M}", "trans_{0}_with_{1}"),
    (rf"memory\.{_M}", "trans_{0}_mem"),
    (rf"homo_head\.{_M}\.proj1", "proj1_{0}_low"),
    (rf"homo_head\.{_M}\.proj2", "proj2_{0}_low"),
    (rf"homo_head\.{_M}\.out", "out_layer_{0}_low"),
    (rf"hetero_head\.{_M}\.proj1", "proj1_{0}_high"),
    (rf"hetero_head\.{_M}\.proj2", "proj2_{0}_high"),
    (rf"hetero_head\.{_M}\.out", "out_layer_{0}_high"),
    (r"homo_fused_head\.proj1", "proj1_c"),
    (r"homo_fused_head\.proj2", "proj2_c"),
    (r"homo_fused_head\.out", "out_layer_c"),
    (rf"gate\.{_M}", "weight_{0}"),
    (r"homo_gate", "weight_c"),
    (r"fusion_head\.proj1", "proj1"),
    (r"fusion_head\.proj2", "proj2"),
    (r"fusion_head\.out", "out_layer"),
)


def authors_name(name: str) -> tuple[str, str] | None:
    """Where the authors keep one of our parameters: (network, name), network dmd, homo_gd or hetero_gd.

    None for what they do not have: normalisation and the learned steps of missing senses.
    """
    for unit in ("homo_gd", "hetero_gd"):
        if name.startswith(unit + "."):
            return unit, name.removeprefix(unit + ".")
    for pattern, theirs in _NAMES:
        if found := re.match(pattern + r"\.", name):
            letters = (_LETTER[m] for m in found.groups())
            return "dmd", f"{theirs.format(*letters)}.{name[found.end() :]}"
    return None


def load_authors_state(model: DMD, states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Copy the authors' parameters into ``model``.

    states: ``dmd`` and, where they were kept, ``homo_gd`` and ``hetero_gd``, each by the authors'
    names; a GD-Unit that is not given keeps its values. Missing senses, unknown to the authors, become
    silence (zeros). BERT's weights (``text_model.*``) and the encoders' constants are not the network's
    and are left out. Raises BadCheckpoint for a missing, extra or wrongly shaped parameter.
    """
    left = {(net, key) for net, state in states.items() for key in state if not _foreign(key)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            place = authors_name(name)
            if place is None:
                parameter.zero_()
                continue
            net, key = place
            if net not in states and net != "dmd":
                continue
            value = states.get(net, {}).get(key)
            if value is None:
                raise BadCheckpoint(f"parameter {net}/{key} is missing")
            if value.shape != parameter.shape:
                raise BadCheckpoint(
                    f"parameter {net}/{key} has shape {tuple(value.shape)}, expected {tuple(parameter.shape)}"
                )
            parameter.copy_(value)
            left.discard(place)
    if left:
        raise BadCheckpoint(f"parameters without a place in the network: {sorted(left)[:4]}")


def _foreign(key: str) -> bool:
    return key.startswith("text_model.") or key.endswith((".version", ".embed_positions._float_tensor"))


def load_authors_pth(path: Path, heads: int = 10) -> DMD:
    """The authors' released ``.pth`` file (the DMD network alone; its GD-Units were not released).

    Sizes are read from the shapes; ``heads`` leaves no trace there and is 10 in their configurations.
    Only tensors are unpickled; a file with anything else is refused. Raises BadCheckpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadCheckpoint(f"{path}: {error.strerror or error}") from None
    except Exception:  # PyTorch's reader raises of many kinds for a damaged file
        raise BadCheckpoint(f"{path} is refused: not a PyTorch file that holds tensors only") from None
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise BadCheckpoint(f"{path} is refused: expected a mapping of names to tensors")
    model = DMD(authors_config(state, heads))
    load_authors_state(model, {"dmd": state})
    return model.eval()


def authors_config(state: Mapping[str, Tensor], heads: int) -> DMDConfig:
    """The configuration whose network has these parameters (the authors' names). Raises BadCheckpoint."""
    try:
        width = state["encoder_c.weight"].shape[0]
        inputs = {}
        for modality, letter in _LETTER.items():
            _, dim, kernel = state[f"proj_{letter}.weight"].shape
            projected = state[f"align_c_{letter}.weight"].shape[1] // width
            dropout = {"l": 0.3, "v": 0.0, "a": 0.2}[letter]
            inputs[modality] = InputConfig(dim, projected + kernel - 1, kernel, attention_dropout=dropout)
        levels = _depth(state, "trans_l_with_a")
        memory_levels = _depth(state, "trans_l_mem")
        outputs = state["out_layer.weight"].shape[0]
        return DMDConfig(
            inputs["text"],
            inputs["vision"],
            inputs["audio"],
            outputs=outputs,
            width=width,
            heads=heads,
            levels=levels,
            memory_levels=memory_levels,
        )
    except KeyError as error:
        raise BadCheckpoint(f"parameter {error} is missing: not the authors' DMD") from None
    except (ValueError, IndexError) as error:
        raise BadCheckpoint(f"not the authors' DMD with {heads} heads: {error}") from None


def _depth(state: Mapping[str, Tensor], encoder: str) -> int:
    return 1 + max(int(k.split(".")[2]) for k in state if k.startswith(f"{encoder}.layers."))
