"""Frozen encoders are asked once per picture, and the answer is theirs."""

from __future__ import annotations

import random
from types import SimpleNamespace

import torch
from torch import Tensor

from minidream.training.cache import EncodedPictures
from minidream.training.dream import DreamTask
from minidream.training.recipes import Recipe


class Counting:
    """Encoders whose answers are easy to check; counts the pictures they were shown."""

    def __init__(self) -> None:
        self.shown = 0
        self.decoder = SimpleNamespace(encode=lambda pictures: pictures.float().mean((2, 3))[:, :, None, None] / 100)

    def encode_pictures(self, pictures: Tensor) -> Tensor:
        self.shown += len(pictures)
        return pictures.float().mean((2, 3))[:, None]


def test_each_picture_is_encoded_once_and_in_its_place() -> None:
    model, cache = Counting(), EncodedPictures()
    a, b = torch.full((3, 8, 8), 10, dtype=torch.uint8), torch.full((3, 8, 8), 20, dtype=torch.uint8)
    features, latents = cache(model, torch.stack([a, b, a]))
    assert features[:, 0, 0].tolist() == [10, 20, 10] and model.shown == 2
    assert torch.allclose(latents.flatten(1)[:, 0], torch.tensor([0.1, 0.2, 0.1]), atol=1e-3)
    again, _ = cache(model, torch.stack([b, a]))
    assert again[:, 0, 0].tolist() == [20, 10] and model.shown == 2


def test_a_full_cache_still_answers() -> None:
    model, cache = Counting(), EncodedPictures(megabytes=0)
    pictures = torch.stack([torch.full((3, 8, 8), 7, dtype=torch.uint8)])
    for _ in range(2):
        assert cache(model, pictures)[0][0, 0, 0] == 7
    assert model.shown == 2 and not cache.stored


def test_a_stage_forgets_them_with_its_step() -> None:
    """In another batch they may be rounded otherwise, and a resumed run has none of them."""
    task = object.__new__(DreamTask)
    task.recipe, task.encoded = (
        Recipe("align", steps=1, batch=1, lr=1.0, mixture={"image_to_text": 1.0}),
        EncodedPictures(),
    )
    before = task.encoded
    task.batch(random.Random(0))
    assert task.encoded is not before and not task.encoded.stored
