"""The alignment loss: the decoder's output is trained to lie near the texts of an image's labels.

Aktas and Garcia ("CLIP-based Few-Shot Multi-Label Classification Methods", III.D) add to the classification loss "an
alignment loss coming from the similarity of text and image embeddings", with fixed text embeddings. With CLIP frozen
the similarity of CLIP's own two embeddings is a constant without a gradient, so here the decoder's output replaces the
image embedding.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AlignmentLoss(nn.Module):
    """Project the decoded groups' mean to the text space; contrast the image's labels with all others.

    `text` is float32 [N, D], the label texts' embeddings, L2-normalised and fixed; `width` is E, the decoder's width.
    """

    text: Tensor

    def __init__(self, text: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("text", text)
        self.project = nn.Linear(width, text.shape[1])
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, decoded: Tensor, targets: Tensor) -> Tensor:
        """The decoder's output [B, K, E] and targets [B, N], 0 or 1, to a scalar.

        It is the mean, over the images with labels, of the cross entropy between softmax(scale * cosines) and the
        uniform distribution over the image's labels; 0 where no image has a label.
        """
        image = F.normalize(self.project(decoded.mean(dim=1)), dim=-1)
        logits = self.log_scale.clamp(max=math.log(100)).exp() * image @ self.text.T
        share = targets / targets.sum(dim=1, keepdim=True).clamp(min=1)
        labelled = targets.any(dim=1).sum().clamp(min=1)
        return -(share * logits.log_softmax(dim=1)).sum() / labelled
