"""Tiny random models with the real ones' shapes of interface: the tests of the model, the loop and the pipeline."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, LlamaConfig, LlamaForCausalLM

from minidream.modeling.minidream import MiniDream
from minidream.tokenizer import train_tokenizer

QUERIES, PATCHES, SIDE = 4, 4, 32  # dream queries, patches a picture, pixels


@cache
def tiny_tokenizer() -> Any:
    """Bytes, the special tokens and a few merges."""
    return train_tokenizer(["a small red circle lies on the left. a blue star lands above it."], vocab_size=280)


def tiny_llm(vocab: int) -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,  # large, so that contexts make a visible difference
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def tiny_clip() -> CLIPModel:
    torch.manual_seed(2)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**tower, "image_size": SIDE, "patch_size": 16}
    text = {**tower, "vocab_size": 280, "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 1}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).eval()


def tiny_scheduler(**changes: Any) -> DDIMScheduler:
    settings: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    return DDIMScheduler(**{**settings, **changes})


def tiny_unet() -> UNet2DConditionModel:
    torch.manual_seed(3)
    return UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=24,
        attention_head_dim=2,
        norm_num_groups=8,
    ).eval()


def tiny_diffusion(**scheduler: Any) -> SimpleNamespace:
    """`.vae`, `.unet`, `.scheduler` (zero terminal SNR and v prediction unless changed): 32 px <-> (4, 4, 4)."""
    unet = tiny_unet()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIDE,
        scaling_factor=0.7,
    ).eval()
    return SimpleNamespace(vae=vae, unet=unet, scheduler=tiny_scheduler(**scheduler))


def tiny_model(processor: Any = None, **scheduler: Any) -> MiniDream:
    """A whole MiniDream of about 0.1 M random parameters, in evaluation mode.

    With a processor, its tokenizer and its number of queries are used; it must be made with num_patches=PATCHES and
    image_size=SIDE.
    """
    tokenizer = tiny_tokenizer() if processor is None else processor.tokenizer
    queries = QUERIES if processor is None else processor.num_dream_queries
    model = MiniDream.from_components(
        tiny_llm(len(tokenizer)), tiny_clip(), tiny_diffusion(**scheduler), queries, tokenizer=tokenizer
    )
    torch.manual_seed(4)
    torch.nn.init.normal_(model.dream_queries, std=0.5)
    return model


DREAM, PICTURE = object(), object()  # in a plan: a dream block, an image block


def tiny_inputs(plans: list[list[Any]], padding_side: str = "left") -> dict[str, torch.Tensor]:
    """The tensors of `MiniDream.forward` for plans such as ["a red circle", DREAM, PICTURE, "then"], written by hand
    and without the processor, so that the model's tests do not lean on it. No labels."""
    tokenizer = tiny_tokenizer()
    start, patch, end, dream, dream_end = tokenizer.convert_tokens_to_ids(
        ["<im_start>", "<im_patch>", "<im_end>", "<dream>", "<dream_end>"]
    )
    rows: list[list[tuple[int, str]]] = []
    for plan in plans:
        row = [(tokenizer.bos_token_id, "text")]
        for part in plan:
            if part is DREAM:
                row += [(dream, "text"), *[(patch, "query")] * QUERIES, (dream_end, "text")]
            elif part is PICTURE:
                row += [(start, "text"), *[(patch, "patch")] * PATCHES, (end, "text")]
            else:
                row += [(i, "text") for i in tokenizer(part, add_special_tokens=False)["input_ids"]]
        rows.append(row)
    length = max(map(len, rows))
    pad = (tokenizer.pad_token_id, "pad")
    padded = [
        [pad] * (length - len(row)) + row if padding_side == "left" else row + [pad] * (length - len(row))
        for row in rows
    ]
    kinds = [[kind for _, kind in row] for row in padded]
    mask = torch.tensor([[int(kind != "pad") for kind in row] for row in kinds])
    return {
        "input_ids": torch.tensor([[i for i, _ in row] for row in padded]),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
        "query_mask": torch.tensor([[kind == "query" for kind in row] for row in kinds]),
        "patch_mask": torch.tensor([[kind == "patch" for kind in row] for row in kinds]),
    }


def tiny_pictures(count: int, seed: int = 0) -> torch.Tensor:
    """Random pictures (N, 3, SIDE, SIDE), uint8."""
    return torch.randint(
        0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
