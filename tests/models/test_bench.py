"""The benchmark compares like with like: the plain network is the network, written plainly."""

from __future__ import annotations

import json

import pytest
import torch

from models import bench
from models.bench_plain import PlainDMD
from models.checkpoint import authors_name
from models.dmd import DMD


@pytest.mark.parametrize("seed", [0, 1])
def test_the_plain_network_has_the_same_loss_and_gradient(seed: int) -> None:
    torch.manual_seed(seed)
    config = bench.PRESETS["tiny"]
    ours = DMD(config).eval()
    plain = PlainDMD(config).eval().copy_of(ours)
    features, labels = bench.windows(config, 6, "cpu")
    expected, got = bench.plain_loss(plain, features, labels), bench.our_loss(ours, features, labels)
    assert float(got.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.autograd.backward([expected, got])
    theirs = {name: p.grad for name, p in plain.net.named_parameters()}
    compared = 0
    for name, parameter in ours.named_parameters():
        place = authors_name(name)
        if place is None or place[0] != "dmd" or parameter.grad is None:
            continue
        torch.testing.assert_close(parameter.grad, theirs[place[1]], atol=1e-5, rtol=1e-3, msg=name)
        compared += 1
    assert compared > 400


def test_the_command_prints_one_ratio_of_medians(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["step", "--shapes", "tiny", "--batch", "3", "--repeats", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ratio"] == pytest.approx(found["ours_s"] / found["plain_s"])
    assert found["loss_difference"] < 1e-5
    assert found["parameters"] > 100_000


def test_networks_of_other_losses_are_not_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PlainDMD, "copy_of", lambda self, model: self)
    assert bench.main(["--shapes", "tiny", "--batch", "3"]) == 1
    assert "the losses differ" in capsys.readouterr().err
