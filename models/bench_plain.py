"""DMD as research code is usually written: what ``models.bench`` measures the network against.

The same function of the same weights, under the authors' parameter names: time-first tensors, every
query of every layer over whole causal masks, head-averaged attention weights, keys and values each
prepared on their own, Python loops over triplets and edges. Nothing is slower than it would be written
by somebody who follows the method step by step. Regression without masks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import sinusoids
from models.checkpoint import authors_name
from models.dmd import DMD, DMDConfig
from models.gd_unit import GDUnit
from models.losses import LossWeights

LETTERS = {"l": "text", "v": "vision", "a": "audio"}
OTHERS = {"l": "av", "v": "la", "a": "lv"}


class PlainAttention(nn.Module):
    """Multi-head attention over (T, B, w); also gives the weights, averaged over heads."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.width, self.heads, self.dropout = width, heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        (steps, batch, width), size = query.shape, self.width // self.heads
        q, k, v = (
            F.linear(x, self.in_proj_weight[i * width :][:width], self.in_proj_bias[i * width :][:width])
            for i, x in enumerate((query, key, value))
        )
        q = q * size**-0.5
        q, k, v = (
            x.contiguous().view(-1, batch * self.heads, size).transpose(0, 1) for x in (q, k, v)
        )  # (B * heads, T, w/heads)
        scores = torch.bmm(q, k.transpose(1, 2))  # (B * heads, T_q, T_k)
        if mask is not None:
            scores = scores + mask.unsqueeze(0)
        weights = F.dropout(F.softmax(scores, dim=-1), self.dropout, self.training)
        mixed = torch.bmm(weights, v).transpose(0, 1).contiguous().view(steps, batch, width)
        average = weights.view(batch, self.heads, steps, -1).sum(dim=1) / self.heads
        return self.out_proj(mixed), average


class PlainLayer(nn.Module):
    """Attention and a feed-forward block, each after a layer norm."""

    def __init__(self, width: int, heads: int, dropout: float, config: DMDConfig) -> None:
        super().__init__()
        self.config = config
        self.self_attn = PlainAttention(width, heads, dropout)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.layer_norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])

    def forward(self, x: Tensor, key: Tensor | None, value: Tensor | None) -> Tensor:
        c, residual = self.config, x
        x = self.layer_norms[0](x)
        key = x if key is None else self.layer_norms[0](key)
        value = x if value is None else self.layer_norms[0](value)
        mask = future_mask(len(x), len(key)).to(x.device) if c.causal else None
        x, _ = self.self_attn(x, key, value, mask)
        x = residual + F.dropout(x, c.residual_dropout, self.training)
        residual = x
        x = F.dropout(F.relu(self.fc1(self.layer_norms[1](x))), c.relu_dropout, self.training)
        return residual + F.dropout(self.fc2(x), c.residual_dropout, self.training)


def future_mask(query_steps: int, key_steps: int) -> Tensor:
    """(T_q, T_k): minus infinity where a query would look ahead."""
    ahead = torch.ones(query_steps, key_steps).fill_(float("-inf"))
    return torch.triu(ahead, 1 + abs(key_steps - query_steps))


class PlainEncoder(nn.Module):
    """Position codes, layers, a last layer norm; (T, B, w) -> (T, B, w)."""

    table: Tensor

    def __init__(self, width: int, layers: int, steps: int, dropout: float, config: DMDConfig) -> None:
        super().__init__()
        self.config, self.scale = config, width**0.5
        self.layers = nn.ModuleList([PlainLayer(width, config.heads, dropout, config) for _ in range(layers)])
        self.layer_norm = nn.LayerNorm(width)
        table = torch.cat([torch.zeros(1, width), sinusoids(steps, width)])  # row 0: padding
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor, key: Tensor | None = None, value: Tensor | None = None) -> Tensor:
        x = self.embed(x)
        key, value = (None if other is None else self.embed(other) for other in (key, value))
        for layer in self.layers:
            x = layer(x, key, value)
        return self.layer_norm(x)  # type: ignore[no-any-return]

    def embed(self, x: Tensor) -> Tensor:
        steps, batch, width = x.shape
        positions = torch.arange(1, steps + 1, device=x.device)[:, None].expand(steps, batch)
        positions = positions * (x[:, :, 0] != 0)
        codes = self.table.index_select(0, positions.reshape(-1)).view(steps, batch, width)
        return F.dropout(self.scale * x + codes.detach(), self.config.embedding_dropout, self.training)


class PlainDMD(nn.Module):
    """The network, and ``loss``, one pass of the objective for a batch."""

    def __init__(self, config: DMDConfig) -> None:
        super().__init__()
        if config.outputs != 1 or not (config.decouple and config.crossmodal):
            raise ValueError(f"the plain network is the whole one for regression, not {config}")
        self.config = c = config
        d, out = c.width, c.outputs
        steps = {x: c.input(m).projected_steps for x, m in LETTERS.items()}
        dropout = {x: c.input(m).attention_dropout for x, m in LETTERS.items()}
        net: dict[str, nn.Module] = {"encoder_c": nn.Conv1d(d, d, 1, bias=False)}
        for x, m in LETTERS.items():
            one, flat = c.input(m), d * steps[x]
            net[f"proj_{x}"] = nn.Conv1d(one.dim, d, one.kernel, one.stride, bias=False)
            net[f"encoder_s_{x}"] = nn.Conv1d(d, d, 1, bias=False)
            net[f"decoder_{x}"] = nn.Conv1d(2 * d, d, 1, bias=False)
            net[f"align_c_{x}"], net[f"proj_cosine_{x}"] = nn.Linear(flat, d), nn.Linear(flat, d)
            net[f"self_attentions_c_{x}"] = PlainEncoder(d, c.levels, steps[x], dropout[x], c)
            for y in OTHERS[x]:
                longest = max(steps[x], steps[y])
                net[f"trans_{x}_with_{y}"] = PlainEncoder(d, c.levels, longest, dropout[y], c)
            net[f"trans_{x}_mem"] = PlainEncoder(
                2 * d, max(c.levels, c.memory_levels), steps[x], dropout["l"], c
            )
            self._head(net, f"_{x}_low", flat, d, out)
            self._head(net, f"_{x}_high", 2 * d, 2 * d, out)
            net[f"weight_{x}"] = nn.Linear(2 * d, 2 * d)
        self._head(net, "_c", 3 * d, 3 * d, out)
        self._head(net, "", 9 * d, 9 * d, out)
        net["weight_c"] = nn.Linear(3 * d, 3 * d)
        self.net = nn.ModuleDict(net)
        prior = c.prior_temperature, c.gd_alpha
        self.homo_gd = GDUnit(out, d, c.homo_gd_size, c.homo_prior, *prior)  # for its layers alone
        self.hetero_gd = GDUnit(out, 2 * d, c.hetero_gd_size, c.hetero_prior, *prior)

    @staticmethod
    def _head(net: dict[str, nn.Module], name: str, width: int, hidden: int, out: int) -> None:
        net[f"proj1{name}"], net[f"proj2{name}"] = nn.Linear(width, hidden), nn.Linear(hidden, width)
        net[f"out_layer{name}"] = nn.Linear(width, out)

    def copy_of(self, model: DMD) -> PlainDMD:
        """Take the weights of ``model``, by the authors' names."""
        mine = dict(self.net.named_parameters())
        units = {"homo_gd": self.homo_gd, "hetero_gd": self.hetero_gd}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if (place := authors_name(name)) is not None:
                    where, theirs = place
                    target = mine[theirs] if where == "dmd" else units[where].get_parameter(theirs)
                    target.copy_(parameter)
        return self

    def head(self, x: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
        hidden = F.relu(self.net[f"proj1{name}"](x))
        dropped = F.dropout(hidden, self.config.output_dropout, self.training)
        features = self.net[f"proj2{name}"](dropped) + x
        return self.net[f"out_layer{name}"](features), hidden, features

    def forward(self, text: Tensor, audio: Tensor, vision: Tensor) -> dict[str, Tensor]:
        """text, audio, vision: (B, steps, dim). Everything the losses read, by the authors' names."""
        net, inputs = self.net, {"l": text, "v": vision, "a": audio}
        out: dict[str, Tensor] = {}
        for x in LETTERS:
            given = inputs[x]
            if x == "l":
                given = F.dropout(given, self.config.text_dropout, self.training)
            out[f"origin_{x}"] = net[f"proj_{x}"](given.transpose(1, 2))  # (B, d, T)
            s, c = net[f"encoder_s_{x}"](out[f"origin_{x}"]), net["encoder_c"](out[f"origin_{x}"])
            out[f"recon_{x}"] = net[f"decoder_{x}"](torch.cat([s, c], dim=1))
            out[f"again_{x}"] = net[f"encoder_s_{x}"](out[f"recon_{x}"])
            out[f"c_{x}_sim"] = net[f"align_c_{x}"](c.contiguous().view(len(c), -1))
            out[f"s_{x}"], out[f"c_{x}"] = s.permute(2, 0, 1), c.permute(2, 0, 1)  # (T, B, d)
            flat = out[f"s_{x}"].transpose(0, 1).contiguous().view(len(c), -1)
            out[f"proj_s_{x}"] = net[f"proj_cosine_{x}"](flat)
            flat = out[f"c_{x}"].transpose(0, 1).contiguous().view(len(c), -1)
            out[f"logits_{x}_homo"], out[f"repr_{x}_homo"], _ = self.head(flat, f"_{x}_low")
            attended = net[f"self_attentions_c_{x}"](out[f"c_{x}"])
            out[f"last_c_{x}"] = attended[-1]
        fused = torch.cat([out[f"last_c_{x}"] for x in LETTERS], dim=1)  # (B, 3d)
        out["logits_c"] = self.head(fused, "_c")[0]
        for x in LETTERS:
            views = [
                net[f"trans_{x}_with_{y}"](out[f"s_{x}"], out[f"s_{y}"], out[f"s_{y}"]) for y in OTHERS[x]
            ]
            last = net[f"trans_{x}_mem"](torch.cat(views, dim=2))[-1]  # (B, 2d)
            out[f"last_h_{x}"] = last
            out[f"logits_{x}_hetero"], _, out[f"repr_{x}_hetero"] = self.head(last, f"_{x}_high")
        gates = [torch.sigmoid(net[f"weight_{x}"](out[f"last_h_{x}"])) for x in LETTERS]
        gates.append(torch.sigmoid(net["weight_c"](fused)))
        out["output_logit"] = self.head(torch.cat(gates, dim=1), "")[0]
        return out

    def loss(self, out: dict[str, Tensor], labels: Tensor, weights: LossWeights) -> Tensor:
        """The objective; labels (B, 1)."""
        heads = ["output_logit", "logits_c"]
        heads += [f"logits_{x}_{space}" for space in ("homo", "hetero") for x in LETTERS]
        task = sum((F.l1_loss(out[name], labels) for name in heads), torch.zeros(()))
        zero = torch.zeros((), device=labels.device)
        recon, cycle, ort = zero, zero, zero
        for x in LETTERS:
            recon = recon + F.mse_loss(out[f"recon_{x}"], out[f"origin_{x}"])
            cycle = cycle + F.mse_loss(out[f"s_{x}"].permute(1, 2, 0), out[f"again_{x}"])
            s, c = (out[f"{part}_{x}"].reshape(-1, self.config.width) for part in "sc")
            ort = ort + F.cosine_embedding_loss(s, c, -torch.ones(len(s), device=s.device))
        ids = torch.cat([labels.view(-1)] * 3)
        margin = plain_margin(ids, torch.cat([out[f"c_{x}_sim"] for x in LETTERS]), weights.margin)
        reg, logit, _ = self.distil(out, "homo", self.homo_gd, weights)
        homo = weights.homo * (logit + reg)
        reg, logit, far = self.distil(out, "hetero", self.hetero_gd, weights)
        hetero = weights.hetero * (logit + far + reg)
        apart = recon + cycle + weights.margin_orthogonality * (margin + ort)
        return task + homo + hetero + weights.decoupling * apart

    def distil(
        self, out: dict[str, Tensor], space: str, unit: GDUnit, weights: LossWeights
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One GD-Unit, an edge at a time: regulariser, distance of logits, distance of representations."""
        logits = [out[f"logits_{x}_{space}"] for x in LETTERS]  # (B, 1) each
        reprs = [out[f"repr_{x}_{space}"] for x in LETTERS]  # (B, H) each
        z = [torch.cat([unit.W_logit(a), unit.W_repr(b)], dim=1) for a, b in zip(logits, reprs, strict=True)]
        pairs = [(to, source) for to in range(3) for source in range(3) if to != source]
        scores = [unit.W_edge(torch.cat([z[to], z[source]], dim=1)) for to, source in pairs]  # (B, 1) each
        edges = F.softmax(torch.cat(scores, dim=1) * unit.alpha, dim=1)  # (B, 6)
        reg = weights.edge_regulariser * (edges.mean(0) - unit.prior).pow(2).sum()
        near = far = torch.zeros((), device=edges.device)
        for i, (to, source) in enumerate(pairs):
            strength = edges[:, i] + unit.prior[i]  # (B,)
            near = near + (strength * (logits[to] - logits[source].detach()).abs().sum(1)).mean()
            student, teacher = reprs[to], reprs[source].detach()
            if space == "hetero":
                distance = F.cosine_embedding_loss(
                    student, teacher, -torch.ones(len(student), device=edges.device)
                )
                far = far + (strength * distance).mean()
            else:
                far = far + (strength * (student - teacher).abs().sum(1)).mean()
        return reg, weights.logit_distance * near, weights.repr_distance * far


def plain_margin(ids: Tensor, features: Tensor, margin: float) -> Tensor:
    """The margin loss, an anchor and a positive at a time; ids (n,), features (n, d)."""
    n = len(ids)
    first, second = features.repeat_interleave(n, dim=0), features.repeat(n, 1)  # (n * n, d) each
    norms = ((first**2).sum(1) + 1e-8).sqrt() * ((second**2).sum(1) + 1e-8).sqrt()
    cosine = ((first * second).sum(1) / norms).view(n, n)
    labels = ids.tolist()
    anchors = []
    for i in range(n):
        same = [j for j in range(n) if j != i and labels[j] == labels[i]]
        other = [k for k in range(n) if labels[k] != labels[i]]
        if not same or not other:
            continue
        distance = (ids[other] - ids[i]).abs()
        terms = [F.relu(margin * distance - cosine[i, j] + cosine[i, other]) for j in same]
        anchors.append(torch.cat(terms).mean())
    return torch.stack(anchors).mean() if anchors else features.new_zeros(())
