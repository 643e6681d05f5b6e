"""The paper's ablation: every combination of its switches is a network that trains, runs and exports."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import onnxruntime as ort
import pytest
import torch
from torch import Tensor

from models.ablation import ablate
from models.config import Ablation
from models.dmd import DMD, DMDConfig, InputConfig
from models.export import INPUTS, OUTPUTS, example_inputs, export_onnx
from models.losses import LossWeights, objective

SMALL = DMDConfig(
    text=InputConfig(6, 7, 3),
    audio=InputConfig(4, 14, 5, 3),
    vision=InputConfig(5, 10, 4, 2),
    outputs=7,
    width=8,
    heads=2,
    levels=2,
)
COMBINATIONS = [Ablation(*parts) for parts in itertools.product((True, False), repeat=4)]
DECOUPLING = {"reconstruction", "cycle", "margin", "orthogonality"}


def network(ablation: Ablation) -> tuple[DMD, LossWeights]:
    torch.manual_seed(0)
    config, weights = ablate(SMALL, LossWeights(), ablation)
    return DMD(config), weights


def losses(model: DMD, weights: LossWeights, inputs: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    labels = torch.tensor([0, 1, 1, 2, 0, 3])
    return objective(model(*inputs), labels, model.homo_gd, model.hetero_gd, weights)


@pytest.mark.parametrize("ablation", COMBINATIONS, ids=str)
def test_every_parameter_learns_in_every_combination(ablation: Ablation) -> None:
    model, weights = network(ablation)
    inputs = list(example_inputs(model, 6))
    for i in (3, 4, 5):
        inputs[i][i] = 0  # one missing sense each: its learned step is read
    total, parts = losses(model.train(), weights, tuple(inputs))
    torch.autograd.backward(total)
    idle = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    # The authors' network has summaries that no loss reads. A softmax does not see what its scores share.
    excused = {n for n in idle if n.startswith("hetero_summary.") or n.endswith("gd.W_edge.bias")}
    for unit, on in (("homo_gd.", ablation.homo_gd), ("hetero_gd.", ablation.hetero_gd)):
        excused |= {n for n in idle if n.startswith(unit) and not on}
    assert idle == excused
    assert ("reconstruction" in parts) == ablation.fd
    assert (float(parts["homo_total"].detach()) > 0) == ablation.homo_gd
    assert (float(parts["hetero_total"].detach()) > 0) == ablation.hetero_gd


@pytest.mark.parametrize("ablation", COMBINATIONS, ids=str)
def test_every_combination_infers_what_it_was_trained_to_say(ablation: Ablation) -> None:
    model, _ = network(ablation)
    inputs = list(example_inputs(model, 3))
    inputs[3][0], inputs[5][1] = 0, 0
    inputs[4][2, :5] = 0
    with torch.no_grad():
        output, live = model.eval()(*inputs), model.infer(*inputs)
    torch.testing.assert_close(output.logits, live.logits, atol=1e-6, rtol=0)
    alone = (live.text_logits, live.vision_logits, live.audio_logits)
    torch.testing.assert_close(output.homo_logits, torch.stack(alone), atol=1e-6, rtol=0)
    assert output.homo_logits.shape == output.hetero_logits.shape == (3, 3, 7)
    assert bool(output.logits.isfinite().all())
    assert (output.homo_summary is None) == (not ablation.fd)


def test_an_ablated_network_exports(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = replace(SMALL, levels=1, memory_levels=1)
    model = DMD(ablate(small, LossWeights(), Ablation(fd=False, ca=False))[0])
    export_onnx(model, tmp_path / "network.onnx")
    inputs = example_inputs(model, 3)
    inputs[4][0] = 0
    session = ort.InferenceSession(str(tmp_path / "network.onnx"), providers=["CPUExecutionProvider"])
    got = session.run(None, {name: x.numpy() for name, x in zip(INPUTS, inputs, strict=True)})
    with torch.no_grad():
        expected = model.infer(*inputs)
    for name, value in zip(OUTPUTS, got, strict=True):
        torch.testing.assert_close(torch.from_numpy(value), getattr(expected, name), atol=1e-5, rtol=0)


def test_without_decoupling_both_branches_read_the_projection_and_its_losses_are_gone() -> None:
    model, weights = network(Ablation(fd=False))
    names = {name for name, _ in model.named_parameters()}
    assert not [n for n in names if re.search(r"encode_(homo|hetero)|decode\.|summary", n)]
    inputs = example_inputs(model, 6)
    output = model.eval()(*inputs)
    for projected, homo, hetero in zip(output.projected, output.homo, output.hetero, strict=True):
        assert torch.equal(projected, homo) and torch.equal(projected, hetero)
    total, parts = losses(model, weights, inputs)
    assert not DECOUPLING & set(parts)
    kept = parts["task"] + parts["homo_total"] + parts["hetero_total"]
    torch.testing.assert_close(total, kept)


def test_without_crossmodal_attention_a_modality_alone_does_not_hear_the_others() -> None:
    whole, _ = network(Ablation())
    alone, _ = network(Ablation(ca=False))
    for model, moved in ((whole, True), (alone, False)):
        inputs = list(example_inputs(model, 2))
        with torch.no_grad():
            before, live = model.eval()(*inputs), model.infer(*inputs)
            inputs[1] += 1
            after, later = model(*inputs), model.infer(*inputs)
        _, vision, audio = (before.hetero_logits - after.hetero_logits).abs().amax((1, 2))
        assert bool(vision > 1e-6) == moved
        assert float(audio) > 1e-6
        assert torch.equal(live.vision_logits, later.vision_logits)
        assert not torch.equal(live.audio_logits, later.audio_logits)
        assert float((before.logits - after.logits).abs().max()) > 1e-6


def test_a_network_without_crossmodal_attention_is_as_large() -> None:
    sizes = [
        sum(p.numel() for p in network(ablation)[0].parameters())
        for ablation in (Ablation(), Ablation(ca=False))
    ]
    assert sizes[0] == sizes[1]


def test_what_the_configuration_took_out_the_switches_do_not_put_back() -> None:
    without = DMDConfig(decouple=False, crossmodal=False)
    config, weights = ablate(without, LossWeights(homo=0.0), Ablation())
    assert (config, weights) == (without, LossWeights(homo=0.0))
