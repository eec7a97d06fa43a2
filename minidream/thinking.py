"""A document in words alone, and what the model tells itself that its next picture will show.

Each picture of a story stands there as its caption in brackets, as in the training's `text_states`:

    A large red star in the top left. (Top left: large red star; ... Background: grey.) It turns green. (

What the model writes until it closes the bracket is what the words ask of the picture that is due. Of 150 stories it
tells all pictures of 143 rightly so (seed 32); from the stream, in which the pictures stand, of 134. Used by the loop
(`think`) and by `minidream.verification`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from PIL import Image

from minidream.batch import batches
from minidream.documents import Document
from minidream.events import End, Event, TextPiece, whole
from minidream.processing import MiniDreamProcessor, caption_prompt
from minidream.world.corpora import CLOSING, OPENING

MOST_TOLD = 64  # tokens of a caption; four things take about 45
GoOn = Callable[[Sequence[Document]], Iterable[Event]]  # how words go on after prompts, `MOST_TOLD` tokens at most


def thoughts(go_on: GoOn, processor: MiniDreamProcessor, told: Sequence[Sequence[str]]) -> list[str]:
    """What each document, `told` in words, asks of its next picture; "" where the context has no room for the words."""
    prompts = [Document(asking(words)) for words in told]
    room = [1 + len(processor.encode(prompt.text)) + MOST_TOLD <= processor.max_length for prompt in prompts]
    said = iter(until_bracket(go_on, [prompt for prompt, fits in zip(prompts, room) if fits]))
    return [next(said) if fits else "" for fits in room]


def words_of(go_on: GoOn, documents: Sequence[Document]) -> list[list[str]]:
    """Each document in words. A picture is told by the thought before it, if there is one; else the model reads it."""
    unread = [(number, part) for number, document in enumerate(documents) for part in _without_thought(document)]
    captions: list[dict[int, str]] = [{} for _ in documents]
    for (number, part), caption in zip(unread, _read(go_on, [documents[number][part] for number, part in unread])):
        captions[number][part] = caption
    return [in_words(*each) for each in zip(documents, captions)]


def in_words(document: Document, captions: Mapping[int, str]) -> list[str]:
    """A document's texts, and the caption of each picture (by its part) in brackets; a thought is one text, too."""
    told: list[str] = []
    for index, part in enumerate(document):
        if not isinstance(part, str):
            told += [f"({captions[index]})"] if index in captions else []
        elif told and told[-1] == OPENING:
            told[-1] = f"({part}"
        else:
            told.append(part)
    return told


def asking(told: Sequence[str]) -> str:
    """Words, with a bracket open for what comes next."""
    return " ".join([*filter(None, (words.strip() for words in told)), "("])


def until_bracket(go_on: GoOn, prompts: Sequence[Document]) -> list[str]:
    """What the model writes after each prompt before it closes the bracket that is open. Equal prompts in words alone
    are gone on from once. Ctrl-C raises KeyboardInterrupt: half of a caption is none."""
    keys = [number if prompt.pictures else prompt.text for number, prompt in enumerate(prompts)]
    different = dict(zip(keys, prompts, strict=True))
    said = dict.fromkeys(different, "")
    for some in batches(list(different)):
        still = set(some)
        for event in whole(go_on([different[key] for key in some])):
            key = some[event.document]
            if isinstance(event, TextPiece):
                said[key] += event.text
            if isinstance(event, End) or CLOSING in said[key]:
                still.discard(key)
            if not still:
                break
    return [said[key].split(CLOSING)[0].strip() for key in keys]


def _without_thought(document: Document) -> list[int]:
    """The parts that are pictures which no thought tells."""
    pictures = [index for index, part in enumerate(document) if isinstance(part, Image.Image)]
    return [index for index in pictures if index < 2 or document[index - 2] != OPENING]


def _read(go_on: GoOn, pictures: Sequence[Image.Image]) -> list[str]:
    """The model's caption of each picture."""
    said = [""] * len(pictures)
    for some in batches(range(len(pictures))):
        for event in whole(go_on([caption_prompt(pictures[index]) for index in some])):
            if isinstance(event, TextPiece):
                said[some[event.document]] += event.text
    return [text.strip() for text in said]
