"""Notebook 06: a kind of story small enough to learn from in half a minute, its exam, and the exercises."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from minidream.processing import Batch, MiniDreamProcessor
from minidream.teaching import Exercise, Mistake
from minidream.training.dream import DreamTask
from minidream.training.recipes import recipe_for
from minidream.weights import find_weights
from minidream.world.captions import plain_caption
from minidream.world.corpora import Example
from minidream.world.scene import COLORS, Scene, is_held_out, random_scene
from minidream.world.stories import QUIET

POOL = 64  # small stories to learn from: few enough that the frozen encoders are done with them after a few steps


def small_story(rng: random.Random) -> Example:
    """One thing, told and shown; then it turns to another colour. In two stories of five something quiet is said first,
    which no picture follows."""
    scene = random_scene(rng, 1, held_out=False)
    (thing,) = scene.things
    turned = [Scene(scene.background, (replace(thing, color=color),)) for color in COLORS if color != thing.color]
    after = rng.choice([each for each in turned if not is_held_out(each)])
    quiet = f"{rng.choice(QUIET)} " if rng.random() < 0.4 else ""
    told = f"{quiet}The {thing.shape} turns {after.things[0].color}."
    return Example((plain_caption(scene), scene, told, after), "interleaved", "small")


class SmallStories(DreamTask):
    """Stage II as it is, from the shipped stage I, but on small stories alone and with the paper's AdamW."""

    def __init__(self, language_weight: float = 1.0, dream_weight: float = 10.0) -> None:
        torch.manual_seed(0)
        sizes, recipe = recipe_for("igpt")
        # Dropout of conditions serves guidance, which half a minute does not reach.
        recipe = replace(
            recipe, steps=36, batch=8, lr=2e-3, warmup=0.1, muon=False, condition_dropout=0.0,
            mixture={"interleaved": 1.0}, language_weight=language_weight, dream_weight=dream_weight,
        )  # fmt: skip
        stage_one = find_weights("align")
        super().__init__(sizes, recipe, stage_one.parent, stage_one)
        drawn = random.Random("train-small")
        self.pool = [small_story(drawn) for _ in range(POOL)]

    def batch(self, rng: random.Random) -> dict[str, list[Example]]:
        return {"interleaved": rng.sample(self.pool, self.recipe.batch)}


@dataclass(frozen=True)
class Report:
    """An exam: the mean chance of `<dream>` where a picture stands, after a full stop without a picture, and after any
    other token; and the dream loss of the first and of the second pictures."""

    due: float
    quiet: float
    elsewhere: float
    first: float
    second: float


@torch.no_grad()
def examine(task: DreamTask, examples: Sequence[Example]) -> Report:
    """What `task`'s model makes of small stories it has not seen: always with the same noise, against the teacher."""
    model, processor = task.modules.eval(), task.processor
    batch = processor([example.document for example in examples], "interleaved")
    latents = model.decoder.encode(batch.pictures[batch.dreamed])  # (2 B, C, h, w): first, second, first, second ...
    out = model(**batch.model_inputs(), image_features=model.encode_pictures(batch.pictures[batch.seen]))
    scenes = [scene for example in examples for scene in example.scenes]
    taught = task.teach(scenes, model.device).last_hidden_state  # (2 B, S, D)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    timesteps = torch.linspace(100, 999, len(examples)).long().repeat_interleave(2)
    first, second = (
        model.decoder.loss(
            latents[k::2], out.conditions[k::2], noise=noise[k::2], timesteps=timesteps[k::2],
            teacher_condition=taught[k::2],
        ).item()
        for k in (0, 1)
    )  # fmt: skip
    targets, chance = batch.labels[:, 1:], out.logits[:, :-1].softmax(-1)[..., processor.dream]
    due, asked = targets == processor.dream, targets != -100
    stop = batch.input_ids[:, :-1] == processor.tokenizer.convert_tokens_to_ids(".")
    places = (due, asked & ~due & stop, asked & ~due & ~stop)
    model.train_only(task.recipe.trainable)
    wanted, quiet, elsewhere = (chance[here].mean().item() for here in places)
    return Report(wanted, quiet, elsewhere, first, second)


@torch.no_grad()
def chances(model: Any, processor: MiniDreamProcessor, example: Example) -> Tensor:
    """The chance that `<dream>` comes next, at each place of a story that predicts: (places,)."""
    batch = processor([example.document], "interleaved")
    out = model(**batch.model_inputs(), image_features=model.encode_pictures(batch.pictures[batch.seen]))
    return out.logits[0, :-1].softmax(-1)[batch.labels[0, 1:] != -100, processor.dream]


def tokens(processor: MiniDreamProcessor, batch: Batch, row: int = 0) -> list[str]:
    """A row's tokens as they are written in the vocabulary, padding left out."""
    real = batch.input_ids[row][batch.attention_mask[row] > 0]
    return [str(token) for token in processor.tokenizer.convert_ids_to_tokens(real.tolist())]


def block_of(processor: MiniDreamProcessor, batch: Batch) -> list[str]:
    """For each place of the first row, the block it belongs to: "text 1", "dream 1", "image 1", "text 2" ..."""
    names, number, kind = [], 1, "text"
    for token in batch.input_ids[0].tolist():
        if token in (processor.dream, processor.im_start):
            kind = "dream" if token == processor.dream else "image"
        names.append(f"{kind} {number}")
        if token == processor.im_end:
            number += 1
        if token in (processor.dream_end, processor.im_end):
            kind = "text"
    return names


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
        kind, number = blocks[place].split()
        return int(number), rank[kind]

    return sorted(range(len(blocks)), key=key)  # sorted keeps the order within a block


def parts_of(model: Any) -> dict[str, list[Tensor]]:
    """What stage II moves, by the names that a figure shows."""
    return {
        "condition projector": list(model.condition_projector.parameters()),
        "dream queries": [model.dream_queries],
        "visual projector": list(model.visual_projector.parameters()),
        "word embeddings": [model.llm.get_input_embeddings().weight],
        "LLM layers": [p for name, p in model.llm.named_parameters() if ".layers." in name],
        "head": [model.llm.get_output_embeddings().weight],
    }


def gradient_norms(loss: Tensor, parts: dict[str, list[Tensor]]) -> dict[str, float]:
    """How strongly a loss pulls at each part: the norm of its gradient, 0 where it does not reach."""
    flat = [parameter for part in parts.values() for parameter in part]
    gradients = iter(torch.autograd.grad(loss, flat, retain_graph=True, allow_unused=True))
    return {
        name: sum(0.0 if (g := next(gradients)) is None else g.square().sum().item() for _ in part) ** 0.5
        for name, part in parts.items()
    }


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


def summands(processor: MiniDreamProcessor, batch: Batch, words: Tensor, pictures: Tensor) -> list[float]:
    """What each part of one document adds to the loss, in reading order: words, `<dream>`, picture, words ... `</s>`.

    `words` (L - 1,): each place's loss, counted (0 where none falls). `pictures` (M,): each picture's, counted.
    """
    blocks = block_of(processor, batch)[1:]
    sums: list[float] = []
    for block in dict.fromkeys(blocks):
        kind, number = block.split()
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


# -- the exercises ----------------------------------------------------------------------------------------------------

_TAUGHT = {"<dream>", "</s>"}

TAUGHT = Exercise(
    "what an edit teaches",
    reference=_TAUGHT,
    right=lambda answer: set(answer) == _TAUGHT,
    mistakes=(
        Mistake(
            {"words", "<dream>", "</s>"},
            lambda answer: "words" in answer,
            "the order to change the picture is the reader's: the model shall not learn to give orders",
        ),
        Mistake(
            {"<dream>", "q", "</s>"},
            lambda answer: bool({"q", "p"} & set(answer)),
            "q and p are places for vectors, no word of the vocabulary stands there: nothing to predict",
        ),
        Mistake(
            {"<dream>", "<im_start>", "</s>"},
            lambda answer: bool({"<dream_end>", "<im_start>", "<im_end>", "<s>"} & set(answer)),
            "these follow by themselves: whoever runs the model writes them, the model never chooses them",
        ),
        Mistake(
            {"<dream>"},
            lambda answer: set(answer) == {"<dream>"},
            "and when is the document finished? Somebody has to say so",
        ),
        Mistake(
            {"</s>"},
            lambda answer: set(answer) == {"</s>"},
            "such a model would never draw: who says that a picture comes?",
        ),
    ),
)


def _pairs(answer: Callable[[list[int]], int]) -> list[int]:
    return [int(answer(lengths)) for lengths in ([3], [3, 5], [2, 2, 2])]


PAIRS = Exercise(
    "pairs in a packed row",
    reference=lambda lengths: sum(n * (n + 1) // 2 for n in lengths),
    right=lambda answer: _pairs(answer) == [6, 21, 9],
    mistakes=(
        Mistake(
            lambda lengths: sum(lengths) * (sum(lengths) + 1) // 2,
            lambda answer: _pairs(answer) == [6, 36, 21],
            "that is one long document: here a later one would read those before it",
        ),
        Mistake(
            lambda lengths: sum(n * n for n in lengths),
            lambda answer: _pairs(answer) == [9, 34, 12],
            "that lets a token look ahead within its document: only half of the square is causal",
        ),
        Mistake(
            lambda lengths: sum(n * (n - 1) // 2 for n in lengths),
            lambda answer: _pairs(answer) == [3, 13, 3],
            "a token also looks at itself: the diagonal belongs to the triangle",
        ),
    ),
)


def _totals(answer: Callable[..., float]) -> tuple[float, float]:
    """Two documents, of one and of three taught words; then one without any (not a number if it divides by zero)."""
    both = float(answer([[4.0], [2.0, 1.0, 1.0]], [0.5, 0.1], 1, 10))
    try:
        return both, float(answer([[]], [0.2], 1, 10))
    except ZeroDivisionError:
        return both, math.nan


def _is(found: tuple[float, float], first: float, second: float) -> bool:
    return abs(found[0] - first) < 1e-6 and abs(found[1] - second) < 1e-6


def _careless(words: list[list[float]], pictures: list[float], w_lm: float, w_dm: float) -> float:
    flat = [loss for document in words for loss in document]
    return w_lm * sum(flat) / len(flat) + w_dm * sum(pictures) / len(pictures)


def _total(words: list[list[float]], pictures: list[float], w_lm: float, w_dm: float) -> float:
    flat = [loss for document in words for loss in document]
    return w_lm * sum(flat) / max(1, len(flat)) + w_dm * sum(pictures) / max(1, len(pictures))


def _by_document(words: list[list[float]], pictures: list[float], w_lm: float, w_dm: float) -> float:
    means = [sum(document) / max(1, len(document)) for document in words]
    return w_lm * sum(means) / len(means) + w_dm * sum(pictures) / max(1, len(pictures))


def _summed(words: list[list[float]], pictures: list[float], w_lm: float, w_dm: float) -> float:
    return w_lm * sum(map(sum, words)) + w_dm * sum(pictures)


TOTAL = Exercise(
    "the loss of a batch",
    reference=_total,
    right=lambda answer: _is(_totals(answer), 5.0, 2.0),
    mistakes=(
        Mistake(
            _careless,
            lambda answer: math.isnan(_totals(answer)[1]),
            "a batch without a single taught word divides by zero: its language loss is 0",
        ),
        Mistake(
            _by_document,
            lambda answer: _is(_totals(answer), 5.666666667, 2.0),
            "a mean of means: the one word of the first document counts as much as three of the second",
        ),
        Mistake(
            _summed,
            lambda answer: _is(_totals(answer), 14.0, 2.0),
            "a sum grows with the batch, and w_dm would weigh pictures by their number: take the means",
        ),
    ),
)
