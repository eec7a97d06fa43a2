"""The model's parts: pictures in, pictures out, solvers, saving and opening, and what is said when it fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from tiny import (
    DREAM,
    PICTURE,
    QUERIES,
    SIDE,
    tiny_clip,
    tiny_diffusion,
    tiny_inputs,
    tiny_llm,
    tiny_model,
    tiny_pictures,
    tiny_scheduler,
    tiny_tokenizer,
)
from transformers import CLIPTextModel, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from minidream.errors import UserError
from minidream.modeling.diffusion import ImageDecoder
from minidream.modeling.minidream import MiniDream
from minidream.modeling.vision import VisionEncoder
from minidream.tokenizer import train_tokenizer
from minidream.weights import find_weights, save_manifest, verify_manifest


@pytest.fixture(scope="module")
def model() -> MiniDream:
    return tiny_model()


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Folders `llm`, `clip` and `stable-diffusion` as training writes them: real artefacts, half precision."""
    tokenizer, clip, diffusion = tiny_tokenizer(), tiny_clip(), tiny_diffusion()
    tiny_llm(len(tokenizer)).half().save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    clip.save_pretrained(tmp_path / "clip")
    StableDiffusionPipeline(
        vae=diffusion.vae,
        text_encoder=CLIPTextModel(clip.config.text_config),
        tokenizer=tokenizer,
        unet=diffusion.unet.half(),
        scheduler=diffusion.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(tmp_path / "stable-diffusion")
    return tmp_path


def components(parts: Path) -> dict[str, Path]:
    return {"llm": parts / "llm", "vision": parts / "clip", "diffusion": parts / "stable-diffusion"}


# -- pictures in ------------------------------------------------------------------------------------------------------


def test_vision_reads_the_penultimate_layer_without_cls() -> None:
    clip, pictures = tiny_clip(), tiny_pictures(3)
    found = VisionEncoder.from_model(clip)(pictures)
    out = clip.vision_model(pictures.float() / 127.5 - 1, output_hidden_states=True)
    assert len(out.hidden_states) == 3  # the embedding and two layers
    torch.testing.assert_close(found, out.hidden_states[1][:, 1:])
    assert found.shape == (3, 4, 32) and not found.requires_grad


def test_vision_resizes_normalises_and_takes_siglip() -> None:
    config = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=16,
    )
    tower = SiglipVisionModel(config).eval()
    assert VisionEncoder.from_model(tower)(tiny_pictures(2)).shape == (2, 4, 32)  # no CLS to drop
    encoder = VisionEncoder.from_model(tiny_clip(), mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))
    pixels = torch.rand(1, 3, SIDE, SIDE)
    mean, std = torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    plain = VisionEncoder.from_model(tiny_clip())((pixels - mean) / std / 2 + 0.5)  # undo its own normalisation
    torch.testing.assert_close(encoder(pixels), plain, atol=1e-4, rtol=1e-4)
    flat = torch.full((1, 3, 80, 80), 100, dtype=torch.uint8)
    torch.testing.assert_close(encoder(flat), encoder(flat[..., :SIDE, :SIDE]), atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match=r"\(N, 3, H, W\)"):
        encoder(flat[0])


def test_vision_uses_the_checkpoints_own_normalisation(parts: Path) -> None:
    (parts / "clip" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]})
    )
    encoder = VisionEncoder.from_folder(parts / "clip")
    assert encoder.mean == (0.1, 0.2, 0.3) and encoder.std == (0.4, 0.5, 0.6)
    (parts / "clip" / "preprocessor_config.json").write_text('{"image_mean": [0.1')
    with pytest.raises(UserError, match=r"cannot read how .*clip wants its pictures"):
        VisionEncoder.from_folder(parts / "clip")


# -- pictures out -----------------------------------------------------------------------------------------------------


def test_latents_carry_the_scaling_factor_and_pictures_come_back_as_bytes(model: MiniDream) -> None:
    pictures, vae = tiny_pictures(2), model.decoder.vae
    latents = model.decoder.encode(pictures)
    torch.testing.assert_close(latents, vae.encode(pictures.float() / 127.5 - 1).latent_dist.mean * 0.7)
    decoded = model.decoder.decode(latents)
    expected = (vae.decode(latents / 0.7).sample.clamp(-1, 1) + 1) * 127.5
    assert decoded.dtype == torch.uint8 and decoded.shape == pictures.shape
    assert (decoded.float() - expected).abs().max() <= 0.51


@pytest.mark.parametrize("solver", ["dpm", "ddim"])
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 50])
@pytest.mark.parametrize(
    "schedule",
    [{}, {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}],
    ids=["v-zero-snr", "epsilon"],
)
def test_solvers_end_at_the_picture_that_a_perfect_unet_knows(
    solver: str, steps: int, schedule: dict[str, Any]
) -> None:
    """An oracle that always sees the same z_0: every solver must land on it, finite, from pure noise."""
    decoder, goal = ImageDecoder(**vars(tiny_diffusion(**schedule))), torch.randn(4, 4, 4)
    bars, kind = decoder.scheduler.alphas_cumprod, decoder.scheduler.config.prediction_type

    class Oracle(torch.nn.Module):
        config, device, dtype = decoder.unet.config, torch.device("cpu"), torch.float32

        def forward(self, z: torch.Tensor, t: torch.Tensor, encoder_hidden_states: torch.Tensor) -> SimpleNamespace:
            alpha, sigma = (x.view(-1, 1, 1, 1) for x in (bars[t.long()] ** 0.5, (1 - bars[t.long()]) ** 0.5))
            epsilon = (z - alpha * goal) / sigma
            return SimpleNamespace(sample=epsilon if kind == "epsilon" else alpha * epsilon - sigma * goal)

    decoder.unet = Oracle()
    foreseen: list[torch.Tensor] = []
    latents = decoder.sample(
        torch.zeros(2, 3, 24), guidance=1.0, steps=steps, solver=solver, callback=lambda _, z: foreseen.append(z)
    )
    assert latents.isfinite().all() and len(foreseen) == steps
    torch.testing.assert_close(latents, goal.expand(2, -1, -1, -1), atol=0.15, rtol=0)
    torch.testing.assert_close(foreseen[-1], goal.expand(2, -1, -1, -1), atol=0.01, rtol=0)


@pytest.mark.parametrize("solver", ["dpm", "ddim"])
def test_a_picture_depends_on_its_seed_and_not_on_its_batch(model: MiniDream, solver: str) -> None:
    condition, null = torch.randn(3, QUERIES, 24), model.null_condition()

    def draw(rows: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        return model.decoder.sample(condition[rows], null, steps=5, solver=solver, generators=generators)

    together = draw([0, 1, 2])
    torch.testing.assert_close(together[1:2], draw([1]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together, draw([0, 1, 2]), atol=0, rtol=0)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_sampling_equals_the_plain_stable_diffusion_pipeline(parts: Path) -> None:
    """Given the text encoder's own condition, our loop is diffusers' (DDIM, guidance 3)."""
    pipe = StableDiffusionPipeline.from_pretrained(parts / "stable-diffusion", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    decoder = ImageDecoder.from_folder(parts / "stable-diffusion")
    condition, null = torch.randn(1, 5, 24), torch.randn(1, 5, 24)
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    theirs = pipe(
        prompt_embeds=condition,
        negative_prompt_embeds=null,
        latents=noise,
        guidance_scale=3.0,
        num_inference_steps=6,
        output_type="latent",
    ).images
    ours = decoder.sample(
        condition, null, guidance=3.0, steps=6, solver="ddim", generators=[torch.Generator().manual_seed(5)]
    )
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solver": "euler"}, "choose one of dpm, ddim"),
        ({"steps": 0}, "from 1 to 1000"),
        ({"steps": 1001}, "from 1 to 1000"),
        ({"null_condition": None}, "needs a null condition"),
        ({"generators": [torch.Generator()]}, "2 pictures need 2 generators"),
    ],
)
def test_bad_sampling_options_are_named(model: MiniDream, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        model.decoder.sample(torch.zeros(2, 3, 24), **{"null_condition": torch.zeros(1, 3, 24), **options})


def test_no_pictures_are_no_work(model: MiniDream) -> None:
    assert model.decoder.sample(torch.zeros(0, QUERIES, 24), guidance=1.0).shape == (0, 4, 4, 4)


# -- the whole --------------------------------------------------------------------------------------------------------


def test_a_teacher_is_the_unet_itself_at_the_same_noise(model: MiniDream) -> None:
    """Distilling a condition from itself costs nothing; dropped pictures learn from the real noise instead."""
    inputs, latents = tiny_inputs([["a red circle", DREAM], ["a star", DREAM]]), torch.randn(2, 4, 4, 4)
    own = model(**inputs).conditions.detach()
    fixed = {"target_latents": latents, "noise": torch.randn(2, 4, 4, 4), "timesteps": torch.tensor([50, 900])}
    assert model(**inputs, **fixed, teacher_condition=own).dream_loss < 1e-9
    assert model(**inputs, **fixed, teacher_condition=torch.randn(2, 7, 24)).dream_loss > 1e-6
    model.train()
    dropped = model(**inputs, **fixed, teacher_condition=own, condition_dropout=1.0).dream_loss
    model.eval()
    null = model.null_condition().expand_as(own)
    torch.testing.assert_close(
        dropped,
        model.decoder.loss(latents, null, noise=fixed["noise"], timesteps=fixed["timesteps"]),
        atol=1e-5,
        rtol=1e-4,
    )


def test_a_picture_may_be_asked_about_several_times(model: MiniDream) -> None:
    """Of (K*M,) timesteps, the loss is the mean of K losses with M each."""
    latents, noise, timesteps = (
        torch.randn(2, 4, 4, 4),
        torch.randn(6, 4, 4, 4),
        torch.tensor([50, 900, 3, 400, 700, 9]),
    )
    condition, teacher, untaught = torch.randn(2, 3, 24), torch.randn(2, 7, 24), torch.tensor([False, True])

    def loss(noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return model.decoder.loss(
            latents,
            condition,
            noise=noise,
            timesteps=timesteps,
            teacher_condition=teacher,
            untaught=untaught,
            delta=0.1,
        )

    apart = [loss(*some) for some in zip(noise.split(2), timesteps.split(2), strict=True)]
    torch.testing.assert_close(loss(noise, timesteps), torch.stack(apart).mean(), atol=1e-6, rtol=1e-5)


def test_masks_and_pictures_that_do_not_fit_are_named(model: MiniDream) -> None:
    inputs, features = tiny_inputs([["a", PICTURE, DREAM]]), model.encode_pictures(tiny_pictures(2))
    with pytest.raises(UserError, match="4 patch places but 8 patch features"):
        model(**inputs, image_features=features)
    with pytest.raises(UserError, match="4 patch places but 0"):
        model(**inputs)
    with pytest.raises(UserError, match="1 dream blocks but 2 target latents"):
        model(**inputs, image_features=features[:1], target_latents=torch.zeros(2, 4, 4, 4))
    inputs["query_mask"][0, inputs["query_mask"][0].nonzero()[0]] = False
    with pytest.raises(UserError, match="whole dream blocks of 4"):
        model(**inputs, image_features=features[:1])


def test_saved_whole_and_opened_again_it_is_the_same(model: MiniDream, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = MiniDream.from_pretrained(tmp_path)
    assert not again.training and not any(p.requires_grad for p in again.vision.parameters())
    state = again.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value), name
    assert again.llm.get_output_embeddings().weight is again.llm.get_input_embeddings().weight  # still tied
    assert again.vision.mean == model.vision.mean
    torch.testing.assert_close(again.null_condition(), model.null_condition())
    assert again.decoder.condition_dim == 24 and again.config.image_size == SIDE


def test_saved_over_what_was_opened_it_is_the_new_one(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    save_manifest(tmp_path)  # of the old weights
    changed = MiniDream.from_pretrained(tmp_path)
    with torch.no_grad():
        changed.dream_queries.add_(1)
    changed.save_pretrained(tmp_path)
    assert torch.equal(MiniDream.from_pretrained(tmp_path).dream_queries, changed.dream_queries)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    (tmp_path / "model.safetensors").write_bytes(b"half of it")
    with pytest.raises(UserError, match="cannot be read"):
        MiniDream.from_pretrained(tmp_path)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_a_language_model_in_half_precision_draws_over_float_parts(parts: Path, precision: torch.dtype) -> None:
    llm = LlamaForCausalLM.from_pretrained(parts / "llm", dtype=precision)
    tokenizer = tiny_tokenizer()
    given = components(parts) | {"llm": llm}
    model = MiniDream.from_components(**given, num_dream_queries=QUERIES, tokenizer=tokenizer)
    whole = MiniDream.from_components(**components(parts), num_dream_queries=QUERIES)
    with torch.no_grad():
        model.dream_queries.copy_(whole.dream_queries)
        model.condition_projector.load_state_dict(whole.condition_projector.state_dict())
    torch.testing.assert_close(model.null_condition().float(), whole.null_condition(), atol=0.1, rtol=0.1)


def test_saved_without_frozen_parts_it_names_them_and_can_be_moved(parts: Path) -> None:
    model = MiniDream.from_components(**components(parts), num_dream_queries=QUERIES)
    model.half().save_pretrained(parts / "minidream", frozen=False)
    names = load_file(parts / "minidream" / "model.safetensors")
    assert not any(name.startswith(("vision.", "decoder.")) for name in names)
    assert json.loads((parts / "minidream" / "config.json").read_text())["components"] == {
        "vision": "../clip",
        "diffusion": "../stable-diffusion",
    }
    alone = parts.with_name("alone") / "minidream"
    shutil.copytree(parts / "minidream", alone)
    with pytest.raises(
        UserError, match=r"minidream needs .*(clip|stable-diffusion), which is not there: copy it along"
    ):
        MiniDream.from_pretrained(alone)
    moved = parts.rename(parts.with_name("moved"))
    again = MiniDream.from_pretrained(moved / "minidream").float()
    torch.testing.assert_close(again.null_condition(), model.float().null_condition(), atol=1e-4, rtol=1e-3)
    pictures = tiny_pictures(1)
    torch.testing.assert_close(again.encode_pictures(pictures), model.encode_pictures(pictures), atol=0.02, rtol=0.02)
    again.save_pretrained(moved / "whole")  # elsewhere it carries everything
    assert MiniDream.from_pretrained(moved / "whole").config.components is None


def test_a_language_model_without_our_tokens_grows_to_hold_them() -> None:
    tokenizer = train_tokenizer(["a red circle"], vocab_size=270, special_tokens=())
    before = len(tokenizer)
    model = MiniDream.from_components(tiny_llm(before), tiny_clip(), tiny_diffusion(), QUERIES, tokenizer=tokenizer)
    assert len(tokenizer) == before + 5 == model.llm.get_input_embeddings().num_embeddings
    assert model.config.token_ids == {"bos": 2, "dream": tokenizer.convert_tokens_to_ids("<dream>")}
    assert model.null_condition().shape == (1, QUERIES, 24)


def test_opening_what_is_not_there_or_does_not_fit_is_one_clear_line(
    model: MiniDream, parts: Path, tmp_path: Path
) -> None:
    def fails(words: str, call: Any) -> None:
        with pytest.raises(UserError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)

    fails("config.json is missing", lambda: MiniDream.from_pretrained(tmp_path / "nowhere"))
    fails(
        "cannot open the vision", lambda: MiniDream.from_components(**{**components(parts), "vision": tmp_path / "no"})
    )
    fails("cannot open a tokenizer", lambda: MiniDream.from_components(**{**components(parts), "llm": tmp_path / "no"}))
    fails(
        "cannot open the image", lambda: MiniDream.from_components(**{**components(parts), "diffusion": parts / "llm"})
    )
    fails("needs tokenizer", lambda: MiniDream.from_components(tiny_llm(270), tiny_clip(), tiny_diffusion()))
    fails(
        "LlamaForCausalLM, which sees no pictures",
        lambda: VisionEncoder.from_model(tiny_llm(9)),
    )
    fails("frozen=True", lambda: model.save_pretrained(tmp_path / "x", frozen=False))
    fails("cannot train 'vision'", lambda: tiny_model().train_only(["vision"]))
    model.save_pretrained(tmp_path / "whole")
    weights = load_file(tmp_path / "whole" / "model.safetensors")
    del weights["dream_queries"]
    save_file(weights, tmp_path / "whole" / "model.safetensors")
    fails("does not fit its config.json: see dream_queries", lambda: MiniDream.from_pretrained(tmp_path / "whole"))


# -- weights ----------------------------------------------------------------------------------------------------------


def test_one_flipped_bit_or_a_missing_file_is_found_and_named(model: MiniDream, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    verify_manifest(tmp_path)  # none yet: nothing to compare with
    save_manifest(tmp_path)
    verify_manifest(tmp_path)
    file = tmp_path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged.*git checkout"):
        MiniDream.from_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing.*train again"):
        verify_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        verify_manifest(tmp_path)


def test_a_damaged_component_is_refused(parts: Path) -> None:
    save_manifest(parts / "clip")
    file = parts / "clip" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x77")
    with pytest.raises(UserError, match="damaged"):
        MiniDream.from_components(**components(parts))


def test_a_component_that_is_cut_short_or_is_another_model_is_refused(parts: Path) -> None:
    with pytest.raises(UserError, match=r"holds another model, or half of one .*no llm_config"):
        MiniDream.from_pretrained(parts / "clip")
    tiny_model().save_pretrained(parts / "whole")
    kept = json.loads((parts / "whole" / "config.json").read_text())
    (parts / "whole" / "config.json").write_text(json.dumps({k: v for k, v in kept.items() if k != "vae_config"}))
    with pytest.raises(UserError, match="no vae_config"):
        MiniDream.from_pretrained(parts / "whole")
    file = parts / "clip" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot open the vision encoder at"):
        MiniDream.from_components(**components(parts))


def test_weights_are_found_by_environment_or_missed_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: MiniDream
) -> None:
    monkeypatch.setenv("MINIDREAM_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match="MINIDREAM_WEIGHTS"):
        find_weights("minidream")
    model.save_pretrained(tmp_path / "minidream")
    assert find_weights("minidream") == tmp_path / "minidream"
    assert MiniDream.from_pretrained().config.num_dream_queries == QUERIES  # the default place


def test_a_decoder_that_wants_more_than_a_condition_is_refused() -> None:
    for changes, words in (
        ({"class_embed_type": "identity"}, "also wants class_embed_type"),
        ({"in_channels": 9}, "reads 9 channels and the VAE writes 4"),
    ):
        parts = tiny_diffusion()
        parts.unet.register_to_config(**changes)
        with pytest.raises(UserError, match=words):
            ImageDecoder(parts.vae, parts.unet, parts.scheduler)


def test_a_vaes_shift_and_anothers_schedule_are_kept() -> None:
    parts = tiny_diffusion()
    plain = ImageDecoder(parts.vae, parts.unet, EulerDiscreteScheduler())
    assert plain.scheduler.config.clip_sample is False  # DDIM's own default would clip latents
    pictures = tiny_pictures(2)
    latents = plain.encode(pictures)
    parts.vae.register_to_config(shift_factor=0.5)
    torch.testing.assert_close(plain.encode(pictures), latents - 0.5 * parts.vae.config.scaling_factor)
    shifted = plain.decode(plain.encode(pictures))
    parts.vae.register_to_config(shift_factor=None)
    assert (shifted.float() - plain.decode(latents).float()).abs().max() <= 1
    known = VisionEncoder(tiny_clip().vision_model, (0.1, 0.2, 0.3), (1, 1, 1))
    assert VisionEncoder.from_model(known) is known


def test_every_number_of_steps_can_be_drawn_in() -> None:
    """Stable Diffusion's own spacing and offset would ask for a timestep that is none."""
    parts = tiny_diffusion(timestep_spacing="leading", num_train_timesteps=20)
    decoder = ImageDecoder(parts.vae, parts.unet, parts.scheduler)
    for solver, steps in (("ddim", 20), ("dpm", 18), ("dpm", 7)):
        assert decoder.sample(torch.zeros(1, QUERIES, 24), guidance=1, steps=steps, solver=solver).isfinite().all()
    for steps in (19, 20):
        with pytest.raises(UserError, match=f"dpm cannot tell {steps} steps apart"):
            decoder.sample(torch.zeros(1, QUERIES, 24), guidance=1, steps=steps, solver="dpm")


def test_the_decoders_scheduler_is_the_checkpoints(parts: Path) -> None:
    decoder = ImageDecoder.from_folder(parts / "stable-diffusion")
    torch.testing.assert_close(decoder.scheduler.alphas_cumprod, tiny_scheduler().alphas_cumprod)
    assert decoder.scheduler.alphas_cumprod[-1] == 0 and decoder.scheduler.config.prediction_type == "v_prediction"
    assert next(decoder.unet.parameters()).dtype == torch.float32
