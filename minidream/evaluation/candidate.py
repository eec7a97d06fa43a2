"""What is examined: a pipeline seen as a candidate that draws, tells, answers and goes on with documents, in batches.

The methods of `Candidate` are all that the examinations know of a model; tests put a candidate in its place that
knows the truth.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Container, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForCausalLM

from minidream.agreement import consensus, fitness
from minidream.batch import IGNORED, batches
from minidream.documents import Document
from minidream.errors import UserError
from minidream.events import collect, to_image, whole
from minidream.explanation import Explanation
from minidream.modeling.loading import load_part
from minidream.pictures import fit_picture
from minidream.thinking import MOST_TOLD, thoughts, words_of
from minidream.verification import Verdict
from minidream.world.corpora import OPENING
from minidream.world.read import read_batch
from minidream.world.scene import SIDE, Scene

HALVES = {"seen": False, "held_out": True}  # of what is examined: whether training holds out what it is about


class Surprise(NamedTuple):
    """-log probability of a text, in nats, and how many tokens that is about."""

    loss: float
    tokens: int


class Candidate(Protocol):
    """What an examination asks of whoever takes it."""

    def draw(self, captions: list[str], seed: int) -> list[Image.Image]:
        """A picture for each caption, from noise that `seed` and its index decide."""

    def rebuild(self, pictures: list[Image.Image]) -> list[Image.Image]:
        """Each picture as its image decoder encodes and decodes it: the ceiling of all that it draws."""

    def caption(self, pictures: list[Image.Image]) -> list[str]:
        """A caption for each picture."""

    def ask(self, about: list[Image.Image] | list[Document], questions: list[str]) -> list[str]:
        """An answer for each picture, or document, and its question."""

    def draw_next(self, documents: list[Document], given: list[int], seed: int) -> list[Image.Image]:
        """The picture that comes next in each document. `given`: how many leading parts are the reader's; later
        pictures are the candidate's own."""

    def tell_next(self, documents: list[Document], given: list[int]) -> list[str]:
        """What the picture that comes next in each document is to show, in words; "" where there is no room for any."""

    def write(self, openings: list[str], seed: int, think: bool) -> list[Document]:
        """What the candidate writes and draws after each opening, until it ends by itself."""

    def fitness(self, pictures: list[Image.Image], texts: list[str]) -> list[float]:
        """How well the candidate finds that each picture shows its text."""

    def places_dreams(self, documents: list[Document], given: list[int]) -> list[bool]:
        """For each finished document, whether the candidate would begin a picture exactly where one stands."""

    def surprise(self, texts: list[Document], given: list[Container[int]], llm: Path | None = None) -> list[Surprise]:
        """How unexpected each text is, but for its given parts, to the candidate's language model; or to the one in the
        folder `llm`."""

    def verify(self, documents: list[Document], given: list[int]) -> list[Verdict]:
        """What the candidate thinks of the last picture of each document."""

    def consensus(self, tries: list[list[Image.Image]]) -> list[list[float]]:
        """Of the pictures drawn for the same words, how near each is to most of them."""

    def explain(self, document: Document, picture: int, instead: list[Image.Image]) -> list[Explanation]:
        """Why the document's `picture`, rather than each of those."""


def dice(seed: int, *names: str) -> random.Random:
    """The random numbers of one part of an examination. No name begins as training's do, so no draw is shared."""
    return random.Random("-".join(("evaluation", str(seed), *names)))


def look(pictures: Sequence[Image.Image]) -> list[Scene | None]:
    """The scenes that pictures of any size show, by the exact reader; None where it cannot read one."""
    if not pictures:
        return []
    return read_batch(np.stack([np.asarray(fit_picture(picture, SIDE)) for picture in pictures]))


def same(truth: Scene, shown: Scene | None) -> bool:
    """Whether a picture shows all facts of the truth and nothing else."""
    return shown is not None and shown.facts() == truth.facts()


class PipelineCandidate:
    """A `MiniDreamPipeline` as a candidate, with `guidance` and `steps` for all it draws."""

    def __init__(self, pipe: Any, guidance: float = 1.5, steps: int = 12) -> None:
        self.pipe, self.guidance, self.steps = pipe, guidance, steps

    def draw(self, captions: list[str], seed: int) -> list[Image.Image]:
        drawn: list[Image.Image] = []
        for some in batches(captions):
            seeds = [seed + len(drawn) + i for i in range(len(some))]
            drawn += self.pipe.draw(list(some), guidance=self.guidance, steps=self.steps, seed=seeds)
        return drawn

    def rebuild(self, pictures: list[Image.Image]) -> list[Image.Image]:
        decoder, made = self.pipe.model.decoder, []
        for some in batches(pictures):
            shown = torch.stack([self.pipe.processor.picture(picture) for picture in some])  # (B, 3, H, W) uint8
            made += [to_image(pixels) for pixels in decoder.rebuild(shown)]
        return made

    def caption(self, pictures: list[Image.Image]) -> list[str]:
        return list(self.pipe.caption(pictures))

    def ask(self, about: list[Image.Image] | list[Document], questions: list[str]) -> list[str]:
        return list(self.pipe.ask(about, questions, max_tokens=16))

    @torch.no_grad()
    def _read(self, documents: list[Document], given: list[int], finished: bool) -> tuple[Any, Any]:
        """(batch, the model's output) for interleaved documents, all positions in one pass."""
        model = self.pipe.model
        batch = self.pipe.processor(documents, mode="interleaved", prompt_parts=given, add_eos=finished)
        batch = batch.to(model.device)
        expected = sum(len(part.pictures) for part in (doc[start:] for doc, start in zip(documents, given)))
        if len(batch.dreamed) != expected:
            raise UserError(f"a story has more tokens than these weights read ({self.pipe.processor.max_length})")
        features = model.encode_pictures(batch.pictures[batch.seen]) if len(batch.seen) else None
        return batch, model(**batch.model_inputs(), image_features=features)

    @torch.no_grad()
    def draw_next(self, documents: list[Document], given: list[int], seed: int) -> list[Image.Image]:
        drawn: list[Image.Image] = []
        decoder, side = self.pipe.model.decoder, self.pipe.processor.image_size
        for some in batches(list(zip(documents, given, strict=True))):
            # The next picture's dream block comes before its image block, so any picture can stand for it: causality
            # (property 4) hides it from its own queries.
            blank = Image.new("RGB", (side, side))
            begun = [document + Document([blank]) for document, _ in some]
            starts = [start for _, start in some]
            _, out = self._read(begun, starts, finished=False)
            counts = [len(document[start:].pictures) for document, start in zip(begun, starts)]
            condition = out.conditions[torch.tensor(counts).cumsum(0) - 1]  # (B, Q, D): each document's last block
            latents = decoder.sample(
                condition,
                self.pipe.model.null_condition(),
                guidance=self.guidance,
                steps=self.steps,
                generators=[torch.Generator().manual_seed(seed + len(drawn) + i) for i in range(len(some))],
            )
            drawn += [to_image(pixels) for pixels in decoder.decode(latents)]
        return drawn

    def tell_next(self, documents: list[Document], given: list[int]) -> list[str]:
        """As the loop does it: nothing is told where the context has no room for it, and for the picture."""
        processor = self.pipe.processor
        room = processor.max_length - processor.picture_length - len(processor.encode(OPENING)) - MOST_TOLD
        lengths = [processor.length(document, range(start)) for document, start in zip(documents, given)]
        told = [document for document, length in zip(documents, lengths) if length < room]
        go_on = partial(self.pipe.stream, max_pictures=0, max_tokens=MOST_TOLD)
        said = iter(thoughts(go_on, processor, words_of(go_on, told)))
        return [next(said) if length < room else "" for length in lengths]

    def write(self, openings: list[str], seed: int, think: bool) -> list[Document]:
        written = [Document() for _ in openings]
        for some in batches(range(len(openings))):
            seeds = [seed + index for index in some]
            options = {"guidance": self.guidance, "steps": self.steps, "think": think}
            for event in whole(self.pipe.stream([openings[index] for index in some], seed=seeds, **options)):
                collect(written[some[event.document]], event)
        return written

    def fitness(self, pictures: list[Image.Image], texts: list[str]) -> list[float]:
        return fitness(self.pipe.model, self.pipe.processor, pictures, texts)

    def places_dreams(self, documents: list[Document], given: list[int]) -> list[bool]:
        placed: list[bool] = []
        for some in batches(list(zip(documents, given, strict=True))):
            batch, out = self._read([document for document, _ in some], [start for _, start in some], finished=True)
            dream = self.pipe.processor.dream
            said, due = out.logits[:, :-1].argmax(-1), batch.labels[:, 1:]  # (B, L - 1)
            wrong = ((said == dream) != (due == dream)) & (due != IGNORED)
            placed += (~wrong.any(1)).tolist()
        return placed

    @torch.no_grad()
    def surprise(self, texts: list[Document], given: list[Container[int]], llm: Path | None = None) -> list[Surprise]:
        model = self.pipe.model
        read = model.llm if llm is None else load_part(AutoModelForCausalLM, llm, "the language model").to(model.device)
        found: list[Surprise] = []
        for some in batches(list(zip(texts, given, strict=True))):
            batch = self.pipe.processor([text for text, _ in some], "text", prompt_parts=[parts for _, parts in some])
            batch = batch.to(model.device)
            logits = read(batch.input_ids, batch.attention_mask).logits[:, :-1].float()  # (B, L - 1, V)
            due = batch.labels[:, 1:]
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), due, reduction="none").sum(1)  # (B,)
            found += [Surprise(loss, count) for loss, count in zip(losses.tolist(), (due != IGNORED).sum(1).tolist())]
        return found

    def consensus(self, tries: list[list[Image.Image]]) -> list[list[float]]:
        return consensus(self.pipe.model, self.pipe.processor, tries)

    def verify(self, documents: list[Document], given: list[int]) -> list[Verdict]:
        return [verdicts[-1] for verdicts in self.pipe.verify(documents, given)]

    def explain(self, document: Document, picture: int, instead: list[Image.Image]) -> list[Explanation]:
        return list(self.pipe.explain(document, picture, instead))


def digest(module: torch.nn.Module) -> str:
    """SHA-256 over the names and values of all parameters and buffers: which weights these are, wherever they lie."""
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        total.update(name.encode() + value.detach().float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
