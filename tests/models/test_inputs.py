"""How a sense enters the network beyond the authors': lift, shared offset, wider heads, half precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.checkpoint import load, round_to_half, save
from models.dmd import DMD, DMDConfig, InputConfig
from models.export import example_inputs
from models.parts import Decoupled
from models.text_encoder import TextEncoder

PLAIN = InputConfig(5, 14, 4, 2)
SMALL = DMDConfig(
    text=InputConfig(6, 9, 3),
    audio=InputConfig(4, 21, 5, 3),
    vision=PLAIN,
    outputs=7,
    width=8,
    heads=2,
    levels=1,
)


def test_the_lift_is_a_layer_on_every_step_before_the_projection() -> None:
    torch.manual_seed(0)
    part = Decoupled(replace(PLAIN, lift=11), 8).eval()
    x = torch.randn(3, 14, 5)
    expected = part.project(part.lift(x).relu().mT)  # (3, 8, T')
    torch.testing.assert_close(part(x, None, 0.0)[0], expected)
    assert part.project.in_channels == 11


def test_what_lies_under_a_mask_does_not_pass_the_lift() -> None:
    torch.manual_seed(0)
    part = Decoupled(replace(PLAIN, lift=11, lift_dropout=0.5), 8).eval()
    x, mask = torch.randn(2, 14, 5), torch.ones(2, 14)
    mask[:, :6] = 0
    other = x.clone()
    other[:, :6] = 100.0
    torch.testing.assert_close(part(x, mask, 0.0)[0], part(other, mask, 0.0)[0])


def test_offset_noise_is_one_offset_for_all_real_steps_of_a_window_and_only_in_training() -> None:
    torch.manual_seed(0)
    part = Decoupled(InputConfig(5, 14, 1, 1, offset_noise=0.5), 5)  # one step in, one step out, as it is
    x, mask = torch.randn(4, 14, 5), torch.ones(4, 14)
    mask[:, :6] = 0
    moved = (part.train()(x, mask, 0.0)[0] - part.eval()(x, mask, 0.0)[0]).mT  # (4, 14, 5)
    torch.testing.assert_close(moved[:, :6], torch.zeros(4, 6, 5))
    torch.testing.assert_close(moved[:, 6:], moved[:, -1:].expand(-1, 8, -1), atol=1e-6, rtol=0)
    assert moved[:, -1].std() > 0.2 and moved[0, -1].ne(moved[1, -1]).all()


def test_a_wider_homogeneous_head_is_what_homo_gd_reads() -> None:
    torch.manual_seed(0)
    model = DMD(replace(SMALL, homo_head_size=13)).eval()
    out = model(*example_inputs(model, 2))
    assert out.homo_repr.shape == (3, 2, 13) and out.homo_summary.shape == (3, 2, 8)
    assert DMD(SMALL)(*example_inputs(model, 2)).homo_repr.shape == (3, 2, 8)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lift": -1}, "lift"),
        ({"offset_noise": -0.1}, "offset_noise"),
        ({"lift_dropout": 1.0}, "lift_dropout"),
    ],
)
def test_an_impossible_input_is_refused_by_name(change: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(SMALL, vision=replace(PLAIN, **change))  # type: ignore[arg-type]


def test_a_network_rounded_to_half_is_stored_in_half_the_bytes_without_a_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DMD(replace(SMALL, vision=replace(PLAIN, lift=64))).eval()
    before = {name: p.clone() for name, p in model.named_parameters()}
    round_to_half(model)
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters() if p.dim() > 1)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if p.dim() == 1)
    save(model, tmp_path / "half", half=True)
    save(model, tmp_path / "whole")
    again = load(tmp_path / "half")
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in again.named_parameters())
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    half, whole = (tmp_path / name / "network.safetensors" for name in ("half", "whole"))
    assert half.stat().st_size < 0.8 * whole.stat().st_size


def test_the_last_piece_of_a_line_carries_the_lines_mean_with_and_without_padding() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(20, 12, 8, 16, 1, 2).eval()
    ids = torch.randint(1, 20, (1, 5))
    with torch.no_grad():
        alone = encoder(ids, torch.ones_like(ids))  # (1, 5, 8)
        padded = torch.cat([ids, torch.zeros(1, 3, dtype=torch.long)], 1)
        mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
        torch.testing.assert_close(encoder(padded, mask)[:, :5], alone, atol=1e-5, rtol=0)
        # The pieces before are as the layers made them, so the mean gives away what the last one was.
        last = 5 * alone[:, -1] - alone[:, :-1].sum(1)  # (1, 8)
    assert not torch.allclose(last, alone[:, -1], atol=1e-3)
    torch.testing.assert_close(torch.cat([alone[:, :-1], last[:, None]], 1).mean(1), alone[:, -1])
