"""Notebook 07's bug clinic: the interleaved loop, but with words that are given, healthy and with one fault each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from minidream.documents import Document
from minidream.events import to_image
from minidream.pipeline import MiniDreamPipeline
from minidream.visualization.dream_queries import grid

SENTENCES = (
    "There is a red square in the top right.",
    "It moves to the bottom left.",
    "A small blue star appears in the top right.",
)
PATIENTS = {"healthy": "", "patient 1": "crop", "patient 2": "blind", "patient 3": "stale"}


class Examined(NamedTuple):
    """What one loop drew after each sentence, the condition (Q, D) of its last picture, and how many places its stream
    holds then."""

    pictures: list[Image.Image]
    condition: Tensor
    places: int


@torch.no_grad()
def examine(pipe: MiniDreamPipeline, seed: int = 0, steps: int = 8) -> dict[str, Examined]:
    """Each patient reads a sentence, dreams, draws and looks, three times; all draw from the same noise.

    The faults: "crop" takes the dream block off the cache when the picture is drawn; "blind" leaves the placeholder's
    embedding in the image block; "stale" looks at its first picture every time.
    """
    model, processor = pipe.model, pipe.processor
    caches = {name: DynamicCache(config=model.llm.config) for name in PATIENTS}
    noise = [torch.Generator().manual_seed(seed) for _ in PATIENTS]
    shown: dict[str, list[Tensor]] = {name: [] for name in PATIENTS}
    table = model.llm.get_input_embeddings()

    def append(name: str, *pieces: int | Tensor) -> Tensor:
        """Append ids, or embeddings (n, H); the states (l, H) of what was appended."""
        rows = [table(torch.tensor([piece])) if isinstance(piece, int) else piece for piece in pieces]
        states: Tensor = model.read(torch.cat(rows).unsqueeze(0), cache=caches[name]).last_hidden_state[0]
        return states

    for number, sentence in enumerate(SENTENCES):
        states = []
        for name in PATIENTS:
            append(name, *([processor.bos] if number == 0 else []), *processor.encode(sentence))
            states.append(append(name, processor.dream, model.dream_queries, processor.dream_end)[1:-1])
        conditions = model.condition_projector(torch.stack(states))  # (patients, Q, D)
        latents = model.decoder.sample(conditions, model.null_condition(), steps=steps, generators=noise)
        for (name, fault), picture in zip(PATIENTS.items(), model.decoder.decode(latents)):
            shown[name].append(picture)
            if fault == "crop":
                caches[name].crop(-len(model.dream_queries) - 2)
            seen = model.encode_pictures((shown[name][0] if fault == "stale" else picture).unsqueeze(0))[0]
            patches = model.visual_projector(seen)  # (P, H)
            if fault == "blind":
                patches = table(torch.tensor([processor.im_patch] * len(patches)))
            append(name, processor.im_start, patches, processor.im_end)
    return {
        name: Examined([to_image(picture) for picture in shown[name]], condition, caches[name].get_seq_length())
        for name, condition in zip(PATIENTS, conditions)
    }


@torch.no_grad()
def read_anew(pipe: MiniDreamPipeline, examined: Examined) -> tuple[int, float]:
    """What a patient made, as a finished document that is read in a single pass, without a cache: how many places it
    takes (without </s>), and how far its last condition is from the patient's, as a share of its norm."""
    document = Document([part for pair in zip(SENTENCES, examined.pictures) for part in pair])
    batch = pipe.processor([document], add_eos=False).to(pipe.model.device)
    seen = pipe.model.encode_pictures(batch.pictures[batch.seen])
    condition = pipe.model(**batch.model_inputs(), image_features=seen).conditions[-1]
    return batch.input_ids.shape[1], ((examined.condition - condition).norm() / condition.norm()).item()


def sheet(examined: Mapping[str, Examined]) -> Figure:
    """A row of pictures for each patient."""
    return grid(
        [each.pictures for each in examined.values()],
        list(examined),
        ["a red square", "it moves", "a blue star appears"],
        cell=128,
        alt="Three pictures each by a healthy loop and by three patients, drawn from the same words and noise",
    )
