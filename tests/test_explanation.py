"""Explanations: exact where they can be worked out by hand."""

import pytest
import torch
from tiny import PATCHES, QUERIES, SIDE, tiny_model, tiny_pictures, tiny_tokenizer

from minidream.documents import Document
from minidream.errors import UserError
from minidream.explanation import _Foresight, pieces_of
from minidream.generation import to_image
from minidream.pipeline import MiniDreamPipeline
from minidream.processing import MiniDreamProcessor

A, B, C = (to_image(pixels) for pixels in tiny_pictures(3))
STORY = Document(["a red circle. it lands.", A, "a blue star.", B, "the end."])


@pytest.fixture(scope="module")
def pipe():
    processor = MiniDreamProcessor(tiny_tokenizer(), QUERIES, PATCHES, SIDE, max_length=300)
    model = tiny_model(processor)
    with torch.no_grad():
        model.condition_projector.weight *= 20  # so that a condition matters to an untrained UNet
    return MiniDreamPipeline(model, processor)


def test_a_document_falls_into_sentences_and_pictures(pipe):
    pieces, parts = pieces_of(Document(["One. Two!  Three", A, "Top left: a star; 3.5 stars. ", B]))
    assert pieces == ["One.", " Two!", "  Three", A, "Top left: a star; 3.5 stars. ", B]
    assert parts == [0, 0, 0, 1, 2, 3]
    encode = pipe.processor.encode
    assert encode("a star. it lands. above") == encode("a star.") + encode(" it lands.") + encode(" above")


def test_all_that_is_said_has_the_whole_effect(pipe):
    """With one piece, all of the way from nothing to the picture is owed to it, from either end."""
    found = pipe.explain(Document(["a red circle", A]))
    assert (*found.left_out, *found.alone, *found.effects) == pytest.approx((1, 1, 1), abs=1e-4)


def test_of_two_pieces_effects_add_up(pipe):
    """There first and last place are all orders: the Shapley value, whose shares are the whole way."""
    found = pipe.explain(Document(["a red circle.", C, B]))
    assert sum(found.effects) == pytest.approx(1, abs=1e-4) and min(map(abs, found.left_out + found.alone)) > 1e-3


def test_effects_are_what_leaving_out_and_standing_alone_do(pipe):
    """Each effect by hand: the document without the piece, and the piece alone; their conditions, what is foreseen."""
    found = pipe.explain(STORY, instead=C)
    assert [piece if isinstance(piece, str) else "A" for piece in found.pieces] == [
        "a red circle.", " it lands.", "A", "a blue star."
    ]  # fmt: skip
    assert found.parts == (0, 0, 1, 2) and found.picture is B
    without = [
        Document(["it lands.", A, "a blue star."]),
        Document(["a red circle.", A, "a blue star."]),
        Document(["a red circle. it lands.", "a blue star."]),
        Document(["a red circle. it lands.", A]),
    ]
    alone = [Document([part]) for part in ("a red circle.", "it lands.", A, "a blue star.")]
    foresee = _Foresight(pipe, B)
    with torch.no_grad():
        full, empty = foresee(pipe.condition(STORY[:3])), foresee(pipe.model.null_condition())
        way = foresee.latents - pipe.model.decoder.encode(pipe.processor.picture(C).unsqueeze(0))
        share = lambda moved: float((moved * way).sum() / way.square().sum())  # noqa: E731
        lost = [share(full - foresee(pipe.condition(document))) for document in without]
        brought = [share(foresee(pipe.condition(document)) - empty) for document in alone]
    assert found.left_out == pytest.approx(lost, abs=1e-4) and found.alone == pytest.approx(brought, abs=1e-4)
    assert found.effects == pytest.approx([(a + b) / 2 for a, b in zip(lost, brought)], abs=1e-4)
    assert max(map(abs, found.effects)) > 1e-3


def test_the_gradient_is_that_of_turning_a_piece_up(pipe, monkeypatch):
    """Gradient x input is the derivative by a factor on the piece's embeddings, here by finite differences."""
    document = Document(["a red circle.", A, "a blue star.", B])
    found = pipe.explain(document, instead=C)
    foresee, embed = _Foresight(pipe, B), pipe.model.embed
    way = foresee.latents - _Foresight(pipe, C).latents
    way = way / way.square().sum()
    lengths = [len(pipe.processor.encode("a red circle.")), PATCHES + 2, len(pipe.processor.encode("a blue star."))]
    start = 1
    for length, gradient in zip(lengths, found.gradients, strict=True):
        reached = []
        for factor in (0.99, 1.01):

            def turned(*arguments, begin=start, end=start + length, factor=factor):
                embeddings = embed(*arguments)
                embeddings[:, begin:end] *= factor
                return embeddings

            monkeypatch.setattr(pipe.model, "embed", turned)
            with torch.no_grad():
                reached.append(float((foresee(pipe.condition(document[:3])) * way).sum()))
        monkeypatch.setattr(pipe.model, "embed", embed)
        assert gradient == pytest.approx((reached[1] - reached[0]) / 0.02, rel=0.05, abs=2e-4)
        start += length


def test_what_comes_after_explains_nothing(pipe):
    first, second = pipe.explain(STORY, 0), pipe.explain(STORY[:2])
    assert first.effects == second.effects and first.gradients == second.gradients and first.picture is A


def test_several_contrasts_are_those_one_by_one(pipe):
    together = pipe.explain(STORY, instead=[A, C])
    assert [each.effects for each in together] == [pipe.explain(STORY, instead=p).effects for p in (A, C)]


def test_it_shows_itself_as_heat(pipe):
    found = pipe.explain(STORY)
    page = found._repr_html_()
    assert page.count("<img") == 2 and "a red circle." in page and "The picture that is explained" in page
    assert page.count("rgba(240, 140, 20, 1.00)") == 1  # the largest effect is the deepest
    assert f"{found.effects[0]:+.2f}" in page


@pytest.mark.parametrize(
    ("document", "picture", "cause"),
    [
        (STORY, 2, "there is no picture 2: the document has 2"),
        (STORY, -3, "there is no picture -3"),
        (Document(["words"]), -1, "has 0"),
        (Document([A]), 0, "nothing stands before"),
        (Document(["  ", A]), 0, "nothing stands before"),
    ],
)
def test_what_cannot_be_explained(pipe, document, picture, cause):
    with pytest.raises(UserError, match=cause):
        pipe.explain(document, picture)
