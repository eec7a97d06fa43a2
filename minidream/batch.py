"""What the processor makes of documents: `TokenSequence`, one document while it is being written, and `Batch`, several
as tensors, one to a row or packed. Taught in notebook 06.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

IGNORED = -100  # a label without loss
AT_ONCE = 64  # documents or pictures: enough to fill a core, small enough for a laptop


def batches(items: Any, size: int | None = None) -> Iterator[Any]:
    """`items` in runs of `size` (`AT_ONCE` if None)."""
    size = size or AT_ONCE
    for start in range(0, len(items), size):
        yield items[start : start + size]


@dataclass
class Batch:
    """B rows of length L, each a document, or several if packed, with their K pictures."""

    input_ids: Tensor  # (B, L) long; the placeholders of both blocks hold <im_patch>
    attention_mask: Tensor  # (B, L) long; 0 where padded; in packed rows the documents are numbered 1, 2, ...
    position_ids: Tensor  # (B, L) long; counted within a document, so that padding and neighbours change nothing
    labels: Tensor  # (B, L) long, unshifted, -100 where no loss falls
    query_mask: Tensor  # (B, L) bool: the Q placeholders of each dream block
    patch_mask: Tensor  # (B, L) bool: the P placeholders of each image block
    pictures: Tensor  # (K, 3, H, W) uint8, in reading order
    seen: Tensor  # (N,) long: the picture of each image block, in reading order
    dreamed: Tensor  # (M,) long: the picture of each dream block; a block that is still to be drawn has none
    order: Tensor  # (documents,) long: their indices in the order in which the rows hold them

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})

    def model_inputs(self) -> dict[str, Tensor]:
        """What `MiniDream.forward` takes by these names; the encoded pictures come beside them."""
        return {
            name: value for name, value in vars(self).items() if name not in ("pictures", "seen", "dreamed", "order")
        }


@dataclass
class TokenSequence:
    """One document while it is being written: four lists of one length, and its pictures."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    queries: list[bool] = field(default_factory=list)
    patches: list[bool] = field(default_factory=list)
    pictures: list[Image.Image] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)  # the picture of each image block
    dreamed: list[int] = field(default_factory=list)  # and of each dream block

    def add(self, ids: Sequence[int], loss: bool = False, queries: bool = False, patches: bool = False) -> None:
        """Append tokens: with a loss or without, placeholders of dream queries or of patches, or words."""
        self.ids += ids
        self.labels += ids if loss else [IGNORED] * len(ids)
        self.queries += [queries] * len(ids)
        self.patches += [patches] * len(ids)


def together(written: Sequence[TokenSequence]) -> list[list[int]]:
    """Which documents share a row: the longest first, each into the first row with room for it."""
    lengths = [len(each.ids) for each in written]
    packed: list[list[int]] = []
    for index in sorted(range(len(written)), key=lambda index: -lengths[index]):
        for row in packed:
            if sum(lengths[other] for other in row) + lengths[index] <= max(lengths):
                row.append(index)
                break
        else:
            packed.append([index])
    return packed


def collate(
    written: Sequence[TokenSequence], pictures: Tensor, pad: int, left: bool, rows: Sequence[Sequence[int]]
) -> Batch:
    """Documents as tensors, padded with the token `pad`, on the left or on the right. `rows`: which documents stand in
    each row; `pictures` (K, 3, H, W): theirs, in that order."""
    joined = [[written[index] for index in row] for row in rows]
    length = max((sum(len(each.ids) for each in row) for row in joined), default=0)

    def padded(values: Callable[[TokenSequence, int], Iterable[Any]], filler: Any) -> Tensor:
        lists = [[v for number, each in enumerate(row, 1) for v in values(each, number)] for row in joined]
        gaps = [[filler] * (length - len(items)) for items in lists]
        return torch.tensor([gap + items if left else items + gap for gap, items in zip(gaps, lists)])

    before = 0  # within a document -> within the batch
    seen: list[int] = []
    dreamed: list[int] = []
    for each in (each for row in joined for each in row):
        seen += [before + index for index in each.seen]
        dreamed += [before + index for index in each.dreamed]
        before += len(each.pictures)
    return Batch(
        input_ids=padded(lambda each, _: each.ids, pad),
        attention_mask=padded(lambda each, number: [number] * len(each.ids), 0),
        position_ids=padded(lambda each, _: range(len(each.ids)), 0),
        labels=padded(lambda each, _: each.labels, IGNORED),
        query_mask=padded(lambda each, _: each.queries, False),
        patch_mask=padded(lambda each, _: each.patches, False),
        pictures=pictures,
        seen=torch.tensor(seen, dtype=torch.long),
        dreamed=torch.tensor(dreamed, dtype=torch.long),
        order=torch.tensor([index for row in rows for index in row], dtype=torch.long),
    )
