"""What the frozen encoders say of a picture never changes, so they are asked once.

The world draws fresh scenes for ever, so that a stage keeps them for a step only: in a batch of another size a kernel
rounds otherwise, and a resumed run, whose memory is empty, must go on with the same numbers. Over a few documents that
come again and again (notebook 06), every epoch after the first costs neither CLIP nor VAE.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor


class EncodedPictures:
    """Patch features and latents by a picture's pixels, kept in half precision up to `megabytes` of memory."""

    def __init__(self, megabytes: float = 512) -> None:
        self.room = megabytes * 1e6
        self.stored: dict[bytes, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, model: Any, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Features (K, P, D_v) and latents (K, C, h, w) of uint8 pictures (K, 3, H, W), on the pictures' device."""
        keys = [blake2b(picture.cpu().numpy().tobytes(), digest_size=16).digest() for picture in pictures]
        # What is new, once each, encoded as one batch.
        new = list({key: index for index, key in enumerate(keys) if key not in self.stored}.items())
        fresh: dict[bytes, tuple[Tensor, Tensor]] = {}
        if new:
            unseen = pictures[[index for _, index in new]]
            encoded = zip(model.encode_pictures(unseen).half().cpu(), model.decoder.encode(unseen).half().cpu())
            fresh = {key: both for (key, _), both in zip(new, encoded)}
            size = sum(part.nbytes for part in next(iter(fresh.values())))
            self.stored |= {key: both for (key, both), _ in zip(fresh.items(), range(max(0, int(self.room / size))))}
            self.room -= size * len(fresh)
        features, latents = zip(*(self.stored.get(key) or fresh[key] for key in keys))
        # Float before stacking: under the CPU's bf16 autocast, half tensors cannot be stacked.
        seen, dreamed = (torch.stack([part.float() for part in parts]) for parts in (features, latents))
        return seen.to(pictures.device), dreamed.to(pictures.device)
