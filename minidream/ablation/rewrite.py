"""Rewrite-then-generate, the pipeline that DreamLLM replaces: put the context into a caption, then draw the caption.

All ways are the shipped MiniDream's, on the same stories from the same noise. Directly, the dream queries read the
document, pictures and all. Rewriting, the model goes on with "(", as it has learned to tell a picture in brackets; what
it says until ")" is drawn by plain `StableDiffusionPipeline`, which knows nothing else of the document. A blind
rewriter reads the words of the document alone, as a language model has to that takes no pictures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from minidream.ablation.grids import Budget, Variables
from minidream.documents import Document
from minidream.evaluation.candidate import PipelineCandidate, same
from minidream.evaluation.comprehension import parse_caption
from minidream.evaluation.creation import stable_diffusion
from minidream.evaluation.interleaved import follow, kept, stories
from minidream.evaluation.statistics import Leaf, proportion
from minidream.events import Event
from minidream.pipeline import MiniDreamPipeline
from minidream.thinking import MOST_TOLD, until_bracket
from minidream.training.loop import machine
from minidream.world.corpora import OPENING

TOLD = (("stories", "story"), ("facts", "facts"))  # the names of the figures, and the kinds of `world.tell`


class Rewriter(PipelineCandidate):
    """A candidate that draws what comes next in a document from a caption of its own, told from the stream with its
    pictures; `written` keeps them all. One that is `blind` writes it without looking at the document's pictures."""

    def __init__(self, pipe: Any, painter: Path, guidance: float, steps: int, blind: bool = False) -> None:
        super().__init__(pipe, guidance, steps)
        self.paint = stable_diffusion(painter, guidance, steps, pipe.model.device)
        self.blind = blind
        self.written: list[str] = []

    def tell_next(self, documents: list[Document], given: list[int]) -> list[str]:
        if self.blind:
            documents = [Document([" ".join(part.strip() for part in each.texts)]) for each in documents]
        prompts = [document + Document([OPENING]) for document in documents]
        parts = {id(prompt): range(start) for prompt, start in zip(prompts, given, strict=True)}

        def go_on(some: Sequence[Document]) -> Iterator[Event]:
            options = {"max_pictures": 0, "max_tokens": MOST_TOLD}
            return self.pipe.stream(some, prompt_parts=[parts[id(prompt)] for prompt in some], **options)

        return until_bracket(go_on, prompts)

    def draw_next(self, documents: list[Document], given: list[int], seed: int) -> list[Image.Image]:
        captions = self.tell_next(documents, given)
        self.written += captions
        return self.paint(captions, seed)


def run(budget: Budget, variables: Variables, seed: int, parts: Path) -> dict[str, Any]:
    """Draw `budget.stories` stories, and as many whose background and sizes only their first picture holds, one way.

    Returns the leaves `stories` and, of the latter kind, `facts`: `first` (the share whose first picture to draw is
    wholly right), `first_kept` (that keeps what no text tells), `all` and `all_kept` (every picture of it), and for
    rewriting `captions`, the share of those first pictures' captions that tell the truth; and `seconds`, `threads`,
    `machine`.
    """
    began = time.perf_counter()
    pipe = MiniDreamPipeline.from_pretrained(parts / "minidream")
    found = {
        name: _drawn(_candidate(pipe, parts, budget, variables), kind, budget.stories, seed) for name, kind in TOLD
    }
    return found | {
        "seconds": round(time.perf_counter() - began, 1),
        "threads": torch.get_num_threads(),
        "machine": machine(pipe.model.device),
    }


def _candidate(pipe: MiniDreamPipeline, parts: Path, budget: Budget, variables: Variables) -> PipelineCandidate:
    guidance, steps = budget.guidance, budget.sampling_steps
    if variables["way"] == "direct":
        return PipelineCandidate(pipe, guidance, steps)
    return Rewriter(pipe, parts / "stable-diffusion", guidance, steps, blind=variables["way"] == "blind")


def _drawn(candidate: PipelineCandidate, kind: str, n: int, seed: int) -> dict[str, Leaf]:
    """What comes of `n` stories of a kind."""
    drawn = follow(candidate, stories(kind, n, seed), seed)
    found: dict[str, Leaf] = {}
    for ending, right in (("", same), ("_kept", kept)):
        found["first" + ending] = proportion([right(*story[0]) for story in drawn])
        found["all" + ending] = proportion([all(right(*pair) for pair in story) for story in drawn])
    if isinstance(candidate, Rewriter):
        firsts = zip(candidate.written[: len(drawn)], drawn, strict=True)  # all stories' first pictures come first
        truly = [parse_caption(caption) == story[0][0].facts() for caption, story in firsts]
        found["captions"] = proportion(truly)
    return found
