"""The shipped parts are the libraries' own: plain transformers and diffusers open them, without a line of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WEIGHTS = Path(__file__).parent.parent / "data" / "weights"
LANGUAGE = """
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
assert {"<im_start>", "<im_patch>", "<im_end>", "<dream>", "<dream_end>"} <= tokenizer.get_vocab().keys()
model = AutoModelForCausalLM.from_pretrained(folder)
ids = tokenizer("A large red circle in the top left", return_tensors="pt").input_ids
said = tokenizer.decode(model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :])
assert any(word in said for word in ("left", "right", "background")), said  # it goes on as a caption does
"""
CLIP = """
import torch
from PIL import Image, ImageDraw
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

model, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
picture = Image.new("RGB", (64, 64), "white")
ImageDraw.Draw(picture).ellipse((4, 4, 28, 28), fill=(213, 94, 0))
pixels = CLIPImageProcessorPil.from_pretrained(folder)(picture, return_tensors="pt").pixel_values
texts = ["A large orange circle in the top left on a white background.", "A small blue star on a black background."]
length = model.config.text_config.max_position_embeddings
tokens = tokenizer(texts, padding="max_length", max_length=length, return_tensors="pt")
with torch.no_grad():
    scores = model(tokens.input_ids, pixels, tokens.attention_mask).logits_per_image[0]
assert scores[0] > scores[1], scores
"""
PAINTER = """
import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
with torch.no_grad():
    assert vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean.shape == (1, 4, 8, 8) and unet.config.in_channels == 4
pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, use_safetensors=True)
pipe.set_progress_bar_config(disable=True)
asked = "A large blue circle in the top left on a white background."
options = {"num_inference_steps": 20, "guidance_scale": 2.0, "generator": torch.manual_seed(0)}
picture = np.asarray(pipe(asked, **options).images[0]).astype(int)
assert picture.shape == (64, 64, 3)
assert picture[60, 60].min() > 200 and picture[16, 16, 2] > picture[16, 16, 0] + 50, (picture[60, 60], picture[16, 16])
"""
NOTHING_OF_OURS = """
import sys
assert not [name for name in sys.modules if name.split(".")[0] == "minidream"]
"""


@pytest.mark.parametrize(("folder", "program"), [("llm", LANGUAGE), ("clip", CLIP), ("stable-diffusion", PAINTER)])
def test_plain_libraries_open_what_is_shipped(tmp_path: Path, folder: str, program: str):
    """In a process of its own, elsewhere, so that nothing of minidream can help."""
    code = f"folder = {str(WEIGHTS / folder)!r}\n{program}\n{NOTHING_OF_OURS}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
