"""`Chat`: a conversation whose turns, on both sides, hold text and pictures. Taught in notebook 07.

A conversation is one document, in which a question stands as "Question: ... Answer:" and everything else as it was
said; the reply follows. So its first turn is what `ask`, `caption` and `complete` give the model to read:

    user  [picture]                      assistant  a caption
    user  [picture] "What colour ...?"   assistant  an answer
    user  "Make the star yellow."        assistant  [picture]

`tokenizer.apply_chat_template` writes the same tokens from the standard messages.
"""

from __future__ import annotations

import html
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from minidream.documents import Document, as_document
from minidream.errors import ContextWarning, UserError
from minidream.events import Event, collect
from minidream.processing import question_prompt

if TYPE_CHECKING:
    from minidream.pipeline import MiniDreamPipeline, Prompt

ROLES = ("user", "assistant")
REPLY = 48  # tokens that are kept free for a reply's text: as much as the longest caption


class Turn(NamedTuple):
    """What one side said: `role` is one of `ROLES`."""

    role: str
    document: Document


class Chat:
    """A conversation so far: `turns`, and `say` for the next one. Made by `MiniDreamPipeline.chat`."""

    def __init__(self, pipe: MiniDreamPipeline, turns: Iterable[tuple[str, Prompt]] = (), **sampling: Any) -> None:
        self.pipe, self.sampling, self.turns = pipe, sampling, checked(turns)
        if len(self.turns) % 2:
            raise UserError("the last turn is the user's and has no reply yet: leave it out, and `say` it")

    def say(self, said: Prompt, **sampling: Any) -> Document:
        """The reply to a text, a picture or a document of both; options given here hold for this reply only.

        Interrupted by Ctrl-C, it gives what has been made so far. A turn that got no reply is not kept. A conversation
        that outgrows the context loses its oldest turns, a question with its reply, for the model only: `turns` keeps
        them, and a `ContextWarning` says so. A turn too long by itself loses its leading parts in the same way. Raises
        `UserError` for an empty turn, a part that does not fit by itself, or a bad option.
        """
        before = len(self.turns)
        try:
            with closing(self.stream(said, **sampling)) as events:
                for _ in events:
                    pass
        except KeyboardInterrupt:
            pass
        return self.turns[-1].document if len(self.turns) > before else Document()

    def stream(self, said: Prompt, **sampling: Any) -> Generator[Event, None, None]:
        """What `say` does, event by event (see `minidream.generation`). The reply is kept when the iterator ends or is
        closed."""
        turns = checked([*self.turns, ("user", said)])
        document, users = written(self._within_context(turns))
        events = self.pipe.stream([document], prompt_parts=[users], **{**self.sampling, **sampling})
        return self._kept(turns[-1], events)

    def _kept(self, said: Turn, events: Iterator[Event]) -> Generator[Event, None, None]:
        reply = Document()
        try:
            for event in events:
                collect(reply, event)
                yield event
        finally:
            if reply := _spoken(reply):
                self.turns += [said, Turn("assistant", reply)]

    def _within_context(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        """The latest turns that leave room for a reply with a picture; at least the last."""
        processor, first = self.pipe.processor, 0
        room = processor.max_length - processor.picture_length - REPLY
        while first + 1 < len(turns) and processor.length(*written(turns[first:])) > room:
            first += 2
        if first:
            warnings.warn(
                f"the conversation has outgrown the context of {processor.max_length} tokens: its first {first} turns "
                "are no longer read",
                ContextWarning,
                stacklevel=4,
            )
        return turns[first:]

    @property
    def document(self) -> Document:
        """The whole conversation as the model reads it; `document.save` keeps it."""
        return written(self.turns)[0]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as `apply_chat_template` takes it: texts, and "image" where a picture stands."""
        return [
            {
                "role": turn.role,
                "content": [
                    {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                    for part in turn.document
                ],
            }
            for turn in self.turns
        ]

    def __repr__(self) -> str:
        return "\n".join(f"{turn.role}: {turn.document.text}" for turn in self.turns)

    def _repr_html_(self) -> str:
        shown = [
            f"<section><b>{html.escape(turn.role)}</b>\n{turn.document._repr_html_()}\n</section>"
            for turn in self.turns
        ]
        return "\n".join(shown)


def checked(turns: Iterable[tuple[str, Prompt]]) -> list[Turn]:
    """The turns as documents without empty parts. Raises `UserError` if one is empty or out of turn."""
    spoken = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, tuple | list) or len(turn) != 2:
            raise UserError(f"turn {number} is no pair of a role and what was said: write ('user', 'Draw a star.')")
        role, said = turn
        if role != ROLES[(number + 1) % 2]:
            raise UserError(
                f"turn {number} is said by {role!r}: a conversation begins with the user, then user and assistant take "
                "turns"
            )
        document = _spoken(as_document(said))
        if not document:
            raise UserError(f"turn {number} ({role}) is empty: say something, or show a picture")
        spoken.append(Turn(role, document))
    return spoken


def _spoken(said: Document) -> Document:
    """Without empty texts and the space around the others."""
    parts = [part.strip() if isinstance(part, str) else part for part in said]
    return Document(part for part in parts if part != "")


def written(turns: Iterable[Turn]) -> tuple[Document, frozenset[int]]:
    """The conversation as one document, and which of its parts are the user's."""
    document, users = Document(), set()
    for role, said in turns:
        for index, part in enumerate(said):
            if isinstance(part, str):
                if role == "user" and index == len(said) - 1 and part.endswith("?"):
                    part = question_prompt(part)
                if document and isinstance(document[-1], str):
                    part = " " + part
            if role == "user":
                users.add(len(document))
            document.append(part)
    return document, frozenset(users)
