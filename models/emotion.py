"""The whole network that is trained: DMD, and before it, where words come as pieces, a text encoder.

The paper fine-tunes BERT with DMD (section 4.1). Here any BERT of ``models.text_encoder`` can stand there;
live, it runs as a graph of its own, and only when the words have changed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.dmd import DMD, DMDOutput, Inference
from models.text_encoder import TextEncoder

GROUP = 12  # sentences that are encoded at once


class EmotionNetwork(nn.Module):
    """``text`` is (B, T_l, D_l) features, or (B, T_l) int64 word pieces for ``encoder``."""

    def __init__(self, dmd: DMD, encoder: TextEncoder | None = None, trained_layers: int = -1) -> None:
        super().__init__()
        self.dmd, self.encoder = dmd, encoder
        self._known: dict[bytes, Tensor] | None = None  # embeddings of a frozen encoder, by the pieces
        if encoder is not None and trained_layers >= 0:
            encoder.requires_grad_(False)
            for layer in list(encoder.layers)[len(encoder.layers) - trained_layers :]:
                layer.requires_grad_(True)

    def freeze_encoder(self) -> None:
        """Train the encoder no further; every line is then encoded once, and remembered in half precision."""
        if self.encoder is not None:
            self.encoder.requires_grad_(False)
            self._known = {}

    def forward(
        self,
        text: Tensor,
        audio: Tensor,
        vision: Tensor,
        text_mask: Tensor | None = None,
        audio_mask: Tensor | None = None,
        vision_mask: Tensor | None = None,
    ) -> DMDOutput:
        """What the losses need; shapes and masks as in ``DMD.forward``."""
        words = self.embed(text, text_mask)
        output: DMDOutput = self.dmd(words, audio, vision, text_mask, audio_mask, vision_mask)
        return output

    def infer(
        self,
        text: Tensor,
        audio: Tensor,
        vision: Tensor,
        text_mask: Tensor,
        audio_mask: Tensor,
        vision_mask: Tensor,
    ) -> Inference:
        """What a live window needs; shapes and masks as in ``DMD.infer``."""
        return self.dmd.infer(self.embed(text, text_mask), audio, vision, text_mask, audio_mask, vision_mask)

    def embed(self, text: Tensor, mask: Tensor | None) -> Tensor:
        """Word pieces (B, S), right-aligned under ``mask``, as embeddings (B, S, width) in their places.

        Only the sentences that have a piece are encoded, each from position 0, as live, and beside others of
        about its length. Raises ValueError for pieces without an encoder.
        """
        if text.is_floating_point():
            return text
        if self.encoder is None:
            raise ValueError("text is word pieces, and the network has no text encoder")
        if mask is None:
            mask = torch.ones_like(text)
        lengths = mask.gt(0.5).sum(1)  # (B,)
        width = self.encoder.norm.weight.shape[0]
        embedded = torch.zeros(*text.shape, width, device=text.device)  # (B, S, width)
        if self._known is not None:
            return self._recall(text, lengths, embedded)
        order = lengths.argsort(stable=True)
        order = order[lengths[order] > 0]
        if not len(order):
            return embedded
        rows, columns, values = [], [], []
        for start in range(0, len(order), GROUP):
            some = order[start : start + GROUP]  # (b,)
            longest = int(lengths[some[-1]])
            place = text.shape[1] - lengths[some, None] + torch.arange(longest, device=text.device)
            real = place < text.shape[1]  # (b, longest); false where padded
            place = place.clamp(max=text.shape[1] - 1)
            left = text[some].gather(1, place)  # (b, longest), left-aligned
            encoded = self.encoder(left, real.long())  # (b, longest, width)
            row, column = real.nonzero(as_tuple=True)
            rows.append(some[row])
            columns.append(place[row, column])
            values.append(encoded[row, column].float())
        return embedded.index_put((torch.cat(rows), torch.cat(columns)), torch.cat(values))

    @torch.no_grad()
    def _recall(self, text: Tensor, lengths: Tensor, embedded: Tensor) -> Tensor:
        """``embed`` for a frozen encoder, from memory where a line has been there before."""
        assert self._known is not None and self.encoder is not None
        for row, length in enumerate(lengths.tolist()):
            if not length:
                continue
            pieces = text[row, -length:]
            key = pieces.cpu().numpy().tobytes()
            if key not in self._known:
                self._known[key] = self.encoder(pieces[None], torch.ones_like(pieces[None]))[0].half().cpu()
            embedded[row, -length:] = self._known[key].to(embedded)
        return embedded
