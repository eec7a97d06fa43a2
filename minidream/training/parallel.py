"""Several processes that share the work of every step: `torchrun --nproc_per_node 2 -m minidream.cli train ...`.

Each draws and learns from its share of the batch; the gradients are averaged, so that all take the same step. On CPU
cores, processes of one thread each scale better than threads: small tensors give a second thread little to do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, reduce
from torch import Tensor


def processes() -> PartialState:
    """The processes that train together, this one among them."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return PartialState(cpu=several and not torch.cuda.is_available())  # or accelerate would see one process only


def share(batch: int) -> int:
    """How many of a batch's examples are this process's to draw."""
    return -(-batch // processes().num_processes)


@torch.no_grad()
def begin_alike(parameters: Sequence[Tensor]) -> None:
    """Give every process the parameters of the first."""
    if processes().num_processes > 1:
        for parameter in parameters:
            parameter.copy_(broadcast(parameter))


@torch.no_grad()
def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Give every process the mean of all processes' gradients, in one message."""
    if processes().num_processes == 1:
        return
    # A process whose documents did not touch a parameter has a gradient of zero for it.
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    means = reduce(torch.cat([gradient.flatten() for gradient in gradients]), "mean")
    for parameter, mean in zip(parameters, means.split([p.numel() for p in parameters])):
        parameter.grad = mean.view_as(parameter)
