"""Every stage of every preset as one table: what is trained, on what, for how long.

The first four stages make our stand-ins for what the paper downloads (CLIP, Stable Diffusion, Vicuna); the last three
are the paper's own (its section 3 and the table of stages in appendix C).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace

from minidream.errors import UserError

STAGES = ("vae", "clip", "language", "diffusion", "align", "igpt", "instruct")


@dataclass(frozen=True)
class Sizes:
    """The shapes of all components: the one dial of a preset."""

    image_size: int = 64  # pixels
    patch_size: int = 16  # CLIP patches: (64 / 16)^2 = 16 a picture
    vae_channels: tuple[int, ...] = (16, 32, 64, 64)  # four levels: f = 8; thin at full resolution, where time goes
    latent_channels: int = 4
    clip_width: int = 128
    clip_layers: int = 4
    unet_channels: tuple[int, ...] = (64, 128)
    llm_width: int = 192
    llm_layers: int = 6
    queries: int = 8
    vocabulary: int = 768
    max_length: int = 384  # tokens


@dataclass(frozen=True)
class Recipe:
    """One stage. `mixture` maps kinds of `corpora.sample` to weights; `trainable` names parts of MiniDream."""

    stage: str
    steps: int
    batch: int  # pictures or documents a step
    lr: float
    warmup: float = 0.02  # share of the steps; the paper's 0.003 is under one step here
    weight_decay: float = 0.0
    muon: bool = False  # move the language model's matrices by Muon instead of the paper's AdamW
    clip_norm: float = 1.0
    mixed_precision: bool = True  # bf16 where the device has it
    language_weight: float = 1.0  # w_lm and
    dream_weight: float = 10.0  # w_dm of the paper's stages II and III
    dream_draws: int = 1  # how many noisy versions of each picture the dream loss is asked at, each step
    dream_delta: float = 0.0  # above 0, large errors of the dream loss count by their root, so that w_dm is larger
    words_weight: float = 1.0  # times w_lm, in kinds that are there for their words; dream gradients are longer
    alignment_weight: float = 0.0  # of `clip_alignment_loss`, which DreamLLM argues against: for `minidream ablate`
    condition_dropout: float = 0.1
    query_rate: float = 1.0  # times lr, for the dream queries: so few, and as far apart as words
    whitened: bool = False  # train the condition projector in the coordinates of `whitening`
    timestep_bias: float = 1.0  # above 1, the dream loss is asked more often where there is more noise
    teacher: bool = True  # distil what the UNet says under the picture's caption, not the sampled noise
    train_text_encoder: bool = True  # with the UNet; Stable Diffusion's is frozen, but ours has read so little
    mixture: dict[str, float] = field(default_factory=dict)
    trainable: tuple[str, ...] = ()
    seed: int = 0
    log_every: int = 50
    save_every: int = 500


_PROJECTORS = ("visual_projector", "dream_queries", "condition_projector")
_MINI = {
    "vae": Recipe("vae", steps=4500, batch=32, lr=1.5e-3),
    "clip": Recipe("clip", steps=4100, batch=192, lr=1e-3, weight_decay=0.01),
    "language": Recipe(
        "language", steps=3500, batch=48, lr=3e-3, muon=True,
        mixture={"text": 0.25, "text_states": 0.4, "text_qa": 0.35},
    ),
    "diffusion": Recipe("diffusion", steps=3000, batch=128, lr=1e-3),
    "align": Recipe(
        "align", steps=2500, batch=32, lr=2e-3, query_rate=30.0, whitened=True, timestep_bias=2.5,
        trainable=_PROJECTORS, mixture={"text_to_image": 0.6, "image_to_text": 0.4},
    ),
    "igpt": Recipe(
        "igpt", steps=2200, batch=64, lr=2e-3, muon=True, timestep_bias=3.0, words_weight=2.0,
        dream_weight=160.0, dream_delta=0.025, trainable=(*_PROJECTORS, "llm"),
        mixture={
            "text_to_image": 0.09, "image_to_text": 0.06, "interleaved": 0.16, "qa": 0.06,
            "text": 0.01, "text_states": 0.4, "seen_states": 0.19, "text_qa": 0.03,
        },
    ),
    "instruct": Recipe(
        "instruct", steps=900, batch=64, lr=2e-3, muon=True, timestep_bias=3.0, words_weight=2.0,
        dream_weight=160.0, dream_delta=0.025, trainable=(*_PROJECTORS, "llm"),
        mixture={
            "text_to_image": 0.05, "image_to_text": 0.06, "interleaved": 0.14, "qa": 0.1, "dialogue": 0.05,
            "in_context": 0.06, "text": 0.01, "text_states": 0.31, "seen_states": 0.19, "text_qa": 0.03,
        },
    ),
}  # fmt: skip
PRESETS: dict[str, tuple[Sizes, dict[str, Recipe]]] = {
    "nano": (
        Sizes(
            vae_channels=(8, 8, 16, 16),
            clip_width=32,
            clip_layers=2,
            unet_channels=(16, 32),
            llm_width=32,
            llm_layers=2,
            queries=4,
            vocabulary=512,
        ),
        {name: replace(recipe, steps=6, batch=4, log_every=2, save_every=3) for name, recipe in _MINI.items()},
    ),
    "mini": (Sizes(), _MINI),
    "base": (
        Sizes(
            image_size=128,
            vae_channels=(32, 64, 128, 128),
            clip_width=256,
            clip_layers=6,
            unet_channels=(128, 256),
            llm_width=384,
            llm_layers=8,
            queries=16,
            max_length=768,
        ),
        {name: replace(recipe, steps=4 * recipe.steps, batch=4 * recipe.batch) for name, recipe in _MINI.items()},
    ),
}


_SWITCHES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_ABOVE_0 = (
    "steps", "batch", "lr", "clip_norm", "query_rate", "timestep_bias", "dream_draws", "log_every", "save_every",
)  # fmt: skip


def recipe_for(stage: str, preset: str = "mini", overrides: dict[str, str] | None = None) -> tuple[Sizes, Recipe]:
    """The sizes and the recipe of one stage; `overrides` are `key=value` of `Recipe`'s numbers.

    Raises `UserError` for an unknown stage, preset or key, or a value of the wrong type or out of range.
    """
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    sizes, table = PRESETS[preset]
    if stage not in table:
        raise UserError(f"unknown stage {stage!r}: choose one of {', '.join(STAGES)} or all")
    recipe = table[stage]
    numbers = {
        f.name: type(getattr(recipe, f.name))
        for f in fields(Recipe)
        if isinstance(getattr(recipe, f.name), int | float)
    }
    for key, text in (overrides or {}).items():
        if key not in numbers:
            raise UserError(f"unknown setting {key!r}: --set takes one of {', '.join(sorted(numbers))}")
        try:
            value = _SWITCHES[text.lower()] if numbers[key] is bool else numbers[key](text)
        except (ValueError, KeyError):
            kind = "true or false" if numbers[key] is bool else f"a number of type {numbers[key].__name__}"
            raise UserError(f"--set {key}={text}: expected {kind}") from None
        if key in _ABOVE_0 and not 0 < value < math.inf:
            raise UserError(f"--set {key}={text}: must be greater than 0")
        if not 0 <= value < math.inf:
            raise UserError(f"--set {key}={text}: must be at least 0")
        if key in ("condition_dropout", "warmup") and value > 1:
            raise UserError(f"--set {key}={text}: must be at most 1")
        recipe = replace(recipe, **{key: value})  # type: ignore[arg-type]  # the key is one of `numbers`
    if recipe.whitened and "condition_projector" not in recipe.trainable:
        raise UserError(f"--set whitened: stage {stage} trains no condition projector; choose align, igpt or instruct")
    return sizes, recipe
