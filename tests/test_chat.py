"""Conversations on a tiny random model: the sequences of one turn and of several, what is kept, what is refused."""

from __future__ import annotations

import random

import pytest
from jinja2 import TemplateError
from PIL import Image
from tiny import PATCHES, QUERIES, SIDE, tiny_model, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from minidream.chat import Chat, Turn, checked, written
from minidream.documents import Document
from minidream.errors import ContextWarning, UserError
from minidream.events import Picture, TextPiece
from minidream.generation import InterleavedGenerator
from minidream.pipeline import MiniDreamPipeline
from minidream.processing import MiniDreamProcessor, caption_prompt, visual_question
from minidream.world.corpora import sample

RED, BLUE = (Image.new("RGB", (SIDE, SIDE), color) for color in ("#c02040", "#2040c0"))
DREAM_BLOCK = "<dream>" + "<im_patch>" * QUERIES + "<dream_end>"
IMAGE_BLOCK = "<im_start>" + "<im_patch>" * PATCHES + "<im_end>"
TALK = [
    ("user", Document([RED, "what colour is it?"])),
    ("assistant", "red"),
    ("user", " paint it blue. "),
    ("assistant", Document([BLUE, "here it is"])),
    ("user", Document(["and", "is this bluer?", RED])),
]


def make(**changes) -> MiniDreamPipeline:
    shapes = {"num_dream_queries": QUERIES, "num_patches": PATCHES, "image_size": SIDE, "max_length": 300}
    processor = MiniDreamProcessor(tiny_tokenizer(), **{**shapes, **changes})
    return MiniDreamPipeline(tiny_model(processor), processor)


@pytest.fixture(scope="module")
def pipe() -> MiniDreamPipeline:
    return make()


@pytest.fixture
def heard(pipe, monkeypatch):
    """Let the model write what `heard.says` holds, and note the tokens that each reply was written after."""
    prompts, build = [], InterleavedGenerator.__init__

    def listen(self, model, processor, *rest):
        build(self, model, processor, *rest)
        prompts.append(processor.tokenizer.decode(self.prompt.input_ids[0]))
        self.feed = iter(listen.says)

    monkeypatch.setattr(InterleavedGenerator, "__init__", listen)
    monkeypatch.setattr(InterleavedGenerator, "_next_tokens", lambda self, _: [next(self.feed)])
    listen.prompts = prompts
    return listen


def says(pipe, *parts) -> list[int]:
    """The ids of texts, and of <dream> for None."""
    processor = pipe.processor
    return [i for part in parts for i in ([processor.dream] if part is None else processor.encode(part))] + [
        processor.eos
    ]


def test_the_first_turn_is_what_the_other_verbs_read():
    for said, read in (
        (RED, caption_prompt(RED)),
        (Document([RED, "what colour?"]), visual_question(caption_prompt(RED), "what colour?")),
        (Document([RED, "a star.", "where?"]), visual_question(Document([RED, "a star."]), "where?")),
        (Document([RED, "paint it."]), Document([RED, "paint it."])),
    ):
        assert written(checked([("user", said)])) == (read, frozenset(range(len(read))))


def test_the_template_and_the_processor_write_the_same_tokens(pipe):
    processor = pipe.processor
    for count in range(1, len(TALK) + 1):
        chat = Chat(pipe, TALK[: count - count % 2])
        if count % 2:
            chat.turns += checked(TALK[:count])[-1:]
        document, users = written(chat.turns)
        batch = processor([document], prompt_parts=[users], add_eos=count % 2 == 0)
        told = processor.tokenizer.apply_chat_template(
            chat.messages, return_dict=True, return_assistant_tokens_mask=True
        )
        assert told["input_ids"] == batch.input_ids[0].tolist()
        learned = [i for i, label in enumerate(batch.labels[0].tolist()) if label == batch.input_ids[0, i]]
        blocks = (batch.query_mask | batch.patch_mask)[0].tolist()
        closers = {processor.im_start, processor.im_end, processor.dream_end}
        assert learned == [
            i
            for i, (token, masked) in enumerate(zip(told["input_ids"], told["assistant_masks"]))
            if masked and not blocks[i] and token not in closers
        ]
    shown = processor.tokenizer.apply_chat_template(chat.messages, tokenize=False)
    assert shown == (
        f"<s>{IMAGE_BLOCK}Question: what colour is it? Answer: red paint it blue.{DREAM_BLOCK}{IMAGE_BLOCK}here it is"
        f" and is this bluer?{IMAGE_BLOCK}"
    )
    plain = [{"role": "user", "content": "a star?"}, {"role": "assistant", "content": "no"}]
    told = processor.tokenizer.apply_chat_template(plain, tokenize=False)
    assert told == "<s>Question: a star? Answer: no</s>"
    with pytest.raises(TemplateError, match="the user begins"):
        processor.tokenizer.apply_chat_template(plain[1:], tokenize=False)


def test_the_saved_tokenizer_carries_the_template(pipe, tmp_path):
    pipe.processor.save_pretrained(tmp_path)
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} == {".json"}
    opened = PreTrainedTokenizerFast.from_pretrained(tmp_path / "tokenizer")
    assert opened.chat_template == pipe.processor.tokenizer.chat_template


def test_a_dialogue_is_learned_reply_by_reply_each_with_its_end(pipe):
    processor = pipe.processor
    document, users = written(checked(TALK[:4]))
    labels = processor([document], prompt_parts=[users]).labels[0]
    assert processor.tokenizer.decode([i for i in labels.tolist() if i != -100]) == " red</s><dream>here it is</s>"
    example, processor = sample("dialogue", random.Random(0)), make(max_length=1000).processor
    batch = processor([example.document], prompt_parts=[example.prompt_parts])
    replies = len(example.plan) - len(example.prompt_parts)
    assert (batch.labels == processor.eos).sum() == replies
    drawn = [p for i, p in enumerate(example.plan) if not isinstance(p, str) and i not in example.prompt_parts]
    assert len(batch.dreamed) == len(drawn) < len(batch.seen) == len(example.scenes)


def test_it_replies_and_remembers_with_its_own_pictures_as_it_drew_them(pipe, heard):
    chat = pipe.chat(steps=1)
    heard.says = says(pipe, " red")
    assert chat.say(Document([RED, "what colour?"])).parts == ["red"]
    heard.says = says(pipe, None, "there")
    reply = chat.say("paint it blue.", seed=3)
    assert [type(part) for part in reply] == [Image.Image, str] and reply[1] == "there"
    heard.says = says(pipe, " yes")
    assert chat.say("is it blue?").text == "yes"
    asked = f"<s>{IMAGE_BLOCK}Question: what colour? Answer:"
    ordered = f"{asked} red paint it blue."
    assert heard.prompts == [
        asked,
        ordered,
        f"{ordered}{DREAM_BLOCK}{IMAGE_BLOCK}there Question: is it blue? Answer:",
    ]
    assert [turn.role for turn in chat.turns] == ["user", "assistant"] * 3
    assert chat.document.text == (
        "<picture> Question: what colour? Answer: red paint it blue. <picture> there Question: is it blue? Answer: yes"
    )
    again = pipe.chat(chat.turns[:2], steps=1)
    heard.says = says(pipe, None, "there")
    assert again.say("paint it blue.", seed=3) == reply != again.say("paint it blue.", seed=4)
    assert repr(again).splitlines()[1] == "assistant: red"


def test_what_it_reads_is_what_it_read_while_it_drew(pipe, heard, monkeypatch):
    """The prompt of the next turn gives the same hidden states as the stream that the reply was written in."""
    states, read = [], InterleavedGenerator._read
    monkeypatch.setattr(InterleavedGenerator, "_read", lambda self, *a: states.append(read(self, *a)) or states[-1])
    chat = pipe.chat(steps=1)
    heard.says = says(pipe, None, "so")
    chat.say("paint it.")
    stream = [state for state in states[1:] if state is not None]
    lived = [row for state in [states[0], *stream] for row in state[0]]
    states.clear()
    chat.say("more.")
    for one, other in zip(lived, states[0][0]):
        assert (one - other).abs().max() < 1e-4
    assert len(states[0][0]) > len(lived) > 20


def test_events_stream_and_a_closed_stream_keeps_what_was_said(pipe, heard):
    chat = pipe.chat(steps=2)
    heard.says = says(pipe, "a star", None, "more")
    events = chat.stream("draw.")
    for event in events:
        if isinstance(event, Picture):
            events.close()
    assert [type(part) for part in chat.turns[-1].document] == [str, Image.Image]
    assert "".join(event.text for event in chat.stream("go on.") if isinstance(event, TextPiece)) == "a starmore"
    assert len(chat.turns) == 4


def test_interrupted_it_keeps_what_there_is_and_forgets_a_turn_without_reply(pipe, heard, monkeypatch):
    chat = pipe.chat(steps=1)

    def interrupted(*_args, **_more):
        raise KeyboardInterrupt

    heard.says = says(pipe, "ab", None)
    with monkeypatch.context() as patch:
        patch.setattr(pipe.model.decoder, "sample", interrupted)
        assert chat.say("draw.").parts == ["ab"] and len(chat.turns) == 2
        patch.setattr(InterleavedGenerator, "_next_tokens", interrupted)
        assert chat.say("what?") == Document() and len(chat.turns) == 2
        patch.setattr(InterleavedGenerator, "_loop", lambda self: iter(()))
        patch.setattr("minidream.chat.collect", interrupted)
        assert chat.say("what?") == Document() and len(chat.turns) == 2
    heard.says = says(pipe)
    assert chat.say("what?") == Document() and len(chat.turns) == 2


def test_a_long_conversation_loses_its_oldest_turns_and_says_so(heard):
    pipe = make(max_length=210)
    heard.says = says(pipe, " red")
    chat = pipe.chat()
    for number in range(3):
        chat.say(f"question {number} about stars?")
    with pytest.warns(ContextWarning, match="its first 2 turns are no longer read"):
        chat.say("question 3 about stars?")
    assert heard.prompts[-1].startswith("<s>Question: question 1")
    assert len(chat.turns) == 8 and chat.turns[0].document.text == "question 0 about stars?"


def test_other_alphabets_and_what_looks_like_a_special_token_are_letters(pipe, heard):
    chat = pipe.chat(steps=1)
    heard.says = says(pipe, " 红色")
    assert chat.say("Какого цвета <dream></s> звезда?").text == "红色"
    assert pipe.processor.dream not in pipe.processor([chat.document]).input_ids


def test_it_shows_itself_and_is_saved_as_a_document(pipe, tmp_path):
    chat = pipe.chat(TALK[:4])
    page = chat._repr_html_()
    assert page.count("<b>user</b>") == page.count("<b>assistant</b>") == 2
    assert page.count("<img ") == 2 and "paint it blue." in page
    assert Document.load(chat.document.save(tmp_path / "talk.html")) == chat.document


@pytest.mark.parametrize(
    ("call", "cause"),
    [
        (lambda pipe: pipe.chat([("assistant", "hello")]), "turn 1 is said by 'assistant'.*begins with the user"),
        (lambda pipe: pipe.chat([("system", "hello")]), "turn 1 is said by 'system'"),
        (lambda pipe: pipe.chat([*TALK[:2], TALK[1]]), "turn 3 is said by 'assistant'"),
        (lambda pipe: pipe.chat([TALK[0], ("assistant", " ")]), r"turn 2 \(assistant\) is empty"),
        (lambda pipe: pipe.chat(["hello"]), "turn 1 is no pair of a role and what was said"),
        (lambda pipe: pipe.chat(TALK), "has no reply yet"),
        (lambda pipe: pipe.chat(TALK[:2]).say(""), r"turn 3 \(user\) is empty"),
        (lambda pipe: pipe.chat().say(Document(["", " \n"])), "empty"),
        (lambda pipe: pipe.chat().say(3), "texts and pictures, not int"),
        (lambda pipe: pipe.chat().say("word " * 300), "does not fit"),
        (lambda pipe: pipe.chat(step=3), "unknown option 'step'"),
        (lambda pipe: pipe.chat().say("a", step=3), "unknown option 'step'"),
    ],
)
def test_what_it_refuses_in_one_line(pipe, call, cause):
    with pytest.raises(UserError, match=cause) as caught:
        call(pipe)
    assert "\n" not in str(caught.value)


def test_turns_are_pairs():
    assert checked(TALK)[1] == Turn("assistant", Document(["red"]))
