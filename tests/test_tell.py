"""Captions, questions and stories against an interpreter of their own, written here from the English alone."""

import random
import re
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from minidream.world import tell
from minidream.world.questions import NUMBERS
from minidream.world.scene import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT_PAIRS,
    HELD_OUT_RELATIONS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    is_held_out,
    random_scene,
    related,
)
from minidream.world.stories import QUIET
from minidream.world.words import references

WHERE = rf"(?P<where>in the (?:{'|'.join(PLACES)})|(?:{'|'.join(RELATIONS)}) the .+?)"
SEEN = rf"(?P<new>an? (?:(?:small|large) )?(?:{'|'.join(COLORS)}) (?:{'|'.join(SHAPES)})(?: as large as the .+?)?)"


def find(words: str, scene: Scene, last: Thing | None = None) -> Thing:
    """The one thing of the scene that the words mean; an assertion fails if they mean none or several."""
    if words == "it":
        assert last in scene.things
        return last
    place = next((place for place in PLACES if words.endswith(f" in the {place}")), None)
    facts = set(re.sub(r" in the .*", "", words).split()) - {"the", "thing"}
    assert facts <= {*COLORS, *SHAPES, *SIZES}, words
    meant = [
        thing
        for thing in scene.things
        if facts <= {thing.color, thing.shape, thing.size} and place in (None, thing.place)
    ]
    assert len(meant) == 1, (words, scene)
    return meant[0]


def place_of(where: str, scene: Scene) -> str:
    """The one empty place that "in the top left" or "right of the star" means."""
    if where.startswith("in the "):
        return where.removeprefix("in the ")
    relation = next(relation for relation in RELATIONS if where.startswith(relation))
    near = find(where.removeprefix(relation + " "), scene)
    meant = [place for place in PLACES if related(replace(near, place=place), relation, near)]
    assert len(meant) == 1 and meant[0] in scene.empty_places()
    return meant[0]


def create(words: str, where: str, scene: Scene) -> Thing:
    words, _, like = words.partition(" as large as ")
    *size, color, shape = words.split()[1:]
    return Thing(place_of(where, scene), color, shape, find(like, scene).size if like else size[0])


def swap(scene: Scene, old: Thing | None, new: Thing | None) -> Scene:
    return replace(
        scene, things=tuple(thing for thing in (*scene.things, new) if thing and (thing == new or thing != old))
    )


def obey(text: str, scene: Scene, last: Thing | None) -> tuple[Scene, Thing | None]:
    """What the scene (facts) becomes by one sentence of a story or by one instruction, and whom it was about."""
    for quiet in QUIET:
        text = text.removeprefix(quiet + " ")
    assert text.endswith(".") and text[0].isupper()
    text = text[0].lower() + text[1:-1]
    if found := re.fullmatch(r"(?:the background turns|make the background) (\w+)", text):
        assert found[1] != scene.background
        return replace(scene, background=found[1]), None
    for pattern in (rf"{SEEN} (?:appears|lands) {WHERE}", rf"{WHERE} {SEEN} appears", rf"(?:add|put) {SEEN} {WHERE}"):
        if found := re.fullmatch(pattern, text):
            new = create(found["new"], found["where"], scene)
            return swap(scene, None, new), new
    if found := re.fullmatch(r"(?:remove|take away) (.+)|(.+) (?:vanishes|disappears|goes away)", text):
        return swap(scene, find(found[1] or found[2], scene, last), None), None
    if found := re.fullmatch(r"(?:move )?(.+?)(?: moves)? (?:to the (.+)|(left|right|up|down))", text):
        old = find(found[1], scene, last)
        row, column = PLACES[old.place]
        steps = {
            "left": (row, column - 1),
            "right": (row, column + 1),
            "up": (row - 1, column),
            "down": (row + 1, column),
        }
        place = found[2] or next(place for place, at in PLACES.items() if at == steps[found[3]])
        new = replace(old, place=place)
        assert place in scene.empty_places()
        return swap(scene, old, new), new
    text = re.sub(r"^(make|paint) (.+) (\w+)$", r"\2 becomes \3", text)
    text = (
        text.replace(" grows", " becomes large").replace(" shrinks", " becomes small").replace(" turns ", " becomes ")
    )
    words, value = text.split(" becomes ")
    old = find(words, scene, last)
    new = replace(old, **{"size" if value in SIZES else "color": value})
    assert new != old
    return swap(scene, old, new), new


def tokens(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


@pytest.mark.parametrize("phrasing", range(tell.PHRASINGS))
def test_caption_determines_the_scene_in_every_phrasing(phrasing):
    rng = random.Random(phrasing)
    for _ in range(300):
        scene = random_scene(rng, held_out=None)
        text = tell.caption(scene, rng, phrasing)
        assert tell.understand(text) == scene.facts(), text
        assert tokens(text) <= 45


def test_phrasings_differ_and_the_rng_decides():
    scene = Scene("grey", (Thing("top left", "red", "star", "large"), Thing("top right", "blue", "cross", "small")))
    texts = {tell.caption(scene, random.Random(seed)) for seed in range(100)}
    assert len(texts) >= 10
    assert any("right of it" in text for text in texts) and any("left of it" in text for text in texts)
    assert tell.caption(scene, random.Random(7)) == tell.caption(scene, random.Random(7))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a large red circle in the top left",
        "a large red circle on a white background",
        "a large red circle in the top left and a small blue star in the top left on a white background",
        "a red circle in the top left on a white background",
        "a large red circle in the top left, left of it a small blue star, on a white background",
        "a large red circle in the top left on a white background. The background is black.",
    ],
)
def test_understand_refuses_what_tells_no_one_scene(text):
    assert tell.understand(text) is None


def answer(question: str, scene: Scene) -> str:
    """The answer by the question's words alone."""
    things, text = scene.things, question.lower().rstrip("?").replace("color", "colour")

    def count(words: str) -> int:
        word = words.split()[0]
        if word == "things":
            return len(things)
        word = {"crosses": "cross"}.get(word, word.removesuffix("s") if word not in ("cross",) else word)
        return sum(word in (thing.color, thing.shape, thing.size) for thing in things)

    if "background" in text:
        return scene.background
    if found := re.fullmatch(r"what (colour|shape|size) is the (.+)", text):
        return getattr(find(found[2], scene), found[1].replace("colour", "color"))
    if found := re.fullmatch(r"is the (.+) large or small", text):
        return find(found[1], scene).size
    if found := re.fullmatch(r"how many (.+) are there", text):
        return NUMBERS[count(found[1])]
    if found := re.fullmatch(r"are there more (.+) than (.+)", text):
        return "yes" if count(found[1]) > count(found[2]) else "no"
    if found := re.fullmatch(r"(?:is there|do you see) an? (.+)", text):
        facts = set(found[1].split()) - {"thing"}
        return "yes" if any(facts <= {thing.color, thing.shape} for thing in things) else "no"
    if found := re.fullmatch(r"where is the (.+)", text):
        return find(found[1], scene).place
    if found := re.fullmatch(r"is the (top|bottom) (left|right) empty", text):
        return "yes" if f"{found[1]} {found[2]}" in scene.empty_places() else "no"
    if found := re.fullmatch(rf"what is ({'|'.join(RELATIONS)}) the (.+)", text):
        (meant,) = [thing for thing in things if related(thing, found[1], find(found[2], scene))]
        return f"{meant.color} {meant.shape}"
    if found := re.fullmatch(rf"is the (.+) ({'|'.join(RELATIONS)}) the (.+)", text):
        return "yes" if related(find(found[1], scene), found[2], find(found[3], scene)) else "no"
    if found := re.fullmatch(r"is the (.+) (larger than|as large as) the (.+)", text):
        a, b = (find(words, scene).size for words in (found[1], found[3]))
        return "yes" if (a == b if found[2] == "as large as" else (a, b) == ("large", "small")) else "no"
    found = re.fullmatch(r"do the (.+) and the (.+) have the same (colour|shape|size)", text)
    assert found, question
    fact = found[3].replace("colour", "color")
    return "yes" if getattr(find(found[1], scene), fact) == getattr(find(found[2], scene), fact) else "no"


def test_answers_are_right_short_and_of_every_type():
    rng, answers = random.Random(0), defaultdict(Counter)
    for _ in range(1500):
        scene = random_scene(rng, held_out=None)
        asked = tell.questions(scene, rng)
        assert sorted(question.type for question in asked) == sorted(tell.QUESTION_TYPES)
        for question in asked:
            assert question.answer == answer(question.question, scene), (question, scene)
            assert question.answer == question.answer.lower() and len(question.answer.split()) <= 2
            answers[question.type][question.answer] += 1
    assert set(answers) == {"color", "shape", "count", "existence", "relation", "size", "background", "comparison"}
    assert 0.45 < answers["existence"]["yes"] / 1500 < 0.55
    relation = answers["relation"]
    assert 0.4 < relation["yes"] / (relation["yes"] + relation["no"]) < 0.6
    assert 0.35 < answers["comparison"]["yes"] / 1500 < 0.65
    assert set(answers["count"]) == set(NUMBERS)
    assert all(set(answers[kind]) == set(values) for kind, values in (("color", COLORS), ("background", BACKGROUNDS)))


def test_a_question_does_not_give_its_answer_away():
    rng = random.Random(1)
    for _ in range(500):
        scene = random_scene(rng, held_out=None)
        for kind in ("color", "shape", "size"):
            question = tell.ask(scene, kind, rng)
            if "large or small" not in question.question:
                assert question.answer not in question.question.split()


def test_training_never_asks_in_vain_for_something_held_out():
    rng = random.Random(2)
    for _ in range(2000):
        scene = random_scene(rng, held_out=False)
        existence, relation = (tell.ask(scene, kind, rng).question for kind in ("existence", "relation"))
        assert not any(f"{color} {shape}?" in existence for color, shape in HELD_OUT_PAIRS), existence
        if found := re.fullmatch(rf"Is the (.+) ({'|'.join(RELATIONS)}) the (.+)\?", relation):
            a, b = find(found[1], scene).shape, find(found[3], scene).shape
            assert ((a, b) if found[2] in ("left of", "above") else (b, a)) not in HELD_OUT_RELATIONS
    assert tell.existence(Scene("grey", (Thing("top left", "cyan", "star", "small"),)), rng, True)[1] == "yes"


def test_references_name_exactly_one_thing():
    rng = random.Random(3)
    for _ in range(500):
        scene = random_scene(rng, held_out=None)
        for thing in scene.things:
            for words in references(scene, thing):
                assert find(words, scene) == thing
            assert not any(size in words for words in references(scene, thing, "size") for size in SIZES)
    twins = tuple(Thing(place, "red", "star", "small") for place in ("top left", "top right"))
    assert references(Scene("grey", twins), twins[0], "place") == []


def test_again_changes_nothing() -> None:
    rng = random.Random("again")
    for _ in range(20):
        story = tell.KINDS["again"](rng, False)
        before, text, after = story.document_plan
        assert before == after and isinstance(text, str) and story.given == 2


@pytest.mark.parametrize("held_out", [False, True, None])
@pytest.mark.parametrize("kind", ["story", "facts", "edit", "continued"])
def test_sentence_and_document_determine_the_next_scene(kind, held_out):
    rng = random.Random(f"{kind}-{held_out}")
    for _ in range(300):
        story = tell.KINDS[kind](rng, held_out)
        plan = list(story.document_plan)
        assert story.kind == kind
        if kind in ("story", "facts"):
            opening = plan.pop(0)
            if kind == "story":
                assert tell.understand(opening) == plan[0].facts()
        state, last = plan.pop(0).facts(), None
        assert plan, "a document has more than one picture"
        for text, shown in zip(plan[::2], plan[1::2], strict=True):
            state, last = obey(text, state, last)
            assert state == shown.facts(), text
        if held_out is False:
            assert not any(map(is_held_out, story.scenes))
        if held_out is True:
            assert any(is_held_out(part) for part in story.document_plan[story.given :] if isinstance(part, Scene))


def test_facts_stay_unsaid_and_are_kept():
    rng, words = random.Random(4), {*BACKGROUNDS, *SIZES, "background", "grows", "shrinks"}
    for _ in range(300):
        story = tell.facts_story(rng)
        text = " ".join(part for part in story.document_plan if isinstance(part, str)).lower()
        assert not words & set(re.findall(r"\w+", text.replace("as large as", ""))), text
        assert len({scene.background for scene in story.scenes}) == 1
        assert isinstance(story.document_plan[story.given - 1], Scene)


def test_a_sentence_alone_does_not_determine_its_picture():
    rng, after = random.Random(5), defaultdict(set)
    for _ in range(3000):
        plan = tell.story(rng).document_plan
        for text, scene in zip(plan[2::2], plan[3::2], strict=True):
            after[text].add(scene.facts())
    assert max(map(len, after.values())) > 5


@pytest.mark.parametrize("held_out", [False, True])
def test_made_up_names_are_bound_by_their_pictures(held_out):
    rng, names = random.Random(6), Counter()
    for _ in range(500):
        story = tell.made_up_name(rng, held_out)
        *shown, asked, drawn = story.document_plan
        bound = {}
        for text, scene in zip(shown[::2], shown[1::2], strict=True):
            (bound[re.fullmatch(r"This is a (\w+):", text)[1]],) = scene.things
        (used,) = [word for word in bound if f" {word} " in asked]
        names[used] += 1
        told = asked.replace(f"a {used} ", "a {size} {color} {shape} ".format(**vars(bound[used])))
        if found := re.match(rf"Draw a (.+) ({'|'.join(RELATIONS)}) a (.+) in the ({'|'.join(PLACES)}),", told):
            told = f"a {found[3]} in the {found[4]}, {found[2]} it a {found[1]}, on a {drawn.background} background"
        assert drawn.background in asked
        assert tell.understand(told) == drawn.facts(), asked
        assert is_held_out(drawn) == held_out
        assert held_out or not any(map(is_held_out, story.scenes))
        assert story.given == len(story.document_plan) - 1
    assert len(tell.NAMES) == len(set(tell.NAMES)) >= 20 and set(names) <= set(tell.NAMES) and len(names) >= 20
    assert not set(tell.NAMES) & {*COLORS, *SHAPES, *SIZES, *BACKGROUNDS}


@pytest.mark.parametrize("held_out", [False, True])
def test_two_names_in_one_picture(held_out):
    rng, ways = random.Random(9), Counter()
    for _ in range(300):
        story = tell.KINDS["composition"](rng, held_out)
        first, one, second, two, asked, drawn = story.document_plan
        names = [re.fullmatch(r"This is a (\w+):", text)[1] for text in (first, second)]
        facts = ["{size} {color} {shape}".format(**vars(scene.things[0])) for scene in (one, two)]
        assert asked.count(f" {names[0]} ") == asked.count(f" {names[1]} ") == 1 and names[0] != names[1]
        told = asked.replace(f" {names[0]} ", f" {facts[0]} ").replace(f" {names[1]} ", f" {facts[1]} ")
        if found := re.match(rf"Draw a (.+) ({'|'.join(RELATIONS)}) a (.+) in the ({'|'.join(PLACES)}),", told):
            told = f"a {found[3]} in the {found[4]}, {found[2]} it a {found[1]}, on a {drawn.background} background"
        ways[bool(found)] += 1
        assert tell.understand(told) == drawn.facts() and drawn.background in asked, asked
        assert is_held_out(drawn) == held_out
        assert story.given == 5 and (held_out or not any(map(is_held_out, story.scenes)))
    assert min(ways.values()) > 50


@pytest.mark.parametrize("held_out", [False, True])
def test_a_subject_is_what_all_its_pictures_show(held_out):
    rng = random.Random(10)
    for pictures in (2, 3, None) * 100:
        story = tell.KINDS["subject"](rng, held_out, pictures)
        *shown, asked, drawn = story.document_plan
        scenes = shown[1::2]
        assert len(scenes) == pictures or (pictures is None and len(scenes) in (2, 3))
        name = re.fullmatch(r"There is a (\w+) here:", shown[0])[1]
        assert set(shown[2::2]) == {"And here:"} and name in tell.NAMES
        kinds = [{(thing.size, thing.color, thing.shape) for thing in scene.things} for scene in scenes]
        (facts,) = set.intersection(*kinds)  # one thing; and no picture alone tells which
        assert all(len(some) == 2 for some in kinds)
        told = asked.replace(f"a {name} ", "a {} {} {} ".format(*facts))
        assert tell.understand(told) == drawn.facts(), asked
        assert is_held_out(drawn) == held_out
        assert held_out or not any(map(is_held_out, story.scenes))
        assert story.given == len(story.document_plan) - 1


@pytest.mark.parametrize("held_out", [False, True, None])
def test_only_the_shots_tell_what_is_asked(held_out):
    def tasks(scene, answer):
        """All that the question may mean, by one answer."""
        left, right = sorted(scene.things, key=lambda thing: "right" in thing.place)
        pairs = [(fact, side) for fact in ("color", "shape", "size") for side in (left, right)]
        return {(fact, side is left) for fact, side in pairs if getattr(side, fact) == answer}

    rng, known = random.Random(11), defaultdict(list)
    for _ in range(400):
        asked = tell.few_shot(rng, 4, held_out)
        assert len(asked) == 5 and len({question.question for _, question in asked}) == 1
        assert re.fullmatch(r"What is the (\w+)\?", asked[0][1].question)[1] in tell.NAMES
        meant = tasks(Scene("grey", asked[0][0].things), asked[0][1].answer)
        for shots, (scene, question) in enumerate(asked):
            possible = tasks(scene, question.answer)
            assert possible, "the answer is a fact of the picture"
            if shots:
                known[shots].append(len(meant) == 1)
                meant &= possible
                assert meant
        if held_out is not None:
            assert is_held_out(asked[-1][0]) == held_out
        if held_out is False:
            assert not any(is_held_out(scene) for scene, _ in asked)
    shares = [sum(some) / len(some) for some in known.values()]
    assert 0.6 < shares[0] < 0.9 < shares[-1] and shares == sorted(shares)
    assert len(tell.few_shot(rng, 0)) == 1


def test_every_change_happens_and_the_length_is_as_asked():
    rng, verbs = random.Random(7), Counter()
    for pictures in (2, 3, 5):
        for _ in range(100):
            story = tell.story(rng, pictures=pictures)
            assert len(story.scenes) == pictures
            for text in story.document_plan[2::2]:
                verbs.update(re.findall(r"appears|vanishes|turns|grows|shrinks|moves|background", text))
    assert set(verbs) == {"appears", "vanishes", "turns", "grows", "shrinks", "moves", "background"}


def test_same_seed_same_story():
    for make in tell.KINDS.values():
        assert make(random.Random(8)) == make(random.Random(8)) != make(random.Random(9))
