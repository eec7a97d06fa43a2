"""DreamLLM: one causal language model that reads and writes text and pictures in a single stream.

    text ids ------------------> embedding ----\\
    pictures -> vision (frozen) -> projector ---+--> LLM --+--> head -----------------> next word, or <dream>
    dream queries (learned) -------------------/           \\--> projector --> UNet (frozen) --> picture

Letters: B documents, L tokens, H the LLM's width, N pictures seen with P patches of width D_v, M pictures dreamed with
Q queries of condition width D, latents (C, h, w). Taught in notebooks 05 and 06.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import ModelOutput

from minidream.batch import IGNORED
from minidream.errors import UserError
from minidream.modeling.configuration import MiniDreamConfig
from minidream.modeling.diffusion import ImageDecoder
from minidream.modeling.loading import load_part, open_tokenizer
from minidream.modeling.packing import packed_mask
from minidream.modeling.storage import fill, read_model, write_model
from minidream.modeling.vision import HALF, VisionEncoder
from minidream.tokenizer import PAD, SPECIAL_TOKENS
from minidream.weights import find_weights


@dataclass
class MiniDreamOutput(ModelOutput):
    """`loss` = w_lm language_loss + w_dm dream_loss (scalars), `logits` (B, L, V), `conditions` (M, Q, D)."""

    loss: Tensor | None = None
    language_loss: Tensor | None = None
    dream_loss: Tensor | None = None
    logits: Tensor | None = None
    conditions: Tensor | None = None


class MiniDream(PreTrainedModel):
    """The LLM theta, the dream queries d, the projectors zeta and psi; around them the frozen phi and xi."""

    config_class = MiniDreamConfig
    config: MiniDreamConfig

    def __init__(
        self,
        config: MiniDreamConfig,
        llm: Any = None,
        vision: VisionEncoder | None = None,
        decoder: ImageDecoder | None = None,
    ) -> None:
        """Parts that are not given are built from the configuration, with random weights."""
        super().__init__(config)
        self.llm: Any = llm or AutoModelForCausalLM.from_config(AutoConfig.for_model(**(config.llm_config or {})))
        self.vision = vision or VisionEncoder(
            AutoModel.from_config(AutoConfig.for_model(**(config.vision_config or {}))),
            config.image_mean or HALF,
            config.image_std or HALF,
        )
        self.decoder = decoder or ImageDecoder(
            AutoencoderKL.from_config(config.vae_config),
            UNet2DConditionModel.from_config(config.unet_config),
            DDIMScheduler.from_config(config.scheduler_config),
        )
        words = self.llm.get_input_embeddings().weight
        width = words.shape[1]
        self.visual_projector = nn.Linear(self.vision.config.hidden_size, width)
        # As far apart as words are: N(0, 0.02) in Vicuna, and in the paper. Closer, they would all learn the same.
        spread = words.detach().float().std().item()
        self.dream_queries = nn.Parameter(torch.empty(config.num_dream_queries, width).normal_(std=spread))
        self.condition_projector = nn.Linear(width, self.decoder.condition_dim, bias=False)

    # -- the paper's figure -------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        query_mask: Tensor | None = None,
        patch_mask: Tensor | None = None,
        image_features: Tensor | None = None,
        target_latents: Tensor | None = None,
        noise: Tensor | None = None,
        timesteps: Tensor | None = None,
        teacher_condition: Tensor | None = None,
        condition_dropout: float = 0.0,
        dream_delta: float = 0.0,
    ) -> MiniDreamOutput:
        """Read documents and give both losses (Eq. 6).

        Args:
            input_ids, attention_mask, position_ids: (B, L), padded on either side, or packed, see `read`.
            labels: (B, L), -100 where nothing is to be learned; shifted in here.
            query_mask, patch_mask: (B, L) bool, where the M*Q dream queries and the N*P patches stand.
            image_features: (N, P, D_v) by `encode_pictures`. target_latents: (M, C, h, w) by `decoder.encode`; without
                them there is no dream loss. noise, timesteps: see `ImageDecoder.loss`.
            teacher_condition: (M, S, D), see `ImageDecoder.loss`.
            condition_dropout: the chance of a picture's condition to be the null condition, in training only.
            dream_delta: the `delta` of `dream_loss`.

        Raises `UserError` if masks and pictures do not fit together.
        """
        embeddings = self.embed(input_ids, query_mask, patch_mask, image_features)  # (B, L, H)
        hidden = self.read(embeddings, attention_mask, position_ids).last_hidden_state  # (B, L, H)
        logits = self.llm.get_output_embeddings()(hidden)  # (B, L, V)
        conditions = self.conditions(hidden, query_mask)  # (M, Q, D)

        language_loss = self.language_loss(logits, labels)
        dream_loss = logits.new_zeros((), dtype=torch.float32)
        if target_latents is not None and len(target_latents):
            if len(target_latents) != len(conditions):
                raise UserError(f"{len(conditions)} dream blocks but {len(target_latents)} target latents")
            dropped = torch.rand(len(conditions), device=hidden.device) < (condition_dropout if self.training else 0)
            asked = conditions
            if dropped.any():
                asked = torch.where(dropped.view(-1, 1, 1), self.null_condition().to(conditions.dtype), conditions)
            dream_loss = self.decoder.loss(
                target_latents,
                asked,
                noise=noise,
                timesteps=timesteps,
                teacher_condition=teacher_condition,
                untaught=dropped,  # the teacher's caption says more than nothing does
                weighting=self.config.dream_weighting,
                delta=dream_delta,
            )
        loss = self.config.language_weight * language_loss + self.config.dream_weight * dream_loss
        return MiniDreamOutput(loss, language_loss, dream_loss, logits, conditions)

    def embed(
        self,
        input_ids: Tensor,
        query_mask: Tensor | None = None,
        patch_mask: Tensor | None = None,
        image_features: Tensor | None = None,
    ) -> Tensor:
        """The stream as the LLM sees it, (B, L, H): words, and in the placeholders' stead patches and dream queries."""
        embeddings = self.llm.get_input_embeddings()(input_ids)
        if patch_mask is not None and patch_mask.any():
            count = 0 if image_features is None else image_features.shape[0] * image_features.shape[1]
            if image_features is None or int(patch_mask.sum()) != count:
                raise UserError(f"{int(patch_mask.sum())} patch places but {count} patch features")
            patches = self.visual_projector(image_features.to(self.visual_projector.weight.dtype))
            embeddings = embeddings.masked_scatter(patch_mask.unsqueeze(-1), patches.to(embeddings.dtype))
        if query_mask is not None and query_mask.any():
            queries = self.dream_queries.repeat(self._blocks(query_mask), 1)  # the same for every picture
            embeddings = embeddings.masked_scatter(query_mask.unsqueeze(-1), queries.to(embeddings.dtype))
        return embeddings

    def read(
        self,
        embeddings: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
    ) -> Any:
        """Run the LLM, causally: `.last_hidden_state` (B, L, H) after its last norm, and `.past_key_values`.

        With a `cache`, the attention mask covers what it holds and the new tokens. Positions count real tokens only,
        so padding on either side changes nothing. Where a mask numbers the documents of packed rows 1, 2, ..., none
        sees another; their `position_ids` begin anew with each. Raises `UserError` where the LLM cannot obey that.
        """
        held = 0 if cache is None else cache.get_seq_length()
        batch, length = embeddings.shape[:2]
        if attention_mask is None:
            attention_mask = torch.ones(batch, held + length, dtype=torch.long, device=embeddings.device)
        if position_ids is None:
            position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -length:]
        if (attention_mask > 1).any():
            if self.llm.config._attn_implementation == "eager":  # which would add the mask, not obey it
                raise UserError("packed rows need another attention: load the LLM with attn_implementation='sdpa'")
            attention_mask = packed_mask(attention_mask)
        return self.llm.base_model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
        )

    def conditions(self, hidden: Tensor, query_mask: Tensor | None) -> Tensor:
        """C = M_psi(the dream queries' last hidden states) (Eq. 3): (M, Q, D), in reading order."""
        if query_mask is None:
            query_mask = torch.zeros(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        states = hidden[query_mask].view(self._blocks(query_mask), self.config.num_dream_queries, hidden.shape[-1])
        return self.condition_projector(states.to(self.condition_projector.weight.dtype))

    def language_loss(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Cross-entropy of the next token (Eq. 1), averaged over valid labels; 0 if there are none."""
        if labels is None:
            return logits.new_zeros((), dtype=torch.float32)
        targets = labels[:, 1:]
        total = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets.flatten(), reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1)

    def null_condition(self) -> Tensor:
        """The condition of an empty prompt, (1, Q, D): dropout in training and guidance in sampling both ask here.

        The stream is <s> <dream> and the queries; what would follow them cannot matter.
        """
        device, ids = self.dream_queries.device, self.config.token_ids or {}
        prompt = torch.tensor(
            [[ids["bos"], ids["dream"], *[ids["dream"]] * self.config.num_dream_queries]], device=device
        )
        query_mask = torch.arange(prompt.shape[1], device=device).unsqueeze(0) >= 2
        return self.conditions(self.read(self.embed(prompt, query_mask)).last_hidden_state, query_mask)

    def encode_pictures(self, pictures: Tensor) -> Tensor:
        """`image_features` (N, P, D_v) of pictures (N, 3, H, W), uint8."""
        return self.vision(pictures)

    def _blocks(self, query_mask: Tensor) -> int:
        places, queries = int(query_mask.sum()), self.config.num_dream_queries
        if places % queries:
            raise UserError(f"{places} query places do not make whole dream blocks of {queries}")
        return places // queries

    # -- what moves ---------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> MiniDream:
        """As every module's, but the frozen parts stay in evaluation mode."""
        super().train(mode)
        self.vision.eval()
        self.decoder.eval()
        return self

    def train_only(self, parts: Iterable[str]) -> MiniDream:
        """Freeze everything but the named parts (a stage's `trainable`) and go into training mode.

        Raises `UserError` for a part that has no such name, or is frozen for ever.
        """
        parts = tuple(parts)
        movable = ("llm", "visual_projector", "dream_queries", "condition_projector")
        for part in parts:
            if part not in movable:
                raise UserError(f"cannot train {part!r}: choose among {', '.join(movable)}")
        self.requires_grad_(False)
        for part in parts:
            getattr(self, part).requires_grad_(True)
        return self.train()

    # -- made from parts, saved, opened -------------------------------------------------------------------------------

    @classmethod
    def from_components(
        cls,
        llm: str | Path | Any,
        vision: str | Path | Any,
        diffusion: str | Path | Any,
        num_dream_queries: int = 8,
        tokenizer: Any = None,
    ) -> MiniDream:
        """Join a decoder-only LLM, a CLIP or SigLIP and a Stable Diffusion: folders, names on the hub, or the modules.

        `tokenizer` (default: the LLM's own) gets the five special tokens if it lacks them, and the LLM's embedding
        grows to hold them. A loaded `diffusion` is anything with `.vae`, `.unet`, `.scheduler`. A loaded CLIP or SigLIP
        is taken to want pixels from -1 to 1; for another, such as OpenAI's, give a `VisionEncoder`, which knows their
        mean and deviation. Queries and projectors are new.

        Raises `UserError` for a part that cannot be opened, or a language model given without its tokenizer.
        """
        named = {"vision": vision, "diffusion": diffusion}
        components = {name: str(source) for name, source in named.items() if isinstance(source, str | Path)}
        if tokenizer is None:
            tokenizer = open_tokenizer(llm)
        if isinstance(llm, str | Path):
            llm = load_part(AutoModelForCausalLM, llm, "the language model")
        encoder = (
            VisionEncoder.from_folder(vision) if isinstance(vision, str | Path) else VisionEncoder.from_model(vision)
        )
        decoder = (
            ImageDecoder.from_folder(diffusion)
            if isinstance(diffusion, str | Path)
            else ImageDecoder(diffusion.vae, diffusion.unet, diffusion.scheduler)
        )
        known = tokenizer.get_vocab()
        tokenizer.add_tokens([token for token in SPECIAL_TOKENS if token not in known], special_tokens=True)
        if tokenizer.pad_token_id is None:  # as the processor does, so that both know the same ids
            tokenizer.add_special_tokens({"pad_token": PAD})
        if len(tokenizer) > llm.get_input_embeddings().num_embeddings:
            llm.resize_token_embeddings(len(tokenizer))
        bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        config = MiniDreamConfig(
            llm_config=llm.config.to_dict(),
            vision_config=encoder.config.to_dict(),
            vae_config=dict(decoder.vae.config),
            unet_config=dict(decoder.unet.config),
            scheduler_config=dict(decoder.scheduler.config),
            image_mean=list(encoder.mean),
            image_std=list(encoder.std),
            token_ids={"bos": bos, "dream": tokenizer.convert_tokens_to_ids("<dream>")},
            num_dream_queries=num_dream_queries,
            components=components if len(components) == len(named) else None,
        )
        return cls(config, llm, encoder, decoder).eval()

    def save_pretrained(self, save_directory: str | Path, frozen: bool = True, **_: Any) -> None:  # type: ignore[override]
        """Write `config.json` and `model.safetensors`: everything, or without the `frozen` parts, only named then.

        Raises `UserError` if the frozen parts shall be left out but were not opened from a folder or the hub.
        """
        write_model(self, Path(save_directory), frozen)

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, **_: Any) -> MiniDream:  # type: ignore[override]
        """Open what `save_pretrained` wrote (default: the shipped weights), in float32, in evaluation mode.

        Raises `UserError` for a folder that is missing, damaged or incomplete.
        """
        folder = find_weights("minidream") if source is None else Path(source)
        config, saved = read_model(folder)
        vision = decoder = None
        if config.components:
            vision = VisionEncoder.from_folder(config.components["vision"])
            decoder = ImageDecoder.from_folder(config.components["diffusion"])
        model = cls(config, vision=vision, decoder=decoder)
        fill(model, saved, folder)
        return model.float().eval()
