"""Figures of notebook 07, the desk on which a story is steered, and what its gallery of faults calls by which name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.colors import to_hex
from PIL import Image

from minidream.documents import Document
from minidream.errors import UserError
from minidream.evaluation.candidate import look
from minidream.events import End, Event, Picture, PictureComing, Preview, TextPiece
from minidream.teaching.interleaved_generation import (
    answers,
    blind,
    by_example,
    color_at,
    contradictions,
    exchanged,
    fact_of,
    fault,
    ground,
    guesses,
    in_context,
    last_pictures,
    misled,
    narrowed,
    swapped,
    three_pictures,
    timed,
)
from minidream.visualization import PALETTE
from minidream.visualization.interleaved_generation import Beat, Desk, Step, dependence, growth, scores, wish
from minidream.world.draw import draw
from minidream.world.scene import BACKGROUNDS, Scene, Thing
from minidream.world.tell import Question, Story

RED, BLUE = (Image.new("RGB", (64, 64), color) for color in ("#c02040", "#2040c0"))
STAR, RING = Thing("top left", "red", "star", "large"), Thing("bottom right", "blue", "ring", "small")
BOTH = Scene("grey", (STAR, RING))


def words(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def filled(figure: Any, kind: str) -> list[Any]:
    return [patch for patch in figure.axes[0].patches if to_hex(patch.get_facecolor()) == PALETTE[kind]]


def test_the_stair_rises_by_what_each_pass_adds_and_shows_the_pictures():
    steps = [Step("text", "(opening)", 14), Step("dream", "", 24), Step("image", "", 42, RED), Step("text", " The", 43)]
    figure = growth(steps)
    new = figure.axes[0].patches
    edges = {"text": "text", "dream": "query", "image": "patch"}
    heights = {
        kind: [p.get_height() for p in new if to_hex(p.get_edgecolor()) == PALETTE[edges[kind]]] for kind in edges
    }
    assert heights["text"] == pytest.approx([200 * 14 / 43, 200 / 43])
    assert heights["dream"] == pytest.approx([200 * 10 / 43]) and heights["image"][0] == pytest.approx(200 * 18 / 43)
    assert {"(opening)", "+10 dream block", "+18 image block", " The", "43"} <= set(words(figure))
    assert len(figure.axes[0].images) == 1
    assert figure.get_label() == "A stair of 4 passes (2 text, 1 dream, 1 image) up to 43 places in the cache"
    with pytest.raises(ValueError, match="at least one step"):
        growth([])


def test_a_wish_is_a_bar_as_high_as_the_chance():
    figure = wish([Beat("A", 0.0), Beat("\u0120star", 0.25), Beat(".", 1.0), Beat("picture", 0.0, BLUE)])
    low, quarter, whole = (bar.get_height() for bar in filled(figure, "query"))
    assert low == 0 and whole == pytest.approx(4 * quarter)
    assert {"\u2423star", "25", "100"} <= set(words(figure)) and len(figure.axes[0].images) == 1
    for wrong in ([], [Beat("A", 1.2)]):
        with pytest.raises(ValueError, match="chance from 0 to 1"):
            wish(wrong)


def test_a_long_wish_goes_on_in_another_row():
    short, long = (wish([Beat("word", 0.5)] * count).get_figheight() for count in (5, 60))
    assert long > 2 * short - 1


def test_dependence_is_darker_where_more_moves_and_says_where_nothing_does():
    figure = dependence([[0.5, 0.001], [0.0, 0.25]], ["a word", "a picture"], ["1", "2"], alt="a staircase")
    assert words(figure)[2:] == ["a word", "0.50", "<0.01", "a picture", "0", "0.25"]
    alphas = [cell.get_alpha() for cell in filled(figure, "query")]
    assert alphas[0] == 1 and alphas[2] == 0 and alphas[1] < alphas[3] < 1
    with pytest.raises(ValueError, match="another number of cells"):
        dependence([[0.5]], ["a", "b"], ["1"], alt="a staircase")


def test_scores_are_as_long_as_their_share_and_count_what_passed():
    leaf = {"mean": 0.25, "low": 0.1, "high": 0.5, "n": 12}
    figure = scores({"it": leaf, "control": {**leaf, "mean": 0.5}}, ["it"], alt="two scores")
    bar, control = figure.axes[0].patches
    assert control.get_width() == 2 * bar.get_width() and (bar.get_hatch(), control.get_hatch()) == (None, "////")
    assert {"3 of 12", "6 of 12"} <= set(words(figure)) and figure.get_label() == "two scores"


def test_a_known_share_has_no_interval():
    measured, known = (
        scores({"it": leaf}, alt="a score") for leaf in ({"mean": 0.5, "low": 0.1, "high": 0.6, "n": 4}, {"mean": 0.5})
    )
    assert len(measured.axes[0].lines) == len(known.axes[0].lines) + 1 and "0.50" in words(known)


@pytest.mark.parametrize("figure", [lambda: dependence([[1.0]], ["a"], ["b"]), lambda: scores({})])
def test_nothing_is_shown_without_alt_text(figure: Any):
    with pytest.raises(ValueError, match="say in words"):
        figure()


class Author:
    """A pipeline that says and draws what it was told to, and keeps what it was asked."""

    def __init__(self, *events: Event) -> None:
        self.events, self.asked = events, []

    def stream(self, documents: Sequence[Document], prompt_parts: Any, **sampling: Any) -> Iterator[Event]:
        self.asked.append((documents[0].text, prompt_parts, sampling))
        yield from self.events


def test_reader_and_model_write_in_turn_and_take_back():
    pipe = Author(PictureComing(0), Picture(0, RED), TextPiece(0, "too late"), End(0, "eos"))
    desk = Desk(pipe, "A star.", steps=3)
    desk.go_on.click()
    desk.wait()
    assert desk.story == Document(["A star.", RED]) and desk.own == {1}
    desk.seed.value, desk.temperature.value, desk.sentence.value = 7, 0.5, " It turns blue. "
    desk.say.click()
    desk.go_on.click()
    desk.wait()
    assert desk.story == Document(["A star.", RED, "It turns blue.", RED]) and desk.sentence.value == ""
    assert desk.label.value == "2 texts, 2 pictures" and desk.page.value.count("<img") == 2
    # Its own picture is dreamed and seen, what the reader gave is given.
    drawn = {"steps": 3, "preview_every": 4}
    assert pipe.asked[1] == ("A star. <picture> It turns blue.", [{0, 2}], {**drawn, "seed": 7, "temperature": 0.5})
    for _ in range(5):
        desk.back.click()
    assert desk.story == Document(["A star."]) and desk.own == frozenset() and desk.label.value == "1 texts, 0 pictures"


def test_an_empty_sentence_says_nothing_and_two_in_a_row_stay_apart():
    desk = Desk(Author(), "A star.")
    desk.sentence.value = "  "
    desk.say.click()
    assert desk.story == Document(["A star."])
    desk.sentence.value = "It shines."
    desk.say.click()
    assert desk.story.parts == ["A star.", " It shines."]


def test_the_models_words_after_the_readers_are_the_readers_part():
    desk = Desk(Author(TextPiece(0, " All is"), TextPiece(0, " quiet."), End(0, "eos")), "A star.")
    desk.go_on.click()
    desk.wait()
    assert desk.story.parts == ["A star. All is quiet."] and desk.own == frozenset()


def test_stopped_it_keeps_the_story_so_far_and_goes_on_when_asked():
    class Slow(Author):
        def stream(self, *given: Any, **options: Any) -> Iterator[Event]:
            assert desk.go_on.disabled and not desk.stop.disabled
            for event in super().stream(*given, **options):
                yield event
                desk.stop.click()

    desk = Desk(Slow(TextPiece(0, " All"), Preview(0, 4, RED), Picture(0, RED), End(0, "eos")), "A star.")
    assert desk.stop.disabled
    desk.go_on.click()
    desk.wait()
    assert desk.story.parts == ["A star. All"] and desk.stop.disabled and not desk.go_on.disabled
    desk.back.click()
    assert desk.story.parts == ["A star."]
    desk.pipe = Author(Preview(0, 4, RED), Picture(0, RED))
    desk.go_on.click()
    desk.wait()
    assert desk.story.parts == ["A star.", RED] and desk.page.value.count("<img") == 1


def test_what_the_model_cannot_do_is_said_at_the_desk():
    class Full(Author):
        def stream(self, *_: Any, **__: Any) -> Iterator[Event]:
            raise UserError("the prompt has more tokens than the context holds: shorten it")
            yield

    desk = Desk(Full(), "A star.")
    desk.go_on.click()
    desk.wait()
    assert "shorten it" in desk.label.value and desk.story.parts == ["A star."]


def change(thing: Thing, **facts: str) -> Scene:
    return Scene("grey", tuple(replace(each, **facts) if each == thing else each for each in BOTH.things))


GREEN = change(STAR, color="green")  # the truth after "The star turns green."
CROSS = Thing("top right", "cyan", "cross", "small")
FOUND = {  # what is shown: its fault
    "all right": (GREEN, None),
    "a shift is no fault": (Scene("grey", (replace(GREEN.things[0], offset=(2, 1)), RING)), None),
    "nothing was changed": (BOTH, "order"),
    "another colour": (change(STAR, color="cyan"), "order"),
    "the ring's colour": (change(STAR, color="blue"), "fused"),
    "the ring is a green star": (Scene("grey", (GREEN.things[0], replace(RING, shape="star"))), "fused"),
    "the ring has the star's old colour": (Scene("grey", (GREEN.things[0], replace(RING, color="red"))), "fused"),
    "the ring has grown": (Scene("grey", (GREEN.things[0], replace(RING, size="large"))), "drift"),
    "the ring is gone": (Scene("grey", GREEN.things[:1]), "forgotten"),
    "a cross came": (Scene("grey", (*GREEN.things, CROSS)), "invented"),
    "another background": (replace(GREEN, background="white"), "drift"),
    "fused is before order": (Scene("grey", (STAR, replace(RING, color="green"))), "fused"),
    "order is before forgotten": (Scene("grey", (STAR,)), "order"),
    "forgotten is before invented": (Scene("grey", (GREEN.things[0], CROSS)), "forgotten"),
    "invented is before drift": (Scene("white", (*GREEN.things, CROSS)), "invented"),
}


@pytest.mark.parametrize("shown, expected", FOUND.values(), ids=list(FOUND))
def test_a_failed_picture_has_one_fault(shown: Scene, expected: str | None):
    assert fault(BOTH, GREEN, shown) == expected


def test_what_the_reader_refuses_is_blurred_if_its_guess_is_right():
    assert fault(BOTH, GREEN, None, GREEN) == "blurred" and fault(BOTH, GREEN, None, BOTH) == "unreadable"
    assert fault(BOTH, GREEN, None) == "unreadable"


def test_a_thing_that_should_have_moved_is_an_order():
    moved = Scene("grey", (replace(STAR, place="top right"), RING))
    for shown in (Scene("grey", (STAR, *moved.things)), BOTH, Scene("grey", (RING,))):
        assert fault(BOTH, moved, shown) == "order"
    appeared = Scene("grey", (*BOTH.things, CROSS))
    assert fault(BOTH, appeared, BOTH) == "order" and fault(BOTH, appeared, Scene("grey", (STAR, CROSS))) == "forgotten"


def test_the_first_picture_has_nothing_to_drift_from():
    assert (
        fault(None, BOTH, replace(BOTH, background="white")) == fault(None, BOTH, change(RING, size="large")) == "order"
    )
    assert fault(None, BOTH, Scene("grey", (*BOTH.things, CROSS))) == "invented"
    assert fault(None, BOTH, change(RING, color="red")) == "fused"


def test_a_guess_is_what_the_reader_would_not_say():
    picture = draw(BOTH)
    between = Image.blend(picture, draw(change(STAR, color="orange")), 0.45)
    assert look([picture, between]) == [BOTH, None] and guesses([picture, between]) == [BOTH, BOTH]
    assert look([between]) == [None]  # the limits are back


def test_controls_take_the_picture_away_or_exchange_it_and_keep_the_truth():
    edit = Story([BOTH, "Make the star green.", GREEN], "edit", given=2)
    assert blind(edit) == Story(["Make the star green.", GREEN], "edit", given=1)
    ours, theirs = (
        Story(["This is a dax:", Scene("black", (thing,)), "Draw a dax.", BOTH], "name", given=3)
        for thing in (STAR, RING)
    )
    assert exchanged(ours, theirs).document_plan == [*theirs.document_plan[:3], BOTH] and exchanged(ours, ours) == ours


def test_a_name_that_several_pictures_bind_may_have_only_the_first():
    plan = ["There is a dax here:", BOTH, "And here:", GREEN, "And here:", BOTH, "Draw a dax.", GREEN]
    narrow = narrowed(Story(plan, "subject", given=7))
    assert narrow.document_plan == [*plan[:2], *plan[6:]] and narrow.given == 3


def test_two_names_have_each_others_pictures_and_the_truth_stays():
    told = Story(["This is a dax:", GREEN, "This is a wugu:", BOTH, "Draw both.", GREEN], "composition", given=5)
    assert swapped(told).document_plan == ["This is a dax:", BOTH, "This is a wugu:", GREEN, "Draw both.", GREEN]


def test_every_task_has_its_documents():
    tasks = in_context(2)
    assert len(tasks) == 10 and all(len(told) == 2 for told in tasks.values())
    assert [a.scenes[-1] for a in tasks["two names composed"]] == [
        b.scenes[-1] for b in tasks["two names, pictures swapped"]
    ]


def asked(*given: tuple[Scene, str]) -> list[tuple[Scene, Question]]:
    return [(scene, Question("few_shot", "What is the dax?", answer)) for scene, answer in given]


def test_wrong_examples_are_about_the_other_thing_and_the_question_stays():
    found = misled(asked((BOTH, "red"), (BOTH, "ring"), (BOTH, "small"), (GREEN, "green")))
    assert [question.answer for _, question in found] == ["blue", "star", "large", "green"]
    twins = Scene("grey", (STAR, replace(STAR, place="top right")))
    assert misled(asked((twins, "red"), (GREEN, "green")))[0][1].answer == "red"
    assert [fact_of(word) for word in ("red", "ring", "small", "no")] == ["color", "shape", "size", ""]


def test_examples_come_before_the_question_that_is_asked():
    some = asked((BOTH, "red"), (GREEN, "green"))
    question = "Question: What is the dax? Answer:"
    assert by_example(some) == Document([draw(BOTH), question, " red", draw(GREEN), question])
    heard: list[Any] = []
    candidate: Any = SimpleNamespace(ask=lambda *task: heard.append(task) or ["Green."])
    assert answers(candidate, [some]) == ["green"]
    assert heard == [([Document(by_example(some).parts[:-1])], ["What is the dax?"])]


def test_contradictions_say_one_colour_and_show_another():
    plan = ["A red star on grey.", Scene("grey", (STAR,)), "It turns green.", Scene("grey", (STAR,)), "A ring appears."]
    found = contradictions(plan, STAR)
    assert len(found) == 24 and all(said != painted for said, painted, _ in found)
    said, painted, document = found[0]
    assert document.texts == ["A red star on grey.", f"The star turns {said}.", "A ring appears."]
    assert found[-1][2][0] == "A red star on white." and found[-1][2][1] == draw(Scene("white", (STAR,)))
    assert document.pictures[1] == draw(Scene("grey", (replace(STAR, color=painted),)))
    assert color_at(BOTH, "top left") == "red" and color_at(BOTH, "top right") is None and color_at(None, "x") is None


def test_work_is_timed():
    result, seconds = timed(sum, [1, 2])
    assert result == 3 and 0 <= seconds < 1


def test_the_last_picture_is_drawn_after_all_that_is_given():
    asked: list[tuple[Any, ...]] = []
    candidate: Any = SimpleNamespace(draw_next=lambda *task, seed: asked.append(task) or ["a picture"])
    assert last_pictures(candidate, [Story(["A.", BOTH, "B.", GREEN], "facts", given=3)]) == ["a picture"]
    ((document,), given) = asked[0]
    assert document == Document(["A.", draw(BOTH), "B."]) and given == [3]


def test_stories_for_counting_have_three_pictures_and_are_the_same_every_time():
    told = three_pictures(5)
    assert [len(story.scenes) for story in told] == [3] * 5 and told == three_pictures(5) and told[0] != told[1]


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_ground_is_seen_whatever_stands_on_it(background: str):
    things = tuple(Thing(place, "yellow", "square", "large") for place in ("top left", "top right", "bottom left"))
    assert ground(draw(Scene(background, things))) == background
    assert ground(draw(Scene(background, things)).resize((32, 32))) == background
