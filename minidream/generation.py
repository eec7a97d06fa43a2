"""The interleaved loop: in one stream the model writes, decides where a picture belongs, draws it and looks at it.

    write    decode text with a KV cache until the model itself emits <dream>, or ends with </s>
    think    if asked to, tell in brackets what the words ask for, in the stream but not in the document; then look
             whether the picture shows that, or draw it again
    dream    append the dream block (never sampled); its hidden states are the condition (Eq. 3)
    draw     the frozen decoder makes a picture of it, guided away from the null condition
    look     the vision encoder reads that very picture, the image block is appended; then write on

Several documents go in lock-step: each writes until it wants a picture or ends, then all pictures are drawn as one
batch. Every document has its own randomness, so a batch gives what its members give one by one. Taught in notebook 07.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor
from transformers import DynamicCache

from minidream.agreement import FITS, fitness
from minidream.batch import Batch
from minidream.documents import Document
from minidream.errors import UserError
from minidream.events import Doubt, End, Event, Picture, PictureComing, Preview, TextPiece, Thought, to_image
from minidream.modeling.minidream import MiniDream
from minidream.processing import MiniDreamProcessor
from minidream.sampling import SamplingOptions, nucleus, sample_latents, watch
from minidream.thinking import MOST_TOLD, thoughts, words_of
from minidream.world.corpora import CLOSING, OPENING


@dataclass(eq=False)
class _Writer:
    """What one document has written so far."""

    index: int
    used: int  # places of the context that are taken
    words: torch.Generator  # two sources, so that a picture's noise does not depend on how many words came before
    noise: torch.Generator
    state: str = "writing"  # or "dreaming", or "ended"
    tokens: int = 0
    pictures: int = 0
    text: list[int] = field(default_factory=list)  # ids since the last picture
    shown: int = 0  # how many of their letters have been handed out
    told: list[str] | None = None  # in words, what it has read and written up to its last picture (for `think`)


def stream(
    model: MiniDream,
    processor: MiniDreamProcessor,
    documents: Sequence[Document],
    options: SamplingOptions | None = None,
    prompt_parts: Sequence[Container[int]] | None = None,
) -> Iterator[Event]:
    """Continue documents; the iterator gives events as they happen and may be closed at any time.

    `prompt_parts`: which parts of each were given (all, if None); the others are the model's own, so that their
    pictures stand there as they did when it drew them.

    A KeyboardInterrupt while it works ends every open document with `End(reason="interrupted")`. A
    document longer than the context loses leading parts, which a `ContextWarning` tells. Raises `UserError`, at once,
    for an empty document, one whose last part alone is too long, or more pictures than the context holds.
    """
    return InterleavedGenerator(model, processor, documents, options or SamplingOptions(), prompt_parts).run()


class InterleavedGenerator:
    """The state of a batch being continued: one KV cache for all, one `_Writer` each. `run` is the loop."""

    def __init__(
        self,
        model: MiniDream,
        processor: MiniDreamProcessor,
        documents: Sequence[Document],
        options: SamplingOptions,
        prompt_parts: Sequence[Container[int]] | None = None,
    ) -> None:
        self.model, self.processor, self.options = model, processor, options
        if not documents:
            raise UserError("there is no document to go on from: give at least one")
        for document in documents:
            if not document.pictures and not document.text.strip():
                raise UserError("the prompt is empty: give a text or a picture to go on from")
        options.check(model)
        self.picture_length = processor.picture_length
        if options.max_pictures * self.picture_length >= processor.max_length:
            most = (processor.max_length - 1) // self.picture_length
            raise UserError(
                f"max_pictures {options.max_pictures}: the context holds at most {most} pictures, ask for fewer"
            )
        given: Sequence[Container[int]] = prompt_parts or [range(len(document)) for document in documents]
        read = [processor.latest(document, parts) for document, parts in zip(documents, given, strict=True)]
        self.documents = [document for document, _ in read]
        self.prompt = processor(
            self.documents,
            prompt_parts=[parts for _, parts in read],
            padding_side="left",
            generation_prompt=True,
        )
        lengths = self.prompt.attention_mask.sum(-1).tolist()
        count = len(documents)
        sources = zip(lengths, options.generators(count), options.generators(count))
        self.writers = [_Writer(index, *source) for index, source in enumerate(sources)]
        self.cache = DynamicCache(config=model.llm.config)
        self.mask = torch.zeros(count, 0, dtype=torch.long, device=model.device)

    @torch.no_grad()  # as decorator: torch then restores the caller's own setting at every yield
    def run(self) -> Iterator[Event]:
        """The loop's events, with an end for every document."""
        try:
            yield from self._loop()
        except KeyboardInterrupt:
            yield from (End(writer.index, "interrupted") for writer in self.writers if writer.state != "ended")

    def _loop(self) -> Iterator[Event]:
        """Write, dream, draw, look; until every document has ended."""
        given = self.prompt.pictures[self.prompt.seen].to(self.model.device)
        hidden = self._read(self.prompt, self.model.encode_pictures(given) if len(given) else None)
        while True:
            while any(writer.state == "writing" for writer in self.writers):
                ids = self._next_tokens(hidden[:, -1])
                for writer in self.writers:
                    if writer.state == "writing":
                        yield from self._write(writer, ids[writer.index])
                written = [i if writer.state == "writing" else None for writer, i in zip(self.writers, ids)]
                if any(token is not None for token in written):
                    hidden = self._read(self.processor.continuation(written))

            dreaming = [writer for writer in self.writers if writer.state == "dreaming"]
            if not dreaming:
                return
            yield from (PictureComing(writer.index) for writer in dreaming)
            block = self._blocks("dream", dreaming).to(self.model.device)
            thoughts = (yield from self._think(dreaming)) if self.options.think else {}
            condition = self.model.conditions(self._read(block), block.query_mask)  # (M, Q, D), Eq. 3
            pictures = yield from self._draw(condition, dreaming)  # (M, 3, H, W) uint8
            if thoughts and self.options.tries > 1:
                pictures = yield from self._redraw(pictures, condition, dreaming, thoughts)
            for writer, picture in zip(dreaming, pictures):
                yield Picture(writer.index, to_image(picture))
                writer.state, writer.text, writer.shown = "writing", [], 0
            hidden = self._read(self._blocks("image", dreaming), self.model.encode_pictures(pictures))

    def _think(self, dreaming: list[_Writer]) -> Generator[Event, None, dict[int, str]]:
        """Before dream blocks, what the words ask of the picture, in brackets, as stage III taught; by document. It
        stays in the stream, and is left out where the stream, or the words alone, have no room for it."""
        opening = self.processor.encode(OPENING)
        most = len(opening) + MOST_TOLD  # the block's place is taken already
        thinking = [writer for writer in dreaming if writer.used + most < self.processor.max_length]
        options = SamplingOptions(max_pictures=0, max_tokens=MOST_TOLD)
        go_on = partial(stream, self.model, self.processor, options=options)
        unread = [writer for writer in thinking if writer.told is None]
        for writer, words in zip(unread, words_of(go_on, [self.documents[w.index] for w in unread])):
            writer.told = words
        told: dict[int, str] = {}
        stories = [[*(writer.told or ()), self.processor.decode(writer.text)] for writer in thinking]
        blocks: list[list[int] | None] = [None] * len(self.writers)
        for writer, story, thought in zip(thinking, stories, thoughts(go_on, self.processor, stories)):
            if thought:
                told[writer.index], writer.told = thought, [*story, f"({thought})"]
                ids = opening + self.processor.encode(thought + CLOSING)[: MOST_TOLD + 1]  # babble is read as more
                blocks[writer.index], writer.used = ids, writer.used + len(ids)
        if told:
            self._read(self.processor.continuation(blocks))
        yield from (Thought(index, thought) for index, thought in told.items())
        return told

    def _redraw(
        self, pictures: Tensor, condition: Tensor, dreaming: list[_Writer], thoughts: dict[int, str]
    ) -> Generator[Event, None, Tensor]:
        """Draw anew those of the pictures (M, 3, H, W) in which the model does not read its thought, or not clearly;
        of the `tries` of each, the one that fits best is kept."""
        told = {i: thoughts[writer.index] for i, writer in enumerate(dreaming) if thoughts.get(writer.index)}
        drawn, fits = pictures, self._fitness(pictures, told)
        for _ in range(self.options.tries - 1):
            again = [i for i, fit in fits.items() if fit < FITS]
            if not again:
                break
            yield from (Doubt(dreaming[i].index, to_image(drawn[i])) for i in again)
            drawn = pictures.clone()
            drawn[again] = yield from self._draw(condition[again], [dreaming[i] for i in again])
            for i, fit in self._fitness(drawn, {i: told[i] for i in again}).items():
                if fit > fits[i]:
                    pictures[i], fits[i] = drawn[i], fit
        return pictures

    def _fitness(self, pictures: Tensor, told: dict[int, str]) -> dict[int, float]:
        """How well pictures, by their number, show what was told of them."""
        shown = [to_image(pictures[i]) for i in told]
        return dict(zip(told, fitness(self.model, self.processor, shown, list(told.values()))))

    def _blocks(self, kind: str, writers: list[_Writer]) -> Batch:
        """A block for each of these writers, padding for the others."""
        return self.processor.continuation([kind if writer in writers else None for writer in self.writers])

    def _read(self, addition: Batch, image_features: Tensor | None = None) -> Tensor:
        """Append to the stream and give the hidden states (B, l, H) of what was appended.

        Additions are padded on the left: the last column is the newest of every document that has got something. The
        mask remembers all gaps, and positions count real tokens only, so gaps change nothing.
        """
        addition = addition.to(self.model.device)
        self.mask = torch.cat([self.mask, addition.attention_mask], dim=1)
        embeddings = self.model.embed(addition.input_ids, addition.query_mask, addition.patch_mask, image_features)
        return self.model.read(embeddings, self.mask, cache=self.cache).last_hidden_state

    @cached_property
    def _forbidden(self) -> list[int]:
        """Tokens that are never written: the blocks' insides are appended, not chosen."""
        processor = self.processor
        special = {*processor.tokenizer.all_special_ids, processor.im_start, processor.im_patch, processor.im_end}
        allowed = {processor.eos} | ({processor.dream} if self.options.max_pictures else set())
        return sorted((special | {processor.dream, processor.dream_end, processor.pad, processor.bos}) - allowed)

    def _logits(self, hidden: Tensor) -> Tensor:
        """The logits (B, V) of what may be written after hidden states (B, H)."""
        logits = self.model.llm.get_output_embeddings()(hidden).float()
        logits[:, self._forbidden] = -torch.inf
        logits[:, len(self.processor.tokenizer) :] = -torch.inf  # embeddings are often padded to a round number
        return logits

    def _next_tokens(self, hidden: Tensor) -> list[int]:
        """Choose each document's next token by its last hidden state (B, H)."""
        logits = self._logits(hidden)
        if self.options.temperature == 0:
            return logits.argmax(-1).tolist()
        logits = (logits / self.options.temperature).cpu()
        return [
            nucleus(row, self.options.top_p, writer.words) if writer.state == "writing" else self.processor.pad
            for row, writer in zip(logits, self.writers)
        ]

    def _write(self, writer: _Writer, token: int) -> Iterator[Event]:
        """Take a token: it is a word, or wants a picture, or ends the document; or a limit does."""
        reason = None
        if token == self.processor.eos:
            reason = "eos"
        elif token == self.processor.dream:
            if writer.pictures == self.options.max_pictures:
                reason = "pictures"
            elif writer.used + self.picture_length >= self.processor.max_length:
                reason = "context"
            else:
                writer.state = "dreaming"
                writer.pictures += 1
                writer.used += self.picture_length
        else:
            writer.text.append(token)
            writer.tokens += 1
            writer.used += 1
            if writer.tokens == self.options.max_tokens:
                reason = "tokens"
            elif writer.used >= self.processor.max_length:
                reason = "context"
        if reason:
            writer.state = "ended"
        text = self.processor.decode(writer.text)
        # A letter outside ASCII is several byte tokens: wait until it is whole, unless nothing more comes.
        if len(text) > writer.shown and (writer.state != "writing" or not text.endswith("\ufffd")):
            yield TextPiece(writer.index, text[writer.shown :])
            writer.shown = len(text)
        if reason:
            yield End(writer.index, reason)

    def _draw(self, condition: Tensor, dreaming: list[_Writer]) -> Generator[Event, None, Tensor]:
        """Draw pictures (M, 3, H, W), uint8, under conditions (M, Q, D), in one batch; returned after the previews."""
        sample = partial(sample_latents, self.model, condition, self.options, [writer.noise for writer in dreaming])
        every = self.options.preview_every
        if not every:
            return self.model.decoder.decode(sample())
        watched = watch(lambda callback: sample(callback=callback))
        while True:
            try:
                step, foreseen = next(watched)
            except StopIteration as finished:
                return self.model.decoder.decode(finished.value)
            if (step + 1) % every == 0 and step + 1 < self.options.steps:
                for writer, picture in zip(dreaming, self.model.decoder.decode(foreseen)):
                    yield Preview(writer.index, step + 1, to_image(picture))
