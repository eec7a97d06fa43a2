"""The five verbs on a tiny random model: alone and in batches, saved and opened, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import PATCHES, QUERIES, SIDE, tiny_clip, tiny_diffusion, tiny_llm, tiny_model, tiny_tokenizer

import minidream.batch
import minidream.pipeline
from minidream.documents import Document
from minidream.errors import UserError
from minidream.events import End, Picture
from minidream.generation import InterleavedGenerator
from minidream.pipeline import MiniDreamPipeline
from minidream.processing import MiniDreamProcessor
from minidream.weights import save_manifest

RED, BLUE = (Image.new("RGB", (SIDE, SIDE), color) for color in ("#c02040", "#2040c0"))
CAPTIONS = ["a red circle", "a small blue star lies on the left.", "a"]


@pytest.fixture(scope="module")
def pipe() -> MiniDreamPipeline:
    processor = MiniDreamProcessor(tiny_tokenizer(), QUERIES, PATCHES, SIDE, max_length=200)
    return MiniDreamPipeline(tiny_model(processor), processor)


def difference(first, second) -> int:
    tensors = [torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).int() for image in (first, second)]
    return int((tensors[0] - tensors[1]).abs().max())


def script(monkeypatch, *rows):
    """Let each document write these ids, the same again in every new loop."""

    def pick(self, _hidden):
        feeds = self.__dict__.setdefault("feeds", [iter(row) for row in rows])
        return [next(feed) if w.state == "writing" else 0 for feed, w in zip(feeds, self.writers)]

    monkeypatch.setattr(InterleavedGenerator, "_next_tokens", pick)


def test_draw_gives_a_picture_each_whatever_the_batch(pipe, monkeypatch):
    together = pipe.draw(CAPTIONS, steps=3, seed=[1, 2, 3])
    assert [(image.size, image.mode) for image in together] == [((SIDE, SIDE), "RGB")] * 3
    for caption, seed, image in zip(CAPTIONS, (1, 2, 3), together):
        assert difference(pipe.draw(caption, steps=3, seed=seed)[0], image) <= 1
    monkeypatch.setattr(minidream.batch, "AT_ONCE", 2)
    assert all(
        difference(a, b) <= 1 for a, b in zip(together, pipe.draw(CAPTIONS, steps=3, seed=[1, 2, 3]), strict=True)
    )


def test_draw_is_one_batched_pass_and_one_batched_sampling(pipe, monkeypatch):
    counts = []
    sample = pipe.model.decoder.sample
    monkeypatch.setattr(pipe.model.decoder, "sample", lambda c, *a, **k: counts.append(len(c)) or sample(c, *a, **k))
    pipe.draw(CAPTIONS * 3, steps=1)
    assert counts == [9]


def test_draw_obeys_seed_guidance_steps_and_negative(pipe):
    base = pipe.draw("a red circle", steps=3)[0]
    assert difference(base, pipe.draw("a red circle", steps=3)[0]) == 0
    changes = [{"seed": 1}, {"guidance": 1.0}, {"guidance": 0}, {"steps": 4}, {"solver": "ddim"}]
    for changed in [*changes, {"negative": "a blue star"}]:
        assert difference(base, pipe.draw("a red circle", **{"steps": 3, **changed})[0]) > 0, changed
    nothing = [pipe.draw(caption, steps=3, guidance=0)[0] for caption in CAPTIONS[:2]]
    assert difference(*nothing) == 0  # guidance 0 does not hear the caption
    told = [pipe.draw(caption, steps=3, guidance=1)[0] for caption in CAPTIONS[:2]]
    assert difference(*told) > 0


def test_condition_is_what_the_picture_of_a_document_is_drawn_from(pipe, monkeypatch):
    documents = [Document(["a red circle"]), Document([RED, "a blue star"]), Document([BLUE, "a blue star"])]
    together = pipe.condition(documents)
    assert together.shape == (3, QUERIES, pipe.model.decoder.condition_dim)
    for row, document in zip(together, documents):
        torch.testing.assert_close(row[None], pipe.condition(document), atol=1e-5, rtol=1e-4)
    assert (together[1] - together[2]).abs().max() > 1e-3  # it sees the picture
    script(monkeypatch, [pipe.processor.dream, pipe.processor.eos])
    drawn = pipe.complete(documents[0], steps=3, seed=7).pictures[0]
    assert difference(drawn, pipe.draw("a red circle", steps=3, seed=7)[0]) <= 1


def test_complete_gives_the_document_with_its_continuation(pipe, monkeypatch):
    processor = pipe.processor
    script(monkeypatch, [*processor.encode(" lies"), processor.dream, *processor.encode("left"), processor.eos])
    prompt = Document([RED, "a star"])
    done = pipe.complete(prompt, steps=2)
    assert [part if isinstance(part, str) else "|" for part in done] == ["|", "a star lies", "|", "left"]
    assert prompt == Document([RED, "a star"])  # untouched
    both = [prompt, Document(["b"])]
    again = pipe.complete("a star", steps=2)
    assert again.texts == ["a star lies", "left"]
    events = list(pipe.stream(prompt, steps=2))
    assert (
        events[-1] == End(0, "eos")
        and difference(next(e for e in events if isinstance(e, Picture)).image, done[2]) == 0
    )
    monkeypatch.setattr(minidream.batch, "AT_ONCE", 1)
    assert [document.texts[0] for document in pipe.complete(both, steps=1, seed=[1, 2])] == ["a star lies", "b lies"]


def test_ask_and_caption_say_text_only(pipe, monkeypatch):
    heard = []
    build = InterleavedGenerator.__init__

    def listen(self, model, processor, documents, options, given):
        heard.append((list(documents), options.max_pictures))
        build(self, model, processor, documents, options, given)

    monkeypatch.setattr(InterleavedGenerator, "__init__", listen)
    script(monkeypatch, *[[*pipe.processor.encode(f" {word}"), pipe.processor.eos] for word in ("red", "blue")])
    assert pipe.ask(RED, " What colour? ") == "red"
    assert heard == [([Document([RED, "Question: What colour? Answer:"])], 0)]
    assert pipe.caption(BLUE) == "red" and heard[1] == ([Document([BLUE])], 0)
    assert pipe.ask([RED, Document([BLUE])], ["one?", "two?"]) == ["red", "blue"]
    assert pipe.caption([RED, BLUE]) == ["red", "blue"]


def test_real_answers_do_not_depend_on_the_batch(pipe):
    questions = ["what colour is the star?", "where?", "a small red circle lies on the left?"]
    together = pipe.ask([RED, BLUE, RED], questions, max_tokens=10)
    assert together == [pipe.ask(p, q, max_tokens=10) for p, q in zip([RED, BLUE, RED], questions)]
    assert len(set(together)) > 1
    assert pipe.ask(Document([RED]), questions, max_tokens=10) == [
        pipe.ask(RED, question, max_tokens=10) for question in questions
    ]


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_interrupted_complete_gives_what_there_is(pipe, monkeypatch, where):
    a = pipe.processor.encode("a")[0]
    script(monkeypatch, [a, a, a, pipe.processor.dream])

    def interrupt(*_args, **_more):
        raise KeyboardInterrupt

    if where == "inside":
        monkeypatch.setattr(pipe.model.decoder, "sample", interrupt)
    else:
        monkeypatch.setattr(minidream.pipeline, "collect", interrupt)
    monkeypatch.setattr(minidream.batch, "AT_ONCE", 1)
    first, second = pipe.complete([Document(["b"]), Document(["c"])], steps=1)
    assert first.parts == (["baaa"] if where == "inside" else ["b"]) and second.parts == ["c"]


def test_saved_and_opened_it_is_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    opened = MiniDreamPipeline.from_pretrained(tmp_path)
    assert difference(pipe.draw("a star", steps=2)[0], opened.draw("a star", steps=2)[0]) <= 1


@pytest.mark.parametrize(
    "last", ["minidream.pipeline.MiniDreamProcessor", "minidream.modeling.storage.MiniDreamConfig"]
)
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interruption_leaves_what_was_saved_before(pipe, tmp_path, monkeypatch, last, failure):
    def fail(*_, **__):
        raise failure

    pipe.save_pretrained(tmp_path / "kept")
    save_manifest(tmp_path / "kept")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    changed = MiniDreamPipeline.from_pretrained(tmp_path / "kept")
    with torch.no_grad():
        changed.model.dream_queries.add_(1)
    monkeypatch.setattr(f"{last}.save_pretrained", fail)
    with pytest.raises(type(failure)):
        changed.save_pretrained(tmp_path / "kept")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    with pytest.raises(type(failure)):
        changed.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_from_components_fits_the_processor_to_the_parts():
    tokenizer = tiny_tokenizer()
    made = MiniDreamPipeline.from_components(
        tiny_llm(len(tokenizer)), tiny_clip(), tiny_diffusion(), 3, tokenizer=tokenizer
    )
    assert (made.processor.num_patches, made.processor.image_size, made.processor.max_length) == (PATCHES, SIDE, 512)
    assert made.draw("a star", steps=1)[0].size == (SIDE, SIDE)
    assert isinstance(made.caption(RED, max_tokens=2), str)


@pytest.mark.parametrize(
    ("call", "cause"),
    [
        (lambda pipe: pipe.draw(""), "nothing to draw"),
        (lambda pipe: pipe.draw(["a", " "]), "nothing to draw"),
        (lambda pipe: pipe.draw("a", negative=""), "nothing to draw"),
        (lambda pipe: pipe.draw("a", guidance=-1), "guidance"),
        (lambda pipe: pipe.draw("a", steps=0), "steps"),
        (lambda pipe: pipe.draw("a", steps=100_000), "steps"),
        (lambda pipe: pipe.draw("a", solver="x"), "solver"),
        (lambda pipe: pipe.draw(["a", "b"], seed=[1]), "1 seeds for 2"),
        (lambda pipe: pipe.draw("word " * 200), "does not fit"),
        (lambda pipe: pipe.ask(RED, " "), "question is empty"),
        (lambda pipe: pipe.ask([RED], ["a", "b"]), "2 questions about 1"),
        (lambda pipe: pipe.ask(Document([RED]), ["a", ""]), "question is empty"),
        (lambda pipe: pipe.ask("", "a?"), "nothing to ask about"),
        (lambda pipe: pipe.ask(Document(), ["a?"]), "nothing to ask about"),
        (lambda pipe: pipe.ask([RED], "a"), "a document holds texts and pictures"),
        (lambda pipe: pipe.ask(RED, RED), "a question is a text"),
        (lambda pipe: pipe.ask([RED], [Document([RED])]), "a question is a text"),
        (lambda pipe: pipe.caption("a star"), "only a picture has a caption"),
        (lambda pipe: pipe.caption([RED, Document(["a"])]), "only a picture has a caption"),
        (lambda pipe: pipe.draw(RED), "captions are texts"),
        (lambda pipe: pipe.draw(["a", RED]), "captions are texts"),
        (lambda pipe: pipe.draw("a", negative=RED), "captions are texts"),
        (lambda pipe: pipe.complete("half a letter \ud800"), "not valid Unicode"),
        (lambda pipe: pipe.complete(""), "empty"),
        (lambda pipe: pipe.complete("a", pictures=3), "unknown option 'pictures'"),
        (lambda pipe: pipe.complete("a", max_pictures=100), "at most"),
        (lambda pipe: pipe.complete(["a", "b"], seed=[1]), "1 seeds for 2"),
        (lambda pipe: pipe.stream([]), "no document"),
        (lambda pipe: pipe.condition([]), "nothing to draw"),
        (lambda pipe: MiniDreamPipeline.from_pretrained("nowhere"), "nowhere"),
        (lambda pipe: pipe.to("cuda:99"), "cannot be moved to cuda:99"),
        (
            lambda pipe: MiniDreamPipeline(pipe.model, MiniDreamProcessor(tiny_tokenizer(), QUERIES + 1)),
            "dream queries",
        ),
    ],
)
def test_what_it_refuses_in_one_line(pipe, call, cause):
    with pytest.raises(UserError, match=cause) as caught:
        call(pipe)
    assert "\n" not in str(caught.value)


def test_the_name_of_a_file_is_not_taken_for_words(pipe, tmp_path):
    RED.save(tmp_path / "star.png")
    name = str(tmp_path / "star.png")
    for call in (
        lambda: pipe.ask(name, "What is it?"),
        lambda: pipe.draw(name),
        lambda: pipe.verify(name),
        lambda: pipe.complete(name),
        lambda: pipe.chat().say(name),
    ):
        with pytest.raises(UserError, match=r"star\.png is the name of a file: open it with Document\.load"):
            call()


def test_a_picture_that_was_never_read_is_refused_in_one_line(pipe, tmp_path):
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    with Image.open(tmp_path / "whole.png") as closed:
        pass
    for picture in (Image.open(tmp_path / "half.png"), closed):
        with pytest.raises(UserError, match="a picture cannot be read"):
            pipe.ask(picture, "What is it?")


def test_numbers_of_numpy_are_numbers(pipe):
    plain = pipe.draw(["a", "b"], seed=[3, 4], guidance=2.0, steps=2)
    theirs = pipe.draw(["a", "b"], seed=np.array([3, 4]), guidance=np.float32(2), steps=np.int64(2))
    assert [picture.tobytes() for picture in plain] == [picture.tobytes() for picture in theirs]
    with pytest.raises(UserError, match=r"steps must be a whole number of at least 1, not 2\.5"):
        pipe.draw("a", steps=np.float64(2.5))
