"""Several documents in one row, none of which sees another. Taught in notebook 06."""

from __future__ import annotations

import torch
from torch import Tensor


def packed_mask(documents: Tensor) -> Tensor:
    """Who may attend to whom, (B, 1, L, L) bool, from the number of each token's document (B, L), 0 where padded.

    Causal, and within a document. Padding attends to padding, for a softmax over nothing is not a number.
    """
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    return causal & (documents.unsqueeze(1) == documents.unsqueeze(2)).unsqueeze(1)
