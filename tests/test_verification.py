"""The model's opinion of its own pictures: what it compares, how sure it is, and what is chosen by it."""

import pytest
import torch
from PIL import Image
from tiny import PATCHES, QUERIES, SIDE, tiny_model, tiny_pictures, tiny_tokenizer

from minidream import batch as batch_module
from minidream import verification
from minidream.agreement import agreement, clarity, consensus, expectation, fitness
from minidream.documents import Document
from minidream.errors import UserError
from minidream.events import End, TextPiece, to_image
from minidream.pipeline import MiniDreamPipeline
from minidream.processing import MiniDreamProcessor
from minidream.verification import Verdict, attributes, differences, fittest

A, B, C = (to_image(pixels) for pixels in tiny_pictures(3))


@pytest.fixture(scope="module")
def pipe():
    processor = MiniDreamProcessor(tiny_tokenizer(), QUERIES, PATCHES, SIDE, max_length=300)
    return MiniDreamPipeline(tiny_model(processor), processor)


@pytest.fixture
def scripted(pipe, monkeypatch):
    """The pipeline, but what it says is written down here; `.prompts` are those it was to go on from."""
    prompts = []

    def stream(documents, **options):
        assert options == {"max_pictures": 0, "max_tokens": 64}
        for index, document in enumerate(documents):
            prompts.append(document.text)
            yield TextPiece(index, f" asked {document.text.count('(')}")
            yield TextPiece(index, "). And so on")
            yield TextPiece(index, " for ever")
        yield from (End(index, "eos") for index in range(len(documents)))

    monkeypatch.setattr(pipe, "stream", stream)
    monkeypatch.setattr(pipe, "caption", lambda pictures: [f"seen {'ABC'[[A, B, C].index(p)]}" for p in pictures])
    monkeypatch.setattr(pipe, "prompts", prompts, raising=False)
    return pipe


def test_differences_are_runs_of_words():
    assert differences("Top left: large red circle.", "top left: large red circle") == ()
    assert differences("A large red circle.", "A small blue circle.") == (("large red", "small blue"),)
    told = "Top left: red circle; top right: blue star. Background: grey."
    assert differences(told, "Top left: red circle. Background: grey.") == (("top right blue star", ""),)
    assert differences("", "mud") == (("", "mud"),)


def test_attributes_are_the_facts_that_differ():
    told = "Top left: large red circle; top right: small blue star. Background: grey."
    read = "Top left: large blue ring; bottom left: small blue star. Background: white."
    assert attributes(told, told) == ()
    assert attributes(told, read) == (
        ("top left: color", "red", "blue"),
        ("top left: shape", "circle", "ring"),
        ("top right: thing", "small blue star", "nothing"),
        ("bottom left: thing", "nothing", "small blue star"),
        ("background", "grey", "white"),
    )
    assert Verdict(0, 1, 0.1, told, "mud").attributes == ()


def test_a_picture_is_compared_with_what_was_asked_and_not_with_what_earlier_ones_show(scripted):
    verdicts = scripted.verify(Document(["A star.", A, " It grows. ", B, C, "The end."]))
    assert scripted.prompts == ["A star. (", "A star. (asked 1) It grows. (", "A star. (asked 1) It grows. (asked 2) ("]
    found = [(verdict.document, verdict.part, verdict.told, verdict.read) for verdict in verdicts]
    assert found == [(0, 1, "asked 1", "seen A"), (0, 3, "asked 2", "seen B"), (0, 4, "asked 3", "seen C")]
    assert "document 0, part 1" in str(verdicts[0]) and "told 'asked 1', reads 'seen a'" in str(verdicts[0])


def test_the_readers_pictures_are_believed(scripted):
    edit, name = Document([A, "Paint it.", B]), Document(["This is a dax:", A, "Draw a dax.", B])
    first, second = scripted.verify([edit, name], given=[0, 3])  # a picture before all words is the reader's anyway
    assert scripted.prompts == ["(seen A) Paint it. (", "This is a dax: (seen A) Draw a dax. ("]
    assert [(v.document, v.part) for v in first + second] == [(0, 2), (1, 3)]
    assert scripted.verify([Document([A, B]), Document(["Words."]), Document()]) == [[], [], []]
    with pytest.raises(UserError, match="given names 2 numbers for 1"):
        scripted.verify([edit], given=[1, 2])


def test_the_score_is_the_probability_of_the_words_and_their_end(pipe):
    """By hand: exp of minus the summed cross-entropy that the model's own loss averages; and the share of it that the
    likeliest words in their places would have."""
    texts = ["a small red circle", "a star. a blue star above it."]
    found = agreement(pipe.model, pipe.processor, [A, B], texts)
    for picture, text, fit in zip((A, B), texts, found):
        batch = pipe.processor([Document([picture, text])], "image_to_text", prompt_parts=[1])
        with torch.no_grad():
            out = pipe.model(**batch.model_inputs(), image_features=pipe.model.encode_pictures(batch.pictures))
        tokens = len(pipe.processor.encode(text)) + 1
        assert fit.score == pytest.approx(float((-tokens * out.language_loss.double()).exp()), rel=1e-3, abs=0)
        likeliest = out.logits[0, -tokens - 1 : -1].double().softmax(-1).amax(-1).prod()
        assert fit.share == pytest.approx(fit.score / float(likeliest), rel=1e-3, abs=0)
    swapped = agreement(pipe.model, pipe.processor, [B, A], texts)
    assert max(abs(a.score - b.score) / a.score for a, b in zip(found, swapped)) > 1e-3  # it looks
    assert agreement(pipe.model, pipe.processor, [A], ["a star. " * 200]) == [(0.0, 0.0)]


def test_what_words_let_expect_is_the_probability_of_the_text_and_its_bracket(pipe):
    prompts, texts = ["a star (", "a red star. it grows. ("], ["a red star", "a large star"]
    found = expectation(pipe.model, pipe.processor, prompts, texts)
    for prompt, text, fit in zip(prompts, texts, found, strict=True):
        before, after = pipe.processor.encode(prompt), pipe.processor.encode(text + ")")
        with torch.no_grad():
            logits = (
                pipe.model(torch.tensor([[pipe.processor.bos, *before, *after]])).logits[0, len(before) : -1].double()
            )
        chances = logits.softmax(-1)[range(len(after)), after]
        assert fit.score == pytest.approx(float(chances.prod()), rel=1e-3, abs=0)
        assert fit.share == pytest.approx(float((chances / logits.softmax(-1).amax(-1)).prod()), rel=1e-3, abs=0)
    assert expectation(pipe.model, pipe.processor, prompts[:1], ["a star. " * 200]) == [(0.0, 0.0)]


def test_a_verdict_asks_from_both_ends(pipe, monkeypatch):
    """The mean of: what was asked, of the picture; what was read, after the words and what earlier pictures show. It
    counts as far as the picture is clear."""
    monkeypatch.setattr("minidream.agreement.SMUDGED", 0.5)  # this decoder, untrained, changes everything
    document = Document([A, "it lands.", B])
    [verdict] = pipe.verify(document, given=1)
    of_picture = agreement(pipe.model, pipe.processor, [B], [verdict.told])
    words = f"({pipe.caption(A)}) it lands. ("
    of_words = expectation(pipe.model, pipe.processor, [words], [verdict.read])
    [clear] = clarity(pipe.model, pipe.processor, [B])
    assert verdict.score == pytest.approx(clear * (of_picture[0].score + of_words[0].score) / 2, rel=1e-3, abs=0)


def test_a_picture_is_clear_that_the_decoder_can_keep(pipe, monkeypatch):
    """By hand: the mean square of what encoding and decoding changes the second time, of pixels from 0 to 1."""
    monkeypatch.setattr("minidream.agreement.SMUDGED", 0.01)
    decoder, [found] = pipe.model.decoder, clarity(pipe.model, pipe.processor, [A])
    once = decoder.decode(decoder.encode(pipe.processor.picture(A)[None]))
    change = (once / 255 - decoder.decode(decoder.encode(once)) / 255).square().mean()
    assert 0.01 < found < 0.99 and found == pytest.approx(float((-change / 0.01).exp()), rel=1e-4)
    monkeypatch.setattr(type(decoder), "decode", lambda self, latents: pipe.processor.picture(A)[None])
    assert clarity(pipe.model, pipe.processor, [A]) == [1.0] and clarity(pipe.model, pipe.processor, []) == []


def test_a_picture_fits_that_shows_its_words_clearly(pipe, monkeypatch):
    monkeypatch.setattr("minidream.agreement.SMUDGED", 0.5)
    parts, texts = (pipe.model, pipe.processor, [A, B]), ["a star", "a ring"]
    by_hand = [read.share * clear for read, clear in zip(agreement(*parts, texts), clarity(*parts), strict=True)]
    assert min(by_hand) > 0 and by_hand == pytest.approx(fitness(*parts, texts), rel=1e-4, abs=0)


def test_a_batch_is_judged_as_one_by_one(pipe, monkeypatch):
    documents = [Document(["a red circle.", A, "it lands.", B]), Document([C]), Document(["a star", C])]
    monkeypatch.setattr(batch_module, "AT_ONCE", 2)
    monkeypatch.setattr("minidream.agreement.SMUDGED", 0.5)
    for each, alone in zip(pipe.verify(documents), map(pipe.verify, documents), strict=True):
        assert [v.told for v in each] == [v.told for v in alone]
        assert [v.score for v in each] == pytest.approx([v.score for v in alone], rel=1e-3, abs=0)


def test_a_review_begins_with_the_worst(pipe, monkeypatch):
    verdicts = [[Verdict(0, 1, 0.9, "", ""), Verdict(0, 3, 0.2, "", "")], [], [Verdict(2, 1, 0.5, "", "")]]
    monkeypatch.setattr(pipe, "verify", lambda documents, given: verdicts)
    assert [verdict.score for verdict in pipe.review([Document()] * 3)] == [0.2, 0.5, 0.9]


def test_best_of_one_is_what_is_drawn_and_of_equally_near_ones_the_one_with_the_best_verdict(pipe, monkeypatch):
    (drawn,) = pipe.draw(["a star"], steps=2, seed=5)
    assert pipe.best_of("a star", n=1, steps=2, seed=5).tobytes() == drawn.tobytes()
    scores = iter([0.1, 0.7, 0.3, 0.2, 0.2, 0.1])
    judged = []

    def verify(_, documents, given):
        judged.extend(documents)
        assert given == [1, 1, 1, 2, 2, 2]
        return [[Verdict(0, 0, next(scores), "", "")] for _ in documents]

    monkeypatch.setattr(verification, "verify", verify)
    monkeypatch.setattr(
        verification, "consensus", lambda model, processor, drawn: [[0.5] * len(some) for some in drawn]
    )
    best = pipe.best_of(["a star", Document([A, "now blue"])], n=3, steps=2, seed=5)
    pictures = [document[-1].tobytes() for document in judged]
    assert pictures[0] == drawn.tobytes() and len(set(pictures)) == 6
    assert [picture.tobytes() for picture in best] == [pictures[1], pictures[3]]


def test_consensus_is_largest_in_the_middle_and_the_same_alone_as_among_others(pipe, monkeypatch):
    parts = pipe.model, pipe.processor
    odd, alone, pair = [A, A, B, A], [C], [A, B]
    [found] = consensus(*parts, [odd])
    # The median of three equal ones and another is theirs: d is 0, 0, d, 0, and its mean d / 4.
    assert found == pytest.approx([1, 1, torch.tensor(-4.0).exp().item(), 1], abs=1e-4)
    assert consensus(*parts, [alone]) == [[1.0]] and consensus(*parts, []) == []
    assert consensus(*parts, [pair])[0] == pytest.approx([torch.tensor(-1.0).exp().item()] * 2, rel=1e-3)
    monkeypatch.setattr(batch_module, "AT_ONCE", 3)
    for group, expected in zip(consensus(*parts, [odd, alone, pair]), (odd, alone, pair), strict=True):
        assert group == pytest.approx(consensus(*parts, [expected])[0], rel=1e-3, abs=1e-5)


def test_the_fittest_is_well_judged_and_like_the_others():
    assert fittest([[A, B, C]], [[0.9, 0.8, 0.7]], [[0.5, 0.6, 0.6]]) == [B]  # 0.45, 0.48, 0.42
    assert fittest([[A, B], [C, B]], [[0.3, 0.3], [0.1, 0.2]], [[1, 1], [1, 1]]) == [A, B]


@pytest.mark.parametrize(
    ("call", "cause"),
    [
        (lambda pipe: pipe.best_of("a star", n=0), "n must be a whole number of at least 1, not 0"),
        (lambda pipe: pipe.best_of("a star", n=2.5), "n must be a whole number of at least 1, not 2.5"),
        (lambda pipe: pipe.best_of(A), "no words"),
        (lambda pipe: pipe.best_of("a star", taste=1), "unknown option 'taste'"),
        (lambda pipe: pipe.verify(Document(["a star " * 300, A])), "does not fit"),
    ],
)
def test_what_it_refuses_in_one_line(pipe, call, cause):
    with pytest.raises(UserError, match=cause) as raised:
        call(pipe)
    assert "\n" not in str(raised.value)


def test_a_damaged_picture_is_named(pipe, tmp_path):
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    half = Image.open(tmp_path / "half.png")  # Pillow does not read the pixels yet
    with pytest.raises(UserError, match="part 1 of document 1, a picture, cannot be read") as raised:
        pipe.verify([Document(["a star", A]), Document(["a star", half])])
    assert "\n" not in str(raised.value)


def test_an_interruption_is_no_opinion(pipe, monkeypatch):
    monkeypatch.setattr(pipe, "stream", lambda documents, **options: iter([End(0, "interrupted")]))
    with pytest.raises(KeyboardInterrupt):
        pipe.verify(Document(["a star", A]))


def test_what_is_asked_of_equal_prompts_is_told_once(scripted):
    found = scripted.verify([Document(["A star.", picture]) for picture in (A, B, C)])
    assert scripted.prompts == ["A star. ("]
    assert [(some[0].told, some[0].read) for some in found] == [("asked 1", f"seen {name}") for name in "ABC"]
