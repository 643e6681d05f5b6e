"""Word pieces inside the network: encoded as live, wherever they stand in a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from models import text_encoder
from models.dmd import DMD, DMDConfig, InputConfig
from models.emotion import EmotionNetwork
from tests.models import made

STEPS = 9


@pytest.fixture
def network(tmp_path: Path) -> EmotionNetwork:
    encoder = text_encoder.load(made.encoder(tmp_path, width=16))
    small = InputConfig(4, 12, 3, 3)
    config = DMDConfig(InputConfig(16, STEPS, 3), small, small, outputs=7, width=8, heads=2, levels=1)
    torch.manual_seed(0)
    return EmotionNetwork(DMD(config), encoder, trained_layers=1).eval()


def _windows(*lines: list[int]) -> tuple[Tensor, Tensor]:
    pieces, mask = torch.zeros(len(lines), STEPS, dtype=torch.long), torch.zeros(len(lines), STEPS)
    for row, line in enumerate(lines):
        if line:
            pieces[row, -len(line) :], mask[row, -len(line) :] = torch.tensor(line), 1
    return pieces, mask


def test_a_line_is_encoded_alone_as_beside_longer_ones_and_stands_at_the_end(network: EmotionNetwork) -> None:
    assert network.encoder is not None
    lines = [2, 5, 3], [2, 6, 7, 8, 9, 3], [], [2, 10, 3]
    embedded = network.embed(*_windows(*lines))
    for row, line in enumerate(lines):
        assert not embedded[row, : STEPS - len(line)].any()
        if line:
            ids = torch.tensor([line])
            alone = network.encoder(ids, torch.ones_like(ids))[0]
            torch.testing.assert_close(embedded[row, -len(line) :], alone, atol=1e-5, rtol=1e-4)


def test_a_batch_without_words_needs_no_encoder_pass(network: EmotionNetwork) -> None:
    assert not network.embed(*_windows([], [])).any()


def test_the_last_layers_alone_are_trained(network: EmotionNetwork) -> None:
    assert network.encoder is not None
    trained = {name for name, p in network.encoder.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("layers.0.") for name in trained)
    pieces, mask = _windows([2, 5, 3], [2, 6, 3])
    other = torch.randn(2, 12, 4), torch.randn(2, 12, 4)
    output = network(pieces, *other, mask, torch.ones(2, 12), torch.ones(2, 12))
    output.logits.sum().backward()
    assert network.encoder.layers[0].query.weight.grad is not None
    assert network.encoder.words.weight.grad is None


def test_features_go_in_as_they_are_and_pieces_need_an_encoder(network: EmotionNetwork) -> None:
    features = torch.randn(2, STEPS, 16)
    assert network.embed(features, None) is features
    with pytest.raises(ValueError, match="no text encoder"):
        EmotionNetwork(network.dmd).embed(torch.zeros(2, STEPS, dtype=torch.long), None)
