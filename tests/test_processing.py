"""The processor: the paper's sequences and labels, blocks that are never cut, text that cannot open one."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from PIL import Image
from tiny import PATCHES, QUERIES, SIDE, tiny_tokenizer

from minidream.documents import Document
from minidream.errors import ContextWarning, UserError
from minidream.processing import MiniDreamProcessor, caption_prompt, question_prompt, visual_question
from minidream.tokenizer import SPECIAL_TOKENS, train_tokenizer
from minidream.world.corpora import sample

RED, GREEN, BLUE = (Image.new("RGB", (SIDE, SIDE), color) for color in ("#ff0000", "#00ff00", "#0000ff"))
DREAM_BLOCK = "<dream>" + "<im_patch>" * QUERIES + "<dream_end>"
IMAGE_BLOCK = "<im_start>" + "<im_patch>" * PATCHES + "<im_end>"


def make(**changes) -> MiniDreamProcessor:
    shapes = {"num_dream_queries": QUERIES, "num_patches": PATCHES, "image_size": SIDE}
    return MiniDreamProcessor(tiny_tokenizer(), **{**shapes, **changes})


def shown(processor, ids) -> str:
    return processor.tokenizer.decode([int(i) for i in ids if i != -100])


def test_tokenizer_keeps_any_text_and_never_makes_a_special_token_of_it():
    processor = make()
    text = "<dream> </s> <im_patch> Grüße 星 🙂 \x00 <s><pad>"
    ids = processor.encode(text)
    assert processor.decode(ids) == text
    assert not set(ids) & set(processor.tokenizer.all_special_ids)
    assert processor.tokenizer.convert_tokens_to_ids("<dream>") == processor.dream


def test_tokenizer_learns_merges_up_to_its_size():
    texts = [sample("text", random.Random(i)).document.text for i in range(50)]
    tokenizer = train_tokenizer(texts, vocab_size=400)
    assert len(tokenizer) == 400
    assert len(set(tokenizer.convert_tokens_to_ids([*SPECIAL_TOKENS, "<s>", "</s>", "<pad>"]))) == 8
    assert len(tokenizer(texts[0], add_special_tokens=False).input_ids) < len(texts[0]) / 2


def test_where_a_thought_begins_the_model_wants_a_picture():
    """The bracket is given; what is learned in its place is <dream>, after its own words and after given ones."""
    processor = make()
    document = Document(["one", " (", "red)", RED, "two", " (", "blue)", BLUE, "three", "four"])
    batch = processor([document], prompt_parts=[{0, 1, 5, 9}])
    assert shown(processor, batch.input_ids[0]) == "<s>one (red)PICTUREtwo (blue)PICTUREthreefour</s>".replace(
        "PICTURE", DREAM_BLOCK + IMAGE_BLOCK
    )
    assert shown(processor, batch.labels[0]) == "<dream>red)<dream>two<dream>blue)<dream>three</s></s>"
    ids, labels = batch.input_ids[0].tolist(), batch.labels[0].tolist()
    others = [at for at, label in enumerate(labels) if label not in (-100, ids[at])]
    before = [shown(processor, batch.input_ids[0, :at]) for at in others]  # learned where the given part begins
    assert [text.split(">")[-1] for text in before] == ["one", "two", "three"]
    other = processor([document], "text_to_image", prompt_parts=[{0, 1, 5, 9}])
    assert shown(processor, other.labels[0]) == ""


@pytest.mark.parametrize(
    ("mode", "parts", "given", "sequence", "labels"),
    [
        ("text_to_image", ["a star", RED], 0, f"<s>a star{DREAM_BLOCK}</s>", ""),
        ("image_to_text", [RED, "a star"], 0, f"<s>{IMAGE_BLOCK}a star</s>", "a star</s>"),
        ("image_to_text", [RED, "what?", " a star"], 2, f"<s>{IMAGE_BLOCK}what? a star</s>", " a star</s>"),
        ("interleaved", ["one", RED, "two", BLUE, "three"], 0,
         f"<s>one{DREAM_BLOCK}{IMAGE_BLOCK}two{DREAM_BLOCK}{IMAGE_BLOCK}three</s>", "one<dream>two<dream>three</s>"),
        ("interleaved", ["one", RED, "two", BLUE], 3,
         f"<s>one{IMAGE_BLOCK}two{DREAM_BLOCK}{IMAGE_BLOCK}</s>", "<dream></s>"),
        ("text", ["one", "two"], 1, "<s>onetwo</s>", "two</s>"),
        ("image_to_text", [RED, "one", "two", "three", "four"], {0, 1, 3},
         f"<s>{IMAGE_BLOCK}onetwothreefour</s>", "twofour</s>"),
    ],
)  # fmt: skip
def test_sequences_and_labels_are_the_papers(mode, parts, given, sequence, labels):
    processor = make()
    batch = processor([Document(parts)], mode, prompt_parts=[given])
    assert shown(processor, batch.input_ids[0]) == sequence
    assert shown(processor, batch.labels[0]) == labels
    labelled = batch.labels != -100
    assert torch.equal(batch.labels[labelled], batch.input_ids[labelled])  # unshifted
    assert int(batch.query_mask.sum()) == QUERIES * sequence.count(DREAM_BLOCK)
    assert int(batch.patch_mask.sum()) == PATCHES * sequence.count(IMAGE_BLOCK)
    assert (batch.input_ids[batch.query_mask | batch.patch_mask] == processor.im_patch).all()
    assert len(batch.seen) == sequence.count(IMAGE_BLOCK) and len(batch.dreamed) == sequence.count(DREAM_BLOCK)


def test_every_block_knows_its_picture():
    documents = [Document(["a", RED, "b", GREEN]), Document(["none"]), Document([BLUE, "c", RED])]
    batch = make()(documents, prompt_parts=[0, 0, 1])
    colors = batch.pictures[:, :, 0, 0].tolist()
    assert batch.pictures.dtype == torch.uint8 and batch.pictures.shape == (4, 3, SIDE, SIDE)
    assert [colors[i] for i in batch.seen] == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 0, 0]]
    assert [colors[i] for i in batch.dreamed] == [[255, 0, 0], [0, 255, 0], [255, 0, 0]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_but_the_place(side):
    processor = make()
    documents = [Document(["one", RED]), Document(["a much longer text", GREEN, "and more", BLUE])]
    together = processor(documents, padding_side=side)
    for row, document in enumerate(documents):
        alone = processor([document])
        kept = together.attention_mask[row] == 1
        assert int(kept[0 if side == "right" else -1]) == 1
        for name in ("input_ids", "position_ids", "labels", "query_mask", "patch_mask"):
            assert torch.equal(getattr(together, name)[row][kept], getattr(alone, name)[0]), name
    padding = together.attention_mask == 0
    assert padding.any() and (together.labels[padding] == -100).all() and not together.query_mask[padding].any()


def test_a_long_document_loses_whole_parts_and_never_half_a_block():
    documents = [Document(["one", RED, "two", GREEN, "three"])]
    full = make()(documents).input_ids.shape[1]
    lengths = set()
    for limit in range(full, 0, -1):
        processor = make(max_length=limit)
        try:
            batch = processor(documents)
        except UserError as error:
            assert "first picture" in str(error)
            break
        ids = shown(processor, batch.input_ids[0])
        assert batch.input_ids.shape[1] <= limit
        assert ids.count("<dream>") == ids.count(DREAM_BLOCK) == ids.count(IMAGE_BLOCK) == len(batch.pictures)
        assert ids.endswith("</s>") == (limit == full)  # cut off, it does not end there
        lengths.add(batch.input_ids.shape[1])
    else:
        pytest.fail("a document whose first picture does not fit must be refused")
    assert len(lengths) == 4 and len(batch.pictures) == 1


def test_generation_prompts_are_given_whole():
    processor = make()
    document = Document(["one", RED, "two"])
    batch = processor([document], generation_prompt=True)
    assert shown(processor, batch.input_ids[0]) == f"<s>one{IMAGE_BLOCK}two"
    assert (batch.labels == -100).all() and len(batch.dreamed) == 0
    drawn = processor([document], "text_to_image", generation_prompt=True)
    assert shown(processor, drawn.input_ids[0]) == f"<s>one{IMAGE_BLOCK}two{DREAM_BLOCK}"
    with pytest.raises(UserError, match="prompt does not fit"):
        make(max_length=batch.input_ids.shape[1])([document], generation_prompt=True)
    assert make(max_length=batch.input_ids.shape[1] + 1)([document], generation_prompt=True)


def test_a_long_prompt_loses_whole_parts_at_its_beginning_and_says_so():
    first, second, third = (f"this is sentence number {number}." for number in (1, 2, 3))
    document = Document([first, RED, second, GREEN, third])
    lengths = [make().length(document[start:], range(5)) for start in range(5)]
    room = make().picture_length + 1  # for a picture after it: the loop stops where the context would be full
    for left_out in (1, 2, 3, 4):
        processor = make(max_length=lengths[left_out] + room)
        lost = "part is" if left_out == 1 else f"{left_out} parts are"
        with pytest.warns(ContextWarning, match=f"{processor.max_length} tokens: its first {lost} not read"):
            rest, given = processor.latest(document, range(5))
        assert rest == document[left_out:] and given == set(range(5 - left_out))
    with pytest.warns(ContextWarning, match="first 3 parts are not"):  # what the model drew itself stands in two blocks
        rest, given = make(max_length=lengths[2] + room).latest(document, {0, 1, 2, 4})
    assert rest == document[3:] and given == {1}
    batch = make()([rest], prompt_parts=[given], generation_prompt=True)
    assert shown(make(), batch.input_ids[0]) == f"<s>{DREAM_BLOCK}{IMAGE_BLOCK}{third}"
    assert make(max_length=lengths[0] + 1).latest(document, {0, 1, 2, 3, 4})[0] == document  # it fits
    assert make(max_length=10).latest(document[4:], {0}) == (document[4:], {0})  # there is nothing to leave out
    short = make(max_length=len(make().encode(third)))  # whatever were left out, the last part would not fit
    assert short.latest(document, range(5)) == (document, range(5))


def test_text_of_any_script_is_read_and_half_a_letter_is_refused():
    processor = make(max_length=400)
    for text in ("Нарисуй красную звезду.", "在左上角画一个红色的圆。", "ارسم نجمة", "🟥⬅️👩‍🚀", "\x00\u202e<dream>\n"):
        ids = processor([Document([text])], generation_prompt=True).input_ids[0].tolist()
        assert processor.decode(ids) == text and processor.dream not in ids
    with pytest.raises(UserError, match="not valid Unicode"):
        processor([Document(["a \ud83d"])])


def test_the_prompt_formats_are_the_training_ones():
    example = sample("qa", random.Random(0))
    picture, asked = example.document[:2]
    question = asked.removeprefix("Question: ").removesuffix(" Answer:")
    assert question != asked and question_prompt(question) == asked
    assert visual_question(caption_prompt(picture), question) == example.document[:2]


def test_saved_and_opened_again_it_writes_the_same(tmp_path):
    processor = make(max_length=100)
    processor.save_pretrained(tmp_path)
    opened = MiniDreamProcessor.from_pretrained(tmp_path)
    document = Document(["a <dream> of blue", BLUE, "ü"])
    assert opened.max_length == 100
    for name, value in vars(processor([document])).items():
        assert torch.equal(value, getattr(opened([document]), name)), name
    with pytest.raises(UserError, match=r"processor\.json"):
        MiniDreamProcessor.from_pretrained(tmp_path / "nowhere")


def test_what_it_refuses():
    with pytest.raises(UserError, match="mode 'text'"):
        make()([Document([RED])], "text")
    with pytest.raises(UserError, match="the text does not fit"):
        make(max_length=5)([Document(["0123456789"])], "text")
    with pytest.raises(UserError, match="the text does not fit"):
        make(max_length=30)([Document(["0123456789" * 4, RED])])
    with pytest.raises(UserError, match="the first picture does not fit"):
        make(max_length=15)([Document(["01", RED])])
    with pytest.raises(ValueError, match="unknown mode"):
        make()([Document(["a"])], "sideways")
    endless = copy.deepcopy(tiny_tokenizer())
    endless.eos_token = None
    with pytest.raises(UserError, match="set its eos_token"):
        MiniDreamProcessor(endless)


def test_packed_documents_are_the_same_documents_in_fewer_rows():
    processor = make()
    documents = [Document(["a", RED]), Document(["a much longer text", GREEN, "and more", BLUE]), Document(["b"])]
    packed, plain = processor(documents, pack=True), processor(documents)
    assert packed.input_ids.shape == (2, plain.input_ids.shape[1]) and sorted(packed.order.tolist()) == [0, 1, 2]
    place = [(row, number) for row in range(2) for number in range(1, int(packed.attention_mask[row].max()) + 1)]
    for index, (row, number) in zip(packed.order.tolist(), place, strict=True):
        alone, kept = processor([documents[index]]), packed.attention_mask[row] == number
        for name in ("input_ids", "position_ids", "labels", "query_mask", "patch_mask"):
            assert torch.equal(getattr(packed, name)[row][kept], getattr(alone, name)[0]), name
    colors = packed.pictures[:, :, 0, 0].tolist()
    assert [colors[i] for i in packed.seen] == [[0, 255, 0], [0, 0, 255], [255, 0, 0]]
