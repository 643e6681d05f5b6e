"""The paper's ablation of key components: which of them a network is trained with.

- FD, feature decoupling. Without it there is neither a shared nor a private encoder, no decoder, and no
  decoupling loss (self-regression, cycle, margin, orthogonality): both branches read the projected
  features. Their heads remain, so each modality alone can be compared with and without.
- HomoGD, HeteroGD, graph distillation in one branch. Without it the branch pays nothing for the distance
  of its modalities and the GD-Unit learns nothing: its edges stay what they were drawn as. Heads and task
  loss remain.
- CA, crossmodal attention. Without it each modality of the heterogeneous branch attends to itself, in two
  encoders of the size of the two it would have for the other modalities. So the network has as many
  parameters and layers, what follows reads the same shape, and only the sight of the others is gone.
"""

from __future__ import annotations

from dataclasses import replace

from models.config import Ablation
from models.dmd import DMDConfig
from models.losses import LossWeights


def ablate(config: DMDConfig, weights: LossWeights, ablation: Ablation) -> tuple[DMDConfig, LossWeights]:
    """Take out what ``ablation`` says is not there; what is already out stays out."""
    config = replace(
        config, decouple=config.decouple and ablation.fd, crossmodal=config.crossmodal and ablation.ca
    )
    return config, replace(
        weights,
        homo=weights.homo if ablation.homo_gd else 0.0,
        hetero=weights.hetero if ablation.hetero_gd else 0.0,
    )
