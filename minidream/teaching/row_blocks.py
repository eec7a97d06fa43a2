"""Notebook 06: a document's row by its blocks, what each adds to the loss, and what it hears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from minidream.batch import Batch
from minidream.processing import MiniDreamProcessor
from minidream.world.corpora import Example


def tokens(processor: MiniDreamProcessor, batch: Batch, row: int = 0) -> list[str]:
    """A row's tokens as they are written in the vocabulary, padding left out."""
    real = batch.input_ids[row][batch.attention_mask[row] > 0]
    return [str(token) for token in processor.tokenizer.convert_ids_to_tokens(real.tolist())]


def block_of(processor: MiniDreamProcessor, batch: Batch, row: int = 0) -> list[str]:
    """For each place of a row, the block it belongs to: "text 1", "dream 1", "image 1", "text 2" ... and "</s>"."""
    names, number, kind = [], 1, "text"
    for place, token in enumerate(batch.input_ids[row].tolist()):
        if token in (processor.dream, processor.im_start):
            kind = "dream" if token == processor.dream else "image"
        names.append("</s>" if place and token == processor.eos else f"{kind} {number}")
        if token == processor.im_end:
            number += 1
        if token in (processor.dream_end, processor.im_end):
            kind = "text"
    return names


def outline(processor: MiniDreamProcessor, example: Example, mode: str) -> str:
    """An example's row in short, what is taught in brackets: `[text] [DB] IB [end]`."""
    batch = processor([example.document], mode, [example.prompt_parts])
    short, before = [], None
    row = zip(block_of(processor, batch), batch.input_ids[0].tolist(), batch.labels[0].tolist())
    for block, token, label in list(row)[1:]:
        kind, taught = block.split()[0], label != -100
        name = {"dream": "DB", "image": "IB"}.get(kind, "end" if token == processor.eos else "text")
        piece = (block, name, taught if kind == "text" else None)  # of a dream block <dream> alone is taught
        if piece != before:
            short.append(f"[{name}]" if taught else name)
        before = piece
    return " ".join(short)


def rearranged(batch: Batch, places: Sequence[int]) -> Batch:
    """The one row of `batch` with only these places, in this order, as if it had been written so."""
    names = ("input_ids", "attention_mask", "labels", "query_mask", "patch_mask")
    moved = {name: getattr(batch, name)[:, list(places)] for name in names}
    return replace(batch, **moved, position_ids=torch.arange(len(places)).unsqueeze(0))


def without(blocks: Sequence[str], kind: str) -> list[int]:
    """All places but those of the blocks of a kind."""
    return [place for place, block in enumerate(blocks) if not block.startswith(kind)]


def seen_first(blocks: Sequence[str]) -> list[int]:
    """All places, with every image block before its dream block."""
    rank = {"text": 0, "image": 1, "dream": 2}

    def key(place: int) -> tuple[int, int]:
        kind, _, number = blocks[place].partition(" ")
        return int(number or len(blocks)), rank.get(kind, 0)  # </s> has no number and stays last

    return sorted(range(len(blocks)), key=key)  # sorted keeps the order within a block


def summands(processor: MiniDreamProcessor, batch: Batch, words: Tensor, pictures: Tensor) -> list[float]:
    """What each part of one document adds to the loss, in reading order: words, `<dream>`, picture, words ... `</s>`.

    `words` (L - 1,): each place's loss, counted (0 where none falls). `pictures` (M,): each picture's, counted.
    """
    blocks = block_of(processor, batch)[1:]
    sums: list[float] = []
    for block in dict.fromkeys(blocks):
        kind, _, number = block.partition(" ")
        here = torch.tensor([each == block for each in blocks])
        if kind != "image":
            sums.append(words[here].sum().item())
        if kind == "dream":
            sums.append(pictures[int(number) - 1].item())
    return sums


def hears(model: Any, batch: Batch, blocks: Sequence[str], pictures: dict[str, Tensor]) -> dict[str, dict[str, bool]]:
    """For each term of one document's sum, whether its gradient reaches each block of the row.

    `blocks` names the block of each place; a term is named by its kind and number: "picture 2". `pictures` holds
    `image_features`, `target_latents`, `noise` and `timesteps` as `MiniDream.forward` takes them.
    """
    embeddings = model.embed(batch.input_ids, batch.query_mask, batch.patch_mask, pictures["image_features"])
    embeddings = embeddings.detach().requires_grad_()
    hidden = model.read(embeddings).last_hidden_state
    labels = batch.labels[0, 1:]
    losses = torch.nn.functional.cross_entropy(
        model.llm.get_output_embeddings()(hidden)[0, :-1], labels, reduction="none"
    )
    terms = {}
    for block in dict.fromkeys(blocks):
        here = torch.tensor([each == block for each in blocks[1:]]) & (labels != -100)
        if here.any():
            terms[block.replace("dream", "<dream>")] = losses[here].sum()
    for number, condition in enumerate(model.conditions(hidden, batch.query_mask)):
        one = slice(number, number + 1)
        terms[f"picture {number + 1}"] = model.decoder.loss(
            pictures["target_latents"][one], condition[None], noise=pictures["noise"][one],
            timesteps=pictures["timesteps"][one],
        )  # fmt: skip
    found = {}
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, embeddings, retain_graph=True)
        reached = gradient[0].abs().sum(-1) > 0  # (L,)
        found[name] = {
            block: any(bool(r) for r, each in zip(reached, blocks) if each == block) for block in dict.fromkeys(blocks)
        }
    return found
