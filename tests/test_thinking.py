"""A document in words alone, and what the model is asked there: without a model, which a few lines stand in for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from PIL import Image
from tiny import tiny_tokenizer

from minidream import batch as batch_module
from minidream.documents import Document
from minidream.events import End, Event, TextPiece
from minidream.processing import MiniDreamProcessor
from minidream.thinking import asking, in_words, thoughts, until_bracket, words_of

RED, BLUE = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
THOUGHT = [" (", "a red star)"]


def go_on(prompts: Sequence[Document]) -> Iterator[Event]:
    """Pictures have a caption; words go on with how many brackets they hold, and never end by themselves."""
    for number, prompt in enumerate(prompts):
        if prompt.pictures:
            yield TextPiece(number, " all red " if prompt.pictures[0] is RED else "all blue")
            yield End(number, "eos")
        else:
            yield TextPiece(number, f" {prompt.text.count('(')} asked")
    for number, prompt in enumerate(prompts):
        if not prompt.pictures:
            yield TextPiece(number, "). And so on")


def test_a_picture_stands_in_words_as_its_caption_or_as_the_thought_before_it() -> None:
    document = Document([RED, "It grows. ", *THOUGHT, BLUE, " It turns blue."])
    assert in_words(document, {0: "a star"}) == ["(a star)", "It grows. ", "(a red star)", " It turns blue."]
    assert asking(in_words(document, {0: "a star"})) == "(a star) It grows. (a red star) It turns blue. ("
    assert asking([]) == "("


def test_only_pictures_without_a_thought_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [Document([RED, "It grows.", *THOUGHT, BLUE]), Document(["One."]), Document(["Two.", BLUE, RED])]
    expected = [["(all red)", "It grows.", "(a red star)"], ["One."], ["Two.", "(all blue)", "(all red)"]]
    assert words_of(go_on, documents) == expected
    monkeypatch.setattr(batch_module, "AT_ONCE", 2)
    assert words_of(go_on, documents) == expected
    assert words_of(go_on, []) == []


def test_a_caption_ends_with_the_bracket_and_equal_words_are_asked_once() -> None:
    asked: list[str] = []

    def counted(prompts: Sequence[Document]) -> Iterator[Event]:
        asked.extend(prompt.text for prompt in prompts)
        return go_on(prompts)

    prompts = [Document(words) for words in ("a (", "b (c) (", "a (")]
    assert until_bracket(counted, prompts) == ["1 asked", "2 asked", "1 asked"]
    assert asked == ["a (", "b (c) ("]


def test_an_interruption_is_no_caption() -> None:
    with pytest.raises(KeyboardInterrupt):
        until_bracket(lambda prompts: [TextPiece(0, "a large"), End(0, "interrupted")], [Document("a (")])


def test_words_that_the_context_has_no_room_for_ask_nothing() -> None:
    processor = MiniDreamProcessor(tiny_tokenizer(), max_length=100)
    long = "a red circle lies here " * 20
    assert thoughts(go_on, processor, [["a star"], [long], ["b (c)"]]) == ["1 asked", "", "2 asked"]
