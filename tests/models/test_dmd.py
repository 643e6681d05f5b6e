"""What the network does beyond the authors': masks, missing senses, classes, strides; the GD-Unit; losses."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models import blockwise
from models.attention import Dropouts, TransformerEncoder, attend, attention_bias
from models.blockwise import attend_in_blocks, drop, plan
from models.checkpoint import BadCheckpoint, load, save
from models.dmd import DMD, EDGE_ORDER, MODALITIES, DMDConfig, Inference, InputConfig
from models.gd_unit import gd_unit
from models.losses import LossWeights, distillation, margin_loss, objective

SENSES = ("text", "audio", "vision")
SMALL = DMDConfig(
    text=InputConfig(6, 9, 3),
    audio=InputConfig(4, 21, 5, 3),
    vision=InputConfig(5, 14, 4, 2),
    outputs=7,
    width=8,
    heads=2,
    levels=2,
)


@pytest.fixture(scope="module")
def model() -> DMD:
    torch.manual_seed(0)
    return DMD(SMALL).eval()


def window(batch: int = 3, config: DMDConfig = SMALL) -> dict[str, Tensor]:
    sizes = {s: config.input(s) for s in SENSES}
    features = {s: torch.randn(batch, c.steps, c.dim) for s, c in sizes.items()}
    return features | {f"{s}_mask": torch.ones(batch, c.steps) for s, c in sizes.items()}


def infer(model: DMD, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        result = model.infer(**inputs)
    return {field.name: getattr(result, field.name) for field in fields(Inference)}


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("missing", [(s,) for s in SENSES] + [("text", "audio"), SENSES])
def test_a_missing_sense_gives_finite_numbers_whatever_lies_under_its_mask(
    model: DMD, missing: tuple[str, ...]
) -> None:
    inputs = window()
    for sense in missing:
        inputs[f"{sense}_mask"].zero_()
    first = infer(model, inputs)
    assert all(bool(x.isfinite().all()) for x in first.values())
    for sense, garbage in zip(missing, (float("nan"), 1e30, float("inf")), strict=False):
        inputs[sense] = torch.full_like(inputs[sense], garbage)
    assert largest_difference(first, infer(model, inputs)) == 0


def test_a_missing_sense_is_another_input_than_silence(model: DMD) -> None:
    inputs = window()
    inputs["vision"].zero_()
    silent = infer(model, inputs)
    inputs["vision_mask"].zero_()
    assert largest_difference(silent, infer(model, inputs)) > 1e-4


def test_the_learned_step_of_a_missing_sense_receives_gradient_only_when_it_is_missing() -> None:
    model = DMD(SMALL)
    inputs = window()
    inputs["audio_mask"][1] = 0
    model(**inputs).logits.square().sum().backward()
    grads = {s: model.decoupled[s].absent.grad for s in SENSES}
    assert grads["audio"] is not None and float(grads["audio"].abs().sum()) > 0
    assert grads["text"] is None or float(grads["text"].abs().sum()) == 0


def test_what_lies_in_the_front_padding_changes_nothing(model: DMD) -> None:
    inputs, garbage = window(), window()
    lengths = {"text": 4, "audio": 11, "vision": 6}
    for sense, real in lengths.items():
        inputs[f"{sense}_mask"][:, :-real] = 0
        garbage[sense][:, -real:] = inputs[sense][:, -real:]
        garbage[f"{sense}_mask"] = inputs[f"{sense}_mask"]
    assert largest_difference(infer(model, inputs), infer(model, garbage)) == 0
    garbage["audio"][:, -1] += 1
    assert largest_difference(infer(model, inputs), infer(model, garbage)) > 1e-4


@pytest.mark.parametrize("sense", SENSES)
def test_the_newest_step_is_read_whatever_the_stride(model: DMD, sense: str) -> None:
    inputs = window()
    before = infer(model, inputs)
    inputs[sense][:, -1] += 1
    assert largest_difference(before, infer(model, inputs)) > 1e-5


def test_a_window_without_a_mask_is_a_window_of_real_steps(model: DMD) -> None:
    inputs = window()
    live = infer(model, inputs)
    with torch.no_grad():
        plain = model(*(inputs[s] for s in SENSES))
        partly = model(*(inputs[s] for s in SENSES), audio_mask=inputs["audio_mask"])
    torch.testing.assert_close(plain.logits, live["logits"], atol=1e-6, rtol=0)
    torch.testing.assert_close(plain.homo_logits[1], live["vision_logits"], atol=1e-6, rtol=0)
    torch.testing.assert_close(plain.homo_logits[2], live["audio_logits"], atol=1e-6, rtol=0)
    torch.testing.assert_close(partly.logits, plain.logits, atol=1e-6, rtol=0)


def test_a_window_in_a_batch_is_the_window_alone(model: DMD) -> None:
    inputs = window()
    inputs["text_mask"][0] = 0
    inputs["vision_mask"][1, :5] = 0
    alone = infer(model, {name: x[1:2] for name, x in inputs.items()})
    together = {name: x[1:2] for name, x in infer(model, inputs).items()}
    assert largest_difference(alone, together) < 1e-6


def test_normalisation_is_part_of_the_network() -> None:
    torch.manual_seed(0)
    model, inputs = DMD(SMALL).eval(), window()
    mean, scale = torch.randn(4), torch.rand(4) + 0.5
    plain = infer(model, inputs)
    model.set_normalisation("audio", mean, scale)
    inputs["audio"] = inputs["audio"] / scale + mean
    assert largest_difference(plain, infer(model, inputs)) < 1e-5


def test_inputs_of_another_size_are_refused_by_name(model: DMD) -> None:
    inputs = window()
    inputs["vision"] = inputs["vision"][:, 1:]
    with pytest.raises(ValueError, match=r"vision: expected \(batch, 14, 5\)"):
        model.infer(**inputs)


def test_a_saved_network_is_the_same_network(model: DMD, tmp_path: Path) -> None:
    save(model, tmp_path, {"labels": ["a"]})
    inputs = window()
    again = load(tmp_path)
    assert again.config == model.config
    assert largest_difference(infer(model, inputs), infer(again, inputs)) == 0
    (tmp_path / "network.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(BadCheckpoint, match="no usable network"):
        load(tmp_path)


def _plain_edges(logits: Tensor, reprs: Tensor, *weights: Tensor, alpha: float) -> Tensor:
    w_logit, b_logit, w_repr, b_repr, w_edge, b_edge = weights
    z = torch.cat([logits @ w_logit.t() + b_logit, reprs @ w_repr.t() + b_repr], dim=-1)
    scores = [torch.cat([z[j], z[i]], 1) @ w_edge[0] + b_edge for j in range(3) for i in range(3) if i != j]
    return (torch.stack(scores, 1) * alpha).softmax(1)


def _gd_arguments() -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(3, 4, 7), (3, 4, 5), (6, 7), (6,), (6, 5), (6,), (1, 24), (1,)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def test_the_operator_is_the_papers_edge_and_its_gradient_is_exact() -> None:
    arguments = _gd_arguments()
    torch.testing.assert_close(gd_unit(*arguments, 0.5), _plain_edges(*arguments, alpha=0.5))
    assert torch.autograd.gradcheck(lambda *a: gd_unit(*a, 0.5), arguments)


def test_the_operator_passes_opcheck() -> None:
    arguments = [a.detach().float().requires_grad_() for a in _gd_arguments()]
    torch.library.opcheck(gd_unit, (*arguments, 0.125))


def test_edges_are_named_teacher_to_student_and_the_prior_lets_text_teach(model: DMD) -> None:
    assert EDGE_ORDER == (
        "vision->text", "audio->text", "text->vision", "audio->vision", "text->audio", "vision->audio"
    )  # fmt: skip
    strong = {name for name, p in zip(EDGE_ORDER, model.homo_gd.prior, strict=True) if p > 1 / 6}
    assert strong == {"text->vision", "text->audio"}


@pytest.mark.parametrize("outputs", [1, 7])
@pytest.mark.parametrize("edge", range(6))
def test_an_edge_moves_its_student_and_never_its_teacher(edge: int, outputs: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 2, outputs, requires_grad=True)
    reprs = torch.rand(3, 2, 5, requires_grad=True)
    edges, prior = torch.zeros(2, 6), torch.zeros(6)
    edges[:, edge] = 1
    parts = distillation(logits, reprs, edges, prior, LossWeights(), cosine_repr=True)
    (parts["logit"] + parts["repr"]).backward()
    assert logits.grad is not None and reprs.grad is not None
    student = EDGE_ORDER[edge].split("->")[1]
    for grad in (logits.grad, reprs.grad):
        moved = {m for m, g in zip(MODALITIES, grad, strict=True) if float(g.abs().sum()) > 0}
        assert moved == {student}


def test_a_missing_sense_neither_teaches_nor_learns(model: DMD) -> None:
    inputs, labels = window(), torch.tensor([0, 1, 2])
    for sense in ("audio", "vision"):
        inputs[f"{sense}_mask"].zero_()
    with torch.no_grad():
        _, parts = objective(model(**inputs), labels, model.homo_gd, model.hetero_gd)
        assert float(parts["homo_logit"]) == float(parts["hetero_repr"]) == 0
        inputs["audio_mask"].fill_(1)
        _, parts = objective(model(**inputs), labels, model.homo_gd, model.hetero_gd)
    assert float(parts["homo_logit"]) > 0


@pytest.mark.parametrize("outputs", [1, 7])
def test_the_objective_trains_every_parameter_that_a_loss_reads(outputs: int) -> None:
    torch.manual_seed(0)
    config = DMDConfig(SMALL.text, SMALL.vision, SMALL.audio, outputs, SMALL.width, SMALL.heads, levels=1)
    model, inputs = DMD(config), window(4)
    inputs["text_mask"][0] = 0
    inputs["audio_mask"][1] = 0
    inputs["vision_mask"][2] = 0
    labels = torch.tensor([0, 3, 3, 1]) if outputs > 1 else torch.tensor([[0.5], [-1.0], [-1.0], [2.0]])
    total, parts = objective(model(**inputs), labels, model.homo_gd, model.hetero_gd)
    total.backward()
    assert all(bool(part.isfinite()) for part in parts.values())
    grads = {name: p.grad for name, p in model.named_parameters()}
    idle = {name for name, g in grads.items() if g is None}
    assert idle == {f"hetero_summary.{s}.{part}" for s in SENSES for part in ("weight", "bias")}
    assert all(bool(g.isfinite().all()) for g in grads.values() if g is not None)


def test_a_few_steps_lower_the_objective() -> None:
    torch.manual_seed(0)
    model, inputs = DMD(SMALL).train(), window(6)
    labels = torch.arange(6)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        total, parts = objective(model(**inputs), labels, model.homo_gd, model.hetero_gd)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(parts["task"].detach()))
    assert losses[-1] < 0.8 * losses[0]


def _plain_margin(features: Tensor, ids: Tensor, margin: float) -> float:
    unit = features / (features.square().sum(1, keepdim=True) + 1e-8).sqrt()
    cosine, total, anchors = unit @ unit.t(), 0.0, 0
    for i in range(len(ids)):
        terms = [
            max(0.0, margin * abs(float(ids[i] - ids[k])) - float(cosine[i, j]) + float(cosine[i, k]))
            for j in range(len(ids)) for k in range(len(ids))
            if j != i and ids[j] == ids[i] and ids[k] != ids[i]
        ]  # fmt: skip
        if terms:
            total, anchors = total + sum(terms) / len(terms), anchors + 1
    return total / max(anchors, 1)


def test_the_margin_loss_is_its_triplet_sum_also_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    summary, labels = torch.randn(3, 5, 4), torch.tensor([0.0, 1.0, 1.0, -2.0, 0.0])
    expected = _plain_margin(summary.flatten(0, 1), labels.repeat(3), 0.15)
    assert float(margin_loss(summary, labels)) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr("models.losses._ANCHOR_ELEMENTS", 500)
    assert float(margin_loss(summary, labels)) == pytest.approx(expected, rel=1e-5)
    present = torch.ones(3, 5, dtype=torch.bool)
    present[1, 2] = False
    kept = present.flatten()
    expected = _plain_margin(summary.flatten(0, 1)[kept], labels.repeat(3)[kept], 0.15)
    assert float(margin_loss(summary, labels, present)) == pytest.approx(expected, rel=1e-5)
    assert float(margin_loss(summary, torch.zeros(5))) == 0


def test_a_weight_of_zero_switches_a_part_off(model: DMD) -> None:
    output, labels = model(**window()), torch.tensor([0, 1, 2])
    off = LossWeights(decoupling=0, homo=0, hetero=0)
    total, parts = objective(output, labels, model.homo_gd, model.hetero_gd, off)
    assert float(total.detach()) == pytest.approx(float(parts["task"].detach()))


def _encoder(*, last_only: bool = False) -> TransformerEncoder:
    torch.manual_seed(0)
    return TransformerEncoder(8, 2, 2, 20, Dropouts(), last_only=last_only).eval()


def test_a_masked_step_of_the_memory_is_not_attended_to() -> None:
    encoder, x, memory = _encoder(), torch.randn(2, 6, 8), torch.randn(2, 9, 8)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, :3] = False
    with torch.no_grad():
        before = encoder(x, memory, mask)
        memory[:, :3] = torch.randn(2, 3, 8)
        torch.testing.assert_close(encoder(x, memory, mask), before, atol=0, rtol=0)
        assert float((encoder(x, memory) - before).abs().max()) > 1e-3


@pytest.mark.parametrize("key_steps", [6, 9, 4])
def test_a_query_sees_no_later_step_than_its_reach(key_steps: int) -> None:
    encoder, x, memory = _encoder(), torch.randn(1, 6, 8), torch.randn(1, key_steps, 8)
    with torch.no_grad():
        before = encoder(x, memory)
        memory[:, -1] = torch.randn(8)  # a shift would not pass the layer norm
        moved = (encoder(x, memory) - before).abs().amax(dim=(0, 2)) > 0
    first = key_steps - 1 - abs(key_steps - 6)  # the first query whose reach holds the newest key
    assert moved.tolist() == [t >= first for t in range(6)]


def test_the_newest_step_alone_is_the_newest_step_of_all() -> None:
    x, mask = torch.randn(2, 7, 8), torch.ones(2, 7, dtype=torch.bool)
    mask[0, :4] = False
    with torch.no_grad():
        everything = _encoder()(x, key_mask=mask)
        torch.testing.assert_close(_encoder(last_only=True)(x, key_mask=mask), everything[:, -1])


def test_every_encoder_hides_the_padding_of_what_it_attends_to(model: DMD) -> None:
    inputs, real = window(1), {"text": 4, "audio": 9, "vision": 8}
    for sense, steps in real.items():
        inputs[f"{sense}_mask"][:, :-steps] = 0
    shown = {"text": 4, "audio": 3, "vision": 4}  # projected steps whose newest input step is real
    seen: dict[str, int] = {}

    def watch(name: str) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            mask = kwargs["key_mask"] if "key_mask" in kwargs else args[2]
            seen[name] = int(mask.sum())

        return hook

    encoders = [(n, m) for n, m in model.named_modules() if isinstance(m, TransformerEncoder)]
    handles = [m.register_forward_pre_hook(watch(n), with_kwargs=True) for n, m in encoders]
    infer(model, inputs)
    for handle in handles:
        handle.remove()
    assert seen == {name: shown[name.replace(".", "_").split("_")[-1]] for name, _ in encoders}
    assert len(seen) == 12


def _padding(kind: str, steps: int) -> Tensor | None:
    if kind == "none":
        return None
    if kind == "front":
        return torch.arange(steps)[None] >= torch.tensor([0, 3, steps - 1])[:, None]
    return torch.rand(3, steps) > (0.5 if kind == "holes" else 1.0)


@pytest.mark.parametrize("elements", [60, 600])  # parts of a window; more than one window
@pytest.mark.parametrize("padding", ["none", "front", "holes", "all"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("query_steps", "key_steps"), [(12, 12), (7, 20), (20, 7), (1, 5), (12, 11)])
def test_attention_in_blocks_is_attention_written_out(
    query_steps: int,
    key_steps: int,
    causal: bool,
    padding: str,
    elements: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blockwise, "_BLOCK_ELEMENTS", elements)
    torch.manual_seed(0)
    steps = query_steps, key_steps, key_steps
    q, k, v = (torch.randn(3, 2, t, 4, dtype=torch.float64, requires_grad=True) for t in steps)
    given, mask = torch.randn_like(q), _padding(padding, key_steps)
    blocks = plan(3, query_steps, key_steps, 2, mask, causal)
    if query_steps == key_steps:
        assert len(blocks.blocks) == (6 if elements == 60 else 2)
    plain = attend(q, k, v, attention_bias(query_steps, key_steps, mask, causal, q.device), 0.0)
    fast = attend_in_blocks(q.mT, k.mT, v.mT, blocks, 0.0).mT
    torch.testing.assert_close(fast, plain)
    for mine, theirs in zip(
        torch.autograd.grad(fast, (q, k, v), given), torch.autograd.grad(plain, (q, k, v), given), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_dropout_in_blocks_has_the_exact_gradient_of_what_it_dropped() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 2, 3, 6, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    blocks = plan(2, 6, 6, 2, None, True)

    def same_draw(*x: Tensor) -> Tensor:
        torch.manual_seed(1)
        return attend_in_blocks(x[0], x[1], x[2], blocks, 0.4)

    assert torch.autograd.gradcheck(same_draw, inputs)
    assert not torch.allclose(same_draw(*inputs), attend_in_blocks(*inputs, blocks, 0.4))


def test_threads_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "_BLOCK_ELEMENTS", 1000)
    inputs = [torch.randn(5, 2, 3, 40, requires_grad=True) for _ in range(3)]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            mixed = attend_in_blocks(*inputs, plan(5, 40, 40, 2, None, True), 0.4)
            results.append((mixed, *torch.autograd.grad(mixed.square().sum(), inputs)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*results, strict=True):
        torch.testing.assert_close(one, three, atol=1e-6, rtol=1e-5)


def test_dropout_keeps_its_share_and_the_mean() -> None:
    torch.manual_seed(0)
    for p in (0.1, 0.3, 0.5):
        x = drop(torch.ones(200_001), p, True)
        assert float((x == 0).float().mean()) == pytest.approx(p, abs=0.005)
        assert float(x.mean()) == pytest.approx(1, abs=0.01)
        halves = x[: 4 * 50_000].view(-1, 4)  # the four draws of one random number
        assert (halves == 0).float().mean(0).tolist() == pytest.approx([p] * 4, abs=0.01)
        assert float(torch.corrcoef(halves.T).triu(1).abs().max()) < 0.02
    torch.manual_seed(0)
    scores = torch.zeros(16, 4, 2, 64)  # equal weights: each output is the share of values that were kept
    ones = torch.ones(16, 4, 2, 64)
    mixed = attend_in_blocks(scores, scores, ones, plan(16, 64, 64, 4, None, True), 0.3)
    assert float(mixed.mean()) == pytest.approx(1, abs=0.01)
    assert torch.equal(drop(ones, 0.3, False), ones)


def test_a_network_trains_as_it_evaluates_where_nothing_is_dropped() -> None:
    torch.manual_seed(0)
    nothing = {f"{name}_dropout": 0.0 for name in ("text", "embedding", "output")}
    config = replace(SMALL, **nothing, text=InputConfig(6, 9, 3))  # type: ignore[arg-type]
    model, inputs = DMD(config), window()
    inputs["audio_mask"][0, :15] = 0
    inputs["text_mask"][1] = 0
    with torch.no_grad():
        trained, evaluated = model.train()(**inputs), model.eval()(**inputs)
    for name in ("logits", "homo_logits", "hetero_logits", "last_hidden"):
        torch.testing.assert_close(getattr(trained, name), getattr(evaluated, name), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"without 1, not .*text_dropout"):
        replace(SMALL, text_dropout=1.0)
