"""The examinations, taken by candidates that know everything, nothing, or are random models of a few parameters."""

import json
import math
import os
import random
import re
import shutil
import sys
from dataclasses import replace
from multiprocessing import active_children
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import PATCHES, QUERIES, SIDE, tiny_model

from minidream import batch as batch_module
from minidream.documents import Document
from minidream.errors import UserError
from minidream.evaluation import (
    ASKED,
    asked,
    comprehension,
    consistency,
    creation,
    evaluate,
    examine,
    figures,
    interleaved,
    table,
)
from minidream.evaluation import candidate as candidate_module
from minidream.evaluation.candidate import HALVES, PipelineCandidate, digest, same
from minidream.evaluation.parallel import at_once
from minidream.evaluation.statistics import bootstrap, f1, jackknife, paired, proportion, sign_flip, student
from minidream.events import End
from minidream.generation import InterleavedGenerator
from minidream.pipeline import MiniDreamPipeline
from minidream.processing import MiniDreamProcessor, visual_question
from minidream.tokenizer import train_tokenizer
from minidream.weights import find_weights, save_manifest
from minidream.world import corpora
from minidream.world.corpora import render
from minidream.world.draw import draw
from minidream.world.prompts import CATEGORIES
from minidream.world.scene import HELD_OUT_PAIRS, Scene, Thing, is_held_out, random_scene
from minidream.world.tell import KINDS, QUESTION_TYPES, caption, understand

N, SEED = 3, 5
SETTINGS = {"what": "all", "n": N, "seed": SEED, "guidance": 3.0, "steps": 20, "weights": "none"}
NAMES = ("made_up_names", "composition", "subjects")
STORIES = (
    "placement",
    "orders",
    "pictures",
    "picture_only_facts",
    "edits",
    *NAMES,
    "continued",
    "thinking",
    "few_shot",
)


def key(part):
    if isinstance(part, Document):
        return tuple(map(key, part))
    return part if isinstance(part, str) else part.tobytes()


def without_thoughts(document):
    told = {index for index, part in enumerate(document) if part == " ("}
    return Document([part for index, part in enumerate(document) if not {index, index - 1} & told])


class Oracle:
    """Knows the truth of every examination with N items and SEED, and the documents it was shown."""

    def __init__(self):
        self.documents, self.truth, self.answers, self.stories = [], {}, {}, {}
        for part in HALVES:
            for told in interleaved.stories("story", N, SEED, part):
                self.stories[told.document_plan[0]] = render(told.document_plan[1:])
            for kind in KINDS:
                for told in interleaved.stories(kind, N, SEED, part):
                    plan = told.document_plan
                    for place in range(told.given, len(plan)):
                        if isinstance(plan[place], Scene):
                            self.truth[key(render(plan[:place]))] = plan[place]
            for count in interleaved.SHOTS:
                for shown in interleaved.shots(count, N, SEED, part):
                    about, question = key(interleaved._before(shown)), shown[-1][1]
                    self.answers[about, question.question] = question.answer
            for kind in QUESTION_TYPES:
                for scene, question in comprehension.questions(kind, N, SEED, part):
                    self.answers[draw(scene).tobytes(), question.question] = question.answer
            for kind in comprehension.POPE:
                for scene, question, there in comprehension.probes(kind, N, SEED, part):
                    self.answers[draw(scene).tobytes(), question] = "yes" if there else "no"

    def draw(self, captions, seed):
        return [draw(understand(text)) for text in captions]

    def rebuild(self, pictures):
        return pictures

    def caption(self, pictures):
        from minidream.world.read import read

        return [caption(read(picture), random.Random(0)) for picture in pictures]

    def ask(self, about, questions):
        return [f" {self.answers[key(each), text].capitalize()}." for each, text in zip(about, questions)]

    def draw_next(self, documents, given, seed):
        self.documents += documents
        return [draw(self.next(document)) for document in documents]

    def next(self, document):
        scene = self.truth[key(without_thoughts(document))]
        if len(document) > 1 and document[len(document) - 2] == " (":
            told = document[len(document) - 1]
            assert understand(told.removesuffix(")")).facts() == scene.facts()
        return scene

    def tell_next(self, documents, given):
        return [caption(self.next(document), random.Random(0)) for document in documents]

    def write(self, openings, seed, think):
        return [self.stories[opening] for opening in openings]

    def fitness(self, pictures, texts):
        return [1.0 for _ in pictures]

    def places_dreams(self, documents, given):
        return [True] * len(documents)


class Ignorant:
    """Draws mud, says nothing."""

    def draw(self, captions, seed):
        return [Image.effect_noise((64, 64), 90).convert("RGB") for _ in captions]

    def rebuild(self, pictures):
        return self.draw(pictures, 0)

    def caption(self, pictures):
        return ["" for _ in pictures]

    def ask(self, pictures, questions):
        return ["" for _ in pictures]

    def draw_next(self, documents, given, seed):
        return self.draw(documents, seed)

    def tell_next(self, documents, given):
        return ["" for _ in documents]

    def write(self, openings, seed, think):
        return [Document([picture, "And then?", picture]) for picture in self.draw(openings, seed)]

    def fitness(self, pictures, texts):
        return [0.0 for _ in pictures]

    def places_dreams(self, documents, given):
        return [False] * len(documents)


# -- statistics ----------------------------------------------------------------------------------------------------


def test_a_share_has_wilsons_interval():
    assert proportion([True, False] * 50) == {"mean": 0.5, "low": 0.4038, "high": 0.5962, "n": 100}
    assert proportion([True] * 10) == {"mean": 1.0, "low": 0.7225, "high": 1.0, "n": 10}
    assert proportion([False] * 10) == {"mean": 0.0, "low": 0.0, "high": 0.2775, "n": 10}
    half_each = proportion([True, False] * 50, groups=[item // 10 for item in range(100)])
    assert half_each == proportion([True, False] * 5) | {"n": 100}  # of 100 items, as certain as of 10 documents
    with pytest.raises(ValueError, match="at least one"):
        proportion([])


def test_intervals_cover_the_truth_19_times_in_20():
    rng = np.random.default_rng(0)
    wilson = [proportion(list(rng.random(80) < 0.93)) for _ in range(400)]
    assert 0.92 <= np.mean([found["low"] <= 0.93 <= found["high"] for found in wilson]) <= 0.99
    means = [bootstrap(rng.normal(2, 1, 60), draws=200) for _ in range(200)]
    assert 0.89 <= np.mean([found["low"] <= 2 <= found["high"] for found in means]) <= 0.99


def test_items_of_one_document_are_resampled_together():
    documents = np.random.default_rng(0).random(40) < 0.5
    items, groups = np.repeat(documents, 5), np.repeat(np.arange(40), 5).tolist()
    alone, together, apart = bootstrap(documents), bootstrap(items, groups=groups), bootstrap(items)
    assert together["mean"] == alone["mean"] and together["n"] == 200
    assert together["high"] - together["low"] == pytest.approx(alone["high"] - alone["low"], abs=0.03)
    assert apart["high"] - apart["low"] < 0.6 * (together["high"] - together["low"])


def test_f1_by_hand():
    pairs = np.array([(True, True)] * 6 + [(True, False)] * 2 + [(False, True)] + [(False, False)] * 5)
    assert f1(pairs) == pytest.approx(2 * (6 / 7) * (6 / 8) / (6 / 7 + 6 / 8))
    assert f1(np.array([(True, False)])) == 0
    assert f1(np.array([(False, False)])) == 0


def test_the_jackknife_of_a_mean_is_its_standard_error():
    wide = []
    for seed in range(40):
        items = np.random.default_rng(seed).normal(5, 2, 400)
        found = jackknife(len(items), lambda index, items=items: float(items[index].mean()))
        assert found["mean"] == pytest.approx(items.mean(), abs=1e-3)
        wide.append((found["high"] - found["low"]) / 2)
    assert np.sqrt(np.mean(np.square(wide))) == pytest.approx(2.26 * 2 / math.sqrt(400), rel=0.1)
    with pytest.raises(ValueError, match="at least 20"):
        jackknife(19, lambda index: 0.0)


def test_students_t_is_that_of_the_tables():
    assert [round(student(freedom), 3) for freedom in (1, 2, 4, 9, 30)] == [12.706, 4.303, 2.776, 2.262, 2.042]
    assert student(10**5) == pytest.approx(1.96, abs=1e-3)
    with pytest.raises(ValueError, match="at least one degree"):
        student(0)


def test_paired_intervals_cover_the_true_gain_19_times_in_20():
    rng = np.random.default_rng(0)
    found = [paired(rng.normal(0.03, 0.02, 5)) for _ in range(1000)]
    assert 0.93 < np.mean([each["low"] <= 0.03 <= each["high"] for each in found]) < 0.97
    assert paired([0.02, 0.04]) == {"mean": 0.03, "low": -0.0971, "high": 0.1571, "n": 2}
    with pytest.raises(ValueError, match="at least two"):
        paired([0.1])


def test_the_sign_flip_test_is_exact():
    assert sign_flip([0.1, 0.2, 0.3, 0.1, 0.2]) == 2 / 32  # no five differences say more
    assert sign_flip([-0.1] * 6) == 2 / 64
    assert sign_flip([0.1, -0.1]) == 1  # no sum is nearer to 0
    assert sign_flip([0.3, -0.1, 0.1]) == 6 / 8  # two sums are as far as 0.3, one is farther; and their mirrors
    rng = np.random.default_rng(0)
    chances = np.array([sign_flip(rng.normal(0, 1, 6)) for _ in range(1000)])
    assert (chances <= 0.0625).mean() == pytest.approx(0.0625, abs=0.02)  # so often where there is nothing
    for wrong in ([], [0.1] * 21):
        with pytest.raises(ValueError, match="1 to 20"):
            sign_flip(wrong)


# -- candidates that know everything, or nothing -------------------------------------------------------------------


def test_who_knows_everything_scores_one_and_the_json_has_the_designs_shape():
    result = examine(Oracle(), SETTINGS)
    assert json.loads(json.dumps(result)) == result
    for path, found in figures(result):
        if found is None:
            assert path[-1] in ("teacher", "fid", "clip_score", "diversity", "perplexity")
        else:
            assert (found["mean"], found["high"]) == (1.0, 1.0), path
            assert set(found) == {"mean", "low", "high", "n"} and found["low"] < 1
    categories = {*CATEGORIES, "overall"}
    assert set(result) == {"settings", "creation", "comprehension", "interleaved"}
    assert set(result["settings"]) == {"what", "n", "seed", "guidance", "steps", "seconds", "weights"}
    quality = {"fid", "clip_score", "diversity"}
    assert set(result["creation"]) == {"seen", "held_out", "teacher", "decoder", *quality, "held_out_quality"}
    assert set(result["creation"]["held_out_quality"]) == quality and result["creation"]["decoder"]["n"] == 4 * N
    assert set(result["creation"]["seen"]) == set(result["creation"]["held_out"]) == categories
    assert result["creation"]["seen"]["overall"]["n"] == 6 * N
    assert set(result["comprehension"]) == {"caption", "vqa", "pope"}
    assert set(result["comprehension"]["caption"]) == set(result["comprehension"]["vqa"]) == {"seen", "held_out"}
    assert set(result["comprehension"]["vqa"]["held_out"]) == {*QUESTION_TYPES, "overall"}
    assert set(result["comprehension"]["pope"]) == {*comprehension.POPE, "held_out"}
    assert set(result["comprehension"]["pope"]["held_out"]) == set(comprehension.POPE)
    assert set(result["interleaved"]) == {*STORIES, "consistency", "perplexity", "held_out"}
    assert set(result["interleaved"]["held_out"]) == {*STORIES, "consistency"}
    assert set(result["interleaved"]["few_shot"]) == {"0", "1", "2", "4"}
    assert result["interleaved"]["pictures"]["n"] == N


def test_who_knows_nothing_scores_zero():
    for path, found in figures(examine(Ignorant(), SETTINGS)):
        assert found is None or found["mean"] == 0.0, path


def test_a_part_alone_is_the_same_as_in_all():
    whole = examine(Oracle(), SETTINGS)
    alone = examine(Oracle(), SETTINGS | {"what": "comprehension"})
    assert set(alone) == {"settings", "comprehension"}
    assert alone["comprehension"] == whole["comprehension"]


# -- what is asked -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "least"), [("all", 25), ("robustness", 1), ("zero_shot", 1)])
def test_no_random_number_is_shared_with_training(monkeypatch, what, least):
    names = []

    class Recorded(random.Random):
        def __init__(self, name=None):
            names.append(name)
            super().__init__(name)

    monkeypatch.setattr("random.Random", Recorded)
    examine(Ignorant(), SETTINGS | {"what": what})
    assert names and all(isinstance(name, str) and name.startswith(f"evaluation-{SEED}-") for name in names)
    assert len(set(names)) >= least  # each part has its own
    source = "".join(
        path.read_text() for path in (creation.Path(creation.__file__).parents[1] / "training").glob("*.py")
    )
    assert "random.Random(" in source and "evaluation-" not in source
    assert all(name.startswith(("train-", "scaling-")) for name in re.findall(r'random\.Random\(f"([^"]*)', source))


def test_after_a_thought_what_does_not_fit_it_is_drawn_anew_and_the_best_is_kept():
    """Each picture by itself, after its own thought; no try more than it takes, or than `tries`."""
    found = {"red": iter([0.1, 0.3, 0.2]), "blue": iter([0.7, 0.8]), "green": iter([0.75]), "": iter([0.0])}
    drawn: list[tuple[list[str], int, Image.Image]] = []

    class Scripted:
        def tell_next(self, documents, given):
            return [document.text for document in documents]

        def draw_next(self, documents, given, seed):
            pictures = [Image.new("RGB", (1, 1), (len(drawn) + i, 0, 0)) for i in range(len(documents))]
            drawn.extend((document.parts, seed, picture) for document, picture in zip(documents, pictures))
            return pictures

        def fitness(self, pictures, texts):
            return [next(found[text]) for text in texts]

    told = [Document([name]) for name in found]
    added = interleaved.after_thoughts(Scripted(), told, [1, 1, 1, 1], 7, tries=3)
    thoughts = {name: [" (", f"{name})"] if name else [] for name in found}  # nothing told, nothing thought
    assert [document.parts[:-1] for document in added] == list(thoughts.values())
    red, blue, green, silent = (document[-1] for document in added)
    turns = ("red", "blue", "green", "", "red", "blue", "red")  # who told nothing cannot doubt
    assert [parts for parts, _, _ in drawn] == [[name, *thoughts[name]] for name in turns]
    assert [red, blue, green, silent] == [drawn[i][2] for i in (4, 5, 2, 3)]
    assert len({seed for _, seed, _ in drawn}) == 3  # another noise each turn


def test_parts_are_seen_or_held_out():
    for held_out in (False, True):
        trials = creation.trials(20, 0, held_out)
        assert len(trials) == 120 and all(is_held_out(c.scene) == held_out for _, c in trials)
    for part, held_out in (("seen", False), ("held_out", True)):
        assert all(is_held_out(scene) == held_out for scene in comprehension.scenes_for(50, 0, part, "caption")[0])
        for kind in KINDS:
            for told in interleaved.stories(kind, 20, 0, part):
                assert any(is_held_out(scene) for scene in told.scenes) == held_out


@pytest.mark.parametrize("part", HALVES)
@pytest.mark.parametrize("kind", comprehension.POPE)
def test_probes_ask_what_they_say(kind, part):
    probes = comprehension.probes(kind, 200, 0, part)
    assert all(is_held_out(scene) == HALVES[part] for scene, *_ in probes)
    assert sum(there for *_, there in probes) == 100
    scenes = [scene for scene, *_ in probes]
    shown_of = [{(thing.color, thing.shape) for thing in scene.things} for scene in scenes]
    often = {pair: sum(pair in shown for shown in shown_of) for shown in shown_of for pair in shown}
    for (_, question, there), shown in zip(probes, shown_of):
        pair = tuple(question.rstrip("?").split()[-2:])
        assert (pair in shown) == there
        if there:
            continue
        assert HALVES[part] or pair not in HELD_OUT_PAIRS
        if kind == "adversarial":
            assert pair[0] in {color for color, _ in shown} or pair[1] in {shape for _, shape in shown}
        if kind == "popular":
            assert often[pair] == max(count for other, count in often.items() if other not in shown)


def test_2000_captions_are_parsed_back():
    for index in range(2000):
        rng = random.Random(f"round trip {index}")
        scene = random_scene(rng, held_out=None)
        text = caption(scene, rng)
        assert comprehension.parse_caption(text) == scene.facts(), text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A large red circle in the top left.",
        "A large red circle on a white background.",
        "A large red circle in the top left and a star on a white background.",
        "A large red circle in the top left and a blue in the top right, on a white background.",
        "A large red circle in the top left and a small blue star in the top left on a white background.",
        "A large red circle in the top left on a white background. The background is grey.",
    ],
)
def test_what_does_not_tell_one_whole_scene_is_no_caption(text):
    assert comprehension.parse_caption(text) is None


def test_answers_are_compared_without_case_and_full_stop():
    assert comprehension.plain("  Top Left. ") == "top left"
    assert comprehension.plain("not red") != "red"


# -- stories -------------------------------------------------------------------------------------------------------


def test_a_story_goes_on_from_the_candidates_own_pictures():
    kinds = [kind for kind in KINDS if kind != "again"]  # whose texts do not say which document it is
    told = [story for kind in kinds for story in interleaved.stories(kind, N, SEED)]
    marks = iter(range(1, 1000))
    seen = []

    class Marking(Ignorant):
        def draw_next(self, documents, given, seed):
            seen.extend(zip(documents, given))
            return [Image.new("RGB", (64, 64), (next(marks), 0, 0)) for _ in documents]

    results = interleaved.follow(Marking(), told, SEED)
    for story, drawn in zip(told, results):
        assert [truth for truth, _ in drawn] == [p for p in story.document_plan[story.given :] if isinstance(p, Scene)]
    for document, given in seen:
        story = next(s for s in told if all(a == b for a, b in zip(s.document_plan, document) if isinstance(a, str)))
        for place, part in enumerate(document):
            if isinstance(part, Image.Image):
                own = part.getpixel((0, 0))[1:] == (0, 0) and part.getcolors(1) is not None
                assert own == (place >= given)
                assert own or part.tobytes() == draw(story.document_plan[place]).tobytes()
        assert isinstance(document[len(document) - 1], str)


def test_one_wrong_picture_spoils_a_story_and_kept_facts_are_background_and_sizes():
    story = next(s for s in interleaved.stories("story", 20, SEED) if len(s.scenes) >= 3)

    class WrongAtLast(Ignorant):
        def draw_next(self, documents, given, seed):
            done = len(documents[0].pictures)
            return [draw(story.scenes[0] if done + 1 == len(story.scenes) else story.scenes[done])]

    drawn = interleaved.follow(WrongAtLast(), [story], SEED)[0]
    assert [same(truth, shown) for truth, shown in drawn] == [True] * (len(drawn) - 1) + [False]

    rng = random.Random(3)
    scene = random_scene(rng, 2)
    first, second = scene.things
    other = Scene(scene.background, (first.__class__(first.place, "red", "ring", first.size), second))
    grown = first.__class__(first.place, first.color, first.shape, "small" if first.size == "large" else "large")
    assert interleaved.kept(scene, scene) and interleaved.kept(scene, other)
    assert not interleaved.kept(scene, Scene("black" if scene.background != "black" else "grey", scene.things))
    assert not interleaved.kept(scene, Scene(scene.background, (grown, second)))
    assert not interleaved.kept(scene, Scene(scene.background, (first,)))
    assert not interleaved.kept(scene, None) and not same(scene, None)


def test_a_document_of_its_own_is_judged_sentence_by_sentence_and_picture_by_picture():
    red = Scene("white", (Thing("top left", "red", "star", "small"),))
    blue = Scene("white", (Thing("top left", "blue", "star", "small"),))
    large = Scene("white", (Thing("top left", "blue", "star", "large"),))
    turns, grows, lost = "The star turns blue.", "All is quiet. It grows.", "The circle vanishes."

    def judged(*plan):
        return consistency.judge(red, render(plan))

    assert judged(red, turns, blue, grows, large) == ([True, True], [True, True, True], True)
    assert judged(red, turns, red, grows, large) == ([True, True], [True, False, True], False)
    assert judged(red, turns, blue, lost, large) == ([True, False], [True, True], False)  # what should be seen there?
    assert judged(red, turns, blue, turns, blue) == ([True, False], [True, True], False)  # it is blue
    assert judged(red, turns) == ([True], [True], False)  # a picture is due
    assert judged(red) == ([], [True], False)  # no story
    assert judged(turns, blue, grows, large) == ([True, True], [True, True], True)  # two sentences before a picture
    assert judged() == ([], [], False)


def test_its_own_documents_are_those_of_the_pipeline(tiny, monkeypatch):
    """Any number of them, each by its own seed; and an interrupted one is not judged."""
    monkeypatch.setattr(batch_module, "AT_ONCE", 2)
    openings = ["a red star", "a blue ring", "a star"]
    candidate = PipelineCandidate(tiny, steps=2)
    logits = InterleavedGenerator._logits

    def eager(self, hidden):  # or it would hardly want a picture
        found = logits(self, hidden)
        found[:, tiny.processor.dream] += 4.0
        return found

    monkeypatch.setattr(InterleavedGenerator, "_logits", eager)
    for think in (False, True):
        written = candidate.write(openings, 7, think)
        for number, (opening, document) in enumerate(zip(openings, written, strict=True)):
            whole = tiny.complete(opening, seed=7 + number, steps=2, think=think)
            assert document.text and whole.text.removeprefix(opening).strip() == document.text.strip()
            assert len(whole.pictures) == len(document.pictures) > 0
            firsts = (np.asarray(each.pictures[0], dtype=int) for each in (whole, document))
            assert np.abs(np.subtract(*firsts)).max() <= 5  # a batch rounds otherwise; this decoder enlarges it
    monkeypatch.setattr(type(tiny), "stream", lambda *_, **__: iter([End(0, "interrupted")]))
    with pytest.raises(KeyboardInterrupt):
        candidate.write(openings, 7, False)


def test_thoughts_stay_in_the_document_that_is_followed():
    [story] = [each for each in interleaved.stories("story", 20, SEED) if len(each.scenes) == 4][:1]
    heard = []

    class Thinking(Ignorant):
        def tell_next(self, documents, given):
            heard.extend(documents)
            return [f"thought {len(heard)}"]

    interleaved.follow(Thinking(), [story], SEED, interleaved.after_thoughts)
    assert [len(document.pictures) for document in heard] == [0, 1, 2, 3]
    told = [part for part in heard[-1] if isinstance(part, str) and "thought" in part]
    assert told == ["thought 1)", "thought 2)", "thought 3)"] and heard[-1].parts[:3] == [
        story.document_plan[0],
        " (",
        told[0],
    ]


# -- interruption, bad input, the table ----------------------------------------------------------------------------


def test_an_interrupted_evaluation_goes_on_where_it_stopped(tmp_path):
    partial = tmp_path / "half.json"

    class Interrupted(Oracle):
        def ask(self, pictures, questions):
            raise KeyboardInterrupt

    class NoDrawing(Oracle):
        def draw(self, captions, seed):
            raise AssertionError("creation was finished already")

    with pytest.raises(KeyboardInterrupt):
        examine(Interrupted(), SETTINGS, partial=partial)
    assert list(json.loads(partial.read_text())["sections"])[-1] == "comprehension/caption"
    with pytest.raises(UserError, match=r"half\.json is left of an evaluation with n 3, not 4"):
        examine(Oracle(), SETTINGS | {"n": 4}, partial=partial)
    result, whole = examine(NoDrawing(), SETTINGS, partial=partial), examine(Oracle(), SETTINGS)
    assert list(figures(result)) == list(figures(whole)) and partial.exists()  # until the result is in a safe place
    for broken in ("{", "[]", '{"settings": {}}', '{"settings": null, "seconds": 0, "sections": {}}'):
        partial.write_text(broken)
        with pytest.raises(UserError, match=r"half\.json"):
            examine(Oracle(), SETTINGS, partial=partial)
        assert partial.read_text() == broken


def test_bad_arguments_are_told_in_one_line(tmp_path):
    for arguments, words in (
        ({"what": "taste"}, "choose one of creation, comprehension, interleaved, trust, robustness, zero_shot or all"),
        ({"n": 0}, "--n 0"),
        ({"n": -3}, "at least 1"),
        ({"processes": 0}, "--processes 0"),
        ({"weights": tmp_path / "nowhere"}, "nowhere"),
    ):
        with pytest.raises(UserError, match=words) as raised:
            evaluate(**arguments)
        assert "\n" not in str(raised.value)


def three_sections():
    """Sections of a worker: two that measure, and one that is killed as by a system that runs out of memory."""
    return {"one": lambda: {"is": os.getpid()}, "two": lambda: {"is": os.getpid()}, "killed": lambda: os._exit(9)}


def test_processes_measure_sections_that_each_opens_anew_and_none_is_left_over():
    found = dict(at_once(2, three_sections, {"one": None, "two": None}))
    assert set(found) == {"one", "two"} and os.getpid() not in {each["is"] for each in found.values()}
    assert not active_children()


def nothing_to_open():
    raise UserError("no weights at x: name a folder")


def test_what_is_wrong_with_the_weights_is_told_by_the_process_that_opens_them():
    with pytest.raises(UserError, match="no weights at x"):
        dict(at_once(2, nothing_to_open, {"one": None}))
    assert not active_children()


def test_a_killed_process_is_told_and_a_reader_who_stops_leaves_none():
    with pytest.raises(UserError, match="take fewer --processes"):
        dict(at_once(1, three_sections, {"one": None, "killed": None}))
    measured = at_once(1, three_sections, {"one": None, "two": None})
    next(measured)
    measured.close()  # as Ctrl-C does
    assert not active_children()


def test_the_table_shows_each_figure_and_what_is_asked():
    result = examine(Ignorant(), SETTINGS | {"what": "interleaved"})
    result["interleaved"]["edits"] = {"mean": 0.95, "low": 0.93, "high": 0.97, "n": 500}
    result["creation"] = {"fid": None, "clip_score": {"mean": 31.5, "low": 31.0, "high": 32.0, "n": 500}}
    lines = {line.split("  ")[0]: line for line in table(result).splitlines()}
    assert lines["interleaved / edits"].split()[-6:] == ["-", "0.970", "500", ">=", "0.900", "reached"]
    assert lines["interleaved / made up names"].endswith("3  >= 0.800    short")
    assert "not measured" in lines["creation / fid"] and "31.500" in lines["creation / clip score"]
    assert len({len(line) for name, line in lines.items() if line.endswith(("reached", "short"))}) == 1  # aligned
    assert asked(("creation", "seen", "position")) == 0.95 and asked(("creation", "fid")) is None
    assert set(ASKED.values()) == {0.50, 0.80, 0.85, 0.90, 0.95, 0.97, 0.98, 0.99, 0.995}


# -- FID -----------------------------------------------------------------------------------------------------------


def test_frechet_distance_of_equal_and_of_shifted_features(monkeypatch):
    features = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
    assert creation.frechet(features, features) == pytest.approx(0, abs=1e-3)
    assert creation.frechet(features, features + 2) == pytest.approx(8 * 4, rel=1e-3)
    assert creation.frechet(features, 3 * features) == pytest.approx(8 * 4, rel=0.2)  # (3 - 1)^2 a dimension
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(UserError, match=r"pip install -e .\[notebooks\]"):
        creation.frechet(features, features)


# -- the pipeline as a candidate -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    """A pipeline of random weights that knows the stories' words."""
    told = [story for kind in KINDS for story in interleaved.stories(kind, 20, 0)]
    texts = [part for story in told for part in story.document_plan if isinstance(part, str)]
    processor = MiniDreamProcessor(train_tokenizer(texts, 500), QUERIES, PATCHES, SIDE, max_length=512)
    model = tiny_model(processor)
    with torch.no_grad():
        model.condition_projector.weight *= 20  # so that a condition matters to an untrained UNet
    return MiniDreamPipeline(model, processor)


def begun(kind, count):
    """Documents that end where the model must draw, and how many parts of each are given."""
    told = interleaved.stories(kind, count, SEED)
    return [render(story.document_plan[:-1]) for story in told], [story.given for story in told]


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_pictures_of_a_batch_are_those_drawn_one_by_one(tiny, kind):
    candidate = PipelineCandidate(tiny, guidance=2.0, steps=2)
    documents, given = begun(kind, 3)
    together = candidate.draw_next(documents, given, seed=7)
    for index, picture in enumerate(together):
        alone = candidate.draw_next(documents[index : index + 1], given[index : index + 1], seed=7 + index)[0]
        assert np.abs(np.asarray(alone, int) - np.asarray(picture, int)).max() <= 1
    assert picture.size == (SIDE, SIDE)


def test_the_next_picture_depends_on_text_and_pictures_before_it(tiny, monkeypatch):
    conditions = []
    decoder = tiny.model.decoder
    monkeypatch.setattr(
        type(decoder),
        "sample",
        lambda self, condition, *_, **__: conditions.append(condition) or torch.zeros(1, 4, 4, 4),
    )
    candidate = PipelineCandidate(tiny)
    story = next(s for s in interleaved.stories("story", 20, SEED) if len(s.scenes) >= 3)
    plan = story.document_plan[:5]  # text, picture, text, picture, text
    other = random_scene(random.Random(0), 4)
    for changed in (plan, [plan[0], other, *plan[2:]], [*plan[:3], other, plan[4]], [*plan[:4], "All is quiet."]):
        candidate.draw_next([render(changed)], [0], 0)
    candidate.draw_next([render(plan)], [2], 0)  # the first picture is given: seen, but never dreamed
    first, *others = conditions
    assert first.shape == (1, QUERIES, 24)
    assert all((first - other).abs().max() > 1e-4 for other in others)

    # It is the very condition that a pass over the whole document, with the true picture, gives for that place.
    whole = tiny.processor([render([*plan, story.scenes[2]])], "interleaved")
    features = tiny.model.encode_pictures(whole.pictures[whole.seen])
    with torch.no_grad():
        true = tiny.model(**whole.model_inputs(), image_features=features).conditions
    torch.testing.assert_close(first, true[2:3], atol=1e-4, rtol=1e-4)


class Perfect(torch.nn.Module):
    """A language model that foresees each label, but for what `alter` does to its foresight (B, L)."""

    device = torch.device("cpu")

    def __init__(self, vocabulary, dream, alter=lambda ids, labels: None):
        super().__init__()
        self.vocabulary, self.dream, self.alter = vocabulary, dream, alter

    def encode_pictures(self, pictures):
        return torch.zeros(len(pictures), PATCHES, 8)

    def forward(self, input_ids, labels, **_):
        ids = input_ids.roll(-1, 1)
        self.alter(ids, labels.roll(-1, 1))
        return SimpleNamespace(logits=torch.nn.functional.one_hot(ids, self.vocabulary).float())


def test_nothing_is_told_where_there_is_no_room_for_it(tiny, monkeypatch):
    """As the loop leaves a thought out, rather than refuse a story that a rambling model has filled."""
    asked = []
    monkeypatch.setattr(candidate_module, "thoughts", lambda go_on, processor, told: asked.append(told) or ["told"])
    long = Document(["a " * (tiny.processor.max_length - 80)])
    assert PipelineCandidate(tiny).tell_next([long, Document(["a"])], [1, 1]) == ["", "told"] and asked == [[["a"]]]


def test_orders_are_the_readers_up_to_the_picture_that_is_due():
    asked = []

    class Recorder:
        def places_dreams(self, documents, given):
            asked.extend(zip(documents, given, strict=True))
            return [True] * len(documents)

    assert interleaved.orders(Recorder(), 5, SEED)["orders"] == proportion([True] * 5)
    assert len(asked) == 10  # what training shows, and what is held out
    for document, given in asked:
        before, words, due = document
        assert given == 2 and not isinstance(before, str) and isinstance(words, str) and not isinstance(due, str)


def test_placement_asks_every_place_of_the_models_own_text(tiny):
    processor = tiny.processor
    dream, told = processor.dream, interleaved.stories("story", 4, SEED)
    documents, given = [render(story.document_plan) for story in told], [0, 0, 2, 0]

    def places(alter):
        model = Perfect(len(processor.tokenizer), dream, alter)
        candidate = PipelineCandidate(SimpleNamespace(model=model, processor=processor))
        return candidate.places_dreams(documents, given)

    def not_there(ids, labels):  # the third document's last picture is not foreseen
        ids[2, (labels[2] == dream).nonzero()[-1]] = 50

    def too_early(ids, labels):  # a picture in the middle of the second document's first text
        assert labels[1, 3] != -100
        ids[1, 3] = dream

    def given_text(ids, labels):  # what is not the model's to write is not asked
        assert labels[2, 3] == -100
        ids[2, 3] = dream

    def other_words(ids, labels):  # other words than the story's are no fault, if they are words
        ids[:, 4] = 60

    assert places(lambda ids, labels: None) == [True] * 4
    assert places(not_there) == [True, True, False, True]
    assert places(too_early) == [True, False, True, True]
    assert places(given_text) == places(other_words) == [True] * 4


def test_a_story_longer_than_the_context_is_told(tiny):

    short = MiniDreamProcessor(tiny.processor.tokenizer, QUERIES, PATCHES, SIDE, max_length=60)
    candidate = PipelineCandidate(SimpleNamespace(model=tiny.model, processor=short))
    documents, given = begun("story", 1)
    with pytest.raises(UserError, match="has more tokens"):
        candidate.draw_next(documents * 2, given * 2, 0)


def test_what_is_said_and_drawn_is_what_the_pipelines_verbs_give(tiny, monkeypatch):
    monkeypatch.setattr(batch_module, "AT_ONCE", 2)
    candidate = PipelineCandidate(tiny, guidance=2.0, steps=2)
    pictures = [draw(random_scene(random.Random(i))) for i in range(5)]
    questions = ["Is there a ring?", "Where is the star?", "Is it red?", "What is it?", "How many things are there?"]
    assert candidate.caption(pictures) == tiny.caption(pictures)
    assert candidate.ask(pictures, questions) == tiny.ask(pictures, questions, max_tokens=16)
    captions = [caption(random_scene(random.Random(i)), random.Random(i)) for i in range(5)]
    drawn = tiny.draw(captions, guidance=2.0, steps=2, seed=[9, 10, 11, 12, 13])
    for ours, theirs in zip(candidate.draw(captions, 9), drawn, strict=True):
        np.testing.assert_allclose(np.asarray(ours, float), np.asarray(theirs, float), atol=1)  # rounding, by batch


def test_perplexity_is_that_of_the_words_alone_before_and_after(tiny, tmp_path):
    tiny.model.llm.save_pretrained(tmp_path)
    candidate, llm, processor = PipelineCandidate(tiny), tiny.model.llm, tiny.processor
    documents = [Document(["A small red circle.", " It turns blue."]), Document(["Time goes by."])]
    found = candidate.surprise(documents, [range(1), ()])
    for document, parts, (loss, tokens) in zip(documents, (1, 0), found, strict=True):
        ids = [processor.bos, *(i for part in document for i in processor.encode(part)), processor.eos]
        given = 1 + sum(len(processor.encode(part)) for part in document[:parts])
        with torch.no_grad():
            said = llm(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
        losses = [-said[place - 1, ids[place]].item() for place in range(given, len(ids))]
        assert tokens == len(losses) and loss == pytest.approx(sum(losses), rel=1e-4)
    same = interleaved.perplexity(candidate, tmp_path, 5, SEED)["perplexity"]
    assert same["before"] == same["after"] and same["kept"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 5}

    class Better(Ignorant):
        def surprise(self, texts, given, llm=None):
            return [candidate_module.Surprise(3.0 if llm else 2.0, 2) for _ in texts]

    found = interleaved.perplexity(Better(), tmp_path, 5, SEED)["perplexity"]
    assert [found[name]["mean"] for name in ("before", "after", "kept")] == [
        round(math.exp(power), 4) for power in (1.5, 1.0, 0.5)
    ]
    assert interleaved.perplexity(Better(), None, 5, SEED) == {"perplexity": None}


def test_a_question_is_asked_as_it_is_taught(tiny, monkeypatch):
    """What stands before the last question of four shots is what stage III has learned to answer after."""
    shown = interleaved.shots(4, 1, SEED, "seen")
    monkeypatch.setattr(corpora, "few_shot", lambda rng, shots, held_out: shown[0])
    taught = corpora.in_context(random.Random(0), variant="few_shot").document
    heard = []

    class Listening(Ignorant):
        def ask(self, about, questions):
            heard.append(visual_question(about[0], questions[0]))
            return [""]

    assert interleaved._answered(Listening(), shown) == [False]
    assert heard == [taught[:-1]]


def test_an_interruption_is_not_graded_as_silence(tiny, monkeypatch):
    def interrupted(self, *_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(tiny.model), "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        PipelineCandidate(tiny).caption([draw(random_scene(random.Random(0)))])


def test_the_digest_names_the_weights(tiny):
    before = digest(tiny.model)
    assert before == digest(tiny.model) and len(before) == 64
    with torch.no_grad():
        tiny.model.dream_queries[0, 0] += 1
    assert digest(tiny.model) != before


def test_the_teacher_is_plain_diffusers_and_clip_measures_what_it_draws(nano):
    draw_it = creation.stable_diffusion(nano / "stable-diffusion", guidance=3.0, steps=2)
    trials = creation.trials(4, 0, held_out=False)
    shares, pictures = creation.grade(draw_it, trials, seed=3)
    assert set(shares) == {*CATEGORIES, "overall"} and shares["overall"]["n"] == len(pictures) == 24
    again = draw_it([trials[1][0]], 4)[0]  # each picture has its own noise
    assert np.abs(np.asarray(again, int) - np.asarray(pictures[1], int)).max() <= 1
    found = creation.quality(nano / "clip", pictures, trials)
    assert found["fid"]["low"] <= found["fid"]["mean"] <= found["fid"]["high"] and found["fid"]["n"] == 24
    assert 0 <= found["clip_score"]["mean"] <= 100
    true = creation.quality(nano / "clip", [draw(constraint.scene) for _, constraint in trials], trials)
    assert true["fid"]["mean"] < found["fid"]["mean"] and true["fid"]["mean"] < 0.01
    assert true["diversity"]["mean"] == pytest.approx(1) and found["diversity"]["mean"] > 0
    alike = creation.quality(nano / "clip", pictures[:1] * 24, trials)
    assert alike["diversity"]["mean"] == pytest.approx(0, abs=1e-6)


def test_the_spread_of_features_is_the_mean_over_all_pairs():
    features = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    pairs = [1 - torch.cosine_similarity(features[i], features[j], dim=0) for i in range(7) for j in range(7) if i != j]
    assert creation.spread(features) == pytest.approx(sum(map(float, pairs)) / 42)


def test_a_picture_that_the_decoder_spoils_is_counted():
    class Smudging(Oracle):
        def rebuild(self, pictures):
            return [Image.new("RGB", (64, 64), "white"), *pictures[1:]]

    assert creation.decoder(Smudging(), 2, 0)["decoder"]["mean"] == 7 / 8


def test_the_pipelines_pictures_go_through_its_own_decoder(tiny):
    pictures = [draw(random_scene(random.Random(i))) for i in range(2)]
    shown = torch.stack([tiny.processor.picture(picture) for picture in pictures])
    expected = tiny.model.decoder.decode(tiny.model.decoder.encode(shown)).permute(0, 2, 3, 1).numpy()
    made = np.stack([np.asarray(each) for each in PipelineCandidate(tiny).rebuild(pictures)])
    assert np.array_equal(made, expected)


def test_trained_weights_are_examined_from_end_to_end(nano, tmp_path):
    options = {"n": 1, "seed": 1, "steps": 1}
    whole = evaluate("creation", weights=nano, partial=tmp_path / "kept", **options)
    assert whole["creation"]["teacher"]["overall"]["n"] == whole["creation"]["teacher"]["held_out"]["overall"]["n"] == 6
    assert whole["creation"]["clip_score"]["n"] == 6
    assert len(whole["settings"]["weights"]) == 64 and whole["settings"]["seconds"] > 0
    found = evaluate("interleaved", weights=nano / "minidream", **options)
    assert found["settings"]["weights"] == whole["settings"]["weights"]
    assert set(found["interleaved"]) == {*STORIES, "consistency", "perplexity", "held_out"}
    assert found["interleaved"]["perplexity"]["after"]["mean"] > 1
    found = evaluate("comprehension", weights=nano / "minidream", **options)
    again = evaluate("comprehension", weights=nano, processes=2, partial=tmp_path / "seeing", **options)
    assert found == again | {"settings": found["settings"]}
    assert list(found["comprehension"]) == list(again["comprehension"])  # in order, whichever was finished first
    assert len(json.loads((tmp_path / "seeing").read_text())["sections"]) == 3
    shutil.copytree(nano / "llm", tmp_path / "llm")  # beside the same model, another language model to compare with
    shutil.copytree(nano / "minidream", tmp_path / "minidream")
    for part in ("clip", "stable-diffusion"):
        (tmp_path / part).symlink_to(nano / part)
    (tmp_path / "llm" / "config.json").write_text((nano / "llm" / "config.json").read_text() + " ")
    save_manifest(tmp_path / "llm")
    with pytest.raises(UserError, match="parts clip:"):
        evaluate("comprehension", weights=tmp_path, partial=tmp_path / "seeing", **options)


def test_facts_are_counted_one_by_one():
    asked = creation.trials(1, seed=0, held_out=False)
    truth = [draw(constraint.scene) for _, constraint in asked]
    right = creation.facts(asked, truth)
    assert all(leaf["mean"] == 1 and leaf["n"] == len(asked) for leaf in right.values())

    turned = []  # each thing takes the next one's colour: all colours are there, though not where they were told
    for _, constraint in asked:
        things = constraint.scene.things
        colors = [thing.color for thing in things[1:] + things[:1]]
        turned.append(
            replace(constraint.scene, things=tuple(replace(t, color=c) for t, c in zip(things, colors, strict=True)))
        )
    shares = creation.facts(asked, [draw(scene) for scene in turned])
    assert shares["colors"]["mean"] == shares["places"]["mean"] == 1 > shares["scene"]["mean"]

    nothing = creation.facts(asked, [Image.new("RGB", (64, 64), "white")] * len(asked))
    assert {leaf["mean"] for leaf in nothing.values()} == {0}


def test_what_an_earlier_stage_made_is_examined_over_the_parts_beside_it(nano, tmp_path):
    found = {
        stage: evaluate("creation", n=1, steps=1, weights=nano / stage)["settings"]["weights"]
        for stage in ("align", "igpt")
    }
    assert len(set(found.values())) == 2
    shutil.copytree(nano / "align", tmp_path / "align")
    with pytest.raises(UserError, match="was trained over llm, which is not beside it"):
        evaluate("creation", n=1, weights=tmp_path / "align")

    for part in ("llm", "clip", "stable-diffusion"):
        shutil.copytree(nano / part, tmp_path / part)
    file = tmp_path / "align" / "trained.safetensors"
    with file.open("r+b") as half:
        half.truncate(file.stat().st_size // 2)
    with pytest.raises(UserError, match="is damaged"):
        evaluate("creation", n=1, weights=tmp_path / "align")
    (tmp_path / "align" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"cannot be read.*train again"):
        evaluate("creation", n=1, weights=tmp_path / "align")
    shutil.copy(find_weights("align") / file.name, file)  # of the preset mini
    with pytest.raises(UserError, match="parts of other sizes"):
        evaluate("creation", n=1, weights=tmp_path / "align")
