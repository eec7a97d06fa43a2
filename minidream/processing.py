"""`MiniDreamProcessor`: documents become tensors and labels, in the paper's sequences. Taught in notebook 06.

A picture stands in a sequence as one or two blocks that are never cut in half:

    dream block  DB = <dream> + Q placeholders + <dream_end>      the picture is created here, from what came before
    image block  IB = <im_start> + P placeholders + <im_end>      the picture is seen here, by what comes after

    text_to_image   <s> text DB </s>                no loss on any token: the diffusion loss alone
    image_to_text   <s> IB text </s>                loss on the text and </s>
    interleaved     <s> (text DB IB)* text </s>     loss on the text, <dream> and </s>
    text            <s> text </s>                   loss on the text and </s>
    conversation    interleaved, the user's parts given: loss on each reply, and on </s> after each
    thoughts        interleaved, " (caption)" before DB: loss on the caption, too; where " (" is given, on <dream>

What is given (a prompt, the user's turns) has no loss, and a given picture is only seen: IB, no DB.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from minidream.batch import Batch, TokenSequence, collate, together
from minidream.documents import Document
from minidream.errors import ContextWarning, UserError
from minidream.pictures import fit_picture, read_pixels, write_atomically
from minidream.tokenizer import PAD, SPECIAL_TOKENS, chat_template
from minidream.world.corpora import OPENING
from minidream.world.corpora import question_text as question_prompt  # one format for training and for use

__all__ = [
    "MODES",
    "SPECIAL_TOKENS",
    "MiniDreamProcessor",
    "caption_prompt",
    "question_prompt",
    "visual_question",
]

MODES = ("interleaved", "text_to_image", "image_to_text", "text")


def caption_prompt(picture: Image.Image) -> Document:
    """What the model reads before it says what a picture shows."""
    return Document([picture])


def visual_question(about: Document, question: str) -> Document:
    """What the model reads before it answers a question about a picture or a document."""
    space = " " if about and isinstance(about[-1], str) else ""
    return Document([*about, space + question_prompt(question)])


class MiniDreamProcessor:
    """`Document` to tensors, and token ids back to text. Adds the special tokens that the tokenizer lacks, and gives it
    the chat template."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        num_dream_queries: int = 8,
        num_patches: int = 16,
        image_size: int = 64,
        max_length: int = 384,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no token that ends a document: set its eos_token")
        missing = [token for token in SPECIAL_TOKENS if token not in tokenizer.get_vocab()]
        if missing:
            tokenizer.add_tokens(missing, special_tokens=True)
        if tokenizer.pad_token_id is None:
            tokenizer.add_special_tokens({"pad_token": PAD})
        self.tokenizer = tokenizer
        self.num_dream_queries, self.num_patches = num_dream_queries, num_patches
        self.image_size, self.max_length = image_size, max_length
        tokenizer.chat_template = chat_template(num_dream_queries, num_patches)
        ids = {token: tokenizer.get_vocab()[token] for token in SPECIAL_TOKENS}
        self.im_start, self.im_patch, self.im_end = ids["<im_start>"], ids["<im_patch>"], ids["<im_end>"]
        self.dream, self.dream_end = ids["<dream>"], ids["<dream_end>"]
        self.eos, self.pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
        self.bos = self.eos if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)

    def length(self, document: Document, prompt_parts: Container[int]) -> int:
        """How many tokens a generation prompt of the document takes, <s> among them."""
        text = sum(len(self.encode(part)) for part in document.texts)
        dreamed = sum(not isinstance(part, str) and i not in prompt_parts for i, part in enumerate(document))
        return 1 + text + len(document.pictures) * self.image_block_length + dreamed * self.dream_block_length

    def latest(self, document: Document, given: Container[int]) -> tuple[Document, Container[int]]:
        """A prompt that the context has no room for, without its leading parts, and what of the rest is given.

        So many whole parts are left out that what goes on has room for a picture; the last one stays. A
        `ContextWarning` says so.
        """
        last = document[-1:]
        alone = self.length(last, {0} if len(document) - 1 in given else ())
        if self.length(document, given) < self.max_length or alone >= self.max_length:  # or nothing can be done
            return document, given
        for first in range(1, len(document)):
            rest = document[first:]
            kept = frozenset(index - first for index in range(first, len(document)) if index in given)
            if first + 1 == len(document) or self.length(rest, kept) < self.max_length - self.picture_length:
                left_out = "part is" if first == 1 else f"{first} parts are"
                warnings.warn(
                    f"the prompt is longer than the context of {self.max_length} tokens: its first {left_out} not read",
                    ContextWarning,
                    stacklevel=2,
                )
                return rest, kept
        return document, given

    @property
    def dream_block_length(self) -> int:
        """<dream>, Q placeholders and <dream_end>."""
        return self.num_dream_queries + 2

    @property
    def image_block_length(self) -> int:
        """<im_start>, P placeholders and <im_end>."""
        return self.num_patches + 2

    @property
    def picture_length(self) -> int:
        """What a picture of the model's own takes: it is dreamed, then seen."""
        return self.dream_block_length + self.image_block_length

    def encode(self, text: str) -> list[int]:
        """Plain text to ids. What looks like a special token in it is written letter by letter: nobody's text can
        open a block or end a document. Raises `UserError` for half a surrogate pair, which is no letter."""
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError("the text is not valid Unicode (it has half a surrogate pair): decode it anew")
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text, without special tokens. A space at the beginning is kept, which Llama's tokenizers take off."""
        anchor = self.encode("a")
        return self._decode([*anchor, *ids]).removeprefix(self._decode(anchor))

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def __call__(
        self,
        documents: Sequence[Document],
        mode: str = "interleaved",
        prompt_parts: Sequence[int | Container[int]] | None = None,
        padding_side: str = "right",
        add_eos: bool = True,
        generation_prompt: bool = False,
        pack: bool = False,
    ) -> Batch:
        """Write documents as one batch.

        `pack`: several documents to a row, and rows as long as the longest document; none sees another (see
        `MiniDream.read`), so only the time spent on padding changes.

        `prompt_parts`: how many leading parts of each, or which, are given (no loss; pictures seen, not dreamed).
        `generation_prompt`: nothing ends the sequence, and all parts are given unless `prompt_parts` says which; the
        others are the model's own. In mode "text_to_image" an empty dream block follows, ready to be drawn.

        In mode "interleaved", a given part after one that is not is the next turn of a conversation: what is learned in
        its place is to end the reply, with </s>. A given `OPENING` is no turn: the model wants a picture there, and is
        to tell it first; what is learned in its place is <dream>. A document longer than `max_length` loses whole parts
        at its end (and </s>, for it does not end there); as a generation prompt it is refused, see `latest`.

        Raises `UserError` if a prompt, a first part or a first picture does not fit, or mode "text" meets a picture,
        and ValueError for an unknown mode or side.
        """
        if mode not in MODES:
            raise ValueError(f"unknown mode {mode!r}: choose one of {', '.join(MODES)}")
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side is left or right, not {padding_side!r}")
        if generation_prompt:
            add_eos, prompt_parts = False, prompt_parts or [len(document) for document in documents]
        given = [range(parts) if isinstance(parts, int) else parts for parts in prompt_parts or [0] * len(documents)]
        rows = [
            self._write(document, mode, parts, add_eos, generation_prompt)
            for document, parts in zip(documents, given, strict=True)
        ]
        return self._batch(rows, padding_side == "left", pack)

    def picture(self, image: Image.Image) -> Tensor:
        """One picture as uint8 (3, H, W): its middle square, resized if need be. Raises `UserError` if it cannot be
        read: Pillow opens a file without reading it."""
        read_pixels(image)
        return torch.from_numpy(np.array(fit_picture(image, self.image_size))).permute(2, 0, 1).contiguous()

    def continuation(self, additions: Sequence[int | list[int] | str | None]) -> Batch:
        """What is appended to each document of a batch that is being written, padded on the left: a token id, or
        several, a whole "dream" or "image" block (its features go beside it), or nothing (None: padding only)."""
        rows = [TokenSequence() for _ in additions]
        for row, addition in zip(rows, additions):
            if addition == "dream":
                self._add_dream_block(row, loss=False)
            elif addition == "image":
                self._add_image_block(row)
            elif isinstance(addition, int):
                row.add([addition])
            elif isinstance(addition, list):
                row.add(addition)
        return self._batch(rows, left=True)

    def _add_dream_block(self, row: TokenSequence, loss: bool) -> None:
        row.add([self.dream], loss=loss)
        row.add([self.im_patch] * self.num_dream_queries, queries=True)
        row.add([self.dream_end])

    def _add_image_block(self, row: TokenSequence) -> None:
        row.add([self.im_start])
        row.add([self.im_patch] * self.num_patches, patches=True)
        row.add([self.im_end])

    def _write(
        self, document: Document, mode: str, prompt_parts: Container[int], add_eos: bool, prompt: bool
    ) -> TokenSequence:
        row, drawn_next = TokenSequence(), prompt and mode == "text_to_image"
        row.add([self.bos])
        room = self.max_length - (self.dream_block_length if drawn_next else 1)  # 1: </s>, or the first token to come
        whole = True
        for index, part in enumerate(document):
            given, start = index in prompt_parts, len(row.ids)
            if isinstance(part, str):
                ids = self.encode(part)
                whole = len(row.ids) + len(ids) <= room
                if whole:
                    row.add(ids, loss=not given and mode != "text_to_image")
            else:
                whole = self._add_picture(row, part, mode, given, room)
            if not whole:
                break
            if mode == "interleaved" and given and part == OPENING:
                row.labels[start] = self.dream
            elif mode == "interleaved" and given and len(row.ids) > start > 1 and index - 1 not in prompt_parts:
                row.labels[start] = self.eos  # the reply has ended, though the next turn follows
        if not whole and (prompt or index == 0 or (document.pictures and not row.pictures)):
            what = "the prompt" if prompt else "the text" if isinstance(part, str) else "the first picture"
            raise UserError(f"{what} does not fit into the context of {self.max_length} tokens: shorten the document")
        if drawn_next:
            self._add_dream_block(row, loss=False)
        if add_eos and whole:
            row.add([self.eos], loss=mode != "text_to_image")
        return row

    def _add_picture(self, row: TokenSequence, picture: Image.Image, mode: str, given: bool, room: int) -> bool:
        """Write a picture's blocks, if all of them fit."""
        if mode == "text":
            raise UserError("this document has a picture, but mode 'text' has no place for one: use 'interleaved'")
        dreamed = not given and mode in ("text_to_image", "interleaved")
        seen = given or mode != "text_to_image"
        if len(row.ids) + dreamed * self.dream_block_length + seen * self.image_block_length > room:
            return False
        if dreamed:
            self._add_dream_block(row, loss=mode == "interleaved")
            row.dreamed.append(len(row.pictures))
        if seen:
            self._add_image_block(row)
            row.seen.append(len(row.pictures))
        row.pictures.append(picture)
        return True

    def _batch(self, written: list[TokenSequence], left: bool, pack: bool = False) -> Batch:
        rows = together(written) if pack else [[index] for index in range(len(written))]
        pictures = [self.picture(picture) for row in rows for index in row for picture in written[index].pictures]
        none = torch.zeros(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
        return collate(written, torch.stack(pictures) if pictures else none, self.pad, left, rows)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `processor.json` and the folder `tokenizer`."""
        folder = Path(folder)
        names = ("num_dream_queries", "num_patches", "image_size", "max_length")
        settings = {name: getattr(self, name) for name in names}
        write_atomically(folder / "processor.json", (json.dumps(settings, indent=2) + "\n").encode())
        self.tokenizer.save_pretrained(folder / "tokenizer", save_jinja_files=False)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> MiniDreamProcessor:
        """Read what `save_pretrained` wrote. Raises `UserError` if it is not there."""
        folder = Path(folder)
        if not (folder / "processor.json").is_file():
            raise UserError(f"{folder} has no processor.json: name a folder that a MiniDream was saved to")
        try:
            settings = json.loads((folder / "processor.json").read_text())
            return cls(PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer"), **settings)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"the processor at {folder} cannot be read ({error}): save it again") from None
