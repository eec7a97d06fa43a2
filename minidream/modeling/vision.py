"""Pictures in: H_phi, a frozen CLIP (or SigLIP) vision tower, read at its penultimate layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel

from minidream.errors import UserError
from minidream.modeling.loading import first_line, load_part

HALF = (0.5, 0.5, 0.5)  # our own CLIP sees pixels in [-1, 1]


class VisionEncoder(nn.Module):
    """A frozen tower (CLIPVisionModel or SiglipVisionModel) that wants pixels normalised by `mean` and `std`."""

    def __init__(self, model: nn.Module, mean: Sequence[float] = HALF, std: Sequence[float] = HALF) -> None:
        super().__init__()
        self.model, self.mean, self.std = model, tuple(mean), tuple(std)
        self.requires_grad_(False).eval()

    @classmethod
    def from_folder(cls, source: str | Path) -> VisionEncoder:
        """Open a checkpoint of CLIPModel, SiglipModel or their vision towers: a folder or a name on the hub."""
        from transformers import CLIPImageProcessorPil

        whole = load_part(AutoModel, source, "the vision encoder")
        try:
            pixels, _ = CLIPImageProcessorPil.get_image_processor_dict(str(source))
        except OSError as error:
            settings = [Path(source) / name for name in ("preprocessor_config.json", "processor_config.json")]
            if any(file.is_file() for file in settings):
                raise UserError(f"cannot read how {source} wants its pictures: {first_line(error)}") from error
            pixels = {}  # it does not say
        return cls.from_model(whole, pixels.get("image_mean", HALF), pixels.get("image_std", HALF))

    @classmethod
    def from_model(cls, model: Any, mean: Sequence[float] = HALF, std: Sequence[float] = HALF) -> VisionEncoder:
        """Take the tower out of a whole CLIPModel or SiglipModel, or the tower itself; a `VisionEncoder` is taken as it
        is. A loaded model does not know its pixels' `mean` and `std`: OpenAI's CLIP wants others than these.

        Raises `UserError` for what is no vision model.
        """
        if isinstance(model, VisionEncoder):
            return model
        tower = getattr(model, "vision_model", model)
        if not all(hasattr(tower.config, name) for name in ("image_size", "patch_size")):
            raise UserError(
                f"the vision encoder is a {type(model).__name__}, which sees no pictures: give CLIP or SigLIP"
            )
        return cls(tower, mean, std)

    @property
    def config(self) -> Any:
        """The tower's transformers configuration."""
        return self.model.config

    @property
    def num_patches(self) -> int:
        """P."""
        return (self.config.image_size // self.config.patch_size) ** 2

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """Patch features (N, P, D_v) of pictures (N, 3, H, W), uint8 or floats in 0..1; CLS is dropped.

        The penultimate layer, as in the paper: the last one is bent towards the single vector that CLIP compares.
        """
        if pictures.ndim != 4 or pictures.shape[1] != 3:
            raise UserError(f"pictures must be (N, 3, H, W), got {tuple(pictures.shape)}")
        weight = next(self.model.parameters())
        pixels = pictures.to(weight.device)
        pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        side = self.config.image_size
        if pixels.shape[-2:] != (side, side):
            pixels = F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (pixels.new_tensor(value).view(3, 1, 1) for value in (self.mean, self.std))
        out = self.model(((pixels - mean) / std).to(weight.dtype), output_hidden_states=True)
        return out.hidden_states[-2][:, -self.num_patches :]
