"""Can I believe this picture? The model reads again what stands in a document and compares it with the text.

    told    what the text asks of a picture, in the model's words: it goes on with the document as words alone, in
            which earlier pictures are told in brackets, as in its training
    read    its caption of the picture
    score   the mean of two probabilities: that it says `told`, and nothing else, of the picture; and that it goes on
            with the words by `read`, so that a picture is also right that they allow, though it expected another;
            times the picture's `clarity`, for the eye forgives a smudge and reads what it expects

All of it is the model's own reading, which errs; how far it can be trusted is measured in `evaluation/trust.py`.
Of the scores that need the model alone (whether the two captions are equal, the share of equal facts, the least likely
word, the ratio of both captions' likelihoods, answers to questions, the UNet's denoising error) the first probability
was best on 226 pictures; with the second, its AUROC rose from 0.88, 0.88 and 0.92 to 0.93, 0.90 and 0.95 on 475
pictures of stories of seeds 0, 1 and 2; with clarity, from 0.81 to 0.90 on 540 pictures of captions of seeds 1 to 3.
Taught in notebook 09.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image

from minidream.agreement import agreement, clarity, consensus, expectation
from minidream.documents import PICTURE, Document
from minidream.errors import UserError
from minidream.pictures import read_pixels
from minidream.thinking import MOST_TOLD, asking, in_words, until_bracket
from minidream.world.captions import understand
from minidream.world.scene import PLACES
from minidream.world.words import name

if TYPE_CHECKING:
    from minidream.pipeline import MiniDreamPipeline


@dataclass(frozen=True)
class Verdict:
    """The model's opinion of one picture: part `part` of document `document`, or of the only one (0).

    `score`: 0 (it reads something else) to 1. `differences`: pairs (told, read) of the words in which the two captions
    differ, "" where one has none; empty for a low score means that it reads what was told, but is not sure, or that
    the picture is smudged.
    """

    document: int
    part: int
    score: float
    told: str
    read: str

    @property
    def differences(self) -> tuple[tuple[str, str], ...]:
        """The words of `told` and `read` where they differ, as pairs."""
        return differences(self.told, self.read)

    @property
    def attributes(self) -> tuple[tuple[str, str, str], ...]:
        """Which facts differ, where both captions tell a scene: (attribute, told, read), such as ("top left: color",
        "red", "blue") or ("background", "white", "grey"); see `attributes`."""
        return attributes(self.told, self.read)

    def __str__(self) -> str:
        words = (f"told {told or 'nothing'!r}, reads {read or 'nothing'!r}" for told, read in self.differences)
        where = f"document {self.document}, part {self.part}"
        return f"{where}: {self.score:.2f}  {'; '.join(words) or 'reads what was told'}"


def differences(told: str, read: str) -> tuple[tuple[str, str], ...]:
    """The runs of words in which two texts differ, as pairs."""
    first, second = (re.findall(r"[\w'-]+", text.lower()) for text in (told, read))
    changes = SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
    return tuple((" ".join(first[a:b]), " ".join(second[c:d])) for tag, a, b, c, d in changes if tag != "equal")


def attributes(told: str, read: str) -> tuple[tuple[str, str, str], ...]:
    """The facts in which the scenes that two captions tell differ: color, shape or size of what is in a place, the
    whole thing where only one has any there, and the background. Empty for a caption that tells no scene."""
    first, second = understand(told), understand(read)
    if first is None or second is None:
        return ()
    found = []
    things = [{thing.place: thing for thing in scene.things} for scene in (first, second)]
    for place in PLACES:
        one, other = (some.get(place) for some in things)
        if one and other:
            pairs = [(fact, getattr(one, fact), getattr(other, fact)) for fact in ("color", "shape", "size")]
            found += [(f"{place}: {fact}", was, is_) for fact, was, is_ in pairs if was != is_]
        elif one or other:
            found.append((f"{place}: thing", name(one) if one else "nothing", name(other) if other else "nothing"))
    if first.background != second.background:
        found.append(("background", first.background, second.background))
    return tuple(found)


def verify(pipe: MiniDreamPipeline, documents: Sequence[Document], given: Sequence[int]) -> list[list[Verdict]]:
    """A verdict on each picture of each document, in order; `MiniDreamPipeline.verify` says on which.

    A picture is compared with the words before it, and with what they asked of earlier pictures, not with what those
    show: a fault is not excused by an earlier one.
    """
    _check(documents)
    asked = [_judged(document, start) for document, start in zip(documents, given, strict=True)]
    places = [(index, part) for index, parts in enumerate(asked) for part in parts]
    told = _told(pipe, documents, asked)
    pictures = [documents[index][part] for index, part in places]
    before, expected = zip(*(told[place] for place in places)) if places else ((), ())
    read = pipe.caption(pictures) if pictures else []
    of_picture = agreement(pipe.model, pipe.processor, pictures, expected)
    of_words = expectation(pipe.model, pipe.processor, before, read)
    clarities = clarity(pipe.model, pipe.processor, pictures)
    verdicts: list[list[Verdict]] = [[] for _ in documents]
    for (index, part), *captions, one, other, clear in zip(places, expected, read, of_picture, of_words, clarities):
        verdicts[index].append(Verdict(index, part, clear * (one.score + other.score) / 2, *captions))
    return verdicts


def worst_first(verdicts: Iterable[Iterable[Verdict]]) -> list[Verdict]:
    """All verdicts in the order in which a human should look at their pictures."""
    return sorted((verdict for some in verdicts for verdict in some), key=lambda verdict: verdict.score)


def _check(documents: Sequence[Document]) -> None:
    """Raise `UserError` for a picture whose file turns out to be damaged: Pillow opens it without reading it."""
    for index, document in enumerate(documents):
        for part, picture in enumerate(document):
            if isinstance(picture, Image.Image):
                read_pixels(picture, f"part {part} of document {index}, a picture,")


def _judged(document: Document, given: int) -> list[int]:
    """The parts that are pictures to be verified: not the reader's, and with words somewhere before them."""
    words = next((part for part, what in enumerate(document) if isinstance(what, str) and what.strip()), len(document))
    first = max(given, words)
    return [part for part, what in enumerate(document) if part >= first and isinstance(what, Image.Image)]


def _told(
    pipe: MiniDreamPipeline, documents: Sequence[Document], asked: Sequence[Sequence[int]]
) -> dict[tuple[int, int], tuple[str, str]]:
    """The words before each picture in `asked`, and what they ask of it, by (document, part): first of each document's
    first, then, with that in its place, of the second, and so on."""
    believed = [
        (index, part)
        for index, document in enumerate(documents)
        for part, what in enumerate(document)
        if isinstance(what, Image.Image) and part not in asked[index] and any(part < other for other in asked[index])
    ]
    seen = [documents[index][part] for index, part in believed]
    captions: list[dict[int, str]] = [{} for _ in documents]
    for (index, part), caption in zip(believed, pipe.caption(seen) if seen else []):
        captions[index][part] = caption
    told: dict[tuple[int, int], tuple[str, str]] = {}
    go_on = partial(pipe.stream, max_pictures=0, max_tokens=MOST_TOLD)
    for turn in range(max(map(len, asked), default=0)):
        places = [(index, parts[turn]) for index, parts in enumerate(asked) if turn < len(parts)]
        prompts = [Document(asking(in_words(documents[index][:part], captions[index]))) for index, part in places]
        for (index, part), prompt, said in zip(places, prompts, until_bracket(go_on, prompts)):
            captions[index][part] = said
            told[index, part] = prompt.text, said
    return told


def best_of(
    pipe: MiniDreamPipeline, prompts: Sequence[Document], drawn: Sequence[Sequence[Image.Image]]
) -> list[Image.Image]:
    """Of each prompt's pictures in `drawn` the `fittest`, by the model's own verdicts."""
    if any(not prompt.text.replace(PICTURE, "").strip() for prompt in prompts):
        raise UserError("there are no words that a picture could fit: say what it is to show")
    candidates = [(prompt, picture) for prompt, some in zip(prompts, drawn, strict=True) for picture in some]
    documents = [Document([*prompt, picture]) for prompt, picture in candidates]
    verdicts = verify(pipe, documents, [len(prompt) for prompt, _ in candidates])
    scores = iter(found[0].score for found in verdicts)
    return fittest(
        drawn, [[next(scores) for _ in some] for some in drawn], consensus(pipe.model, pipe.processor, drawn)
    )


def fittest(
    drawn: Sequence[Sequence[Image.Image]], scores: Sequence[Sequence[float]], alike: Sequence[Sequence[float]]
) -> list[Image.Image]:
    """Of each prompt's pictures the one with the largest score x `consensus`; the first of equals. Of four pictures for
    each of 2280 captions (seeds 11 to 13), 32.5 first tries were wrong in the mean, 21 of those chosen by the score
    alone, and 11 of those chosen by both."""
    best = []
    for pictures, judged, agreed in zip(drawn, scores, alike, strict=True):
        values = [score * near for score, near in zip(judged, agreed, strict=True)]
        best.append(pictures[values.index(max(values))])
    return best
