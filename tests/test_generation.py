"""The interleaved loop on a tiny random model whose head is biased so that it wants pictures now and then."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tiny import PATCHES, QUERIES, SIDE, tiny_model, tiny_tokenizer
from torch import nn

from minidream import generation
from minidream.documents import Document
from minidream.errors import ContextWarning, UserError
from minidream.events import Doubt, End, Picture, PictureComing, Preview, TextPiece, Thought, collect, to_image
from minidream.generation import InterleavedGenerator, SamplingOptions, stream
from minidream.processing import MiniDreamProcessor
from minidream.sampling import nucleus
from minidream.thinking import MOST_TOLD, asking

RED = Image.new("RGB", (SIDE, SIDE), "#c02040")
PROMPTS = [Document(["a red circle lies"]), Document([RED, "a blue star lands above it.", RED]), Document(["the left"])]
QUICK = {"steps": 2, "max_tokens": 24, "max_pictures": 3}


def make(**changes) -> MiniDreamProcessor:
    shapes = {"num_dream_queries": QUERIES, "num_patches": PATCHES, "image_size": SIDE, "max_length": 200}
    return MiniDreamProcessor(tiny_tokenizer(), **{**shapes, **changes})


@pytest.fixture(scope="module")
def model():
    """Random weights, but <dream> and </s> are likelier than chance would have them."""
    processor, model = make(), tiny_model(make())
    head = nn.Linear(model.llm.lm_head.in_features, model.llm.lm_head.out_features)
    with torch.no_grad():
        head.weight.copy_(model.llm.lm_head.weight)
        head.bias.zero_()
        head.bias[processor.dream], head.bias[processor.eos] = 4.0, 1.0
    model.llm.lm_head = head
    return model


def script(monkeypatch, *rows, thinking=False):
    """Let each document write these ids; if `thinking`, the words of its thoughts are its own."""
    feeds, write = [iter(row) for row in rows], InterleavedGenerator._next_tokens

    def scripted(self, hidden):
        return write(self, hidden) if thinking and not self.options.think else [next(feed, 0) for feed in feeds]

    monkeypatch.setattr(InterleavedGenerator, "_next_tokens", scripted)


def kinds(events, document=0):
    return [type(event).__name__ for event in events if event.document == document]


def collected(events, count=1):
    """Each document's text with "|" for a picture, its pictures, and its end."""
    made = [["", [], None] for _ in range(count)]
    for event in events:
        row = made[event.document]
        if isinstance(event, TextPiece):
            row[0] += event.text
        elif isinstance(event, Picture):
            row[0] += "|"
            row[1].append(event.image)
        elif isinstance(event, End):
            assert row[2] is None
            row[2] = event.reason
    return made


def difference(first, second) -> int:
    tensors = [make().picture(image).int() for image in (first, second)]
    return int((tensors[0] - tensors[1]).abs().max())


def test_the_loop_equals_full_passes_without_a_cache(model, monkeypatch):
    """The heart: every token, every condition and every picture is what one whole pass over the final stream gives."""
    processor, options = make(), SamplingOptions(**QUICK)
    chosen = []
    pick = InterleavedGenerator._next_tokens
    monkeypatch.setattr(InterleavedGenerator, "_next_tokens", lambda s, h: chosen.append(pick(s, h)[0]) or chosen[-1:])
    [(text, images, end)] = collected(stream(model, processor, PROMPTS[1:2], options))
    assert len(images) >= 2 and text.strip("|") and end in ("eos", "tokens", "pictures")

    prompt = processor(PROMPTS[1:2], generation_prompt=True)
    ids, queries, patches = (getattr(prompt, name)[0].tolist() for name in ("input_ids", "query_mask", "patch_mask"))
    drawn = 0
    for token in chosen:
        ids, queries, patches = [*ids, token], [*queries, False], [*patches, False]
        if token == processor.dream and drawn < len(images):
            block = [processor.im_patch] * QUERIES + [processor.dream_end, processor.im_start]
            ids += block + [processor.im_patch] * PATCHES + [processor.im_end]
            queries += [True] * QUERIES + [False] * (PATCHES + 3)
            patches += [False] * (QUERIES + 2) + [True] * PATCHES + [False]
            drawn += 1
    pictures = torch.stack([processor.picture(image) for image in [RED, RED, *images]])
    with torch.no_grad():
        out = model(
            torch.tensor([ids]),
            query_mask=torch.tensor([queries]),
            patch_mask=torch.tensor([patches]),
            image_features=model.encode_pictures(pictures),
        )
        noise = torch.Generator().manual_seed(0)  # one source a document, for one picture after another
        for condition, image in zip(out.conditions, images, strict=True):
            latents = model.decoder.sample(condition[None], model.null_condition(), steps=2, generators=[noise])
            assert difference(Image.fromarray(model.decoder.decode(latents)[0].permute(1, 2, 0).numpy()), image) <= 1
    allowed = [i for i in range(len(processor.tokenizer)) if i not in processor.tokenizer.all_special_ids]
    allowed += [processor.dream, processor.eos]
    logits = torch.full_like(out.logits[0], -torch.inf)
    logits[:, allowed] = out.logits[0][:, allowed]
    start = int(prompt.attention_mask.sum())
    written = [i for i in range(start, len(ids)) if not queries[i] and not patches[i]]
    insides = {processor.im_start, processor.im_end, processor.dream_end}
    written = [i for i in written if ids[i] not in insides]
    assert [ids[i] for i in written] == chosen == logits[[i - 1 for i in written]].argmax(-1).tolist()


@pytest.mark.parametrize("changes", [{}, {"temperature": 1.0}, {"think": True}])
def test_a_batch_gives_what_its_documents_give_one_by_one(model, changes):
    options = {**QUICK, "top_p": 0.9, **changes}
    seeds = [3, 4, 5]
    together = collected(stream(model, make(), PROMPTS, SamplingOptions(**options, seed=seeds)), 3)
    assert len({(text, len(images)) for text, images, _ in together}) > 1 and any(images for _, images, _ in together)
    for prompt, seed, row in zip(PROMPTS, seeds, together):
        [alone] = collected(stream(model, make(), [prompt], SamplingOptions(**options, seed=seed)))
        assert (row[0], row[2]) == (alone[0], alone[2])
        assert all(difference(a, b) <= 1 for a, b in zip(row[1], alone[1], strict=True))


def told_by_hand(model, processor, document):
    """The greedy thought about a document of words, by whole passes; the ids of the stream that it ends; and the
    condition of a dream block after it."""
    asked = processor([Document(asking(document.texts))], generation_prompt=True).input_ids[0].tolist()
    told: list[int] = []
    forbidden = [i for i in processor.tokenizer.all_special_ids if i != processor.eos]
    while len(told) < MOST_TOLD and ")" not in processor.decode(told):
        logits = model(torch.tensor([asked + told])).logits[0, -1]
        logits[forbidden] = -torch.inf
        told.append(logits[: len(processor.tokenizer)].argmax().item())
        if told[-1] == processor.eos:
            break
    thought = processor.decode(told).split(")")[0].strip()
    ids = processor([document], generation_prompt=True).input_ids[0].tolist()
    ids += processor.encode(" (") + processor.encode(thought + ")")[: MOST_TOLD + 1]
    block = [processor.dream] + [processor.im_patch] * QUERIES + [processor.dream_end]
    queries = torch.tensor([[False] * (len(ids) + 1) + [True] * QUERIES + [False]])
    return thought, ids, model(torch.tensor([ids + block]), query_mask=queries).conditions


@torch.no_grad()
def test_a_picture_follows_the_thought_before_it(model, monkeypatch):
    [prompt] = PROMPTS[:1]
    taken = make()([prompt], generation_prompt=True).input_ids.shape[1] + make().picture_length
    least = taken + len(make().encode(" (")) + MOST_TOLD + 1  # and room for what comes after the picture
    processor, full = make(max_length=least), make(max_length=least - 1)
    told, _, condition = told_by_hand(model, processor, prompt)
    with monkeypatch.context() as patch:
        script(patch, [processor.dream, processor.eos], thinking=True)
        events = list(stream(model, processor, [prompt], SamplingOptions(steps=2, max_pictures=1, think=True, tries=1)))
    assert kinds(events) == ["PictureComing", "Thought", "Picture", "End"]
    assert told and events[1] == Thought(0, told)
    noise = torch.Generator().manual_seed(0)
    latents = model.decoder.sample(condition, model.null_condition(), steps=2, generators=[noise])
    assert difference(to_image(model.decoder.decode(latents)[0]), events[2].image) <= 1
    script(monkeypatch, [processor.dream, processor.eos])
    no_room = list(stream(model, full, [prompt], SamplingOptions(steps=2, max_pictures=1, think=True)))
    script(monkeypatch, [processor.dream, processor.eos])
    at_once = collected(stream(model, processor, [prompt], SamplingOptions(steps=2, max_pictures=1)))[0][1]
    assert difference(at_once[0], events[2].image) > 1
    assert kinds(no_room) == ["PictureComing", "Picture", "End"] and difference(at_once[0], no_room[1].image) == 0


@torch.no_grad()
def test_a_picture_that_does_not_show_the_thought_is_drawn_again(model, monkeypatch):
    """Each document by itself: of its tries the best is kept, no more are made once one fits, and a picture without
    a thought is not doubted."""
    processor, options = make(), {"steps": 2, "max_pictures": 1, "think": True}
    scores = {0: iter([0.1, 0.3, 0.2]), 1: iter([0.7, 0.8])}
    thoughts = {0: "a star", 1: "a ring", 2: ""}
    looked_at: list[Image.Image] = []

    def fitness(_, __, pictures, texts):
        looked_at.extend(pictures)
        return [next(scores[list(thoughts.values()).index(text)]) for text in texts]

    monkeypatch.setattr(generation, "fitness", fitness)
    think = InterleavedGenerator._think

    def thinking(self, dreaming):
        yield from think(self, dreaming)
        return thoughts

    monkeypatch.setattr(InterleavedGenerator, "_think", thinking)
    monkeypatch.setattr(InterleavedGenerator, "_next_tokens", lambda self, _: [processor.dream] * 3)
    events = list(stream(model, processor, PROMPTS, SamplingOptions(**options, tries=3)))
    doubted = [(event.document, event.image) for event in events if isinstance(event, Doubt)]
    drawn = {event.document: event.image for event in events if isinstance(event, Picture)}
    first, other, second, agreed, third = looked_at
    assert doubted == [(0, first), (1, other), (0, second)]
    assert (drawn[0], drawn[1]) == (second, agreed) and first != second != third
    once = list(stream(model, processor, PROMPTS, SamplingOptions(**options, tries=1)))
    assert not any(isinstance(event, Doubt) for event in once) and len(looked_at) == 5
    assert [e.image for e in once if isinstance(e, Picture)] == [first, other, drawn[2]]


@torch.no_grad()
def test_a_thought_stays_in_the_stream_and_out_of_the_document(model, monkeypatch):
    """What is read after the picture is what one pass over words, thought and both blocks gives."""
    processor, states = make(), []
    ids = iter([processor.dream, *processor.encode("a"), processor.eos])
    _, before, _ = told_by_hand(model, processor, PROMPTS[0])
    write = InterleavedGenerator._next_tokens

    def scripted(self, hidden):
        return (states.append(hidden) or [next(ids)]) if self.options.think else write(self, hidden)

    monkeypatch.setattr(InterleavedGenerator, "_next_tokens", scripted)
    generator = InterleavedGenerator(model, processor, PROMPTS[:1], SamplingOptions(steps=2, think=True, tries=1))
    document = Document(PROMPTS[0].parts)
    for event in generator.run():
        collect(document, event)
    blocks = [processor.dream, *[processor.im_patch] * QUERIES, processor.dream_end]
    blocks += [processor.im_start, *[processor.im_patch] * PATCHES, processor.im_end]
    whole = torch.tensor([before + blocks])
    places = torch.arange(whole.shape[1])[None] - len(before)
    queries, patches = (places > 0) & (places <= QUERIES), (places > QUERIES + 2) & (places <= QUERIES + 2 + PATCHES)
    pixels = processor.picture(document.pictures[0])[None]
    hidden = model.read(model.embed(whole, queries, patches, model.encode_pictures(pixels))).last_hidden_state
    torch.testing.assert_close(states[1], hidden[:, -1], atol=1e-4, rtol=1e-4)
    assert [type(part) for part in document] == [str, Image.Image, str] and document[2].strip() == "a"
    assert generator.writers[0].used == whole.shape[1] + 1


def test_a_later_thought_is_told_from_the_earlier_one_and_the_readers_picture_from_a_caption(model, monkeypatch):
    """Pictures that a thought tells are not read, and what is told is words alone."""
    processor, stories, read = make(), [], []
    picture = Image.new("RGB", (SIDE, SIDE), "green")

    def thoughts(go_on, _, told):
        stories.append(told)
        return [f"thought {len(stories)}"] * len(told)

    def words_of(go_on, documents):
        read.extend(documents)
        return [["one", "(seen)", " two"] for _ in documents]

    monkeypatch.setattr(generation, "thoughts", thoughts)
    monkeypatch.setattr(generation, "words_of", words_of)
    monkeypatch.setattr(generation, "fitness", lambda model, processor, pictures, texts: [1.0] * len(pictures))
    prompt = Document(["one", picture, " two"])
    script(monkeypatch, [processor.dream, *processor.encode(" a"), processor.dream, processor.eos])
    events = list(stream(model, processor, [prompt], SamplingOptions(steps=2, max_pictures=2, think=True)))
    assert [event.text for event in events if isinstance(event, Thought)] == ["thought 1", "thought 2"]
    assert [document.parts for document in read] == [prompt.parts]  # once
    first = ["one", "(seen)", " two", ""]
    assert stories == [[first], [[*first, "(thought 1)", " a"]]]


def test_later_text_and_pictures_see_the_earlier_picture(model, monkeypatch):
    """The very picture that was drawn is read again: with another in its place, the next one changes."""
    processor = make()
    script(monkeypatch, [processor.dream, processor.dream, processor.eos])
    first = collected(stream(model, processor, PROMPTS[:1], SamplingOptions(**QUICK)))[0][1]
    decode = model.decoder.decode
    black = [torch.zeros_like, lambda picture: picture]
    script(monkeypatch, [processor.dream, processor.dream, processor.eos])
    monkeypatch.setattr(model.decoder, "decode", lambda latents: black.pop(0)(decode(latents)))
    second = collected(stream(model, processor, PROMPTS[:1], SamplingOptions(**QUICK)))[0][1]
    assert difference(first[1], second[1]) > 1


def test_events_come_in_order_and_previews_when_asked(model, monkeypatch):
    processor = make()
    word = processor.encode("a")
    script(monkeypatch, [*word, processor.dream, *word, processor.eos])
    options = SamplingOptions(steps=6, preview_every=2)
    events = list(stream(model, processor, PROMPTS[:1], options))
    assert kinds(events) == ["TextPiece", "PictureComing", "Preview", "Preview", "Picture", "TextPiece", "End"]
    assert [event.step for event in events if isinstance(event, Preview)] == [2, 4]
    assert events[-1] == End(0, "eos")
    script(monkeypatch, [*word, processor.dream, *word, processor.eos])
    plain = collected(stream(model, processor, PROMPTS[:1], SamplingOptions(steps=6)))
    assert difference(plain[0][1][0], collected(events)[0][1][0]) == 0  # watching changes nothing


def test_top_p_keeps_the_smallest_set_that_holds_it():
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()
    source = torch.Generator().manual_seed(0)

    def drawn(top_p):
        return {nucleus(logits, top_p, source) for _ in range(300)}

    assert [drawn(p) for p in (0.4, 0.6, 0.8, 1.0)] == [{1}, {1, 3}, {1, 2, 3}, {0, 1, 2, 3}]


def test_letters_of_many_bytes_come_whole(model, monkeypatch):
    processor = make()
    ids = processor.encode("ü星")
    assert len(ids) == 5
    script(monkeypatch, [*ids, ids[0], processor.eos])
    pieces = [event.text for event in stream(model, processor, PROMPTS[:1]) if isinstance(event, TextPiece)]
    assert pieces == ["ü", "星", "\ufffd"]  # the last one was never finished


@pytest.mark.parametrize(
    ("limits", "room", "reason", "shape"),
    [
        ({"max_tokens": 3}, 100, "tokens", "aaa"),
        ({"max_pictures": 1}, 100, "pictures", "aaaa|"),
        ({}, 4 + 12 + 12 + 1, "eos", "aaaa||"),
        ({}, 4 + 12 + 12, "context", "aaaa|"),  # a block is never cut, and one place is kept for what follows it
        ({"max_pictures": 1}, 4 + 12 + 1, "pictures", "aaaa|"),
        ({"max_pictures": 1}, 4 + 12, "context", "aaaa"),
        ({"max_pictures": 1}, 3, "context", "aaa"),
    ],
)
def test_limits_end_a_document(model, monkeypatch, limits, room, reason, shape):
    taken = int(make()(PROMPTS[1:2], generation_prompt=True).attention_mask.sum())
    processor = make(max_length=taken + room)
    script(monkeypatch, [*processor.encode("a") * 4, processor.dream, processor.dream, processor.eos])
    options = SamplingOptions(steps=2, **{"max_pictures": 2, **limits})
    [(text, _, end)] = collected(stream(model, processor, PROMPTS[1:2], options))
    assert (text, end) == (shape, reason)


def test_a_picture_is_never_begun_when_none_is_wanted(model):
    rows = collected(stream(model, make(), PROMPTS, SamplingOptions(max_tokens=12, max_pictures=0)), 3)
    assert all(not images and reason in ("tokens", "eos") for _, images, reason in rows)


def test_special_tokens_are_never_written(model):
    processor = make()
    loop = InterleavedGenerator(model, processor, PROMPTS[:1], SamplingOptions())
    forbidden = ["<im_start>", "<im_patch>", "<im_end>", "<dream_end>", "<pad>", "<s>"]
    assert loop._forbidden == sorted(processor.tokenizer.convert_tokens_to_ids(forbidden))
    hidden = model.llm.get_input_embeddings().weight[loop._forbidden] * 100  # each asks loudly for itself
    assert not set(loop._next_tokens(hidden.detach())) & set(loop._forbidden)


def test_interrupted_it_ends_cleanly(model, monkeypatch):
    def interrupt(*_args, **_more):
        raise KeyboardInterrupt

    processor = make()
    script(monkeypatch, [processor.eos], [*processor.encode("a"), processor.dream])
    monkeypatch.setattr(model.decoder, "sample", interrupt)
    for watched in (0, 1):
        script(monkeypatch, [processor.eos], [*processor.encode("a"), processor.dream])
        options = SamplingOptions(preview_every=watched)
        rows = collected(stream(model, processor, PROMPTS[:2], options), 2)
        assert rows == [["", [], "eos"], ["a", [], "interrupted"]]


def test_closing_the_stream_stops_the_work(model, monkeypatch):
    processor, steps = make(), []
    predicted = model.decoder._foreseen
    monkeypatch.setattr(model.decoder, "_foreseen", lambda *a: steps.append(1) or predicted(*a))
    script(monkeypatch, [processor.dream])
    events = stream(model, processor, PROMPTS[:1], SamplingOptions(steps=500, preview_every=1))
    assert [type(next(events)) for _ in range(2)] == [PictureComing, Preview]
    assert torch.is_grad_enabled()  # the loop's no_grad does not leak out between events
    events.close()
    assert 1 <= len(steps) < 500


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 1e-38}, "temperature must be 0 or at least 0.001"),
        ({"top_p": 0}, "top_p"),
        ({"guidance": -0.5}, "guidance"),
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"steps": 5000}, "steps"),
        ({"solver": "magic"}, "dpm, ddim"),
        ({"think": "hard"}, "think"),
        ({"tries": 0}, "tries"),
        ({"max_pictures": -1}, "max_pictures"),
        ({"max_pictures": 20}, "at most 16"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"seed": [1, 2]}, "2 seeds for 1"),
    ],
)
def test_senseless_options_are_refused_in_one_line(model, options, cause):
    with pytest.raises(UserError, match=cause) as caught:
        stream(model, make(), PROMPTS[:1], SamplingOptions(**options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "cause"),
    [(Document(), "empty"), (Document([""]), "empty"), (Document([" \n"]), "empty"),
     (Document(["long " * 100]), "does not fit")],
)  # fmt: skip
def test_a_prompt_that_is_empty_or_too_long_is_refused(model, prompt, cause):
    with pytest.raises(UserError, match=cause):
        stream(model, make(), [prompt])


def test_a_prompt_longer_than_the_context_goes_on_from_its_end(model, monkeypatch):
    processor = make()
    long = Document([RED, "a word " * 40, RED, "a blue star lands above it."])
    with pytest.warns(ContextWarning, match="its first 2 parts are not read"):
        events = list(stream(model, processor, [long, PROMPTS[0]], SamplingOptions(**QUICK)))
    again = list(stream(model, processor, [long[2:], PROMPTS[0]], SamplingOptions(**QUICK)))
    one, other = collected(events, 2), collected(again, 2)
    assert [(text, end) for text, _, end in one] == [(text, end) for text, _, end in other]


def test_another_alphabet_is_gone_on_from_and_written(model, monkeypatch):
    processor = make()
    script(monkeypatch, [*processor.encode("ещё ⭐"), processor.dream, *processor.encode("星"), processor.eos])
    (written,) = collected(stream(model, processor, [Document(["Нарисуй 红色 ⭐."])], SamplingOptions(**QUICK)))
    assert written[0] == "ещё ⭐|星" and written[2] == "eos"
