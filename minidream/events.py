"""What happens while documents are being written: the events of `generation.stream`, and a document made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from minidream.documents import Document


@dataclass(frozen=True)
class TextPiece:
    """Some more text; `document` is the document's index in the batch, here and below."""

    document: int
    text: str


@dataclass(frozen=True)
class PictureComing:
    """The model has emitted <dream>: a picture is being drawn."""

    document: int


@dataclass(frozen=True)
class Thought:
    """What the model said to itself before it drew (`think`); it is no part of the document."""

    document: int
    text: str


@dataclass(frozen=True)
class Doubt:
    """A picture in which the model does not clearly read its thought: it draws again, and keeps what fits best."""

    document: int
    image: Image.Image


@dataclass(frozen=True)
class Preview:
    """The picture as foreseen after denoising step `step` (from 1)."""

    document: int
    step: int
    image: Image.Image


@dataclass(frozen=True)
class Picture:
    """The finished picture, as the model sees it from now on."""

    document: int
    image: Image.Image


@dataclass(frozen=True)
class End:
    """`reason`: "eos" (the model ended it), "tokens", "pictures", "context" (a limit), or "interrupted"."""

    document: int
    reason: str


Event = TextPiece | PictureComing | Thought | Doubt | Preview | Picture | End


def whole(events: Iterable[Event]) -> Iterator[Event]:
    """The events as they come, for who has no use for a half of what they make: where they are interrupted, it raises
    KeyboardInterrupt."""
    for event in events:
        if isinstance(event, End) and event.reason == "interrupted":
            raise KeyboardInterrupt
        yield event


def collect(document: Document, event: Event) -> None:
    """Append to the document what an event brings; a text that goes on stays one part."""
    if isinstance(event, Picture):
        document.append(event.image)
    elif isinstance(event, TextPiece) and document and isinstance(said := document[-1], str):
        document.parts[-1] = said + event.text
    elif isinstance(event, TextPiece):
        document.append(event.text)


def to_image(picture: Tensor) -> Image.Image:
    """A uint8 tensor (3, H, W) as picture."""
    return Image.fromarray(picture.permute(1, 2, 0).cpu().numpy())
