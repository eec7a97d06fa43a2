"""`MiniDreamPipeline`: model and processor behind six verbs: draw, ask, caption, complete (or stream), chat, condition;
and behind those for who wants to trust it: verify, review, best_of, explain.

Verbs take one thing or a list (but for chat and explain); a list is worked on as a batch and gives what its members
give one by one.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image
from torch import Tensor

from minidream.batch import batches
from minidream.chat import Chat
from minidream.documents import Document, as_document
from minidream.errors import UserError
from minidream.events import Event, TextPiece, collect, to_image, whole
from minidream.explanation import Explanation, explain
from minidream.generation import stream
from minidream.modeling.loading import first_line, open_tokenizer
from minidream.modeling.minidream import MiniDream
from minidream.processing import MiniDreamProcessor, caption_prompt, visual_question
from minidream.sampling import SamplingOptions, sample_latents
from minidream.verification import Verdict, best_of, verify, worst_first
from minidream.weights import find_weights, staged

STRIDE = 1_000_003  # between the seeds of several tries at a picture, so that neighbouring seeds share no picture
Prompt = str | Image.Image | Document


class MiniDreamPipeline:
    """What users hold in their hands. All sampling options are those of `SamplingOptions`; `UserError` for bad ones."""

    def __init__(self, model: MiniDream, processor: MiniDreamProcessor) -> None:
        if processor.num_dream_queries != model.config.num_dream_queries:
            raise UserError(
                f"the processor writes {processor.num_dream_queries} dream queries, "
                f"the model has {model.config.num_dream_queries}: make both with the same number"
            )
        self.model, self.processor = model.eval(), processor

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None, device: str | torch.device = "cpu") -> MiniDreamPipeline:
        """Open a folder made by `save_pretrained` (default: the shipped weights). Raises `UserError` if it is none."""
        folder = find_weights("minidream") if path is None else Path(path)
        return cls(MiniDream.from_pretrained(folder), MiniDreamProcessor.from_pretrained(folder)).to(device)

    @classmethod
    def from_components(
        cls,
        llm: Any,
        vision: Any,
        diffusion: Any,
        num_dream_queries: int = 8,
        max_length: int = 2048,
        tokenizer: Any = None,
    ) -> MiniDreamPipeline:
        """Join checkpoints by name or folder (or modules): the queries and projectors are new and want training.

        `max_length`: the context in tokens, at most what the language model has positions for.
        """
        if tokenizer is None:
            tokenizer = open_tokenizer(llm)
        model = MiniDream.from_components(llm, vision, diffusion, num_dream_queries, tokenizer=tokenizer)
        positions = getattr(model.llm.config, "max_position_embeddings", None) or max_length
        processor = MiniDreamProcessor(
            tokenizer,
            num_dream_queries,
            num_patches=model.vision.num_patches,
            image_size=model.config.image_size,
            max_length=min(max_length, positions),
        )
        return cls(model, processor)

    def save_pretrained(self, folder: str | Path, frozen: bool = True) -> None:
        """Write model and processor; `frozen=False` leaves the frozen parts where they are and names them only."""
        with staged(Path(folder)) as temporary:  # both, or neither
            self.model.save_pretrained(temporary, frozen=frozen)
            self.processor.save_pretrained(temporary)

    def to(self, device: str | torch.device) -> MiniDreamPipeline:
        """Move the model; the pictures and texts that come out are the same up to rounding. Raises `UserError` for a
        device that is not there."""
        try:
            self.model.to(device)
        except (AssertionError, RuntimeError) as error:  # torch's words for it
            raise UserError(f"the model cannot be moved to {device} ({first_line(error)}): choose another") from None
        return self

    def draw(
        self,
        captions: str | Sequence[str],
        negative: str | None = None,
        guidance: float = 1.5,
        steps: int = 12,
        seed: int | Sequence[int] = 0,
        solver: str = "dpm",
    ) -> list[Image.Image]:
        """One picture for each caption. Guidance leads away from the empty prompt, or from the caption `negative`.

        `seed`: one for all (the same caption then gives the same picture), or one each.
        """
        captions = [captions] if isinstance(captions, Prompt) else list(captions)
        if not all(isinstance(caption, str) for caption in (*captions, negative or "")):
            raise UserError("captions are texts: to draw what comes next in a document, use complete or stream")
        options = SamplingOptions(guidance=guidance, steps=steps, seed=seed, solver=solver)
        return self._draw([as_document(caption) for caption in captions], options, negative)

    @torch.no_grad()
    def condition(self, documents: Prompt | Sequence[Prompt]) -> Tensor:
        """What the UNet's cross-attention sees if a picture follows here (Eq. 3): (B, Q, D)."""
        batch = [as_document(document) for document in ([documents] if isinstance(documents, Prompt) else documents)]
        if not batch or any(not document.pictures and not document.text.strip() for document in batch):
            raise UserError("there is nothing to draw from: give a caption, or a document with a text or a picture")
        inputs = self.processor(batch, "text_to_image", padding_side="left", generation_prompt=True)
        inputs = inputs.to(self.model.device)
        features = self.model.encode_pictures(inputs.pictures[inputs.seen]) if len(inputs.seen) else None
        embeddings = self.model.embed(inputs.input_ids, inputs.query_mask, inputs.patch_mask, features)
        hidden = self.model.read(embeddings, inputs.attention_mask, inputs.position_ids).last_hidden_state
        return self.model.conditions(hidden, inputs.query_mask)

    @overload
    def ask(self, about: Prompt, question: str, **sampling: Any) -> str: ...
    @overload
    def ask(self, about: Prompt | Sequence[Prompt], question: Sequence[str], **sampling: Any) -> list[str]: ...
    def ask(self, about: Any, question: Any, **sampling: Any) -> Any:
        """Answer a question about a picture or a document; or many questions, about one or about as many."""
        single = isinstance(question, Prompt)
        questions = [question] if single else list(question)
        abouts = [about] * len(questions) if single or isinstance(about, Prompt) else list(about)
        if len(abouts) != len(questions):
            raise UserError(f"{len(questions)} questions about {len(abouts)} pictures: give one question each")
        if not all(isinstance(asked, str) for asked in questions):
            raise UserError("a question is a text: what else it is about stands in the document before it")
        if not all(asked.strip() for asked in questions):
            raise UserError("the question is empty: ask something")
        documents = [as_document(shown) for shown in abouts]
        if not all(document.pictures or document.text.strip() for document in documents):
            raise UserError("there is nothing to ask about: give a picture, or a document with a text or a picture")
        prompts = [visual_question(document, asked.strip()) for document, asked in zip(documents, questions)]
        answers = self._say(prompts, sampling)
        return answers[0] if single else answers

    @overload
    def caption(self, picture: Image.Image, **sampling: Any) -> str: ...
    @overload
    def caption(self, picture: Sequence[Image.Image], **sampling: Any) -> list[str]: ...
    def caption(self, picture: Any, **sampling: Any) -> Any:
        """Say what a picture shows; or what each of many shows."""
        single = isinstance(picture, Prompt)
        pictures = [picture] if single else list(picture)
        if not all(isinstance(shown, Image.Image) for shown in pictures):
            raise UserError("only a picture has a caption: to go on from a text or a document, use complete")
        captions = self._say([caption_prompt(shown) for shown in pictures], sampling)
        return captions[0] if single else captions

    @overload
    def complete(self, document: Prompt, **sampling: Any) -> Document: ...
    @overload
    def complete(self, document: Sequence[Prompt], **sampling: Any) -> list[Document]: ...
    def complete(self, document: Any, **sampling: Any) -> Any:
        """The document with its continuation, texts and pictures; or each of many. Interrupted by Ctrl-C, it gives what
        has been made so far."""
        single = isinstance(document, Prompt)
        documents = [as_document(each) for each in ([document] if single else document)]
        continued = [Document(each.parts) for each in documents]
        try:
            for index, event in self._events(documents, sampling):
                collect(continued[index], event)
        except KeyboardInterrupt:
            pass
        return continued[0] if single else continued

    def stream(
        self,
        document: Prompt | Sequence[Prompt],
        prompt_parts: Sequence[Container[int]] | None = None,
        **sampling: Any,
    ) -> Iterator[Event]:
        """What `complete` does, event by event (see `minidream.generation`); a list is one batch. `prompt_parts`: which
        parts of each are given (all, if None); the others are the model's own."""
        documents = [as_document(each) for each in ([document] if isinstance(document, Prompt) else document)]
        return stream(self.model, self.processor, documents, _options(sampling), prompt_parts)

    def chat(self, turns: Iterable[tuple[str, Prompt]] = (), **sampling: Any) -> Chat:
        """A conversation: `chat.say` gives replies, see `minidream.chat`. It goes on after `turns`, pairs of a role
        ("user" and "assistant", alternately) and what was said. Raises `UserError` if they are out of turn or empty."""
        _options(sampling)
        return Chat(self, turns, **sampling)

    @overload
    def verify(self, document: Prompt, given: int = 0) -> list[Verdict]: ...  # type: ignore[overload-overlap]  # str
    @overload
    def verify(self, document: Sequence[Prompt], given: int | Sequence[int] = 0) -> list[list[Verdict]]: ...
    def verify(self, document: Any, given: int | Sequence[int] = 0) -> Any:
        """What the model, looking again, finds of each picture: a list of `Verdict`, or one for each of many documents.

        The first `given` parts (one number for all, or one each) are the reader's: their pictures are believed. So are
        pictures before the first word. Raises `UserError` for a damaged picture, or more words than the context holds.
        """
        single = isinstance(document, Prompt)
        documents = [as_document(each) for each in ([document] if single else document)]
        starts = [given] * len(documents) if isinstance(given, int) else list(given)
        if len(starts) != len(documents):
            raise UserError(f"given names {len(starts)} numbers for {len(documents)} documents: one for all, or each")
        verdicts = verify(self, documents, starts)
        return verdicts[0] if single else verdicts

    def review(self, documents: Prompt | Sequence[Prompt], given: int | Sequence[int] = 0) -> list[Verdict]:
        """The verdicts on all pictures of all documents, worst first: the list for a human who checks some."""
        return worst_first(self.verify([documents] if isinstance(documents, Prompt) else documents, given))

    @overload
    def best_of(self, prompt: Prompt, n: int = 4, **sampling: Any) -> Image.Image: ...
    @overload
    def best_of(self, prompt: Sequence[Prompt], n: int = 4, **sampling: Any) -> list[Image.Image]: ...
    def best_of(self, prompt: Any, n: int = 4, **sampling: Any) -> Any:
        """Of `n` pictures drawn from a caption, or next in a document, the one with the best verdict that is most like
        the others; or of each of many. With n = 1 it is the picture that `draw` gives."""
        single = isinstance(prompt, Prompt)
        prompts = [as_document(each) for each in ([prompt] if single else prompt)]
        if not isinstance(n, int) or n < 1:
            raise UserError(
                f"n must be a whole number of at least 1, not {n!r}: it is how many pictures are drawn to choose from"
            )
        options = _options(sampling)
        seeds = [options.seed] * len(prompts) if isinstance(options.seed, int) else list(options.seed)
        tries = [replace(options, seed=[(seed + k * STRIDE) % 2**63 for seed in seeds]) for k in range(n)]
        chosen = best_of(self, prompts, list(zip(*(self._draw(prompts, each) for each in tries), strict=True)))
        return chosen[0] if single else chosen

    @overload
    def explain(self, document: Document, picture: int = -1, instead: Image.Image | None = None) -> Explanation: ...
    @overload
    def explain(self, document: Document, picture: int, instead: Sequence[Image.Image]) -> list[Explanation]: ...
    def explain(self, document: Document, picture: int = -1, instead: Any = None) -> Any:
        """On which words and pictures before it a picture of the document depends, as an `Explanation`.

        `picture`: its number among the document's, from 0 (-1: the last). `instead`: another picture, to explain why it
        is this one rather than that; or a list of them, for a list of explanations. Raises `UserError` if there is no
        such picture, or nothing before it.
        """
        single = instead is None or isinstance(instead, Image.Image)
        explained = explain(self, document, picture, [instead] if single else list(instead))
        return explained[0] if single else explained

    def _draw(
        self, documents: list[Document], options: SamplingOptions, negative: str | None = None
    ) -> list[Image.Image]:
        """The picture that comes next in each document."""
        options.check(self.model)
        generators = options.generators(len(documents))
        null = None if negative is None else self.condition([Document([negative])])
        pictures: list[Image.Image] = []
        for some, noises in zip(batches(documents), batches(generators)):
            latents = sample_latents(self.model, self.condition(some), options, noises, null)
            pictures += [to_image(picture) for picture in self.model.decoder.decode(latents)]
        return pictures

    def _say(self, prompts: list[Document], sampling: dict[str, Any]) -> list[str]:
        """The text that follows each prompt. Interrupted by Ctrl-C it gives nothing: half an answer is a wrong one."""
        said = [""] * len(prompts)
        for index, event in self._events(prompts, {**sampling, "max_pictures": 0}):
            if isinstance(event, TextPiece):
                said[index] += event.text
        return [text.strip() for text in said]

    def _events(self, documents: list[Document], sampling: dict[str, Any]) -> Iterator[tuple[int, Event]]:
        """Index and event of any number of documents. Raises KeyboardInterrupt after Ctrl-C, when all that had been
        made until then has been handed out."""
        options = _options(sampling)
        options.generators(len(documents))  # complains if there are seeds, but not one each
        for some in batches(range(len(documents))):
            seeds = options.seed if isinstance(options.seed, int) else [options.seed[index] for index in some]
            for event in whole(self.stream([documents[index] for index in some], **{**sampling, "seed": seeds})):
                yield some[event.document], event


def _options(sampling: dict[str, Any]) -> SamplingOptions:
    known = [option.name for option in fields(SamplingOptions)]
    for name in sampling:
        if name not in known:
            raise UserError(f"unknown option {name!r}: choose among {', '.join(known)}")
    return SamplingOptions(**sampling)
