"""Examples of every kind, their truth, and the creation prompts with what they test."""

import random
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from minidream.processing import MiniDreamProcessor
from minidream.tokenizer import train_tokenizer
from minidream.world import corpora, tell
from minidream.world.draw import draw
from minidream.world.prompts import CATEGORIES, creation_prompt
from minidream.world.scene import HELD_OUT_PAIRS, HELD_OUT_RELATIONS, Scene, Thing, is_held_out, random_scene, related

KINDS = tuple(corpora.SAMPLERS)
TEXTS = ("text", "text_states", "text_qa")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held_out", [False, True])
def test_documents_show_their_scenes(kind, held_out):
    rng = random.Random(f"{kind}-{held_out}")
    for _ in range(60):
        example = corpora.sample(kind, rng, held_out)
        assert example.kind == kind
        parts = list(example.document)
        assert [isinstance(part, Image.Image) for part in parts] == [isinstance(part, Scene) for part in example.plan]
        for picture, scene in zip(example.document.pictures, example.scenes, strict=True):
            assert np.array_equal(np.asarray(picture), np.asarray(draw(scene)))
        given = example.prompt_parts
        assert 0 <= given < len(parts) if isinstance(given, int) else max(given) < len(parts) - 1
        if held_out and example.scenes:
            assert any(map(is_held_out, example.scenes))
        if not held_out:
            assert not any(map(is_held_out, example.scenes))


def test_each_kind_has_its_form():
    rng = random.Random(0)
    for _ in range(50):
        assert all(isinstance(part, str) for kind in TEXTS for part in corpora.sample(kind, rng).plan)
        caption, scene = corpora.sample("text_to_image", rng).plan
        assert tell.understand(caption) == scene.facts()
        example = corpora.sample("image_to_text", rng)
        scene, caption = example.plan
        assert tell.understand(caption) == scene.facts() and example.prompt_parts == 1
        example = corpora.sample("qa", rng)
        _, *turns = example.plan
        assert len(turns) in range(2, 2 * corpora.MOST_QUESTIONS + 1, 2) and example.prompt_parts == {
            0,
            *range(1, len(turns), 2),
        }
        for question, answer in zip(turns[::2], turns[1::2]):
            assert question.strip().startswith("Question: ") and question.endswith("? Answer:")
            assert answer.startswith(" ") and answer.strip() == answer[1:]
        assert example.variant in tell.QUESTION_TYPES
        scene, caption = corpora.caption_pair(rng)
        assert tell.understand(caption) == scene.facts() and not is_held_out(scene)


def test_dialogues_are_turns_about_the_last_picture():
    rng = random.Random(6)
    kinds = set()
    for _ in range(300):
        example = corpora.sample("dialogue", rng)
        plan, users = example.plan, example.prompt_parts
        assert 0 in users and len(plan) - 1 not in users and 2 <= len(plan) - len(users) <= 5
        scene = None
        for index, part in enumerate(plan):
            if isinstance(part, Scene):
                assert index in users or isinstance(plan[index - 1], str)  # a picture is drawn when it was asked for
                scene = part
                continue
            after_text = index > 0 and isinstance(plan[index - 1], str)
            assert part.startswith(" ") == after_text and part.strip() == part[after_text:]
            if index in users:
                assert index + 1 not in users
                kinds.add(part.split()[0])
            elif tell.understand(part):
                assert plan[index - 1] == scene and tell.understand(part) == scene.facts()
            else:
                assert plan[index - 1].endswith("? Answer:")
    assert kinds >= {"Draw", "Question:", "Make", "Add", "Move", "Remove"}


def test_all_variants_come_and_one_can_be_chosen():
    rng = random.Random(1)
    for kind, variants in (
        ("interleaved", set(corpora.INTERLEAVED)),
        ("qa", set(tell.QUESTION_TYPES)),
        ("text", {"caption", "told"}),
        ("text_states", set(corpora.INTERLEAVED)),
        ("seen_states", set(corpora.INTERLEAVED)),
        ("text_qa", {"caption", "told"}),
        ("dialogue", {"shown", "drawn"}),
        ("in_context", set(corpora.IN_CONTEXT)),
    ):
        assert {corpora.sample(kind, rng).variant for _ in range(300)} == variants
    assert {corpora.interleaved(rng, variant="name").variant for _ in range(20)} == {"name"}
    example = corpora.in_context(rng, variant="few_shot")
    taught = [part for index, part in enumerate(example.plan) if index not in example.prompt_parts]
    assert taught == list(example.plan[5::3]) and len(taught) == corpora.MOST_SHOTS


def test_pictures_left_out_of_texts_are_told_and_in_states_that_alone_is_taught():
    rng = random.Random(2)
    for _ in range(200):
        plan, given = (example := corpora.sample("text_states", rng)).plan, example.prompt_parts
        taught = [index for index in range(len(plan)) if index not in given]
        # The bracket is given: who learned to open it by itself would write it where a picture is wanted.
        assert taught and all(plan[index - 1] == " (" and tell.understand(f"({plan[index]}") for index in taught)
        # What is shown before a story begins, nothing determines; all that comes after, the words before it do.
        assert all(index + 1 in taught for index in given if index > taught[0] and plan[index].endswith("("))


def test_from_a_picture_on_each_is_told_before_it_is_drawn():
    rng, begins = random.Random(4), set()
    for _ in range(200):
        example = corpora.sample("seen_states", rng)
        plan, given = example.plan, example.prompt_parts
        brackets = [index for index, part in enumerate(plan) if part == " ("]
        first = brackets[0]
        assert given == {*range(first), *brackets}
        for index, scene in enumerate(plan):
            if isinstance(scene, str):
                continue
            if index < first:
                assert index < 2 or not plan[index - 1].endswith(")")
            else:
                assert plan[index - 2] == " (" and tell.understand(f"({plan[index - 1]}") == scene.facts()
        if example.variant == "again":
            assert example.scenes[-1].facts() == example.scenes[-2].facts()
        begins.add(sum(not isinstance(part, str) for part in plan[:first]))
    assert begins >= {0, 1, 2}


def test_in_all_that_thoughts_stand_in_a_document_ends_only_once():
    """Who is taught to end where a bracket stands, ends a document after its first picture."""
    rng, processor = random.Random(6), MiniDreamProcessor(train_tokenizer(["a"], 300), max_length=4096)
    for _ in range(50):
        example = corpora.sample("seen_states", rng)
        batch = processor([example.document], prompt_parts=[example.prompt_parts])
        labels = batch.labels[0].tolist()
        own = sum(not isinstance(p, str) and i not in example.prompt_parts for i, p in enumerate(example.plan))
        assert labels.count(processor.eos) == 1 and labels[-1] == processor.eos
        assert labels.count(processor.dream) == 2 * own  # where it wants the picture, and where that begins


def test_texts_of_training_hold_every_word_and_nothing_held_out():
    rng = random.Random(3)
    texts = " ".join(corpora.sample(kind, rng).document.text for kind in TEXTS for _ in range(1000))
    for word in ("Question:", "Answer:", "Make", "Draw", "vanishes", "zero", "colour", *tell.NAMES):
        assert word in texts, word
    assert not any(f"{color} {shape}" in texts for color, shape in HELD_OUT_PAIRS)
    told = [scene for caption in re.findall(r"\(([^()]*)\)", texts) if (scene := tell.understand(f"({caption})"))]
    assert len(told) > 1000 and not any(map(is_held_out, told))


def test_samples_keep_the_shares_and_leave_no_kind_out():
    shares = {"text": 0.2, "qa": 0.79, "interleaved": 0.01}
    drawn = corpora.samples(shares, 20, random.Random("train"))
    assert {kind: len(examples) for kind, examples in drawn.items()} == {"text": 4, "qa": 16, "interleaved": 1}
    assert all(example.kind == kind for kind, examples in drawn.items() for example in examples)
    assert drawn == corpora.samples(shares, 20, random.Random("train"))


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match=r"'poems'.*text_to_image"):
        corpora.sample("poems", random.Random(0))
    with pytest.raises(ValueError, match=r"'colour'.*color_attribution"):
        creation_prompt("colour", random.Random(0))


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("category", CATEGORIES)
def test_prompts_tell_a_scene_that_passes(category, held_out):
    rng = random.Random(f"{category}-{held_out}")
    for _ in range(80):
        prompt, constraint = creation_prompt(category, rng, held_out)
        assert constraint.satisfied(tell.understand(prompt))
        assert not constraint.satisfied(None)
        assert is_held_out(constraint.scene) == held_out
        things = constraint.scene.things
        if category == "position" and held_out:
            assert (things[0].shape, things[1].shape) in HELD_OUT_RELATIONS
        elif held_out:
            assert any((thing.color, thing.shape) in HELD_OUT_PAIRS for thing in things)


@pytest.mark.parametrize("category", CATEGORIES)
def test_chance_does_not_pass(category):
    rng = random.Random(category)
    constraints = [creation_prompt(category, rng)[1] for _ in range(300)]
    passed = sum(constraint.satisfied(random_scene(rng, len(constraint.scene.things))) for constraint in constraints)
    if category != "counting":  # here the scenes were drawn with the right number
        assert passed / 300 < 0.3
    passed = sum(constraint.satisfied(random_scene(rng)) for constraint in constraints)
    assert passed / 300 < 0.45


def test_each_category_tests_what_it_is_about_and_no_more():
    rng = random.Random(4)

    def change(scene: Scene, **facts: str) -> Scene:
        return replace(scene, things=tuple(replace(thing, **facts) for thing in scene.things))

    def mirror(scene: Scene) -> Scene:
        other = {"top left": "bottom right", "top right": "bottom left"}
        other |= {value: key for key, value in other.items()}
        return replace(scene, things=tuple(replace(thing, place=other[thing.place]) for thing in scene.things))

    for category in CATEGORIES:
        for _ in range(40):
            constraint = creation_prompt(category, rng)[1]
            scene = constraint.scene
            free = scene.empty_places()
            background = replace(scene, background="black" if scene.background != "black" else "white")
            assert constraint.satisfied(background) and constraint.satisfied(change(scene, size="small"))
            assert constraint.satisfied(mirror(scene)) == (category != "position")
            recolored = change(scene, color="red" if scene.things[0].color != "red" else "blue")
            assert constraint.satisfied(recolored) == (category not in ("colors", "color_attribution"))
            reshaped = change(scene, shape="ring" if scene.things[0].shape != "ring" else "star")
            assert constraint.satisfied(reshaped) == (category == "counting")
            if free:
                more = replace(scene, things=(*scene.things, Thing(free[0], "red", "circle", "small")))
                assert constraint.satisfied(more) == (category not in ("single_object", "counting"))
            if category == "color_attribution":
                a, b = scene.things
                swapped = replace(scene, things=(replace(a, color=b.color), replace(b, color=a.color)))
                assert not constraint.satisfied(swapped)


def test_position_prompts_are_in_a_relation():
    rng = random.Random(5)
    for _ in range(100):
        prompt, constraint = creation_prompt("position", rng)
        first, second = constraint.scene.things
        assert any(related(first, relation, second) for relation in ("left of", "above")), prompt
