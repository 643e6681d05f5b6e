"""Verify the network against numbers from the authors' code: ``python -m models.verify_reference FILE.npz``.

Loads their weights by name, runs forward, every loss and backward, and prints the largest error of
each group. Exit status: 0 within tolerance, 1 not, 2 the file cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from models import arrays
from models.checkpoint import BadCheckpoint, authors_name, load_authors_state
from models.data import DataError
from models.dmd import DMD, MODALITIES, DMDConfig, DMDOutput, Inference, InputConfig
from models.losses import LossWeights, objective, orthogonality

Array = npt.NDArray[Any]
OUTPUT_TOLERANCE = 1e-5  # absolute
LOSS_TOLERANCE = 1e-5  # relative
GRADIENT_TOLERANCE = 1e-4  # relative
ROUNDING = 1e-8  # of the whole gradient's norm. Edges are a softmax over scores that share every bias of
# their GD-Unit: those gradients are zero, and what either side has there is float32 rounding
_INFERRED = ("output_logit", *(f"logits_{x}_homo" for x in "lva"), "edges_homo", "edges_hetero")
_LETTERS = dict(zip(MODALITIES, "lva", strict=True))


@dataclass(frozen=True)
class Group:
    """The worst member of a group of compared numbers."""

    name: str
    compared: int
    worst: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # false for NaN


def verify(path: Path) -> list[Group]:
    """Compare the network with a reference file.

    Raises BadCheckpoint or DataError when the file cannot be used, FileNotFoundError when it is not there.
    """
    data = arrays.read(path)
    model, weights = _network(data)
    inputs = {m: torch.from_numpy(data[f"input/{m}"]) for m in MODALITIES}
    labels = torch.from_numpy(data["input/labels"])
    try:
        output = model(inputs["text"], inputs["audio"], inputs["vision"])
    except ValueError as error:
        raise BadCheckpoint(f"input/{error}") from None
    total, parts = objective(output, labels, model.homo_gd, model.hetero_gd, weights)
    torch.autograd.backward(total)
    with torch.no_grad():
        # The authors hold (T, B, d): their axis 1 is the batch.
        parts["orthogonality_axis1"] = orthogonality(output.hetero, output.homo, None, axis=0)
        ones = {m: torch.ones(x.shape[:2]) for m, x in inputs.items()}
        live = model.infer(
            *(inputs[m] for m in ("text", "audio", "vision")), *(ones[m] for m in ("text", "audio", "vision"))
        )
        edges = {
            "edges_homo": model.homo_gd(output.homo_logits, output.homo_repr),
            "edges_hetero": model.hetero_gd(output.hetero_logits, output.hetero_repr),
        }
    outputs = _authors_outputs(output, edges)
    gradients = _gradient_norms(model)
    noise = ROUNDING * float(np.sqrt(sum(g**2 for g in gradients.values())))
    return [
        _compare("outputs", _under(data, "output/"), outputs, _absolute, OUTPUT_TOLERANCE),
        _compare(
            "inference graph", _inference_part(data), _authors_inference(live), _absolute, OUTPUT_TOLERANCE
        ),
        _compare("losses", _under(data, "loss/"), _numbers(parts), _relative(0.0), LOSS_TOLERANCE),
        _compare(
            "gradient norms", _under(data, "gradnorm/"), gradients, _relative(noise), GRADIENT_TOLERANCE
        ),
    ]


def reference_config(values: Mapping[str, Any]) -> tuple[DMDConfig, LossWeights]:
    """The configuration of a reference file, in the authors' words, as ours. Raises KeyError."""
    text_dim, audio_dim, vision_dim = values["feature_dims"]
    dims = {"text": text_dim, "vision": vision_dim, "audio": audio_dim}
    dropouts = {"text": "attn_dropout", "vision": "attn_dropout_v", "audio": "attn_dropout_a"}
    width, heads = values["dst_feature_dim_nheads"]
    inputs = {
        m: InputConfig(
            dims[m],
            values[f"len_{x}"],
            values[f"conv1d_kernel_size_{x}"],
            attention_dropout=values[dropouts[m]],
        )
        for m, x in _LETTERS.items()
    }
    config = DMDConfig(
        text=inputs["text"],
        vision=inputs["vision"],
        audio=inputs["audio"],
        width=width,
        heads=heads,
        levels=values["nlevels"],
        causal=values["attn_mask"],
        text_dropout=values["text_dropout"],
        embedding_dropout=values["embed_dropout"],
        relu_dropout=values["relu_dropout"],
        residual_dropout=values["res_dropout"],
        output_dropout=values["output_dropout"],
        homo_gd_size=values["gd_size_homo"],
        hetero_gd_size=values["gd_size_hetero"],
        gd_alpha=values["gd_alpha"],
        homo_prior=tuple(values["prior_logits_homo"]),
        hetero_prior=tuple(values["prior_logits_hetero"]),
        prior_temperature=values["prior_temperature"],
    )
    logit, representation = values["w_losses"]
    return config, LossWeights(
        logit_distance=logit, repr_distance=representation, edge_regulariser=values["gd_reg"]
    )


def _network(data: Mapping[str, Array]) -> tuple[DMD, LossWeights]:
    for key in ("config", "input/text", "input/audio", "input/vision", "input/labels"):
        if key not in data:
            raise BadCheckpoint(f"key {key!r} is missing")
    try:
        config, weights = reference_config(json.loads(str(data["config"])))
        model = DMD(config)
    except KeyError as error:
        raise BadCheckpoint(f"config has no {error}") from None
    except (TypeError, ValueError) as error:
        raise BadCheckpoint(f"config: {error}") from None
    states: dict[str, dict[str, Tensor]] = {"dmd": {}, "homo_gd": {}, "hetero_gd": {}}
    for key, value in _under(data, "state/").items():
        net, _, name = key.partition("/")
        try:
            states.setdefault(net, {})[name] = torch.from_numpy(value)
        except TypeError as error:  # text, or bytes
            raise BadCheckpoint(f"{key}: {error}") from None
    load_authors_state(model, states)
    return model.eval(), weights


def _authors_outputs(output: DMDOutput, edges: Mapping[str, Tensor]) -> dict[str, Array]:
    """Our outputs under the authors' names and in their layouts: (B, d, T) or (T, B, d)."""
    named = {name: edge.t() for name, edge in edges.items()}
    named |= {"logits_c": output.homo_fused_logits, "output_logit": output.logits}
    assert output.homo_summary is not None and output.hetero_summary is not None  # theirs decouples
    for i, x in enumerate(_LETTERS.values()):
        named |= {
            f"logits_{x}_homo": output.homo_logits[i],
            f"repr_{x}_homo": output.homo_repr[i],
            f"logits_{x}_hetero": output.hetero_logits[i],
            f"repr_{x}_hetero": output.hetero_repr[i],
            f"last_h_{x}": output.last_hidden[i],
            f"origin_{x}": output.projected[i].transpose(1, 2),
            f"recon_{x}": output.reconstructed[i].transpose(1, 2),
            f"s_{x}_r": output.hetero_again[i].transpose(1, 2),
            f"s_{x}": output.hetero[i].transpose(0, 1),
            f"c_{x}": output.homo[i].transpose(0, 1),
            f"c_{x}_sim": output.homo_summary[i],
            f"proj_s_{x}": output.hetero_summary[i],
        }
    return _numbers(named)


def _authors_inference(live: Inference) -> dict[str, Array]:
    named = {
        "output_logit": live.logits,
        "logits_l_homo": live.text_logits,
        "logits_v_homo": live.vision_logits,
        "logits_a_homo": live.audio_logits,
        "edges_homo": live.homo_edges.t(),
        "edges_hetero": live.hetero_edges.t(),
    }
    return _numbers(named)


def _inference_part(data: Mapping[str, Array]) -> dict[str, Array]:
    return {name: data[f"output/{name}"] for name in _INFERRED if f"output/{name}" in data}


def _gradient_norms(model: DMD) -> dict[str, Array]:
    norms = {}
    for name, parameter in model.named_parameters():
        if (place := authors_name(name)) is not None:
            norm = 0.0 if parameter.grad is None else float(parameter.grad.double().norm())
            norms["/".join(place)] = np.float64(norm)
    return norms  # type: ignore[return-value]


def _numbers(named: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: value.detach().numpy() for name, value in named.items()}


def _under(data: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)}


def _absolute(expected: Array, got: Array) -> float:
    return float(np.abs(expected.astype(np.float64) - got).max())


def _relative(noise: float) -> Callable[[Array, Array], float]:
    """Relative to what is expected; two scalars that are both within ``noise`` of zero are equal."""

    def error(expected: Array, got: Array) -> float:
        a, b = float(expected), float(got)
        if max(abs(a), abs(b)) <= noise:  # false for NaN
            return 0.0
        return abs(a - b) / abs(a) if a else float("inf")

    return error


def _compare(
    group: str,
    expected: Mapping[str, Array],
    got: Mapping[str, Array],
    error: Callable[[Array, Array], float],
    tolerance: float,
) -> Group:
    if not expected:
        raise BadCheckpoint(f"no {group} in the file")
    if unknown := sorted(set(expected) - set(got)):
        raise BadCheckpoint(f"{group}: unknown name {unknown[0]!r}")
    worst, largest = "", -1.0
    for name, value in expected.items():
        if np.shape(value) != np.shape(got[name]):
            raise BadCheckpoint(f"{name}: shape {np.shape(value)} in the file, {np.shape(got[name])} here")
        here = error(np.asarray(value), np.asarray(got[name]))
        if not here <= largest:  # NaN is the worst of all
            worst, largest = name, here
        if np.isnan(here):
            break
    return Group(group, len(expected), worst, largest, tolerance)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.verify_reference", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.npz")
    path = parser.parse_args(argv).file
    try:
        groups = verify(path)
    except BadCheckpoint as error:
        print(f"verify_reference: {path}: {error}", file=sys.stderr)
        return 2
    except DataError as error:
        print(f"verify_reference: {error}", file=sys.stderr)
        return 2
    except FileNotFoundError:
        print(f"verify_reference: {path} is not there: expected a reference file", file=sys.stderr)
        return 2
    table = Table("group", "compared", "largest error", "tolerance", "in", "", title=path.name)
    for g in groups:
        verdict = "ok" if g.passed else "FAILED"
        table.add_row(g.name, str(g.compared), f"{g.error:.2e}", f"{g.tolerance:.0e}", g.worst, verdict)
    Console().print(table)
    return 0 if all(g.passed for g in groups) else 1


if __name__ == "__main__":
    raise SystemExit(main())
