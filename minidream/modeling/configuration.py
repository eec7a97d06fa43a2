"""What a MiniDream is made of, as JSON."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class MiniDreamConfig(PretrainedConfig):
    """Shapes, token ids and loss weights of a MiniDream.

    Args:
        llm_config, vision_config: the transformers configurations of both parts, as dictionaries with `model_type`.
        vae_config, unet_config, scheduler_config: the diffusers configurations of the image decoder.
        image_mean, image_std: how the vision encoder wants its pixels, three numbers each, for pixels in 0..1.
        token_ids: ids of `bos` and `dream`, which begin every picture's condition.
        num_dream_queries: Q; one set, shared by every picture at every place.
        language_weight, dream_weight: w_lm and w_dm of the whole loss; 1 and 10 in the paper's stages II and III.
        dream_weighting: how `dream_loss` weighs timesteps, "min_snr" or "none".
        components: where the frozen parts `vision` and `diffusion` lie when the model's own file leaves them out:
            folders relative to the model's, or names on the hub. Empty: everything is in the model's file.
    """

    model_type = "minidream"

    llm_config: dict[str, Any] | None = None
    vision_config: dict[str, Any] | None = None
    vae_config: dict[str, Any] | None = None
    unet_config: dict[str, Any] | None = None
    scheduler_config: dict[str, Any] | None = None
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    token_ids: dict[str, int] | None = None
    num_dream_queries: int = 8
    language_weight: float = 1.0
    dream_weight: float = 10.0
    dream_weighting: str = "min_snr"
    components: dict[str, str] | None = None

    @property
    def image_size(self) -> int:
        """Side in pixels of the pictures that the image decoder makes."""
        if not self.unet_config or not self.vae_config:
            return 0
        return int(self.unet_config["sample_size"]) * 2 ** (len(self.vae_config["block_out_channels"]) - 1)
