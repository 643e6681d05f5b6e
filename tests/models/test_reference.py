"""The network equals the authors': weights, outputs, losses and gradients of the reference files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import verify_reference
from models.checkpoint import BadCheckpoint, authors_name, load_authors_pth
from models.dmd import DMD
from models.verify_reference import reference_config, verify

SHARED = Path(os.environ.get("EMOTION_SHARED", Path(__file__).parents[2].parent / "shared"))
FILES = [SHARED / "reference" / f"dmd_mosi_{kind}.npz" for kind in ("aligned", "unaligned")]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def reference(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    if not path.is_file():
        pytest.skip(f"{path} is absent; set EMOTION_SHARED to the folder that holds reference/")
    return path


def test_every_output_loss_and_gradient_of_the_authors_is_matched(reference: Path) -> None:
    groups = {group.name: group for group in verify(reference)}
    assert {name: g.error for name, g in groups.items() if not g.passed} == {}
    assert groups["outputs"].compared == 40
    assert groups["losses"].compared == 15
    assert groups["gradient norms"].compared >= 438


def _changed(reference: Path, folder: Path, **changes: Any) -> Path:
    with np.load(reference) as archive:
        data = {key: archive[key] for key in archive.files}
    for key, change in changes.items():
        if change is None:
            del data[key]
        else:
            data[key] = change(data[key])
    path = folder / "changed.npz"
    np.savez(path, **data)
    return path


def _nudged(values: Any) -> Any:
    return values * np.float32(1.001)


@pytest.mark.parametrize(
    "key",
    ["state/dmd/encoder_c.weight", "state/homo_gd/W_edge.weight", "output/edges_hetero", "loss/margin",
     "gradnorm/dmd/proj_v.weight"],
)  # fmt: skip
def test_one_number_off_by_a_thousandth_is_status_one(key: str, tmp_path: Path, aligned: Path) -> None:
    assert verify_reference.main([str(_changed(aligned, tmp_path, **{key: _nudged}))]) == 1


def test_a_nan_is_status_one(tmp_path: Path, aligned: Path) -> None:
    path = _changed(aligned, tmp_path, **{"output/c_l": lambda x: x * np.nan})
    assert verify_reference.main([str(path)]) == 1


@pytest.fixture
def aligned() -> Path:
    if not FILES[0].is_file():
        pytest.skip(f"{FILES[0]} is absent; set EMOTION_SHARED to the folder that holds reference/")
    return FILES[0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"config": None}, "config"),
        ({"state/dmd/proj_l.weight": None}, "proj_l.weight is missing"),
        ({"state/dmd/proj_l.weight": lambda x: x[:, :3]}, "shape"),
        ({"config": lambda c: np.array(str(c).replace("nlevels", "levels"))}, "nlevels"),
        ({"config": lambda c: np.array("{")}, "config"),
        ({"input/text": lambda x: x[:, :7]}, "text"),
        ({"output/c_l": lambda x: x[:1]}, "c_l"),
    ],
)
def test_an_unusable_file_is_status_two_and_one_line(
    changes: dict[str, Any], says: str, tmp_path: Path, aligned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify_reference.main([str(_changed(aligned, tmp_path, **changes))]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_file_that_is_no_archive_is_status_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    junk = tmp_path / "junk.npz"
    junk.write_bytes(b"PK\x03\x04 not really")
    assert verify_reference.main([str(junk)]) == 2
    assert verify_reference.main([str(tmp_path / "none.npz")]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_the_authors_pth_is_read_by_its_shapes(tmp_path: Path, aligned: Path) -> None:
    with np.load(aligned) as archive:
        config, _ = reference_config(json.loads(str(archive["config"])))
        state = {
            key.removeprefix("state/dmd/"): torch.from_numpy(archive[key])
            for key in archive.files
            if key.startswith("state/dmd/")
        }
        expected = archive["output/output_logit"]
        inputs = [torch.from_numpy(archive[f"input/{m}"]) for m in ("text", "audio", "vision")]
    torch.save(state, tmp_path / "dmd.pth")
    model = load_authors_pth(tmp_path / "dmd.pth", heads=2)
    assert (model.config.text, model.config.levels) == (config.text, config.levels)
    with torch.no_grad():
        np.testing.assert_allclose(model(*inputs).logits, expected, atol=1e-5)


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/nonexistent"),))


def test_a_pickle_of_anything_but_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"encoder_c.weight": _Payload()}, tmp_path / "evil.pth")
    with pytest.raises(BadCheckpoint, match="refused"):
        load_authors_pth(tmp_path / "evil.pth")
    torch.save({"encoder_c.weight": 3}, tmp_path / "number.pth")
    with pytest.raises(BadCheckpoint, match="refused"):
        load_authors_pth(tmp_path / "number.pth")


def test_every_parameter_has_a_place_of_its_own_in_the_authors_layout(aligned: Path) -> None:
    with np.load(aligned) as archive:
        config, _ = reference_config(json.loads(str(archive["config"])))
        theirs = {key.removeprefix("gradnorm/") for key in archive.files if key.startswith("gradnorm/")}
    places = [authors_name(name) for name, _ in DMD(config).named_parameters()]
    ours = ["/".join(place) for place in places if place is not None]
    assert sorted(ours) == sorted(theirs)
