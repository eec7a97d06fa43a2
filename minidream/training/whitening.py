"""Training a linear layer in coordinates in which what it reads is white.

A frozen language model's states at the dream queries are nearly the same whatever it has read: what tells one caption
from another is in directions along which they hardly vary. A step of AdamW through such a layer goes where they vary
most. With W = W' P, and P = (E[h h^T] + ridge)^(-1/2) of the states h, a step of W' treats all directions alike; W is
the same linear layer as before, of which P is no part when it is saved.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

RIDGE = 0.05  # of the mean variance: directions with less are noise, and are left short


class Whitened(nn.Module):
    """The parametrization W = W' P."""

    whitener: Tensor
    colorer: Tensor

    def __init__(self, states: Tensor) -> None:
        """`states` (N, H): what the layer reads, a sample."""
        super().__init__()
        second = states.double().T @ states.double() / len(states)  # (H, H)
        values, vectors = torch.linalg.eigh(second)
        lengths = (values + RIDGE * values.mean()).sqrt()
        self.register_buffer("whitener", ((vectors / lengths) @ vectors.T).to(states.dtype))  # P
        self.register_buffer("colorer", ((vectors * lengths) @ vectors.T).to(states.dtype))  # its inverse

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):  # the weight that is trained is the one that is saved
            return weight @ self.whitener

    def right_inverse(self, weight: Tensor) -> Tensor:
        """W' of a W, so that a layer says the same before and after it is whitened."""
        return weight @ self.colorer


def whiten(layer: nn.Linear, states: Tensor) -> None:
    """Train `layer` by W' from now on; `states` (N, H) as it reads them."""
    parametrize.register_parametrization(layer, "weight", Whitened(states.detach()))


def unwhiten(layer: nn.Linear) -> None:
    """Make it a plain linear layer again, with the weight that it has."""
    if parametrize.is_parametrized(layer, "weight"):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
