"""Explanations: exact where they can be worked out by hand."""

import pytest
import torch
from tiny import PATCHES, QUERIES, SIDE, tiny_model, tiny_pictures, tiny_tokenizer

from minidream.documents import Document
from minidream.errors import UserError
from minidream.events import to_image
from minidream.explanation import _Foresight, _Share, pieces_of
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
    """With one piece, all that is more than under nothing is owed to it, from either end."""
    found = pipe.explain(Document(["a red circle", A]))
    assert found.left_out == pytest.approx(found.alone, abs=1e-4)
    assert abs(found.alone[0]) > 1e-3 and abs(found.gradients[0]) > 1e-5


def test_two_pieces_bring_the_whole_one_after_the_other(pipe):
    """What one brings alone and what then is lost without the other."""
    found = pipe.explain(Document(["a red circle.", C, B]))
    ways = [found.alone[first] + found.left_out[1 - first] for first in (0, 1)]
    assert ways[0] == pytest.approx(ways[1], abs=1e-4)
    assert min(map(abs, found.left_out + found.alone)) > 1e-3


def test_shares_are_what_leaving_out_and_standing_alone_do(pipe):
    """Each by hand: the document without the piece, and the piece alone; their conditions, what is foreseen."""
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
        other = pipe.model.decoder.encode(pipe.processor.picture(C).unsqueeze(0))
        apart = (foresee.latents - other).square().sum(1, keepdim=True)

        def share(foreseen):  # how near to B rather than to C, where they differ
            to_b, to_c = (
                ((foreseen - end) ** 2 * (apart >= 0.1 * apart.max())).sum() for end in (foresee.latents, other)
            )
            return float(to_c / (to_b + to_c))

        lost = [share(full) - share(foresee(pipe.condition(document))) for document in without]
        brought = [share(foresee(pipe.condition(document))) - share(empty) for document in alone]
    assert found.left_out == pytest.approx(lost, abs=1e-4) and found.alone == pytest.approx(brought, abs=1e-4)
    assert max(map(abs, found.left_out)) > 1e-3 and max(map(abs, found.alone)) > 1e-3


def test_only_where_two_pictures_differ_is_looked_at(pipe):
    """What is foreseen elsewhere is as far from both: it would make every share a half."""
    this, that = torch.zeros(2, 4, 8, 8)
    that[:, 2:4, 2:4] = 1.0
    foreseen = torch.full((1, 4, 8, 8), 9.0)  # far from both everywhere, but for the place where it is this one's
    foreseen[:, :, 2:4, 2:4] = 0.1
    assert float(_Share(this, that)(foreseen)) == pytest.approx(0.81 / (0.01 + 0.81), abs=1e-5)
    assert float(_Share(that, this)(foreseen)) == pytest.approx(0.01 / (0.01 + 0.81), abs=1e-5)
    assert float(_Share(this, this)(this[None])) == 0.0  # where nothing differs, nothing can be owed


def test_the_gradient_is_that_of_turning_a_piece_up(pipe, monkeypatch):
    """Gradient x input is the derivative by a factor on the piece's embeddings, here by finite differences."""
    document = Document(["a red circle.", A, "a blue star.", B])
    found = pipe.explain(document, instead=C)
    assert max(map(abs, found.gradients)) > 2e-3
    foresee, embed = _Foresight(pipe, B), pipe.model.embed
    share = _Share(foresee.latents[0], _Foresight(pipe, C).latents[0])
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
                reached.append(float(share(foresee(pipe.condition(document[:3])))))
        monkeypatch.setattr(pipe.model, "embed", embed)
        assert gradient == pytest.approx((reached[1] - reached[0]) / 0.02, rel=0.05, abs=2e-4)
        start += length


def test_what_comes_after_explains_nothing(pipe):
    first, second = pipe.explain(STORY, 0), pipe.explain(STORY[:2])
    assert first.alone == second.alone and first.gradients == second.gradients and first.picture is A


def test_several_contrasts_are_those_one_by_one(pipe):
    together = pipe.explain(STORY, instead=[A, C])
    assert [each.alone for each in together] == [pipe.explain(STORY, instead=p).alone for p in (A, C)]


def test_it_shows_itself_as_heat(pipe):
    found = pipe.explain(STORY)
    page = found._repr_html_()
    assert page.count("<img") == 2 and "a red circle." in page and "The picture that is explained" in page
    assert page.count("rgba(240, 140, 20, 1.00)") == 1  # what brings most alone is the deepest
    assert f"alone {found.alone[0]:+.2f}, left out {found.left_out[0]:+.2f}, gradient " in page
    assert page.count("gradient +1.00") + page.count("gradient -1.00") == 1


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
